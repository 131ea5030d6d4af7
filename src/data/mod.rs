//! Conversion of text to token rows.

mod added_tokens;
mod batch;
mod bounds;
mod byte_level;
mod chat_templates;
mod conversations;
mod cut;
mod encode;
mod error;
mod fill;
mod mask;
mod model_tokenizer;
mod pack;
mod pieces;
mod plan;
mod prepare;
mod rebuilt;
mod rows;
mod sequence;
mod source;
mod special_tokens;
mod store;
mod stream;
mod templates;
mod tokenizer;
mod tokenizer_change;
mod turns;

#[cfg(test)]
mod tests;

pub use batch::BatchOrder;
pub use chat_templates::{ChatTemplates, chat_templates, template_files};
pub use error::{DataError, Split};
pub use mask::{LossMask, PositionSpan, spans_of};
pub use model_tokenizer::{tokenizer_dir, tokenizer_path};
pub use plan::{CalibrateOn, DataPlan, Longer, PackingKind, TokenizerPlan, TrainTokenizer};
pub(crate) use plan::{DATA, TokenizerWord};
pub(crate) use prepare::ROWS_VERSION;
pub use prepare::{Prepared, StoredRows, prepare, prepared_before, read_rows, rows_of_text};
pub use rebuilt::{Rebuilt, UNCHANGED_CLASS};
pub use rows::TokenRows;
pub use sequence::Sequence;
pub(crate) use source::is_learnt;
pub use source::{
    BadRows, Content, Document, DocumentStream, Documents, Fault, FaultKind, FieldNames,
    FieldsPlan, Looked, OnBadRow, PassedOver, RowField, RowFormat, SkipReason, Skipped,
    SourceCount, SourceError, SourcePlan, TextFile, content_hash, files_of_plan, look_at,
    read_documents, source_files, with_rows,
};
pub use stream::TextStream;
pub use templates::Renderer;
pub use tokenizer::{TokenizedText, Tokenizer, TokenizerError};
pub use tokenizer_change::TokenizerChange;
