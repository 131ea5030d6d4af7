//! Meaning of token ids to a model, and comparison with another model's.
//!
//! A student that learns from the teacher's token 7 while its own token 7 is another word trains without an error and
//! learns nothing. So vocabularies are compared token by token before anything runs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::data::{Rebuilt, Tokenizer, TokenizerError, tokenizer_dir};
use crate::model::DecoderConfig;
use crate::progress::thousands;

/// Differing ids that a comparison lists; the others are only counted.
const NUM_NAMED: usize = 8;

/// Errors of opening a vocabulary.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum VocabularyError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(
        "{}: the tokenizer has {} tokens, but the model knows {}", path.display(), thousands(*num_tokens as u64), thousands(*num_rows as u64)
    )]
    TooFewRows {
        path: PathBuf,
        num_tokens: usize,
        num_rows: usize,
    },
}

/// Token ids of a model, or of a tokenizer without a model.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    path: PathBuf,
    tokenizer: Tokenizer,
    num_rows: Option<usize>,
    end_of_text: Vec<u32>,
}

impl Vocabulary {
    /// Opens the vocabulary of a tokenizer without a model.
    pub fn of_tokenizer(path: &Path) -> Result<Self, VocabularyError> {
        let tokenizer = Tokenizer::open(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            end_of_text: tokenizer.end_of_text().into_iter().collect(),
            tokenizer,
            num_rows: None,
        })
    }

    /// Builds the vocabulary of a checkpoint with its tokenizer.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Self, VocabularyError> {
        let path = checkpoint.path();
        let tokenizer = match checkpoint.gguf() {
            Some(file) => Tokenizer::of_gguf(file)?,
            None => Tokenizer::with_rows(path, checkpoint.promised_rows())?,
        };
        Self::of_model(path, tokenizer, checkpoint.config())
    }

    /// Builds the vocabulary of a model from its tokenizer; `path` is for messages.
    pub fn of_model(
        path: &Path,
        tokenizer: Tokenizer,
        config: &DecoderConfig,
    ) -> Result<Self, VocabularyError> {
        let num_tokens = tokenizer.vocab_size();
        if num_tokens > config.vocab_size {
            return Err(VocabularyError::TooFewRows {
                path: path.to_path_buf(),
                num_tokens,
                num_rows: config.vocab_size,
            });
        }
        let mut end_of_text = config.eos_token_ids.clone();
        end_of_text.sort_unstable();
        Ok(Self {
            path: path.to_path_buf(),
            tokenizer,
            num_rows: Some(config.vocab_size),
            end_of_text,
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The tokenizer.
    pub fn into_tokenizer(self) -> Tokenizer {
        self.tokenizer
    }

    /// One more than the largest token id.
    pub fn num_tokens(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// Number of added tokens that were left out because the model has no row for them.
    pub fn num_without_row(&self) -> usize {
        self.tokenizer.num_without_row()
    }

    /// Differences, if any, between the folder's tokenizer and the one that transformers builds for this `model_type`.
    pub fn rebuilt(&self, model_type: &str) -> Option<Rebuilt> {
        let is_folder = tokenizer_dir(&self.path).is_some();
        is_folder.then(|| Rebuilt::of_tokenizer(model_type, &self.tokenizer))?
    }

    /// Compares both vocabularies token by token.
    pub fn compare(&self, other: &Self) -> Comparison {
        let num_ids = self.num_tokens().max(other.num_tokens());
        let meanings = |vocabulary: &Self, id: u32| Meaning {
            token: vocabulary.tokenizer.token(id),
            special: vocabulary.tokenizer.is_special(id),
        };
        let mut differing = (0..u32::try_from(num_ids).unwrap_or(u32::MAX)).filter_map(|id| {
            let (a, b) = (meanings(self, id), meanings(other, id));
            (a != b).then_some(DifferingId { id, a, b })
        });
        let named: Vec<DifferingId> = differing.by_ref().take(NUM_NAMED).collect();
        let num_differing = named.len() + differing.count();
        Comparison {
            agree: num_differing == 0,
            same_end_of_text: self.end_of_text == other.end_of_text,
            a: self.facts(),
            b: other.facts(),
            num_differing,
            differing: named,
        }
    }

    fn facts(&self) -> VocabularyFacts {
        let num_tokens = self.tokenizer.vocab_size();
        let name = |&id: &u32| self.tokenizer.token(id);
        VocabularyFacts {
            path: self.path.clone(),
            num_tokens,
            num_rows: self.num_rows,
            num_padding_rows: self.num_rows.map(|num_rows| num_rows - num_tokens),
            beginning_of_text: self
                .tokenizer
                .beginning_of_text()
                .map(|id| named(id, self.tokenizer.token(id))),
            end_of_text: self.end_of_text.iter().map(name).collect(),
            end_of_text_ids: self.end_of_text.clone(),
        }
    }
}

/// Comparison of two vocabularies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// True if every id has the same meaning in both.
    pub agree: bool,
    /// True if both end a text with the same ids. A base model and its chat model differ here and still share
    /// their tokens.
    pub same_end_of_text: bool,
    /// The first vocabulary.
    pub a: VocabularyFacts,
    /// The second vocabulary.
    pub b: VocabularyFacts,
    /// Number of ids whose meanings differ.
    pub num_differing: usize,
    /// The first differing ids.
    pub differing: Vec<DifferingId>,
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VocabularyFacts {
    /// Path of the checkpoint or tokenizer.
    pub path: PathBuf,
    /// One more than the largest token id.
    pub num_tokens: usize,
    /// Rows of the model's embedding; `None` for a tokenizer alone.
    pub num_rows: Option<usize>,
    /// Rows that no token uses; models are padded to sizes that suit the hardware.
    pub num_padding_rows: Option<usize>,
    /// Token that belongs before every text, with its id.
    pub beginning_of_text: Option<String>,
    /// Tokens that end a text; `None` for an id of the model that is not a token.
    pub end_of_text: Vec<Option<String>>,
    /// Their ids.
    pub end_of_text_ids: Vec<u32>,
}

impl VocabularyFacts {
    /// Tokens that end a text, with their ids.
    pub fn ends(&self) -> String {
        let ids = self.end_of_text_ids.iter().zip(&self.end_of_text);
        let ends: Vec<String> = ids.map(|(id, token)| named(*id, token.clone())).collect();
        match ends.as_slice() {
            [] => "nothing".to_owned(),
            ends => ends.join(", "),
        }
    }
}

fn named(id: u32, token: Option<String>) -> String {
    match token {
        Some(token) => format!("`{token}` ({id})"),
        None => format!("no token ({id})"),
    }
}

/// An id with two meanings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DifferingId {
    /// The id.
    pub id: u32,
    /// Its meaning in the first vocabulary.
    pub a: Meaning,
    /// Its meaning in the second vocabulary.
    pub b: Meaning,
}

/// Meaning of an id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Meaning {
    /// Its token; `None` if no token has this id.
    pub token: Option<String>,
    /// True if it is a special token, which is not text.
    pub special: bool,
}

impl std::fmt::Display for Meaning {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.token, self.special) {
            (None, _) => out.write_str("no token"),
            (Some(token), false) => write!(out, "`{token}`"),
            (Some(token), true) => write!(out, "`{token}` (special)"),
        }
    }
}

