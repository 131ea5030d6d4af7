//! Conversations to rows: which of their tokens are learnt.

use std::ops::Range;

use super::mask::{PositionSpan, spans_of};
use super::rows::ConversationRow;
use super::tokenizer::TokenizedText;

/// Row of a conversation, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "three facts, each true or not"
)]
pub(super) struct Turned {
    /// The row; `None` if nothing of it is learnt, or it has fewer than two tokens.
    pub(super) row: Option<ConversationRow>,
    /// True if its end is beyond the row.
    pub(super) is_cut: bool,
    /// True if an end token is learnt.
    pub(super) learns_end: bool,
    /// True if the row learns all of its tokens.
    pub(super) learns_all: bool,
}

/// Tokens of a row that are learnt.
#[derive(Debug)]
pub(super) struct LearntPart<'a> {
    /// Byte ranges of the text, ascending and apart. A token is learnt if it begins in one: a token that reaches into a range from before it
    /// is not what a model would write there.
    pub(super) ranges: &'a [Range<usize>],
    /// True if nothing of a range is learnt behind its first end token: generation stops there.
    pub(super) stops: bool,
    /// Tokens put before and behind a text that no template renders; the one behind is learnt.
    pub(super) around: [Option<u32>; 2],
}

/// Makes the row of a conversation from its tokens, of which the first `sequence_length + 1` are kept, and the part that is
/// learnt; `ends` are the end tokens.
pub(super) fn turned(
    learnt: &LearntPart<'_>,
    tokens: TokenizedText,
    ends: &[u32],
    sequence_length: usize,
) -> Turned {
    let TokenizedText {
        mut ids,
        mut num_bytes,
    } = tokens;
    let stops = if learnt.stops { ends } else { &[] };
    let mut flags = learnt_tokens(learnt.ranges, &ids, &num_bytes, stops);
    let [before, behind] = learnt.around;
    if let Some(id) = before {
        ids.insert(0, id);
        num_bytes.insert(0, 0);
        flags.insert(0, false);
    }
    if let Some(id) = behind {
        ids.push(id);
        num_bytes.push(0);
        flags.push(true);
    }
    let ends_with_separator = behind.is_some() && ids.len() <= sequence_length + 1;
    let is_cut = ids.len() > sequence_length + 1;
    ids.truncate(sequence_length + 1);
    // Position t is about token t + 1.
    let labels = || flags.iter().zip(&ids).zip(&num_bytes).skip(1);
    let counted = || labels().filter(|((counts, _), _)| **counts);
    let spans: Vec<PositionSpan> = spans_of(labels().map(|((counts, _), _)| *counts));
    let learns_end = counted().any(|((_, id), _)| ends.contains(id));
    let learns_all = labels().all(|((counts, _), _)| *counts);
    let row_bytes = counted().map(|(_, num_bytes)| u64::from(*num_bytes)).sum();
    let is_row = ids.len() > 1 && !spans.is_empty();
    Turned {
        row: is_row.then_some(ConversationRow {
            tokens: ids,
            spans,
            num_bytes: row_bytes,
            ends_with_separator,
        }),
        is_cut,
        learns_end,
        learns_all,
    }
}

