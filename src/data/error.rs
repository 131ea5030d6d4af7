//! Errors of the data stage.

use std::fmt;
use std::io;

use thiserror::Error;

use super::source::SourceError;
use super::tokenizer::{Tokenizer, TokenizerError};
use crate::chat::TemplateError;

/// The two texts of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Text for training.
    Train,
    /// Text for evaluation.
    Validation,
}

impl Split {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Train, Self::Validation];
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
        })
    }
}

/// Errors of the data stage.
#[derive(Debug, Error)]
pub enum DataError {
    /// A split's text cannot be read.
    #[error("{split} text: {source}")]
    Source {
        /// The split.
        split: Split,
        /// The cause.
        source: SourceError,
    },
    /// The tokenizer cannot be read, trained or used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The plan does not train the tokenizer, and none was given.
    #[error("the plan's tokenizer is not trained on its text, and none was given")]
    NoTokenizer,
    /// No token separates documents.
    #[error("the tokenizer has no end-of-text token: none of `{}`, and no model names one by `eos_token_id` in its `config.json`", Tokenizer::end_of_text_names().join("`, `"))]
    NoEndOfText,
    /// The end-of-text id is not one of the tokenizer's.
    #[error("end-of-text id {id} is outside the tokenizer's {vocab_size} tokens")]
    EndOfTextRange {
        /// The id.
        id: u32,
        /// Number of ids that the tokenizer has.
        vocab_size: usize,
    },
    /// A conversation has no template.
    #[error("{place}: a conversation, and the model has no chat template to render it")]
    NoTemplate {
        /// File and row.
        place: String,
    },
    /// The model's chat template cannot be read.
    #[error("the model's chat template: {0}")]
    BadTemplate(TemplateError),
    /// A conversation that the template does not render.
    #[error("{place}: {source}")]
    Template {
        /// File and row.
        place: String,
        /// The cause.
        source: TemplateError,
    },
    /// A signal asked to stop; rows that are not whole are not kept.
    #[error(
        "stopped while rows were made of the {split} text; they are made again by the same command"
    )]
    Stopped {
        /// The split.
        split: Split,
    },
    /// The text changed while rows were made of it.
    #[error("the {split} text was written to while it was read")]
    TextChanged {
        /// The split.
        split: Split,
    },
    /// Nothing of a split is learnt.
    #[error("{split} text: nothing of it is learnt: {why}")]
    NothingLearnt {
        /// The split.
        split: Split,
        /// What became of its conversations.
        why: String,
    },
    /// The tokenizer makes no token of a whole split.
    #[error("{split} text: the tokenizer gives no tokens for it")]
    NoTokens {
        /// The split.
        split: Split,
    },
    /// The folder of stored rows cannot be used.
    #[error(transparent)]
    Io(#[from] io::Error),
}
