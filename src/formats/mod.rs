//! Checkpoint formats: one subfolder for each, and one line in the list below.
//!
//! A format's `mod.rs` holds its facts, `limits.rs` its limits, `write.rs` and `read.rs` the layout of its tensors
//! (`docs/formats-export.md`), and `card.rs` how engines load it. Writers and readers share nothing but names
//! (`tests/architecture.rs` checks), so reading back what was written is a test.

mod awq;
mod card;
mod compressed_tensors;
mod dtype;
mod error;
pub mod gguf;
mod gptq;
pub mod huggingface;
mod limits;
mod mlx;
mod read;
mod safetensors;
mod write;

pub(crate) use self::card::{Card, Loading};
pub use self::dtype::ExportDtype;
pub use self::error::{CheckpointError, WriteError};
pub use self::limits::Refusal;
use self::read::FolderReader;
pub use self::read::StoredWeight;
pub(crate) use self::read::{Packed, packed};
pub(crate) use self::safetensors::read_json;
pub use self::safetensors::{Files, TensorFiles};
pub use self::write::{Codes, Writer, write_folder};
use crate::model::{DecoderConfig, Schemes};
use crate::recipe::words;

macro_rules! formats {
    ($($(#[$about:meta])* $Format:ident = $word:literal $(also $also:tt)? in $folder:ident,)+) => {
        words! {
            /// A format that engines load.
            pub enum Format {
                $($(#[$about])* $Format = $word $(also $also)?,)+
            }
        }

        impl Format {
            /// All formats.
            const ALL: &'static [Self] = &[$(Self::$Format),+];

            /// Facts of this format.
            fn spec(self) -> &'static FormatSpec {
                match self {
                    $(Self::$Format => &$folder::FORMAT,)+
                }
            }
        }
    };
}

formats! {
    /// config.json and model.safetensors with plain weights.
    HuggingFace = "huggingface" also ["hf", "transformers", "safetensors", "hugging-face"] in huggingface,
    /// pack-quantized integers with scales.
    CompressedTensors = "compressed-tensors" also ["vllm", "llm-compressor", "llmcompressor", "ct", "w4a16", "w8a16", "w8a8"] in compressed_tensors,
    /// One file for llama.cpp and engines built on it.
    Gguf = "gguf" also ["llama.cpp", "llamacpp", "ollama", "ggml"] in gguf,
    /// GPTQ's integers with scales, around 0.
    Gptq = "gptq" also ["autogptq", "gptqmodel", "auto-gptq"] in gptq,
    /// AWQ's integers with scales and zeros.
    Awq = "awq" also ["autoawq"] in awq,
    /// MLX's integers with scales and biases.
    Mlx = "mlx" also ["mlx-lm"] in mlx,
}

/// Facts of a format: one value in the folder of each.
struct FormatSpec {
    /// True if projections may have different widths.
    holds_mixed_widths: bool,
    /// True if it can store that the input of a projection is rounded.
    holds_rounded_inputs: bool,
    writer: Writer,
    /// Reader of the quantised weights of a folder.
    reader: Option<FolderReader>,
    card: Card,
}

impl Format {
    /// All formats, those first that hold a student's grid as it is, then those of plain numbers.
    pub fn fullest_first() -> Vec<Self> {
        let mut formats = Self::ALL.to_vec();
        formats.sort_by_key(|format| format.holds_plain_weights());
        formats
    }

    /// True if it holds weights that are not quantised.
    pub fn holds_plain_weights(self) -> bool {
        !matches!(self.writer(), Writer::Codes(_))
    }

    /// True if it holds projections of different widths.
    pub(crate) fn holds_mixed_widths(self) -> bool {
        self.spec().holds_mixed_widths
    }

    /// True if it can store that the input of a projection is rounded.
    pub(crate) fn holds_rounded_inputs(self) -> bool {
        self.spec().holds_rounded_inputs
    }

    /// Refusal of the first weight that it cannot hold, or that its engines would refuse, with a fix; formats without
    /// codes hold every weight.
    pub fn refusal(
        self,
        schemes: &Schemes,
        dtype: ExportDtype,
        config: &DecoderConfig,
    ) -> Option<Refusal> {
        match self.writer() {
            Writer::Codes(codes) => (codes.limits)(schemes, dtype, config),
            Writer::Plain | Writer::Blocks => None,
        }
    }

    /// Writer of its weights.
    pub fn writer(self) -> &'static Writer {
        &self.spec().writer
    }

    /// Facts for the card of a model.
    pub(crate) fn card(self) -> &'static Card {
        &self.spec().card
    }
}

#[cfg(test)]
mod tests;