/// One entry for each token: true if it is learnt.
fn learnt_tokens(
    learnt: &[Range<usize>],
    ids: &[u32],
    num_bytes: &[u32],
    ends: &[u32],
) -> Vec<bool> {
    let mut ranges = learnt.iter().peekable();
    let mut start = 0;
    let mut has_ended = false; // within the range
    let mut flags: Vec<bool> = Vec::with_capacity(ids.len());
    for (id, num_bytes) in ids.iter().zip(num_bytes) {
        let is_continued = *num_bytes == 0; // one character in several tokens
        while ranges.peek().is_some_and(|range| range.end <= start) {
            if is_continued {
                break;
            }
            ranges.next();
            has_ended = false;
        }
        let begins_inside = ranges.peek().is_some_and(|range| range.contains(&start));
        let is_learnt = match flags.last() {
            Some(&before) if is_continued => before && !has_ended,
            _ => begins_inside && !has_ended,
        };
        flags.push(is_learnt);
        has_ended |= is_learnt && ends.contains(id);
        start += *num_bytes as usize;
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u32 = 9;

    /// Tokens given by their texts; the end is `<e>`.
    fn row_of(parts: &[&str], learnt: &[(usize, usize)], length: usize) -> Turned {
        let ids = (10..)
            .zip(parts)
            .map(|(id, part)| if *part == "<e>" { END } else { id });
        let tokens = TokenizedText {
            ids: ids.collect(),
            num_bytes: parts
                .iter()
                .map(|part| u32::try_from(part.len()).unwrap())
                .collect(),
        };
        let learnt: Vec<_> = learnt.iter().map(|&(start, end)| start..end).collect();
        let part = LearntPart {
            ranges: &learnt,
            stops: true,
            around: [None; 2],
        };
        turned(&part, tokens, &[END], length)
    }

    fn positions(turned: &Turned) -> Vec<usize> {
        let row = turned.row.iter().flat_map(|row| &row.spans);
        row.flat_map(|span| span.positions()).collect()
    }

    #[test]
    fn the_tokens_of_a_turn_are_learnt_up_to_its_first_end() {
        // "u:" "hi" "<e>" "a:" "yes" "<e>" "\n" "a:" "no" "<e>"
        let parts = [
            "u:", "hi", "<e>", "a:", "yes", "<e>", "\n", "a:", "no", "<e>",
        ];
        let turns = [(9, 16), (18, 23)];
        let found = row_of(&parts, &turns, 16);
        assert_eq!(positions(&found), [3, 4, 7, 8]);
        let row = found.row.unwrap();
        assert_eq!((row.tokens.len(), row.num_bytes), (10, 11));
        assert!(found.learns_end && !found.is_cut && !found.learns_all);
    }

    #[test]
    fn a_token_that_reaches_into_a_turn_is_not_learnt_and_one_that_reaches_out_of_it_is() {
        let found = row_of(&["a", "bc", "de", "fg"], &[(2, 6)], 8);
        assert_eq!(positions(&found), [1, 2]);
        assert!(!found.learns_end);
    }

    #[test]
    fn tokens_without_bytes_of_their_own_go_with_the_one_before_them() {
        let found = row_of(&["u", "é", "", "", "v", ""], &[(1, 3)], 8);
        assert_eq!(positions(&found), [0, 1, 2]);
        let found = row_of(&["u", "", "é", ""], &[(1, 3)], 8);
        assert_eq!(positions(&found), [1, 2]);
    }

    #[test]
    fn a_text_is_learnt_beyond_its_ends_and_a_token_behind_it_always() {
        let tokens = || TokenizedText {
            ids: vec![10, END, 11, 12],
            num_bytes: vec![2, 3, 2, 2],
        };
        let range = 2..9;
        let ranges = std::slice::from_ref(&range);
        let mut part = LearntPart {
            ranges,
            stops: false,
            around: [Some(1), Some(END)],
        };
        let found = turned(&part, tokens(), &[END], 8);
        assert_eq!(positions(&found), [1, 2, 3, 4]);
        let row = found.row.unwrap();
        assert_eq!(row.tokens, [1, 10, END, 11, 12, END]);
        assert!(row.ends_with_separator);
        assert_eq!(row.num_bytes, 7, "the token behind the text has none");
        // a text that is no part of what is learnt, in front of the token behind it
        part.ranges = &[];
        let found = turned(&part, tokens(), &[END], 8);
        assert_eq!(positions(&found), [4]);
        let found = turned(&part, tokens(), &[END], 4);
        assert!(found.is_cut && found.row.is_none());
        part.ranges = ranges;
        let row = turned(&part, tokens(), &[END], 4).row.unwrap();
        assert!(!row.ends_with_separator);
    }

    #[test]
    fn ranges_that_touch_end_each_for_itself() {
        let found = row_of(&["u", "a", "<e>", "b", "<e>", "c"], &[(1, 5), (5, 10)], 8);
        assert_eq!(positions(&found), [0, 1, 2, 3]);
    }

    #[test]
    fn a_conversation_beyond_its_row_is_cut_and_one_of_which_nothing_is_left_to_learn_has_no_row() {
        let parts = ["u", "v", "w", "x", "y"];
        let found = row_of(&parts, &[(2, 5)], 3);
        assert!(found.is_cut);
        assert_eq!(positions(&found), [1, 2]);
        let found = row_of(&parts, &[(4, 5)], 3);
        assert!(found.is_cut && found.row.is_none());
        assert!(row_of(&["x"], &[(0, 1)], 3).row.is_none());
        assert!(row_of(&parts, &[(0, 5)], 8).learns_all);
    }
}
