//! Text to token rows.

mod batch;
mod model_tokenizer;
mod pack;
mod prepare;
mod rows;
mod source;
mod special_tokens;
mod store;
mod stream;
mod tokenizer;

#[cfg(test)]
mod tests;

pub use batch::BatchOrder;
pub use model_tokenizer::tokenizer_path;
pub use pack::{Packing, pack};
pub use prepare::{DataError, Prepared, Split, prepare, read_rows, rows_of_text};
pub use rows::TokenRows;
pub use source::{
    Document, Documents, Fault, FaultKind, SkipReason, Skipped, SourceError, content_hash,
    read_documents,
};
pub use stream::TextStream;
pub use tokenizer::{TokenizedText, Tokenizer, TokenizerError};
