//! Places at which a text can be cut so that its parts have the tokens of the whole.
//!
//! A tokenizer needs some 200 bytes of memory for each byte of a text, so a long document is taken in parts. A part must
//! begin and end where the tokenizer's own pre-tokenizer ends a piece, because the model sees one piece at a time. Such
//! places are found in three steps:
//!
//! 1. The steps of the library are followed on the whole text, piece by piece, without its bookkeeping for each byte:
//!    added tokens, normalizer, the splits of the pre-tokenizer. What is beyond the steps known here is not followed:
//!    later steps take each piece apart for itself, so fewer places are found, but no wrong ones.
//! 2. A place is left out where something reaches over it: next to an added token, inside of what a normalizer joins,
//!    or where a tokenizer would put a space before a part.
//! 3. The same steps are followed on the part alone, because a pattern may look ahead. If they give the same pieces, the
//!    part is taken; else it grows. Patterns that look back are not followed.

use std::borrow::Cow;
use std::convert::Infallible;
use std::ops::{ControlFlow, Range};

use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

use super::added_tokens::{AddedTokens, normalize, sections};
use super::pieces::{Level, walk};

/// Bytes that are normalized at a time.
const BLOCK_BYTES: usize = 1 << 10;

/// How a tokenizer takes a text apart before its model sees it.
#[derive(Debug)]
pub(super) struct Splitting {
    levels: Vec<Level>,
    normalizer: Option<NormalizerWrapper>,
    /// Added tokens that are looked for before and after the normalizer.
    added: [Option<AddedTokens>; 2],
    /// True if a text that does not begin with a space gets one.
    adds_space: bool,
    /// Characters before one of which a part has to begin; any, if there are none.
    begins: &'static [char],
    /// True if the pieces are what the model sees, whatever their bytes: all steps are followed, and none changes the text.
    is_whole: bool,
}

impl Splitting {
    /// The steps of a tokenizer; `None` if a text has to be taken whole.
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Option<Self> {
        let normalizer = tokenizer.get_normalizer();
        if !normalizer.is_none_or(is_local) {
            return None;
        }
        let tokens = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let added = [false, true].map(|normalized| {
            let tokens = tokens
                .iter()
                .map(|(id, token)| (*id, token))
                .filter(|(_, token)| token.normalized == normalized);
            AddedTokens::of(tokens, normalizer.filter(|_| normalized))
        });
        let [Ok(before), Ok(after)] = added else {
            return None;
        };
        let mut splitting = Self {
            levels: Vec::new(),
            normalizer: normalizer.cloned(),
            added: [before, after],
            adds_space: false,
            begins: &[],
            is_whole: false,
        };
        splitting.add_steps(tokenizer.get_pre_tokenizer()?)?;
        Some(splitting).filter(|splitting| !splitting.levels.is_empty())
    }

    /// The splits of a byte-level tokenizer without added tokens, as it is while it is trained.
    pub(super) fn of_gpt_2() -> Self {
        Self {
            levels: vec![Level::gpt_2()],
            normalizer: None,
            added: [None, None],
            adds_space: false,
            begins: &[],
            is_whole: true,
        }
    }

    /// True if the pieces that [`Splitting::follow`] tells are those that a byte-level model sees, each in other letters.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Adds what is known of a pre-tokenizer. `None` if one of its steps sees where in a text a piece is.
    fn add_steps(&mut self, pre_tokenizer: &PreTokenizerWrapper) -> Option<()> {
        let steps = match pre_tokenizer {
            PreTokenizerWrapper::Sequence(steps) => steps.as_ref(),
            one => std::slice::from_ref(one),
        };
        let mut is_known = true;
        for (idx, step) in steps.iter().enumerate() {
            match step {
                // Its sign for a space may depend on whether the text begins there.
                PreTokenizerWrapper::Metaspace(metaspace) => {
                    if idx > 0 || steps.len() > 1 || !metaspace.get_split() {
                        return None;
                    }
                    self.levels.push(Level::Words(metaspace.get_replacement()));
                    self.begins = &[' '];
                }
                PreTokenizerWrapper::Sequence(_) => return None,
                _ if !is_known => {}
                PreTokenizerWrapper::ByteLevel(ByteLevel {
                    use_regex: true,
                    add_prefix_space,
                    ..
                }) => {
                    if *add_prefix_space && idx > 0 {
                        is_known = false; // each piece of the step before gets a space
                        continue;
                    }
                    self.levels.push(Level::gpt_2());
                    if *add_prefix_space {
                        self.adds_space = true;
                        self.begins = &[' '];
                    }
                    is_known = false; // characters stand for bytes from here on
                }
                PreTokenizerWrapper::ByteLevel(byte_level) => {
                    if idx == 0 && byte_level.add_prefix_space {
                        return None;
                    }
                    is_known = false;
                }
                PreTokenizerWrapper::Split(split) => match Level::of_split(split) {
                    Some(level) => self.levels.push(level),
                    None => is_known = false,
                },
                PreTokenizerWrapper::Digits(digits) => {
                    self.levels.push(if digits.individual_digits {
                        Level::Each(char::is_numeric)
                    } else {
                        Level::Runs(char::is_numeric)
                    });
                }
                PreTokenizerWrapper::Whitespace(_)
                | PreTokenizerWrapper::WhitespaceSplit(_)
                | PreTokenizerWrapper::BertPreTokenizer(_) => {
                    self.levels.push(Level::Each(char::is_whitespace));
                    is_known = false;
                }
                _ => is_known = false,
            }
        }
        self.is_whole = self.shows_all(steps);
        Some(())
    }

