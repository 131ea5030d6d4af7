//! Documents to tokens, in parts and up to a limit, so that memory follows the limit and not the longest document.

use std::ops::{ControlFlow, Range};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::byte_level::ByteLevelBpe;
use super::cut::Splitting;
use super::source::{Document, place};
use super::tokenizer::{TokenizedText, Tokenizer, TokenizerError};
use crate::machine;

/// Bytes of text that are tokenised at a time where a document can be cut.
const PART_BYTES: usize = 64 << 10;

/// Bytes of a part from which on parts are tokenised one at a time.
const LARGE_BYTES: usize = 1 << 20;

/// Bytes of memory that the library takes for each byte of a text.
const MEMORY_PER_BYTE: u64 = 256;

/// Bytes of text that are tokenised before it is seen whether there are enough tokens: of the first round, and of the largest.
const ROUND_BYTES: Range<usize> = (1 << 18)..(1 << 24);

/// Tokeniser of documents.
pub(super) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    splitting: Option<Splitting>,
    /// Faster way to the same tokens, which most tokenizers have.
    byte_level: Option<ByteLevelBpe<'a>>,
    part_bytes: usize,
    /// Longest part that fits into the memory that is free.
    max_bytes: u64,
    large: Mutex<()>,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        let free_bytes = machine::free_bytes().unwrap_or(u64::MAX);
        Self::with_room(tokenizer, PART_BYTES, free_bytes)
    }

    pub(super) fn with_room(tokenizer: &'a Tokenizer, part_bytes: usize, free_bytes: u64) -> Self {
        let splitting = Splitting::of(tokenizer.library());
        let byte_level = splitting.as_ref();
        Self {
            tokenizer,
            byte_level: byte_level.and_then(|steps| ByteLevelBpe::of(tokenizer, steps)),
            splitting,
            part_bytes,
            max_bytes: free_bytes / MEMORY_PER_BYTE,
            large: Mutex::new(()),
        }
    }

    /// Tokens of documents, in their order, until there are more than `limit`, with a separator after each counted. The
    /// last document may then lack its end, and those after it are not looked at.
    pub(super) fn encode(
        &self,
        documents: &[&Document],
        limit: Option<u64>,
    ) -> Result<Vec<TokenizedText>, TokenizerError> {
        let mut left = limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        let mut texts = Vec::new();
        let mut round_bytes = ROUND_BYTES.start;
        let mut rest = documents;
        while !rest.is_empty() {
            let (round, later) = rest.split_at(round_len(rest, round_bytes));
            let encoded: Result<Vec<_>, _> = round
                .par_iter()
                .map(|document| {
                    let text = document.text().unwrap_or_default();
                    self.encode_text(text, left, || place(&document.path, document.row))
                })
                .collect();
            for text in encoded? {
                let num_tokens = text.ids.len();
                texts.push(text);
                if num_tokens > left {
                    return Ok(texts);
                }
                left = left.saturating_sub(num_tokens + usize::from(num_tokens > 0));
            }
            rest = later;
            round_bytes = (2 * round_bytes).min(ROUND_BYTES.end);
        }
        Ok(texts)
    }

    /// Tokens of a text, or its first ones if they are more than the limit; `place` tells where it is from.
    pub(super) fn encode_text(
        &self,
        text: &str,
        limit: usize,
        place: impl Fn() -> String,
    ) -> Result<TokenizedText, TokenizerError> {
        if let (Some(splitting), Some(byte_level)) = (&self.splitting, &self.byte_level) {
            // A longer piece takes the library much memory.
            let most = usize::try_from(self.max_bytes).unwrap_or(usize::MAX);
            let most = most.min(PART_BYTES);
            if let Some(encoded) = byte_level.encode(splitting, text, limit, most) {
                return Ok(encoded.finish(text.len()));
            }
        }
        self.encode_plainly(text, limit, place)
    }

    /// Same as [`Encoder::encode_text`], by the library alone.
    pub(super) fn encode_plainly(
        &self,
        text: &str,
        limit: usize,
        place: impl Fn() -> String,
    ) -> Result<TokenizedText, TokenizerError> {
        let mut encoded = TokensSoFar::default();
        let take = |range: Range<usize>| {
            if range.len() as u64 > self.max_bytes {
                return Err(self.too_long(place(), range.len()));
            }
            let is_large = range.len() > LARGE_BYTES;
            let _alone =
                is_large.then(|| self.large.lock().unwrap_or_else(PoisonError::into_inner));
            self.tokenizer.encode_part(text, range, &mut encoded)?;
            Ok(if encoded.text.ids.len() > limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        };
        if let Some(splitting) = &self.splitting {
            splitting.parts(text, self.part_bytes, take)?;
        } else {
            let mut take = take;
            let _ = take(0..text.len())?;
        }
        Ok(encoded.finish(text.len()))
    }

    fn too_long(&self, place: String, num_bytes: usize) -> TokenizerError {
        TokenizerError::TooLong {
            place,
            bytes: num_bytes as u64,
            needed: (num_bytes as u64).saturating_mul(MEMORY_PER_BYTE),
            free: self.max_bytes.saturating_mul(MEMORY_PER_BYTE),
            max: self.max_bytes,
        }
    }
}

/// Number of documents, at least one, up to which there are so many bytes.
fn round_len(documents: &[&Document], num_bytes: usize) -> usize {
    let mut so_far = 0;
    let ends = documents.iter().position(|document| {
        so_far += document.text().map_or(0, str::len);
        so_far >= num_bytes
    });
    ends.map_or(documents.len(), |last| last + 1)
}

/// Tokens of the first parts of a text.
#[derive(Debug, Default)]
pub(super) struct TokensSoFar {
    text: TokenizedText,
    /// Bytes that the tokens cover.
    covered: usize,
}

impl TokensSoFar {
    /// Adds a token that ends at this byte of the text. It covers what is before it and not covered yet.
    pub(super) fn push(&mut self, id: u32, end: usize) {
        self.text.ids.push(id);
        self.text.num_bytes.push(0);
        self.cover(end);
    }

    /// Adds a token that covers so many bytes behind those that are covered.
    pub(super) fn add(&mut self, id: u32, num_bytes: u32) {
        self.text.ids.push(id);
        self.text.num_bytes.push(num_bytes);
        self.covered += num_bytes as usize;
    }

    /// Same as [`TokensSoFar::add`], for several tokens.
    pub(super) fn extend(&mut self, tokens: &[(u32, u32)]) {
        for &(id, num_bytes) in tokens {
            self.add(id, num_bytes);
        }
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.text.ids.len()
    }

    fn cover(&mut self, end: usize) {
        if let Some(num_bytes) = self.text.num_bytes.last_mut()
            && end > self.covered
        {
            *num_bytes += u32::try_from(end - self.covered).unwrap_or(u32::MAX);
            self.covered = end;
        }
    }

    /// The tokens, of which the last covers what is left of the text.
    pub(super) fn finish(mut self, text_len: usize) -> TokenizedText {
        self.cover(text_len);
        self.text
    }
}
