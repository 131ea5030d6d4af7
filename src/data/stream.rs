//! Token ids to text, as they come.

use super::{Tokenizer, TokenizerError};

/// Text of ids that come one by one.
///
/// A character may be split over several tokens, and a decoder may treat the first token specially: each
/// piece is what the text with the new ids has more than the text without, ids shown last being decoded with both.
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

    /// The text that this id completes; empty while a character is incomplete.
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

    /// What is left at the end: incomplete characters become U+FFFD.
    pub fn finish(self) -> Result<String, TokenizerError> {
        self.pending()
    }

    fn pending(&self) -> Result<String, TokenizerError> {
        let shown = self.tokenizer.decode(&self.ids[..self.num_shown])?;
        let text = self.tokenizer.decode(&self.ids)?;
        Ok(text.get(shown.len()..).unwrap_or_default().to_owned())
    }
}
