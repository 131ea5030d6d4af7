//! Conversations, and prompts with their completions, to rows.

use std::ops::Range;
use std::slice;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::encode::Encoder;
use super::error::DataError;
use super::rows::ConversationRow;
use super::source::{Content, Document, place};
use super::templates::Renderer;
use super::tokenizer::TokenizedText;
use super::turns::{Turned, turned};
use crate::chat::{Learn, Learnt, learnt};

/// Documents that are rendered and tokenised before it is seen whether there are enough rows.
const ROUND: usize = 1024;

/// Settings with which conversations become rows.
#[derive(Debug)]
pub(super) struct Turning<'a> {
    pub(super) renderer: Option<&'a Renderer>,
    /// Part that is learnt; `None` goes by the kind of each document.
    pub(super) learn: Option<Learn>,
    /// Tokens that end a turn.
    pub(super) ends: &'a [u32],
    pub(super) sequence_length: usize,
    /// Token before every text, where no template puts one.
    pub(super) beginning_of_text: Option<u32>,
    /// Token behind a completion.
    pub(super) end_of_text: u32,
    /// True if conversations that the template refuses are left out.
    pub(super) skips_refused: bool,
}

/// Most refused conversations that are named.
const MAX_NAMED: usize = 20;

/// Counts of what became of conversations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TurnCounts {
    /// Conversations that were read, of which some may be beyond a limit.
    pub conversations: u64,
    /// Rows of them.
    pub rows: u64,
    /// Conversations that are longer than a row, and were cut at its end.
    pub cut: u64,
    /// Rows that were left out: nothing of them is learnt, or nothing that is in front of the cut.
    pub without_learnt: u64,
    /// Rows that learn a token that ends a turn.
    pub with_end: u64,
    /// Rows that learn all of their tokens.
    pub learnt_whole: u64,
    /// Positions in front of the padding.
    pub tokens: u64,
    /// Conversations that the template refused.
    pub refused: u64,
    /// Places and reasons of the first of them.
    pub refusals: Vec<String>,
}

impl Turning<'_> {
    /// Rows of documents that are no plain text, in their order, until their positions are more than `limit`; one row at least.
    pub(super) fn rows(
        &self,
        documents: &[&Document],
        encoder: &Encoder<'_>,
        limit: Option<u64>,
    ) -> Result<(Vec<ConversationRow>, TurnCounts), DataError> {
        let (mut rows, mut counts) = (Vec::new(), TurnCounts::default());
        for round in documents.chunks(ROUND) {
            let turned: Vec<Result<Vec<Turned>, DataError>> = round
                .par_iter()
                .map(|document| self.of_document(document, encoder))
                .collect();
            for of_document in turned {
                counts.conversations += 1;
                let of_document = match of_document {
                    Err(error @ DataError::Template { .. }) if self.skips_refused => {
                        counts.refused += 1;
                        if counts.refusals.len() < MAX_NAMED {
                            counts.refusals.push(error.to_string());
                        }
                        continue;
                    }
                    outcome => outcome?,
                };
                counts.cut += u64::from(of_document.iter().any(|row| row.is_cut));
                for turned in of_document {
                    let Some(row) = turned.row else {
                        counts.without_learnt += 1;
                        continue;
                    };
                    let positions = row.tokens.len() as u64 - 1;
                    let is_full = limit.is_some_and(|limit| counts.tokens + positions > limit);
                    if is_full && counts.rows > 0 {
                        return Ok((rows, counts));
                    }
                    counts.rows += 1;
                    counts.with_end += u64::from(turned.learns_end);
                    counts.learnt_whole += u64::from(turned.learns_all);
                    counts.tokens += positions;
                    rows.push(row);
                }
            }
        }
        Ok((rows, counts))
    }

    fn of_document(
        &self,
        document: &Document,
        encoder: &Encoder<'_>,
    ) -> Result<Vec<Turned>, DataError> {
        let here = || place(&document.path, document.row);
        match &document.content {
            Content::Text(_) => Ok(Vec::new()), // packed with the other texts
            Content::Completion { prompt, completion } => {
                let learnt = if self.learn == Some(Learn::All) {
                    0
                } else {
                    prompt.len()
                };
                let text = [prompt.as_str(), completion.as_str()].concat();
                let learnt = learnt..text.len() + 1; // with the token behind it
                let tokens = self.bounded(encoder.encode_text(&text, self.max_tokens(), here)?);
                Ok(vec![self.turned(slice::from_ref(&learnt), tokens)])
            }
            Content::Chat(conversation) => {
                let Some(renderer) = self.renderer else {
                    return Err(DataError::NoTemplate { place: here() });
                };
                let template = renderer.of(conversation);
                let learn = self.learn.unwrap_or(if conversation.num_prompt > 0 {
                    Learn::Completion
                } else {
                    Learn::Assistant
                });
                let texts = learnt(template, conversation, learn);
                let texts = texts.map_err(|source| DataError::Template {
                    place: here(),
                    source,
                })?;
                let row = |Learnt { text, spans }| {
                    let tokens = encoder.encode_text(&text, self.max_tokens(), here)?;
                    Ok(self.turned(&spans, tokens))
                };
                texts.into_iter().map(row).collect()
            }
        }
    }

    /// Tokens of a text that matter: behind those of a row, one more says that it is cut.
    fn max_tokens(&self) -> usize {
        self.sequence_length + 1
    }

    fn turned(&self, learnt: &[Range<usize>], tokens: TokenizedText) -> Turned {
        turned(learnt, tokens, self.ends, self.sequence_length)
    }

    /// Tokens of a text without a template, between those that belong before and behind it.
    fn bounded(&self, tokens: TokenizedText) -> TokenizedText {
        let TokenizedText {
            mut ids,
            mut num_bytes,
        } = tokens;
        if let Some(beginning) = self.beginning_of_text {
            ids.insert(0, beginning);
            num_bytes.insert(0, 0);
        }
        ids.push(self.end_of_text);
        num_bytes.push(0);
        TokenizedText { ids, num_bytes }
    }
}

impl TurnCounts {
    /// Sentences for a user who is about to train on this: what was cut or left out, and what is never learnt.
    pub(super) fn notes(&self, split: impl std::fmt::Display) -> Vec<String> {
        let mut notes = Vec::new();
        let (rows, of) = (self.rows, self.conversations);
        if self.refused > 0 {
            notes.push(format!(
                "{split}: {} conversations that the chat template refuses are left out\n  {}",
                self.refused,
                self.refusals.join("\n  ")
            ));
        }
        if self.cut > 0 {
            notes.push(format!("{split}: {} of {of} conversations are longer than `sequence_length` and were cut at its end", self.cut));
        }
        if self.without_learnt > 0 {
            notes.push(format!(
                "{split}: {} rows were left out, because nothing of them is learnt",
                self.without_learnt
            ));
        }
        if rows > 0 && self.with_end == 0 {
            notes.push(format!("{split}: no row learns a token that ends a turn, so the student will not learn when to stop; is the end token of the chat template one of the model's `eos_token_id`?"));
        }
        if rows > 0 && self.learnt_whole == rows {
            notes.push(format!(
                "{split}: every row learns all of its tokens, also what the user writes"
            ));
        }
        notes
    }
}
