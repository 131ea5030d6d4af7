//! Decoding of token ids to text as they arrive.

use super::{Tokenizer, TokenizerError};

/// Text of ids that arrive one by one.
///
/// A character may be split over several tokens, and a decoder may treat the first token specially. So a piece is the
/// difference between the text with and without the new ids, both decoded together with the ids shown last.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    num_shown: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            ids: Vec::new(),
            num_shown: 0,
        }
    }

    /// Returns the text that this id completes; empty while a character is incomplete.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.ids.push(id);
        let piece = self.pending()?;
        if piece.is_empty() || piece.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.ids.drain(..self.num_shown);
        self.num_shown = self.ids.len();
        Ok(piece)
    }

    /// Returns the remaining text at the end; incomplete characters become U+FFFD.
    pub fn finish(self) -> Result<String, TokenizerError> {
        self.pending()
    }

    fn pending(&self) -> Result<String, TokenizerError> {
        let shown = self.tokenizer.decode(&self.ids[..self.num_shown])?;
        let text = self.tokenizer.decode(&self.ids)?;
        Ok(text.get(shown.len()..).unwrap_or_default().to_owned())
    }
}
