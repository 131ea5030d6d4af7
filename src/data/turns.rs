//! Conversations to rows: which of their tokens are learnt.

use std::io;
use std::ops::Range;

use super::pack::{Form, NewToken, PackOutcome, Packer};
use super::tokenizer::TokenizedText;

/// Tokens of a conversation, or of a text with its completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LearntTokens {
    pub(super) text: TokenizedText,
    /// One entry for each token: true if it is learnt.
    pub(super) flags: Vec<bool>,
    /// True if the last token was put behind the text.
    pub(super) ends_with_separator: bool,
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

impl LearntTokens {
    /// Tokens and the part of them that is learnt; `ends` are the end tokens.
    pub(super) fn new(learnt: &LearntPart<'_>, text: TokenizedText, ends: &[u32]) -> Self {
        let TokenizedText {
            mut ids,
            mut num_bytes,
        } = text;
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
        Self {
            text: TokenizedText { ids, num_bytes },
            flags,
            ends_with_separator: behind.is_some(),
        }
    }

    /// Puts the tokens into rows.
    pub(super) fn pack(
        &self,
        packer: &mut Packer,
        form: Form,
        ends: &[u32],
    ) -> io::Result<PackOutcome> {
        packer.begin(form);
        let TokenizedText { ids, num_bytes } = &self.text;
        let last = ids.len().saturating_sub(1);
        for (place, (&id, &num_bytes)) in ids.iter().zip(num_bytes).enumerate() {
            packer.push(NewToken {
                id,
                num_bytes,
                counts: self.flags[place],
                is_separator: self.ends_with_separator && place == last,
                is_end: ends.contains(&id),
            })?;
        }
        packer.end()
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
    use crate::data::pack::Packing;
    use crate::data::plan::{Longer, PackingKind};
    use crate::data::rows::{RowsBuilder, TokenRows};

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
        turned(&part, tokens, length)
    }

    /// Row of a conversation that fits into one of `length`, and its outcome.
    struct Turned {
        row: Option<TokenRows>,
        outcome: PackOutcome,
    }

    fn turned(part: &LearntPart<'_>, tokens: TokenizedText, length: usize) -> Turned {
        let packing = Packing {
            sequence_length: length,
            beginning_of_text: None,
            end_of_text: 0,
            limit: None,
        };
        let mut packer = Packer::new(packing, RowsBuilder::in_memory(length, 0));
        let form = Form {
            kind: PackingKind::Documents,
            longer: Longer::Truncate,
        };
        let tokens = LearntTokens::new(part, tokens, &[END]);
        let outcome = tokens.pack(&mut packer, form, &[END]).unwrap();
        let rows = packer.finish().unwrap().into_rows();
        Turned {
            row: (rows.num_rows() > 0).then_some(rows),
            outcome,
        }
    }

    fn positions(turned: &Turned) -> Vec<usize> {
        let row = turned.row.iter();
        row.flat_map(|row| row.mask(0).positions()).collect()
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
        assert_eq!((row.length(0), row.num_bytes()), (9, 11));
        let outcome = found.outcome;
        assert!(outcome.learns_end && !outcome.is_longer && !outcome.learns_all);
    }

    #[test]
    fn a_token_that_reaches_into_a_turn_is_not_learnt_and_one_that_reaches_out_of_it_is() {
        let found = row_of(&["a", "bc", "de", "fg"], &[(2, 6)], 8);
        assert_eq!(positions(&found), [1, 2]);
        assert!(!found.outcome.learns_end);
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
        let found = turned(&part, tokens(), 8);
        assert_eq!(positions(&found), [1, 2, 3, 4]);
        let row = found.row.unwrap();
        assert_eq!(row.row(0)[..6], [1, 10, END, 11, 12, END]);
        assert!(row.is_separator(0, 4));
        assert_eq!(row.num_bytes(), 7, "the token behind the text has none");
        // a text that is no part of what is learnt, in front of the token behind it
        part.ranges = &[];
        let found = turned(&part, tokens(), 8);
        assert_eq!(positions(&found), [4]);
        let found = turned(&part, tokens(), 4);
        assert!(found.outcome.is_longer && found.row.is_none());
        part.ranges = ranges;
        let row = turned(&part, tokens(), 4).row.unwrap();
        assert!(!row.is_separator(0, 3));
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
        assert!(found.outcome.is_longer);
        assert_eq!(positions(&found), [1, 2]);
        let found = row_of(&parts, &[(4, 5)], 3);
        assert!(found.outcome.is_longer && found.row.is_none());
        assert!(row_of(&["x"], &[(0, 1)], 3).row.is_none());
        assert!(row_of(&parts, &[(0, 5)], 8).outcome.learns_all);
    }
}
