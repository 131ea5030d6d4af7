//! Keys of the export.

use crate::diag::Diagnostic;
use crate::formats::gguf::{GGUF, GgufPlan};
use crate::formats::{ExportDtype, Format};
use crate::recipe::{ABOVE_0, Fields, Kind, Word, distinct, keys};

keys! {
    pub struct ExportPlan in EXPORT = "export", "Output that is written at the end and verified." {
        formats: Vec<Format> = or("[huggingface]", Kind::List(&Kind::Word(Format::WORDS), 0, 16), "formats to write: plain weights; packed integers with scales, for vLLM (`compressed-tensors`, `gptq`, `awq`) or MLX; or one file for llama.cpp");
        dtype: ExportDtype = or("bf16", Kind::Word(ExportDtype::WORDS), "storage of weights that are not quantised");
        // as in transformers 5
        max_shard_size: u64 = or("50G", Kind::Bytes(1), "bytes of weights in one safetensors file; more weights are split over several files with an index");
        /// Storage of weights in a GGUF file.
        #[serde(flatten)]
        gguf: GgufPlan = group(GGUF);
        max_logit_difference: f64 = or("1e-3", ABOVE_0, "largest difference of a logit between the folder and the student in memory; for formats that hold the student exactly");
        max_rounding_kl: Option<f64> = rule("0.02; 0.5 for weights that are rounded to four bits", ABOVE_0, "largest KL(student in memory ‖ folder), nats per position; for formats that round weights");
    }
}

impl ExportPlan {
    /// Size at which transformers 5 begins another file.
    pub const MAX_SHARD_SIZE: u64 = 50_000_000_000;

    /// Largest KL in nats of a folder that rounds weights to so many bits.
    ///
    /// A bf16 folder costs some 1e-5, Q8_0 some 1e-4. Four bits cost the more the smaller a model is: Q4_0 0.006 nats for the
    /// committed teacher and 0.35 for SmolLM2-135M. What is beyond the limit says little of what the student says.
    pub(super) fn rounding_limit(&self, bits: u32) -> f64 {
        let default = if bits <= 4 { 0.5 } else { 0.02 };
        self.max_rounding_kl.unwrap_or(default)
    }
}

/// Reports every contradiction within the block.
pub(crate) fn check(export: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    distinct::<Format>(export, "formats", faults);
}