    /// True if nothing but the levels decides the pieces that a byte-level model sees.
    fn shows_all(&self, steps: &[PreTokenizerWrapper]) -> bool {
        let is_byte_level = matches!(
            steps.last(),
            Some(PreTokenizerWrapper::ByteLevel(step)) if !step.add_prefix_space
        );
        let is_before = |step: &PreTokenizerWrapper| {
            matches!(
                step,
                PreTokenizerWrapper::Split(_) | PreTokenizerWrapper::Digits(_)
            )
        };
        let num_before = steps.len().saturating_sub(1);
        is_byte_level
            && self.normalizer.is_none()
            && steps[..num_before].iter().all(is_before)
            && self.levels.len() >= num_before
            && self.levels.iter().all(Level::keeps_all)
    }

    /// Hands out ranges that cover a text, in order, each at least so many bytes long, until `take` breaks off.
    ///
    /// The tokens of the text are those of its ranges one after another: no step that is followed
    /// looks back, so a part begins as the whole goes on, and each part but the last is compared with the whole.
    pub(super) fn parts<E>(
        &self,
        text: &str,
        part_bytes: usize,
        mut take: impl FnMut(Range<usize>) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        let mut outcome = Ok(());
        let (mut start, mut start_at, mut next_try) = (0, 0, part_bytes);
        let mut ends = Vec::new();
        let mut try_part = |end: &End| {
            ends.push(end.at - start_at);
            let Some(place) = end.place.filter(|place| *place >= next_try) else {
                return ControlFlow::Continue(());
            };
            if self.ends(&text[start..place]) != ends {
                next_try = place + part_bytes / 8;
                return ControlFlow::Continue(());
            }
            let taken = take(start..place);
            (start, start_at, next_try) = (place, end.at, place + part_bytes);
            ends.clear();
            taken.unwrap_or_else(|error| {
                outcome = Err(error);
                ControlFlow::Break(())
            })
        };
        if text.len() > part_bytes && self.follow(text, &mut try_part).is_break() {
            return outcome;
        }
        if start < text.len() {
            let _ = take(start..text.len())?;
        }
        Ok(())
    }

    /// Ranges that cover the beginning of a text of which only a part is there, or all of it with `is_end`; see
    /// [`Splitting::parts`]. Without the end, nothing is covered that what follows could change.
    pub(super) fn begun(&self, text: &str, part_bytes: usize, is_end: bool) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let Ok(()) = self.parts(text, part_bytes, |range| {
            ranges.push(range);
            Ok::<_, Infallible>(ControlFlow::Continue(()))
        });
        if !is_end {
            ranges.pop();
            // A pattern may look a little ahead.
            while ranges
                .last()
                .is_some_and(|last| text.len() - last.end < part_bytes)
            {
                ranges.pop();
            }
        }
        ranges
    }

    /// Adds a text in pieces to a list: as one, unless it has words that are longer than `max_bytes`. These are cut.
    pub(super) fn add_words<'t>(&self, text: &'t str, max_bytes: usize, parts: &mut Vec<&'t str>) {
        let mut runs = text.split(char::is_whitespace).map(str::len);
        let is_long = |len| len >= max_bytes;
        if !runs.any(is_long)
            && !text
                .split(|c: char| !c.is_whitespace())
                .map(str::len)
                .any(is_long)
        {
            return parts.push(text);
        }
        let (mut start, mut done) = (0, 0);
        for end in self.ends(text) {
            if end - done > max_bytes {
                parts.push(&text[start..done]);
                let mut word = &text[done..end];
                while !word.is_empty() {
                    let mut len = word.len().min(max_bytes);
                    while !word.is_char_boundary(len) {
                        len -= 1;
                    }
                    let (part, rest) = word.split_at(len);
                    parts.push(part);
                    word = rest;
                }
                start = end;
            }
            done = end;
        }
        parts.push(&text[start..]);
    }

    /// Ends of all pieces of a text.
    fn ends(&self, text: &str) -> Vec<usize> {
        let mut ends = Vec::new();
        let _ = self.follow(text, &mut |end| {
            ends.push(end.at);
            ControlFlow::Continue(())
        });
        ends
    }

    /// Follows the steps of the library and tells the ends of pieces in their order.
    pub(super) fn follow(&self, text: &str, tell: &mut Tell<'_>) -> ControlFlow<()> {
        let mut at = 0;
        sections(self.added[0].as_ref(), text, &mut |section, token| {
            let told = &text[section.clone()];
            if token.is_some() {
                at += told.len();
                return tell(&End {
                    at,
                    place: None,
                    token,
                });
            }
            self.follow_section(told, section.start, &mut at, tell)
        })
    }

    /// Follows the steps on a text without added tokens that are looked for before the normalizer.
    fn follow_section(
        &self,
        text: &str,
        start: usize,
        at: &mut usize,
        tell: &mut Tell<'_>,
    ) -> ControlFlow<()> {
        let normalized = self.normalized(text);
        sections(
            self.added[1].as_ref(),
            &normalized.text,
            &mut |section, token| {
                let text = &normalized.text[section.clone()];
                if token.is_some() {
                    *at += text.len();
                    return tell(&End {
                        at: *at,
                        place: None,
                        token,
                    });
                }
                let text: Cow<'_, str> = if self.adds_space && !text.starts_with(' ') {
                    Cow::Owned(format!(" {text}"))
                } else {
                    Cow::Borrowed(text)
                };
                let added = text.len() - section.len();
                let before = *at;
                *at += text.len();
                walk(&self.levels, &text, 0, &mut |end| {
                    let may_begin =
                        |next: char| self.begins.is_empty() || self.begins.contains(&next);
                    let next = text[end..].chars().next(); // none at the end, next to an added token
                    let inside = next.is_some_and(may_begin) && end > added;
                    let place = inside.then(|| normalized.place(section.start + end - added));
                    tell(&End {
                        at: before + end,
                        place: place.flatten().map(|place| start + place),
                        token: None,
                    })
                })
            },
        )
    }

    fn normalized<'t>(&self, text: &'t str) -> Normalized<'t> {
        let mut normalized = Normalized {
            text: Cow::Borrowed(text),
            places: Vec::new(),
        };
        let Some(normalizer) = &self.normalizer else {
            return normalized;
        };
        let (mut start, mut same) = (0, true);
        let mut places = Vec::new();
        while start < text.len() {
            let end = start + block_len(&text[start..]);
            let block = &text[start..end];
            let changed = normalize(normalizer, block);
            if same && changed.as_deref().is_some_and(|changed| changed != block) {
                same = false;
                normalized.text = Cow::Owned(text[..start].to_owned());
            }
            if !same {
                let so_far = normalized.text.to_mut();
                so_far.push_str(changed.as_deref().unwrap_or(block));
            }
            let so_far = if same { end } else { normalized.text.len() };
            places.push((so_far, end));
            start = end;
        }
        if !same {
            normalized.places = places;
        }
        normalized
    }
}

