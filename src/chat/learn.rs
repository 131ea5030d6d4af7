//! Parts of a conversation's text that a model writes itself, and so learns.

use std::ops::Range;

use super::conversation::Conversation;
use super::error::TemplateError;
use super::template::{ChatTemplate, Prepared, Rendered};
use crate::recipe::words;

words! {
    /// Choice of what is learnt of a conversation.
    pub enum Learn {
        /// Every message of the assistant.
        Assistant = "assistant" also ["assistant_only", "assistant_only_loss", "turns"],
        /// Whatever follows the prompt, which the source says to end somewhere.
        Completion = "completion" also ["completion_only", "completion_only_loss"],
        /// The last message of the assistant.
        LastTurn = "last_turn" also ["last", "last_round"],
        /// The whole text.
        All = "all" also ["everything", "full"],
    }
}

/// One row of training text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learnt {
    /// Text, as the tokenizer takes it.
    pub text: String,
    /// Bytes of `text` that are learnt, ascending, apart and not empty. Each begins behind what the generation prompt supplies;
    /// it may end behind the token that ends the turn, at the end of the line.
    pub spans: Vec<Range<usize>>,
}

/// Rows of a conversation: one, or one for each learnt turn.
///
/// Places of turns come from the template's `{% generation %}` blocks, if it has them. Else they come from renderings of the
/// first messages: a turn is what its messages add to the generation prompt after the messages before it. Some templates render earlier turns
/// otherwise once others follow, as those that take out earlier reasoning. Then each learnt turn ends a row of its own, as the model
/// will see it when it writes the turn.
///
/// # Errors
///
/// Those of [`ChatTemplate::render`], [`TemplateError::NoPrompt`], [`TemplateError::NoOpening`] and [`TemplateError::Unplaced`].
pub fn learnt(
    template: &ChatTemplate,
    conversation: &Conversation,
    learn: Learn,
) -> Result<Vec<Learnt>, TemplateError> {
    let prepared = template.prepare(conversation);
    match learn {
        Learn::Assistant | Learn::LastTurn => {
            turns(&prepared, conversation, learn == Learn::LastTurn)
        }
        Learn::Completion if conversation.num_prompt == 0 => Err(TemplateError::NoPrompt),
        Learn::Completion => {
            let text = prepared.text(conversation.messages.len(), false)?;
            let prompt = prepared.text(
                conversation.num_prompt.min(conversation.messages.len()),
                true,
            )?;
            let begin = common_prefix(&prompt, &text);
            without_unlearnt(&prepared, conversation, text, begin)
        }
        Learn::All => {
            let text = prepared.text(conversation.messages.len(), false)?;
            without_unlearnt(&prepared, conversation, text, 0)
        }
    }
}

fn turns(
    prepared: &Prepared<'_>,
    conversation: &Conversation,
    is_last: bool,
) -> Result<Vec<Learnt>, TemplateError> {
    let messages = conversation.messages.iter().enumerate();
    let assistant: Vec<usize> = messages
        .filter(|(_, message)| is_assistant(message))
        .map(|(idx, _)| idx)
        .collect();
    let first = if is_last {
        assistant.len().saturating_sub(1)
    } else {
        0
    };
    let is_learnt = |turn: usize| {
        turn >= first
            && conversation
                .unlearnt
                .binary_search(&assistant[turn])
                .is_err()
    };

    let Rendered { text, generations } = prepared.rendered(false)?;
    if let Some(ranges) = generations {
        let is_each_learnt = (0..assistant.len()).all(is_learnt);
        if is_each_learnt {
            return Ok(vec![Learnt {
                text,
                spans: ranges,
            }]);
        }
        if ranges.len() == assistant.len() {
            let spans = ranges
                .into_iter()
                .enumerate()
                .filter(|&(turn, _)| is_learnt(turn))
                .map(|(_, range)| range)
                .collect();
            return Ok(vec![Learnt { text, spans }]);
        }
    }
    let learnt: Vec<usize> = (0..assistant.len())
        .filter(|&turn| is_learnt(turn))
        .map(|turn| assistant[turn])
        .collect();
    turns_by_prefixes(prepared, conversation, text, &learnt)
}

fn is_assistant(message: &serde_json::Map<String, serde_json::Value>) -> bool {
    message.get("role").is_some_and(|role| role == "assistant")
}

/// Rows of turns whose places come from renderings of the messages up to each of them.
fn turns_by_prefixes(
    prepared: &Prepared<'_>,
    conversation: &Conversation,
    text: String,
    learnt: &[usize],
) -> Result<Vec<Learnt>, TemplateError> {
    let num_messages = conversation.messages.len();
    let mut rows = Vec::with_capacity(learnt.len());
    for &idx in learnt {
        let upto = if idx + 1 == num_messages {
            text.clone()
        } else {
            prepared.text(idx + 1, false)?
        };
        let begin = begin_of_turn(prepared, idx, &upto)?;
        let span = begin..upto.len();
        rows.push(Learnt {
            text: upto,
            spans: if span.is_empty() {
                Vec::new()
            } else {
                vec![span]
            },
        });
    }
    if rows.iter().all(|row| text.starts_with(&row.text)) {
        let spans = rows.into_iter().flat_map(|row| row.spans).collect();
        return Ok(vec![Learnt { text, spans }]);
    }
    Ok(rows)
}

/// Place in the text up to a turn where the turn begins: behind the generation prompt.
fn begin_of_turn(prepared: &Prepared<'_>, idx: usize, upto: &str) -> Result<usize, TemplateError> {
    match prepared.text(idx, true) {
        Ok(prompt) => Ok(common_prefix(&prompt, upto)),
        // Many templates look at their first message and fail if there is none. Then the generation prompt is what it adds behind the turn.
        Err(TemplateError::Failed { .. } | TemplateError::Refused { .. }) if idx == 0 => {
            let prompted = prepared.text(1, true)?;
            let prompt = prompted
                .strip_prefix(upto)
                .filter(|prompt| !prompt.is_empty());
            let begin = prompt.and_then(|prompt| Some(upto.find(prompt)? + prompt.len()));
            begin.ok_or(TemplateError::NoOpening)
        }
        Err(error) => Err(error),
    }
}

/// A row of the whole text, learnt from `begin` on but for the messages that are not.
fn without_unlearnt(
    prepared: &Prepared<'_>,
    conversation: &Conversation,
    text: String,
    begin: usize,
) -> Result<Vec<Learnt>, TemplateError> {
    let place = |message: usize, count: usize| -> Result<usize, TemplateError> {
        if count == 0 {
            return Ok(0);
        }
        let upto = prepared.text(count, false)?;
        if text.starts_with(&upto) {
            Ok(upto.len())
        } else {
            Err(TemplateError::Unplaced { message })
        }
    };
    let (mut spans, mut from) = (Vec::new(), begin);
    for &message in &conversation.unlearnt {
        let gap = place(message, message)?..place(message, message + 1)?;
        spans.push(from..gap.start);
        from = from.max(gap.end);
    }
    spans.push(from..text.len());
    spans.retain(|span| span.start < span.end);
    Ok(vec![Learnt { text, spans }])
}

/// Bytes that two texts have in common at their beginning, up to the end of a character.
fn common_prefix(one: &str, other: &str) -> usize {
    let bytes = one.bytes().zip(other.bytes());
    let mut length = bytes.take_while(|(one, other)| one == other).count();
    while !one.is_char_boundary(length) {
        length -= 1;
    }
    length
}
