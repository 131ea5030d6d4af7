//! Conversations, and prompts with their completions, to rows.

use std::slice;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::encode::Encoder;
use super::error::DataError;
use super::pack::{Form, Packer};
use super::plan::{Longer, PackingKind};
use super::source::{Content, Document, place};
use super::templates::Renderer;
use super::tokenizer::TokenizedText;
use super::turns::{LearntPart, LearntTokens};
use crate::chat::{Conversation, Learn, Learnt, learnt};

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
    /// Token behind the text of a completion.
    pub(super) end_of_turn: u32,
    pub(super) form: Form,
}

/// Tokens of a conversation: of each text that the template makes of it.
pub(super) struct TurnedDocument {
    texts: Vec<LearntTokens>,
    /// True if the texts hold all that the assistant says.
    renders_all: bool,
}

/// Most refused conversations that are named.
const MAX_NAMED: usize = 20;

/// Counts of what became of conversations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TurnCounts {
    /// Conversations that were read, of which some may be beyond a limit.
    pub conversations: u64,
    /// Texts that the template makes of them, and that were packed.
    pub texts: u64,
    /// Conversations that are longer than a row.
    pub longer: u64,
    /// Texts, or pieces of them, that were left out: nothing of them is learnt, or nothing that is in front of a cut.
    pub without_learnt: u64,
    /// Texts that learn a token that ends a turn.
    pub with_end: u64,
    /// Texts that learn all of their tokens.
    pub learnt_whole: u64,
    /// Conversations of which the template leaves something out that the assistant says, thinks or calls.
    pub left_out: u64,
    /// Conversations that the template refused.
    pub refused: u64,
    /// Places and reasons of the first of them.
    pub refusals: Vec<String>,
}

impl Turning<'_> {
    /// Packs a conversation, or says why it cannot be.
    pub(super) fn pack(
        &self,
        turned: TurnedDocument,
        packer: &mut Packer,
        counts: &mut TurnCounts,
    ) -> Result<(), DataError> {
        counts.conversations += 1;
        counts.left_out += u64::from(!turned.renders_all);
        let mut is_longer = false;
        for text in &turned.texts {
            let outcome = text.pack(packer, self.form, self.ends)?;
            is_longer |= outcome.is_longer;
            counts.without_learnt += outcome.without_learnt;
            if outcome.pieces > outcome.without_learnt || outcome.pieces == 0 {
                counts.texts += 1;
                counts.with_end += u64::from(outcome.learns_end);
                counts.learnt_whole += u64::from(outcome.learns_all);
            }
        }
        counts.longer += u64::from(is_longer);
        Ok(())
    }

    /// Tokens of a document that is no plain text.
    pub(super) fn turned(
        &self,
        document: &Document,
        encoder: &Encoder<'_>,
    ) -> Result<TurnedDocument, DataError> {
        let here = || place(&document.path, document.row);
        match &document.content {
            Content::Text(_) | Content::File(_) => Ok(TurnedDocument {
                texts: Vec::new(), // packed as they are
                renders_all: true,
            }),
            Content::Completion { prompt, completion } => {
                let text = [prompt.as_str(), completion.as_str()].concat();
                let tokens = encoder.encode_text(&text, self.max_tokens(), here)?;
                let begin = match self.learn {
                    Some(Learn::All) => 0,
                    _ => begin_of_completion(&text, prompt.len(), &tokens),
                };
                let learnt = begin..text.len();
                let part = LearntPart {
                    ranges: slice::from_ref(&learnt),
                    stops: false,
                    around: [self.beginning_of_text, Some(self.end_of_turn)],
                };
                Ok(TurnedDocument {
                    texts: vec![LearntTokens::new(&part, tokens, self.ends)],
                    renders_all: true,
                })
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
                let renders_all = renders_all(conversation, &texts);
                let row = |Learnt { text, mut spans }| {
                    let tokens = encoder.encode_text(&text, self.max_tokens(), here)?;
                    if let (Learn::Completion, Some(last)) = (learn, spans.last_mut()) {
                        // the line behind the end of the last turn
                        last.end = last.end.min(text.trim_end().len()).max(last.start);
                    }
                    let part = LearntPart {
                        ranges: &spans,
                        stops: matches!(learn, Learn::Assistant | Learn::LastTurn),
                        around: [None; 2],
                    };
                    Ok(LearntTokens::new(&part, tokens, self.ends))
                };
                let texts: Result<_, DataError> = texts.into_iter().map(row).collect();
                Ok(TurnedDocument {
                    texts: texts?,
                    renders_all,
                })
            }
        }
    }

    /// Tokens of a text that matter: behind those of a row, one more says that it is longer.
    fn max_tokens(&self) -> usize {
        match self.form {
            Form {
                kind: PackingKind::Documents,
                longer: Longer::Truncate | Longer::Drop,
            } => self.sequence_length + 1,
            _ => usize::MAX,
        }
    }
}

