//! compressed-tensors: written by llm-compressor, loaded by vLLM, SGLang and transformers.

mod card;
mod limits;
mod read;
mod write;

use super::read::FolderReader;
use super::{Codes, FormatSpec, Writer};

pub(super) static FORMAT: FormatSpec = FormatSpec {
    holds_mixed_widths: true,
    holds_rounded_inputs: true,
    writer: Writer::Codes(Codes {
        limits: limits::refusal,
        encode: write::encode,
        describe: write::describe,
    }),
    reader: Some(FolderReader {
        method: Some("compressed-tensors"),
        open: read::open,
    }),
    card: card::CARD,
};

#[cfg(test)]
mod reference;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod tests;