impl Comparison {
    /// The disagreement in one sentence, with the first ids that differ; `None` if both agree.
    pub fn disagreement(&self, a: &str, b: &str) -> Option<String> {
        if self.agree {
            return None;
        }
        let named: Vec<String> = self
            .differing
            .iter()
            .take(3)
            .map(
                |DifferingId {
                     id,
                     a: ours,
                     b: theirs,
                 }| {
                    format!("token {id} is {ours} to the {a} and {theirs} to the {b}")
                },
            )
            .collect();
        let mut text = String::new();
        if self.a.num_tokens != self.b.num_tokens {
            let sizes = [&self.a, &self.b].map(|side| thousands(side.num_tokens as u64));
            let _ = write!(
                text,
                "the {a} has {} tokens, but the {b} has {}: ",
                sizes[0], sizes[1]
            );
        }
        text.push_str(&named.join("; "));
        let more = self.num_differing - named.len();
        if more > 0 {
            let _ = write!(text, "; and {} more ids differ", thousands(more as u64));
        }
        Some(text)
    }

    /// Text for the terminal: both sides, then the differences.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for side in [&self.a, &self.b] {
            let _ = write!(
                text,
                "{}: {} tokens",
                side.path.display(),
                thousands(side.num_tokens as u64)
            );
            if let (Some(rows), Some(padding)) = (side.num_rows, side.num_padding_rows) {
                let (rows, padding) = (thousands(rows as u64), thousands(padding as u64));
                let _ = write!(text, ", {rows} rows ({padding} not used by any token)");
            }
            if let Some(beginning) = &side.beginning_of_text {
                let _ = write!(text, ", text begins with {beginning}");
            }
            let _ = writeln!(text, ", text ends with {}", side.ends());
        }
        if self.agree {
            let ends = if self.same_end_of_text {
                ""
            } else {
                ", but they end a text differently"
            };
            let _ = write!(text, "every id means the same to both{ends}");
            return text;
        }
        let _ = write!(text, "{} ids differ:", thousands(self.num_differing as u64));
        for DifferingId { id, a, b } in &self.differing {
            let _ = write!(text, "\n  {id}: {a} / {b}");
        }
        if self.num_differing > self.differing.len() {
            text.push_str("\n  …");
        }
        text
    }
}

#[cfg(test)]
mod tests;
