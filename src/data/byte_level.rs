//! Tokens of byte-level BPE tokenizers, piece by piece.
//!
//! The library keeps a record for each byte of a text, of which rows need one number for each token: how many bytes it
//! covers. In a byte-level vocabulary the letters of a token stand for the bytes themselves, so that number is known
//! from the token. Here a text is taken into its pieces ([`Splitting`]), only pieces that were not seen lately are given
//! to the library's model, and nothing is kept for bytes. The tokens are those of [`Tokenizer::encode_with_bytes`]; a text
//! for which this is not certain is left to it.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::sync::{Mutex, PoisonError};

use tokenizers::{Model, ModelWrapper};

use super::cut::Splitting;
use super::encode::TokensSoFar;
use super::tokenizer::{Tokenizer, guard};

/// Pieces that are remembered at a time by each thread: some 10 MiB.
const MAX_REMEMBERED: usize = 1 << 16;

/// Longest piece in bytes that is remembered; words are shorter.
const MAX_REMEMBERED_BYTES: usize = 64;

/// Tokeniser of texts for a byte-level BPE.
#[derive(Debug)]
pub(super) struct ByteLevelBpe<'a> {
    model: &'a ModelWrapper,
    /// Letters of the bytes; `None` for those without a token of their own, which would be dropped, or become an unknown one.
    letters: [Option<char>; 256],
    /// Memories that no thread is using.
    memories: Mutex<Vec<Memory>>,
}

/// Tokens of pieces.
#[derive(Debug, Default)]
struct Memory {
    /// Places of the tokens of a piece.
    pieces: HashMap<Box<str>, Range<usize>>,
    /// Ids with the bytes that each covers.
    tokens: Vec<(u32, u32)>,
}

impl<'a> ByteLevelBpe<'a> {
    /// Tokeniser for a tokenizer with these steps; `None` if it is no byte-level BPE, or is one with more than pieces and merges.
    pub(super) fn of(tokenizer: &'a Tokenizer, splitting: &Splitting) -> Option<Self> {
        let model = tokenizer.library().get_model();
        let ModelWrapper::BPE(bpe) = model else {
            return None;
        };
        let affix = |affix: &Option<String>| affix.as_ref().is_some_and(|affix| !affix.is_empty());
        let is_plain = !affix(&bpe.continuing_subword_prefix)
            && !affix(&bpe.end_of_word_suffix)
            && splitting.is_whole();
        is_plain.then(|| Self {
            model,
            letters: letters().map(|letter| {
                Some(letter)
                    .filter(|letter| bpe.token_to_id(letter.encode_utf8(&mut [0; 4])).is_some())
            }),
            memories: Mutex::default(),
        })
    }

    /// Tokens of a text, or its first ones as soon as they are more than the limit; `None` if they are not certain: a piece is longer
    /// than `max_piece_bytes`, or has a byte without a token.
    pub(super) fn encode(
        &self,
        splitting: &Splitting,
        text: &str,
        limit: usize,
        max_piece_bytes: usize,
    ) -> Option<TokensSoFar> {
        let mut memory = self.memories().pop().unwrap_or_default();
        let mut encoded = TokensSoFar::default();
        let (mut start, mut is_certain) = (0, true);
        let _ = splitting.follow(text, &mut |end| {
            let piece = text.get(start..end.at).unwrap_or_default();
            let num_bytes = end.at - start;
            start = end.at;
            is_certain = match end.token {
                Some(id) => {
                    encoded.add(id, u32::try_from(num_bytes).unwrap_or(u32::MAX));
                    true
                }
                None => {
                    num_bytes <= max_piece_bytes
                        && self.add(piece, &mut memory, &mut encoded).is_some()
                }
            };
            if is_certain && encoded.len() <= limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        self.memories().push(memory);
        is_certain.then_some(encoded)
    }

    fn memories(&self) -> std::sync::MutexGuard<'_, Vec<Memory>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the tokens of a piece.
    fn add(&self, piece: &str, memory: &mut Memory, encoded: &mut TokensSoFar) -> Option<()> {
        if let Some(place) = memory.pieces.get(piece) {
            encoded.extend(&memory.tokens[place.clone()]);
            return Some(());
        }
        let tokens = self.tokens(piece)?;
        encoded.extend(&tokens);
        if piece.len() <= MAX_REMEMBERED_BYTES && memory.pieces.len() < MAX_REMEMBERED {
            let begin = memory.tokens.len();
            memory.tokens.extend(tokens);
            let place = begin..memory.tokens.len();
            memory.pieces.insert(piece.into(), place);
        }
        Some(())
    }

    /// Ids of a piece, each with the bytes that it covers: a character that is split counts for the first of its tokens.
    fn tokens(&self, piece: &str) -> Option<Vec<(u32, u32)>> {
        let letters = piece.bytes().map(|byte| self.letters[usize::from(byte)]);
        let in_letters: String = letters.collect::<Option<_>>()?;
        let found = guard("encoding text", || self.model.tokenize(&in_letters)).ok()?;
        let (mut end, mut covered) = (0, 0);
        let tokens = found
            .iter()
            .map(|token| {
                end += token.value.chars().count();
                let reached = piece.ceil_char_boundary(end);
                let num_bytes = reached - covered;
                covered = reached;
                Some((token.id, u32::try_from(num_bytes).ok()?))
            })
            .collect::<Option<Vec<_>>>()?;
        (end == piece.len()).then_some(tokens)
    }
}

/// Letters that stand for the bytes in a byte-level vocabulary: those that can be printed for themselves, the others by turns from
/// U+0100 on (`bytes_to_unicode` of GPT-2).
fn letters() -> [char; 256] {
    let mut others = '\u{100}'..;
    std::array::from_fn(|byte| {
        let own = u8::try_from(byte).map_or('\0', char::from);
        if matches!(own, '!'..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{ff}') {
            own
        } else {
            others.next().unwrap_or_default()
        }
    })
}

#[cfg(test)]
mod tests {
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn each_byte_has_a_letter_of_the_byte_level_alphabet() {
        let letters = letters();
        let own: std::collections::BTreeSet<char> = letters.into_iter().collect();
        assert_eq!(own, ByteLevel::alphabet().into_iter().collect());
        assert_eq!(
            (letters[usize::from(b' ')], letters[usize::from(b'\n')]),
            ('Ġ', 'Ċ')
        );
        assert_eq!((letters[0x7f], letters[0xad]), ('ġ', 'Ń'));
    }
}
