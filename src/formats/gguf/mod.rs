//! GGUF files, the format of llama.cpp, with its names, its order of rows and its norms.

mod card;
mod limits;
mod read;
mod types;
mod write;

use super::{FormatSpec, Writer};
use crate::gguf::WrittenType;
use crate::recipe::{Kind, Word, keys};

pub use self::limits::{notes, rounds_again, rounds_source, without_blocks};
pub(crate) use self::read::GgufWeights;
pub use self::types::BlockTypes;
pub use self::write::{GgufModel, check_tokenizer, stored, write_model};

pub(super) static FORMAT: FormatSpec = FormatSpec {
    holds_mixed_widths: false,
    holds_rounded_inputs: false,
    writer: Writer::Blocks,
    reader: None, // a file, not a folder
    card: card::CARD,
};

/// Tensor of the divisors of the rotary frequencies, one per pair of dimensions.
const ROPE_FREQS: &str = "rope_freqs.weight";

/// Tensors of `LongRoPE`'s divisors: within the trained context, and beyond it.
const ROPE_FACTORS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

const TYPE: Kind = Kind::Word(WrittenType::WORDS);

keys! {
    /// Types of weights in a GGUF file. `None`: the student's grid and the export's dtype decide.
    #[derive(Copy, Default, Eq)]
    pub struct GgufPlan in GGUF {
        linear as "gguf_type": Option<WrittenType> = rule("`q4_0` or `q8_0` for a student on that grid (4 or 8 bits in groups of 32), else `dtype`", TYPE, "type of the projections in a GGUF file");
        embedding as "gguf_embedding_type": Option<WrittenType> = rule("`q4_0` or `q8_0` for a matrix on that grid; `q8_0` where the projections are rounded to blocks; else `dtype`", TYPE, "type of the embedding and the output matrix in a GGUF file");
    }
}
