//! Pieces into which a pre-tokenizer takes a text, found one after another without memory for each.

use std::ops::{ControlFlow, Range};

use tokenizers::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::utils::SysRegex;

/// Splits of GPT-2 into words, numbers and other characters, which are the library's own for byte-level tokenizers.
const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// One step of a pre-tokenizer.
#[derive(Debug)]
pub(super) enum Level {
    /// Matches, and what is between them; later steps split only what is kept.
    Regex {
        regex: SysRegex,
        keeps_matches: bool,
        keeps_gaps: bool,
    },
    /// Characters that stand alone.
    Each(fn(char) -> bool),
    /// Runs of characters that are alike.
    Runs(fn(char) -> bool),
    /// Pieces that begin with a space, or with the sign that stands for it.
    Words(char),
}

impl Level {
    /// The splits of GPT-2.
    pub(super) fn gpt_2() -> Self {
        Self::Regex {
            regex: SysRegex::new(GPT_2).expect("the pattern is a constant"),
            keeps_matches: true,
            keeps_gaps: true,
        }
    }

    /// The step of a pattern whose matches stand alone, or are dropped; `None` for those that join a neighbour.
    pub(super) fn of_split(split: &Split) -> Option<Self> {
        let pattern = match &split.pattern {
            SplitPattern::String(text) => regex::escape(text),
            SplitPattern::Regex(pattern) if looks_back(pattern) => return None,
            SplitPattern::Regex(pattern) => pattern.clone(),
        };
        let (keeps_delimiters, invert) = match split.behavior {
            SplitDelimiterBehavior::Isolated => (true, split.invert),
            SplitDelimiterBehavior::Removed => (false, split.invert),
            _ => return None,
        };
        Some(Self::Regex {
            regex: SysRegex::new(&pattern).ok()?,
            keeps_matches: keeps_delimiters || invert,
            keeps_gaps: keeps_delimiters || !invert,
        })
    }

    /// True if no part of a text is left out.
    pub(super) fn keeps_all(&self) -> bool {
        match self {
            Self::Regex {
                keeps_matches,
                keeps_gaps,
                ..
            } => *keeps_matches && *keeps_gaps,
            Self::Each(_) | Self::Runs(_) => true,
            Self::Words(_) => false, // its sign stands for a space
        }
    }
}

/// True if a pattern may ask what stands before a match, so that pieces depend on where a part begins.
fn looks_back(pattern: &str) -> bool {
    if pattern.contains("(?<=") || pattern.contains("(?<!") {
        return true;
    }
    let mut depth = 0; // of brackets
    let mut characters = pattern.chars();
    let mut before = ' ';
    while let Some(next) = characters.next() {
        match next {
            '\\' => {
                let escaped = characters.next();
                if depth == 0 && matches!(escaped, Some('A' | 'b' | 'B' | 'G' | 'K' | '<' | '>')) {
                    return true;
                }
            }
            '[' => depth += 1,
            ']' if before != '[' => depth = (depth - 1).max(0),
            '^' if depth == 0 => return true,
            _ => {}
        }
        before = next;
    }
    false
}

/// Tells the ends of the pieces of a text that begins at `start`.
pub(super) fn walk(
    levels: &[Level],
    text: &str,
    start: usize,
    tell: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let Some((level, deeper)) = levels.split_first() else {
        return tell(start + text.len());
    };
    let mut piece = |range: Range<usize>, is_kept: bool| {
        if range.is_empty() {
            return ControlFlow::Continue(());
        }
        let levels = if is_kept { deeper } else { &[] };
        walk(
            levels,
            &text[range.clone()],
            start + range.start,
            &mut *tell,
        )
    };
    let mut done = 0;
    match level {
        Level::Regex {
            regex,
            keeps_matches,
            keeps_gaps,
        } => {
            for (start, end) in regex.find_iter(text) {
                piece(done..start, *keeps_gaps)?;
                piece(start..end, *keeps_matches)?;
                done = end;
            }
            return piece(done..text.len(), *keeps_gaps);
        }
        Level::Each(is_alone) => {
            for (place, alone) in text.char_indices().filter(|(_, next)| is_alone(*next)) {
                piece(done..place, true)?;
                done = place + alone.len_utf8();
                piece(place..done, true)?;
            }
        }
        Level::Runs(is_one) => {
            let mut before = None;
            for (place, next) in text.char_indices() {
                if before.is_some_and(|before| before != is_one(next)) {
                    piece(done..place, true)?;
                    done = place;
                }
                before = Some(is_one(next));
            }
        }
        Level::Words(sign) => {
            let begins = |(_, next): &(usize, char)| *next == ' ' || next == sign;
            for (place, _) in text.char_indices().filter(begins) {
                piece(done..place, true)?;
                done = place;
            }
        }
    }
    piece(done..text.len(), true)
}

#[cfg(test)]
mod tests {
    use super::looks_back;

    #[test]
    fn patterns_that_look_back_are_known_by_their_signs_outside_of_brackets() {
        for pattern in [
            super::GPT_2,
            r"[^\r\n\p{L}\p{N}]?\p{L}+|[\b^]|[]^]|[[a]^b]|\^|(?<name>a)|\s+(?!\S)|\s+$",
        ] {
            assert!(!looks_back(pattern), "{pattern}");
        }
        for pattern in [
            "^a", "a|^b", "[a]^", r"\ba", r"a|\B", r"\Aa", r"\G", r"a\Kb", "(?<=a)b", "(?<!a)b",
            r"\[^",
        ] {
            assert!(looks_back(pattern), "{pattern}");
        }
    }
}
