//! The tokenizer of a model, restricted to the tokens that the model has rows for.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tokenizer::TOKENIZER_FILE;
use super::{Tokenizer, TokenizerError};
use crate::files;
use crate::gguf::is_gguf;

impl Tokenizer {
    /// Opens the tokenizer of a model folder or `.gguf` file, without the added tokens that the folder's model has no
    /// row for.
    ///
    /// The models of a family share a tokenizer, and some lack the rows of its last tokens (the smallest Gemma 3 lacks
    /// the image token); others got a padding token later. A text with the name of such a token is tokenized as plain
    /// text. Other ids beyond the rows stay; callers that know the model refuse them.
    pub fn of_model(model: &Path) -> Result<Self, TokenizerError> {
        Self::with_rows(model, promised_rows(model))
    }

    /// Opens a tokenizer like [`Tokenizer::of_model`], for a model whose `config.json` has been read.
    pub fn with_rows(model: &Path, promised_rows: Option<u64>) -> Result<Self, TokenizerError> {
        let path = tokenizer_path(model);
        let whole = Self::open(&path)?;
        match promised_rows {
            Some(num_rows) if num_rows < whole.vocab_size() as u64 => whole.within(num_rows, &path),
            _ => Ok(whole),
        }
    }

    /// Number of added tokens that were left out because the model has no row for them.
    pub fn num_without_row(&self) -> usize {
        self.num_without_row
    }

    fn within(self, num_rows: u64, path: &Path) -> Result<Self, TokenizerError> {
        let [(_, bytes), (_, config)] = self.files();
        let json = serde_json::from_slice(bytes);
        let mut json: Value = json.map_err(|error| TokenizerError::NotATokenizer {
            path: path.to_path_buf(),
            reason: error.to_string(),
        })?;
        let Some(added) = json.get_mut("added_tokens").and_then(Value::as_array_mut) else {
            return Ok(self);
        };
        let num_added = added.len();
        added.retain(|token| {
            let id = token.get("id").and_then(Value::as_u64);
            id.is_none_or(|id| id < num_rows)
        });
        let num_without_row = num_added - added.len();
        let mut inside =
            Self::from_bytes(json.to_string().into_bytes(), Some(config.to_vec()), path)?;
        inside.set_templates(self.templates().clone());
        inside.num_without_row = num_without_row;
        Ok(inside)
    }
}

/// File that holds a checkpoint's tokenizer: its `tokenizer.json`, or the `.gguf` file itself.
pub fn tokenizer_path(checkpoint: &Path) -> PathBuf {
    if is_gguf(checkpoint) {
        checkpoint.to_path_buf()
    } else {
        checkpoint.join(TOKENIZER_FILE)
    }
}

/// Folder whose files belong to a tokenizer: the model folder, or the folder that contains the `tokenizer.json`. `None`
/// for a GGUF file and for a file of another name.
pub fn tokenizer_dir(path: &Path) -> Option<PathBuf> {
    if is_gguf(path) {
        return None;
    }
    if path.file_name().is_some_and(|name| name == TOKENIZER_FILE) && !path.is_dir() {
        return path.parent().map(Path::to_path_buf);
    }
    path.is_dir().then(|| path.to_path_buf())
}

/// Rows according to `config.json`; `None` if it cannot be read, which the reader of the model reports better.
fn promised_rows(model: &Path) -> Option<u64> {
    let text = files::read(&model.join("config.json")).ok()?;
    let json: Value = serde_json::from_slice(&text).ok()?;
    json.get("vocab_size")?.as_u64()
}
