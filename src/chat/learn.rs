//! Parts of a conversation's text that a model writes itself, and so learns.

use std::ops::Range;

use serde_json::{Map, Value};

use super::conversation::Conversation;
use super::error::TemplateError;
use super::template::{ChatTemplate, PreparedConversation, Rendered};
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
    prepared: &PreparedConversation<'_>,
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
    // A message may have several blocks, and messages may touch.
    let of_messages = |blocks: Vec<Range<usize>>| {
        if blocks.len() == assistant.len() {
            blocks
        } else {
            joined(blocks)
        }
    };
    if let Some(ranges) = generations.map(of_messages) {
        let is_each_learnt = (0..assistant.len()).all(is_learnt);
        if is_each_learnt || ranges.len() == assistant.len() {
            let prompt = generation_prompt(prepared, conversation)?;
            let ranges = ranges.into_iter().enumerate();
            let spans = ranges
                .filter(|&(turn, _)| is_each_learnt || is_learnt(turn))
                .map(|(_, range)| behind_prompt(&text, range, &prompt))
                .filter(|span| !span.is_empty())
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

/// Ranges, of which those that touch are one.
fn joined(ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

/// Generation prompt that the template puts behind the first message of a user; none if it fails there.
fn generation_prompt(
    prepared: &PreparedConversation<'_>,
    conversation: &Conversation,
) -> Result<String, TemplateError> {
    let mut messages = conversation.messages.iter();
    let user = messages.position(|message| has_role(message, "user"));
    let count = user.map_or(conversation.messages.len(), |user| user + 1);
    let texts = prepared.text(count, false).and_then(|text| {
        let prompted = prepared.text(count, true)?;
        Ok((text, prompted))
    });
    match texts {
        Ok((text, prompted)) => {
            // Some templates end the text where no prompt follows: `<end>` and `<assistant>` begin alike.
            let mut common = common_prefix(&text, &prompted);
            if common < text.len() {
                common = marked_end(&prompted[..common]);
            }
            Ok(prompted[common..].to_owned())
        }
        Err(TemplateError::Failed { .. } | TemplateError::Refused { .. }) => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// Place behind the last sign that ends a token of templates: `>` or a new line.
fn marked_end(text: &str) -> usize {
    text.rfind(['>', '\n']).map_or(0, |at| at + 1)
}

/// A generation block without what the generation prompt supplies, which may begin before the block.
fn behind_prompt(text: &str, block: Range<usize>, prompt: &str) -> Range<usize> {
    let (before, inside) = (&text[..block.start], &text[block.clone()]);
    let mut cuts = (1..=prompt.len()).rev();
    let cut = cuts.find(|&cut| prompt.is_char_boundary(cut) && before.ends_with(&prompt[..cut]));
    let supplied = match cut {
        Some(cut) => common_prefix(&prompt[cut..], inside),
        // A whole token of the prompt, since others begin alike by chance.
        None => match common_prefix(prompt, inside) {
            common if common == prompt.len() => common,
            common => marked_end(&inside[..common]),
        },
    };
    block.start + supplied..block.end
}

fn is_assistant(message: &Map<String, Value>) -> bool {
    has_role(message, "assistant")
}

fn has_role(message: &Map<String, Value>, role: &str) -> bool {
    message.get("role").is_some_and(|of| of == role)
}

/// Rows of turns whose places come from renderings of the messages up to each of them.
fn turns_by_prefixes(
    prepared: &PreparedConversation<'_>,
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
        let begin = begin_of_turn(prepared, conversation, idx, &upto)?;
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
fn begin_of_turn(
    prepared: &PreparedConversation<'_>,
    conversation: &Conversation,
    idx: usize,
    upto: &str,
) -> Result<usize, TemplateError> {
    let unknown = TemplateError::NoOpening { message: idx };
    if idx > 0 {
        let prompt = prepared.text(idx, true)?;
        let common = common_prefix(&prompt, upto);
        if common == prompt.len() {
            return Ok(common);
        }
        // Where the turn begins otherwise than the prompt, both must be alike at least up to the prompt.
        let before = common_prefix(&prepared.text(idx, false)?, &prompt);
        if common < before {
            return Err(unknown);
        }
        // They are alike up to a whole token of the prompt: behind it, `<think>` and `<b>` begin alike by chance.
        let marked = marked_end(&prompt[..common]);
        let is_by_chance = !prompt[common..].trim().is_empty() && marked >= before;
        return Ok(if is_by_chance { marked } else { common });
    }
    // What stands before the first message depends on it in many templates, or they look at it. So the prompt is searched for, up to
    // one of its marks if the turn goes on otherwise behind it.
    let prompt = generation_prompt(prepared, conversation)?;
    let ends = prompt.char_indices().rev();
    let ends = ends.map(|(at, letter)| (at + letter.len_utf8(), letter));
    let mut marks =
        ends.filter(|&(end, letter)| end == prompt.len() || ['>', '\n'].contains(&letter));
    let begin = marks.find_map(|(end, _)| upto.find(&prompt[..end]));
    let begin = begin.ok_or(unknown)?;
    Ok(begin + common_prefix(&prompt, &upto[begin..]))
}

/// A row of the whole text, learnt from `begin` on but for the messages that are not.
fn without_unlearnt(
    prepared: &PreparedConversation<'_>,
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
