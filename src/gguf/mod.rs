//! GGUF files, the format of llama.cpp, versions 2 and 3: metadata, tensors and their values in f32.
//!
//! Every count, length and offset is checked against the file before use, so a hostile file causes neither reads beyond
//! its end nor allocations larger than the file. This module does not know the meaning of keys and tensors.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
#![warn(clippy::indexing_slicing)]

#[expect(clippy::indexing_slicing, reason = "blocks are arrays of known length")]
mod blocks;
mod directory;
#[expect(clippy::indexing_slicing, reason = "blocks are arrays of known length")]
mod encode;
mod error;
mod keys;
mod metadata;
mod read;
pub mod sampling;
pub mod tokenizer;
mod write;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub use self::blocks::TensorType;
pub use self::directory::TensorInfo;
pub use self::encode::WrittenType;
pub use self::error::{GgufError, GgufFault};
pub use self::keys::GgufKeys;
pub use self::metadata::GgufValue;
use self::read::ByteReader;
pub use self::write::{NewTensor, NewValue, write};
use crate::hashes::Identity;
use crate::mapped::Mapped;

/// True if a path names a GGUF file, judged by its extension only.
pub fn is_gguf(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
}

/// A memory-mapped GGUF file whose header has been checked; tensors are read only on request.
///
/// The file must not change during the lifetime of this value; see [`Mapped`].
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    map: Mapped,
    metadata: BTreeMap<String, GgufValue>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl GgufFile {
    /// Maps a file and reads its header.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let map = Mapped::open(path)?;
        let (metadata, tensors) = read_header(&map).map_err(|source| GgufError::Content {
            path: path.to_path_buf(),
            source,
        })?;
        Ok(Self {
            path: path.to_path_buf(),
            map,
            metadata,
            tensors,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keys with their values, in byte order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &GgufValue)> {
        self.metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// Value of a key.
    pub fn value(&self, key: &str) -> Option<&GgufValue> {
        self.metadata.get(key)
    }

    /// Text at a key, if the key is there.
    pub fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.scalar(key, "text", |value| match value {
            GgufValue::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Non-negative integer at a key, if the key is there.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.scalar(key, "a non-negative integer", unsigned)
    }

    /// Finite number at a key, if the key is there.
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.scalar(key, "a finite number", |value| {
            float(value).filter(|number| number.is_finite())
        })
    }

    /// `true` or `false` at a key, if the key is there.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.scalar(key, "`true` or `false`", flag)
    }

    /// Texts at a key, if the key is there.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>, GgufError> {
        self.array(key, "an array of texts", |value| match value {
            GgufValue::Text(text) => Some(text),
            _ => None,
        })
    }

    /// Non-negative integers at a key, if the key is there.
    pub fn unsigneds(&self, key: &str) -> Result<Option<Vec<u64>>, GgufError> {
        self.array(key, "an array of non-negative integers", |value| {
            unsigned(&value)
        })
    }

    /// Numbers at a key, if the key is there.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f64>>, GgufError> {
        self.array(key, "an array of numbers", |value| float(&value))
    }

    /// `true` and `false` at a key, if the key is there.
    pub fn flags(&self, key: &str) -> Result<Option<Vec<bool>>, GgufError> {
        self.array(key, "an array of `true` and `false`", |value| flag(&value))
    }

    /// Returns the value of a required key, or an error if it is absent.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, GgufError> {
        value.ok_or_else(|| {
            self.fault(GgufFault::MissingKey {
                key: key.to_owned(),
            })
        })
    }

    /// Error for a key whose value must be `want`.
    pub fn wrong_value(&self, key: &str, want: impl Into<String>) -> GgufError {
        let got = self
            .value(key)
            .map_or("absent".to_owned(), GgufValue::to_string);
        self.fault(GgufFault::WrongValue {
            key: key.to_owned(),
            want: want.into(),
            got,
        })
    }

    /// Tensors with their names, in byte order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors
            .iter()
            .map(|(name, info)| (name.as_str(), info))
    }

    /// A tensor, if it is there.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// Position of a tensor's bytes in the file, for tests that damage them.
    #[cfg(test)]
    pub(crate) fn place(&self, name: &str) -> std::ops::Range<usize> {
        self.info(name).unwrap().bytes.clone()
    }

    /// A tensor's values in f32, row-major.
    pub fn f32s(&self, name: &str) -> Result<Vec<f32>, GgufError> {
        let missing = || {
            self.fault(GgufFault::MissingTensor {
                tensor: name.to_owned(),
            })
        };
        let info = self.info(name).ok_or_else(missing)?;
        let values = info.kind.decode(self.bytes(info));
        self.map.release(&info.bytes);
        Ok(values)
    }

    /// Scale of each block of a tensor, row-major, if its blocks consist of one scale and codes around 0.
    pub fn scales(&self, name: &str) -> Option<Vec<f32>> {
        let info = self.info(name)?;
        info.kind.scales(self.bytes(info))
    }

    /// Number of bytes of all tensors together.
    pub fn num_bytes(&self) -> u64 {
        let num_bytes = |info: &TensorInfo| info.bytes.len() as u64;
        self.tensors.values().map(num_bytes).sum()
    }

    /// BLAKE3 (hex) over all tensors: names in byte order, then shape, type and bytes.
    ///
    /// Their positions in the file do not matter, nor does the metadata. Every part is preceded by its length, so no
    /// two files give the same stream of bytes.
    pub fn content_hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, info) in &self.tensors {
            let description = format!("{name}\0{:?}\0{}", info.shape, info.kind.name());
            for part in [description.as_bytes(), self.bytes(info)] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
            self.map.release(&info.bytes);
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Current identity of the file; see [`Mapped::identity`].
    pub fn identity(&self) -> io::Result<(PathBuf, Identity)> {
        self.map.identity()
    }

    fn bytes(&self, info: &TensorInfo) -> &[u8] {
        self.map
            .get(info.bytes.clone())
            .expect("the directory was checked against the mapped file")
    }

    fn fault(&self, source: GgufFault) -> GgufError {
        GgufError::Content {
            path: self.path.clone(),
            source,
        }
    }

    fn scalar<'a, T>(
        &'a self,
        key: &str,
        want: &str,
        read: impl Fn(&'a GgufValue) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(found) => Ok(Some(found)),
            None => Err(self.wrong_value(key, want)),
        }
    }

    fn array<T>(
        &self,
        key: &str,
        want: &str,
        read: impl Fn(GgufValue) -> Option<T>,
    ) -> Result<Option<Vec<T>>, GgufError> {
        let values = match self.value(key) {
            None => return Ok(None),
            Some(GgufValue::Array(array)) => array.values(&self.map),
            Some(_) => return Err(self.wrong_value(key, want)),
        };
        let found: Option<Vec<T>> = values.into_iter().map(read).collect();
        match found {
            Some(found) => Ok(Some(found)),
            None => Err(self.wrong_value(key, want)),
        }
    }
}

