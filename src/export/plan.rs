//! Keys of what is written at the end.

use crate::diag::Diagnostic;
use crate::recipe::{ABOVE_0, Fields, Kind, Word, distinct, keys, words};

const GGUF_TYPE: Kind = Kind::Word(GgufType::WORDS);

keys! {
    pub struct ExportPlan in EXPORT = "export", "What is written at the end and verified." {
        formats: Vec<ExportFormat> = or("[huggingface]", Kind::List(&Kind::Word(ExportFormat::WORDS), 0, 16), "formats to write: plain weights; packed integers with scales, for vLLM (`compressed-tensors`, `gptq`, `awq`) or MLX; or one file for llama.cpp");
        dtype: ExportDtype = or("bf16", Kind::Word(ExportDtype::WORDS), "storage of weights that are not quantised");
        // as in transformers 5
        max_shard_size: u64 = or("50G", Kind::Bytes(1), "bytes of weights in one safetensors file; more are spread over several with an index");
        /// How weights are stored in a GGUF file.
        #[serde(flatten)]
        gguf: GgufPlan = group(GGUF);
        max_logit_difference: f64 = or("1e-3", ABOVE_0, "largest difference of a logit between the folder and the student in memory, where the format holds it exactly");
        max_rounding_kl: f64 = or("0.02", ABOVE_0, "largest KL(student in memory ‖ folder), nats per position, where weights are rounded on the way");
    }
}

keys! {
    /// Types of weights in a GGUF file; `None` follows from the student's grid and the export's dtype.
    #[derive(Copy, Default, Eq)]
    pub struct GgufPlan in GGUF {
        linear as "gguf_type": Option<GgufType> = rule("`q4_0` or `q8_0` for a student on that grid (4 or 8 bits in groups of 32), else `dtype`", GGUF_TYPE, "type of the projections in a GGUF file");
        embedding as "gguf_embedding_type": Option<GgufType> = rule("`q4_0` or `q8_0` for each of them on that grid, else `dtype`", GGUF_TYPE, "type of the embedding and the output matrix in a GGUF file");
    }
}

impl ExportPlan {
    /// Where transformers 5 begins another file.
    pub const MAX_SHARD_SIZE: u64 = 50_000_000_000;
}

words! {
    /// A format that engines load.
    pub enum ExportFormat {
        /// config.json and model.safetensors with plain weights.
        HuggingFace = "huggingface",
        /// pack-quantized integers with scales.
        CompressedTensors = "compressed-tensors",
        /// One file for llama.cpp and what is built on it.
        Gguf = "gguf",
        /// GPTQ's integers with scales, around 0.
        Gptq = "gptq",
        /// AWQ's integers with scales and zeros.
        Awq = "awq",
        /// MLX's integers with scales and biases.
        Mlx = "mlx",
    }
}

impl ExportFormat {
    /// Tells whether it holds weights that are on no grid.
    pub fn holds_plain_weights(self) -> bool {
        match self {
            Self::HuggingFace | Self::Gguf => true,
            Self::CompressedTensors | Self::Gptq | Self::Awq | Self::Mlx => false,
        }
    }

    /// Tells whether it holds projections of unlike widths.
    pub(crate) fn holds_mixed_widths(self) -> bool {
        match self {
            Self::HuggingFace | Self::CompressedTensors => true,
            Self::Gguf | Self::Gptq | Self::Awq | Self::Mlx => false,
        }
    }
}

words! {
    /// A type of ggml that weights are written in.
    #[expect(missing_docs, reason = "the names are those of ggml")]
    #[expect(non_camel_case_types, reason = "the names are those of ggml")]
    pub enum GgufType {
        F32 = "f32",
        F16 = "f16",
        Bf16 = "bf16",
        Q8_0 = "q8_0",
        Q4_0 = "q4_0",
        Q4_1 = "q4_1",
        Q4_K = "q4_k",
    }
}

words! {
    /// Storage of weights that are not quantised.
    pub enum ExportDtype {
        /// bfloat16.
        Bf16 = "bf16",
        /// float16.
        F16 = "f16",
        /// float32.
        F32 = "f32",
    }
}

/// Every contradiction within the block.
pub(crate) fn check(export: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    distinct::<ExportFormat>(export, "formats", faults);
}
