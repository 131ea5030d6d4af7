//! Metadata of one decoder family: keys that begin with its name.

use super::{GgufError, GgufFile, GgufValue};

/// Keys of a file after the name of its architecture.
#[derive(Debug, Clone, Copy)]
pub struct GgufKeys<'a> {
    /// The file.
    pub file: &'a GgufFile,
    /// Name in `general.architecture`.
    pub architecture: &'a str,
}

impl GgufKeys<'_> {
    /// Full name of a key.
    pub fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// Non-negative integer, if the key is there.
    pub fn size(&self, name: &str) -> Result<Option<u64>, GgufError> {
        self.file.unsigned(&self.key(name))
    }

    /// Non-negative integer of a required key.
    pub fn required_size(&self, name: &str) -> Result<u64, GgufError> {
        self.file.required(&self.key(name), self.size(name)?)
    }

    /// Finite number, if the key is there.
    pub fn number(&self, name: &str) -> Result<Option<f64>, GgufError> {
        self.file.float(&self.key(name))
    }

    /// `true` and `false`, if the key is there.
    pub fn flags(&self, name: &str) -> Result<Option<Vec<bool>>, GgufError> {
        self.file.flags(&self.key(name))
    }

    /// True if the key has a list of values.
    pub fn is_array(&self, name: &str) -> bool {
        matches!(self.file.value(&self.key(name)), Some(GgufValue::Array(_)))
    }

    /// Error for a key whose value must be `want`.
    pub fn wrong_value(&self, name: &str, want: impl Into<String>) -> GgufError {
        self.file.wrong_value(&self.key(name), want)
    }
}