fn unsigned(value: &GgufValue) -> Option<u64> {
    match value {
        GgufValue::Integer(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn float(value: &GgufValue) -> Option<f64> {
    match value {
        GgufValue::Float(number) => Some(*number),
        _ => None,
    }
}

fn flag(value: &GgufValue) -> Option<bool> {
    match value {
        GgufValue::Bool(flag) => Some(*flag),
        _ => None,
    }
}

type GgufHeader = (BTreeMap<String, GgufValue>, BTreeMap<String, TensorInfo>);

fn read_header(file: &[u8]) -> Result<GgufHeader, GgufFault> {
    if !file.starts_with(b"GGUF") {
        return Err(GgufFault::NotGguf);
    }
    let mut reader = ByteReader::new(file, b"GGUF".len());
    let version = reader.u32(&"the version")?;
    match version {
        2 | 3 => {} // the same layout; 3 allows big-endian files
        _ if (1..=3).contains(&version.swap_bytes()) => return Err(GgufFault::BigEndian),
        _ => return Err(GgufFault::Version { version }),
    }
    let num_tensors = reader.u64(&"the number of tensors")?;
    let num_keys = reader.u64(&"the number of keys")?;
    let metadata = metadata::read_metadata(&mut reader, num_keys)?;
    let alignment = match metadata.get("general.alignment") {
        None => 32, // the format's default
        Some(value) => unsigned(value).unwrap_or_default(),
    };
    if !alignment.is_power_of_two() || alignment > 1 << 30 {
        return Err(GgufFault::Alignment { alignment });
    }
    refuse_part(&metadata)?;
    let tensors = directory::read_directory(&mut reader, num_tensors, alignment, file.len())?;
    Ok((metadata, tensors))
}

/// Refuses a file that is one of several: a part has the metadata of the whole model and only some of its tensors.
fn refuse_part(metadata: &BTreeMap<String, GgufValue>) -> Result<(), GgufFault> {
    let number = |key| metadata.get(key).and_then(unsigned).unwrap_or_default();
    match number("split.count") {
        0 | 1 => Ok(()),
        num_parts => Err(GgufFault::Split {
            part: number("split.no").saturating_add(1),
            num_parts,
        }),
    }
}

#[cfg(test)]
pub(crate) mod draft;
#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests;