pub(super) type Tell<'a> = dyn FnMut(&End) -> ControlFlow<()> + 'a;

/// End of a piece.
pub(super) struct End {
    /// Bytes of normalized text up to it.
    pub(super) at: usize,
    /// Its place in the text as it was written, if the text may be cut there.
    place: Option<usize>,
    /// Id of the added token that the piece is, if it is one.
    pub(super) token: Option<u32>,
}

/// A text after the normalizer.
struct Normalized<'t> {
    text: Cow<'t, str>,
    /// Places in this text and in that before, at which nothing was joined. Empty if the text is the same.
    places: Vec<(usize, usize)>,
}

impl Normalized<'_> {
    /// Place in the text before the normalizer, if it is known.
    fn place(&self, at: usize) -> Option<usize> {
        if self.places.is_empty() {
            return Some(at); // each part of a text that is normalized is normalized
        }
        let idx = self.places.binary_search_by_key(&at, |(after, _)| *after);
        Some(self.places[idx.ok()?].1)
    }
}

/// True if a normalizer works on each character, or on one with the marks after it, wherever it stands.
fn is_local(normalizer: &NormalizerWrapper) -> bool {
    match normalizer {
        NormalizerWrapper::NFC(_)
        | NormalizerWrapper::NFD(_)
        | NormalizerWrapper::NFKC(_)
        | NormalizerWrapper::NFKD(_)
        | NormalizerWrapper::Lowercase(_) => true,
        NormalizerWrapper::Replace(replace) => {
            let pattern = serde_json::to_value(replace).ok();
            let pattern =
                pattern.and_then(|json| serde_json::from_value(json["pattern"].clone()).ok());
            matches!(pattern, Some(ReplacePattern::String(text)) if text.chars().count() == 1)
        }
        NormalizerWrapper::Sequence(steps) => steps.as_ref().iter().all(is_local),
        _ => false,
    }
}

/// Bytes up to a place at which no normalizer joins anything: before a character that never joins the one before it.
fn block_len(text: &str) -> usize {
    let joins_nothing = |next: char| {
        matches!(next, '\0'..='\u{7f}' | '\u{410}'..='\u{44f}' | '\u{3001}'..='\u{3002}')
            || matches!(next, '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}' | '\u{ff01}'..='\u{ff5e}')
    };
    let mut before = ' ';
    for (place, next) in text.char_indices() {
        // A place between words is more likely to be one between pieces.
        let ends_word = !before.is_whitespace() && (next == ' ' || !before.is_alphanumeric());
        if place >= BLOCK_BYTES && joins_nothing(next) && (ends_word || place >= 8 * BLOCK_BYTES) {
            return place;
        }
        before = next;
    }
    text.len()
}
