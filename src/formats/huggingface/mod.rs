//! Plain folders: weights, `config.json`, `generation_config.json` and the tokenizer's files, as in transformers.

mod card;
mod write;

pub(super) use self::write::write_config;
pub use self::write::{
    check_tokenizer_file, keep_tokenizer_class, tokenizer_files, write_generation, write_tokenizer,
};
use super::{FormatSpec, Writer};

pub(super) static FORMAT: FormatSpec = FormatSpec {
    holds_mixed_widths: true,
    holds_rounded_inputs: false,
    writer: Writer::Plain,
    reader: None, // plain weights need none
    card: card::CARD,
};

#[cfg(test)]
mod tests;
