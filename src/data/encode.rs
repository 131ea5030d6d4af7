//! Documents to tokens, in parts and up to a limit, so that memory follows the limit and not the longest document.

use std::io;
use std::iter;
use std::ops::{ControlFlow, Range};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use thiserror::Error;

use super::byte_level::ByteLevelBpe;
use super::cut::Splitting;
use super::source::{SourceError, TextReader};
use super::tokenizer::{TokenizedText, Tokenizer, TokenizerError};
use crate::machine;

/// Bytes of text that are tokenised at a time where a document can be cut.
const PART_BYTES: usize = 64 << 10;

/// Bytes of a part from which on parts are tokenised one at a time.
const LARGE_BYTES: usize = 1 << 20;

/// Bytes of memory that the library takes for each byte of a text.
const MEMORY_PER_BYTE: u64 = 256;

/// Parts of a text that is read bit by bit which are there at a time.
const WINDOW_PARTS: usize = 64;

/// Errors of tokenising a text that is read bit by bit.
#[derive(Debug, Error)]
pub(super) enum EncodeFileError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

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

    /// Hands on the tokens of a text that is read bit by bit, in the order of its parts, until `take` breaks off. `place` tells
    /// where it is from.
    pub(super) fn encode_file(
        &self,
        mut reader: TextReader,
        place: impl Fn() -> String + Sync,
        mut take: impl FnMut(TokenizedText) -> io::Result<ControlFlow<()>>,
    ) -> Result<(), EncodeFileError> {
        let (mut text, mut wanted, mut is_end) = (String::new(), self.window_bytes(), false);
        let mut last = LastPart::default();
        while !is_end || !text.is_empty() {
            while !is_end && text.len() < wanted {
                is_end = !reader.read(&mut text)?;
            }
            let ranges = match &self.splitting {
                Some(splitting) => splitting.begun(&text, self.part_bytes, is_end),
                None if is_end => iter::once(0..text.len()).collect(),
                None => Vec::new(),
            };
            let Some(end) = ranges.last().map(|last| last.end) else {
                // No place to cut at: more of the text is needed.
                if text.len() as u64 > self.max_bytes {
                    return Err(self.too_long(place(), text.len()).into());
                }
                wanted = text.len() * 2;
                if text.is_empty() {
                    break;
                }
                continue;
            };
            let encoded: Result<Vec<_>, TokenizerError> = ranges
                .into_par_iter()
                .map(|range| {
                    let tokens = self.encode_text(&text[range.clone()], usize::MAX, &place)?;
                    Ok((range.len(), tokens))
                })
                .collect();
            for (num_bytes, tokens) in encoded? {
                if let Some(before) = last.next(num_bytes, tokens)
                    && take(before)?.is_break()
                {
                    return Ok(());
                }
            }
            text.drain(..end);
            wanted = self.window_bytes();
        }
        let _ = take(last.tokens)?;
        Ok(())
    }

    /// Bytes of a text that are there at a time.
    fn window_bytes(&self) -> usize {
        self.part_bytes * WINDOW_PARTS
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

/// The last part of a text so far that has tokens. Bytes behind it that have none count for its last token, and those in
/// front of the first part for its first.
#[derive(Default)]
struct LastPart {
    tokens: TokenizedText,
    num_before: u32,
}

impl LastPart {
    /// Takes the next part, and hands on the one before it.
    fn next(&mut self, num_bytes: usize, mut tokens: TokenizedText) -> Option<TokenizedText> {
        let Some(first) = tokens.num_bytes.first_mut() else {
            let num_bytes = u32::try_from(num_bytes).unwrap_or(u32::MAX);
            let last = self.tokens.num_bytes.last_mut();
            *last.unwrap_or(&mut self.num_before) += num_bytes;
            return None;
        };
        *first += std::mem::take(&mut self.num_before);
        Some(std::mem::replace(&mut self.tokens, tokens)).filter(|before| !before.ids.is_empty())
    }
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