/// Place where the completion of a text begins: behind its prompt, or in front of white space at the end of the prompt that is one token
/// with the first word of the completion.
fn begin_of_completion(text: &str, prompt: usize, tokens: &TokenizedText) -> usize {
    let mut end = 0;
    for num_bytes in &tokens.num_bytes {
        let start = end;
        end += *num_bytes as usize;
        if end > prompt {
            let reaches_in = start < prompt && text.is_char_boundary(start);
            let is_blank = reaches_in && text[start..prompt].trim().is_empty();
            return if is_blank { start } else { prompt };
        }
    }
    prompt
}

/// True if all that the assistant says, thinks or calls stands in a text that the template made of it.
fn renders_all(conversation: &Conversation, texts: &[Learnt]) -> bool {
    let is_there = |said: &str| texts.iter().any(|learnt| learnt.text.contains(said.trim()));
    let of_text = |value: &Value| match value {
        Value::String(text) => is_there(text),
        Value::Array(parts) => {
            let mut texts = parts.iter().filter_map(|part| part["text"].as_str());
            texts.all(is_there)
        }
        _ => true,
    };
    let of_call = |call: &Value| {
        let name = call["function"]["name"].as_str().or(call["name"].as_str());
        name.is_none_or(is_there)
    };
    let messages = conversation.messages.iter();
    let mut said =
        messages.filter(|message| message.get("role").is_some_and(|role| role == "assistant"));
    said.all(|message| {
        let calls = message.get("tool_calls").and_then(Value::as_array);
        let texts = [message.get("content"), message.get("reasoning_content")];
        texts.into_iter().flatten().all(of_text) && calls.into_iter().flatten().all(of_call)
    })
}

impl TurnCounts {
    /// Counts a conversation that the template refuses.
    pub(super) fn refuse(&mut self, error: &DataError) {
        self.conversations += 1;
        self.refused += 1;
        if self.refusals.len() < MAX_NAMED {
            self.refusals.push(error.to_string());
        }
    }

    /// Why no row was made of any conversation.
    pub(super) fn why_nothing(&self) -> String {
        let of = self.conversations;
        if self.refused > 0 {
            let refusals = self.refusals.join("\n  ");
            return format!(
                "the chat template refuses {} of {of} conversations\n  {refusals}",
                self.refused
            );
        }
        if self.longer > 0 {
            return format!(
                "{} of {of} conversations are longer than `sequence_length`, which cuts off what the assistant says",
                self.longer
            );
        }
        format!(
            "what the chat template renders of {of} conversations has no turn of the assistant; `alambic data render` shows it"
        )
    }

    /// Sentences for a user who is about to train on this: what was cut or left out, and what is never learnt.
    pub(super) fn notes(&self, split: impl std::fmt::Display, form: Form) -> Vec<String> {
        let mut notes = Vec::new();
        let (texts, of) = (self.texts, self.conversations);
        if self.refused > 0 {
            notes.push(format!(
                "{split}: {} conversations that the chat template refuses are left out\n  {}",
                self.refused,
                self.refusals.join("\n  ")
            ));
        }
        if self.longer > 0 {
            let done = match form.longer {
                Longer::Truncate => "were cut at its end",
                Longer::Split => "were split into several, which do not see each other",
                Longer::Drop => "were left out",
            };
            notes.push(format!(
                "{split}: {} of {of} conversations are longer than `sequence_length` and {done}",
                self.longer
            ));
        }
        if self.left_out > 0 {
            notes.push(format!(
                "{split}: the chat template leaves out something that the assistant says, thinks or calls in {} of {of} conversations; \
                 `alambic data show` shows what is left",
                self.left_out
            ));
        }
        if self.without_learnt > 0 {
            notes.push(format!(
                "{split}: {} conversations or pieces of them were left out, because nothing of them is learnt",
                self.without_learnt
            ));
        }
        if texts > 0 && self.with_end == 0 {
            notes.push(format!("{split}: no conversation learns a token that ends a turn, so the student will not learn when to stop; is the end token of the chat template one of the model's `eos_token_id`?"));
        }
        if texts > 0 && self.learnt_whole == texts {
            notes.push(format!(
                "{split}: every conversation learns all of its tokens, also what the user writes"
            ));
        }
        notes
    }
}
