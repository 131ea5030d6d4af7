//! What is in the files of a cache: fingerprint, manifest and columns. The tables are in
//! `docs/formats.md`.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::CacheError;
use crate::files::with_path;

/// Name of the file that makes a folder a finished cache; it is written last.
pub(super) const MANIFEST: &str = "manifest.json";

/// Name of the file that lists the shards of a cache that is being captured.
pub(super) const PROGRESS: &str = "progress.jsonl";

/// Bytes of the hash over a row's tokens.
pub(super) const TOKENS_HASH_BYTES: i32 = 32;

/// Names of the columns, in their order.
pub(super) mod column {
    pub(crate) const ROW_IDX: &str = "row_idx";
    pub(crate) const COUNTED: &str = "counted";
    pub(crate) const TOKENS: &str = "tokens";
    pub(crate) const TOKENS_HASH: &str = "tokens_blake3";
    pub(crate) const ID_GAPS: &str = "id_gaps";
    pub(crate) const LOG_PROBS: &str = "neg_log_prob_steps";
    pub(crate) const LSE: &str = "lse";
}

/// What a cache was made from; two equal fingerprints mean interchangeable caches.
///
/// The reader compares this with what the plan asks for before it opens a shard, because a stale
/// cache does not crash: it trains the student on another teacher's opinion. A field belongs here if
/// changing it changes any stored number. Paths, dates and shard sizes do not, so a cache may be
/// moved and copied.
///
/// Stored in `manifest.json`, and again in each shard's footer so that a shard carried off alone
/// still says what it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Version of format and codec: [`Fingerprint::VERSION`].
    pub version: u32,
    /// BLAKE3 (hex) over the teacher's tensors.
    pub teacher_weights: String,
    /// BLAKE3 (hex) of `tokenizer.json`: same ids, same meaning.
    pub tokenizer: String,
    /// BLAKE3 (hex) over the token rows, in the order the teacher saw them.
    pub rows: String,
    /// Positions per row.
    pub sequence_length: usize,
    /// Rows in the cache.
    pub num_rows: usize,
    /// Token ids that the teacher knows.
    pub vocab_size: usize,
    /// Token ids kept per position.
    pub top_k: usize,
    /// Temperatures that have a log-sum-exp, in the order of [`RowSupports::lse`](super::RowSupports::lse).
    pub temperatures: Vec<f64>,
}

impl Fingerprint {
    /// Version of format and codec that this program writes and reads; raise it when a column
    /// changes its meaning.
    pub const VERSION: u32 = 1;

    /// Every field in which `self` (the cache) and `wanted` differ, in the order of the fields.
    pub fn differences(&self, wanted: &Self) -> Vec<FieldDifference> {
        let (cached, wanted) = (fields(self), fields(wanted));
        let pairs = cached.into_iter().zip(wanted);
        pairs
            .filter(|((_, cached), (_, wanted))| cached != wanted)
            .map(|((field, cached), (_, wanted))| FieldDifference {
                field,
                cached,
                wanted,
            })
            .collect()
    }

    /// Place of a temperature in [`RowSupports::lse`](super::RowSupports::lse), if the cache declares it.
    pub fn temperature_idx(&self, temperature: f64) -> Option<usize> {
        let same = |&declared: &f64| declared.to_bits() == temperature.to_bits();
        self.temperatures.iter().position(same)
    }

    /// Support entries of a row: positions times `top_k`.
    pub(super) fn entries_per_row(&self) -> usize {
        self.sequence_length * self.top_k // checked by `check_sizes`
    }

    /// Refuses sizes with which arithmetic below would overflow or mean nothing.
    pub(super) fn check_sizes(&self) -> Result<(), CacheError> {
        let refuse = |what: String| Err(CacheError::Sizes { what });
        if self.sequence_length == 0 {
            return refuse("rows of 0 positions".to_owned());
        }
        if self.num_rows == 0 {
            return refuse("0 rows".to_owned());
        }
        if self.vocab_size > 1 << 31 {
            return refuse(format!("a vocabulary of {} tokens", self.vocab_size));
        }
        if !(1..=self.vocab_size).contains(&self.top_k) {
            let (top_k, vocab_size) = (self.top_k, self.vocab_size);
            return refuse(format!("top {top_k} of {vocab_size} tokens"));
        }
        if let Some(bad) = self
            .temperatures
            .iter()
            .find(|t| !(**t > 0.0 && t.is_finite()))
        {
            return refuse(format!("a temperature of {bad}"));
        }
        if self.temperatures.is_empty() {
            return refuse("no temperature".to_owned());
        }
        // Parquet counts the entries of a list in 32 bits.
        let widest = self.top_k.max(self.temperatures.len());
        match self.sequence_length.checked_mul(widest) {
            Some(entries) if i32::try_from(entries).is_ok() => Ok(()),
            _ => refuse(format!(
                "{} positions of {widest} values in a row",
                self.sequence_length
            )),
        }
    }
}

/// A field of the fingerprint in which a cache differs from what is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldDifference {
    /// Name of the field.
    pub field: String,
    /// Its value in the cache.
    pub cached: String,
    /// Its value in what is wanted.
    pub wanted: String,
}

impl fmt::Display for FieldDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cached, wanted) = (abridged(&self.cached), abridged(&self.wanted));
        write!(f, "`{}` is {cached}, wanted is {wanted}", self.field)
    }
}

/// A shard whose bytes are on disk in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardRecord {
    /// Name of the file in the folder of the cache.
    pub file: String,
    /// Rows in it.
    pub rows: usize,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 (hex) of its bytes.
    pub blake3: String,
}

impl ShardRecord {
    /// Whether the file is there, as long as it should be; its bytes are not read.
    pub(super) fn check_length(&self, dir: &Path) -> Result<(), CacheError> {
        let path = dir.join(&self.file);
        let found_bytes = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CacheError::ShardMissing { path });
            }
            Err(error) => return Err(with_path(error, &path).into()),
        };
        if found_bytes != self.bytes {
            return Err(CacheError::ShardLength {
                path,
                found_bytes,
                listed_bytes: self.bytes,
            });
        }
        Ok(())
    }

    /// Whether the file holds the bytes that were written; all of them are read.
    pub(super) fn check_bytes(&self, dir: &Path) -> Result<(), CacheError> {
        self.check_length(dir)?;
        let path = dir.join(&self.file);
        let found = crate::files::hash_file(&path)?;
        if found != self.blake3 {
            return Err(CacheError::ShardChecksum {
                path,
                found,
                listed: self.blake3.clone(),
            });
        }
        Ok(())
    }
}

/// What `manifest.json` says: the cache is complete, this is what it was made from, these are its shards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What the cache was made from.
    pub fingerprint: Fingerprint,
    /// Rows in every shard but the last.
    pub rows_per_shard: usize,
    /// All shards, in the order of their rows.
    pub shards: Vec<ShardRecord>,
}

impl Manifest {
    /// Reads and checks the manifest of a folder; the shards themselves are not looked at.
    pub(super) fn load(dir: &Path) -> Result<Self, CacheError> {
        let path = dir.join(MANIFEST);
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CacheError::NoManifest {
                    dir: dir.to_path_buf(),
                });
            }
            Err(error) => return Err(with_path(error, &path).into()),
        };
        let manifest: Self = parse(dir, &path, &json)?;
        manifest.check(&path)?;
        Ok(manifest)
    }

    fn check(&self, path: &Path) -> Result<(), CacheError> {
        let refuse = |what: String| {
            let path = path.to_path_buf();
            Err(CacheError::Corrupt { path, what })
        };
        if let Err(error) = self.fingerprint.check_sizes() {
            return refuse(error.to_string());
        }
        let layout = ShardLayout::new(&self.fingerprint, self.rows_per_shard);
        if self.shards.len() != layout.num_shards() {
            return refuse(format!(
                "lists {} shards, {} rows in shards of {} make {}",
                self.shards.len(),
                layout.num_rows,
                layout.rows_per_shard,
                layout.num_shards()
            ));
        }
        for (shard_idx, shard) in self.shards.iter().enumerate() {
            let (file, rows) = (shard_file(shard_idx), layout.rows(shard_idx).len());
            if shard.file != file || shard.rows != rows {
                return refuse(format!(
                    "shard {shard_idx} is `{}` with {} rows, it must be `{file}` with {rows}",
                    shard.file, shard.rows
                ));
            }
        }
        Ok(())
    }
}

/// Reads JSON that begins with a fingerprint. Another version is told before anything else, since
/// its other fields may be others too.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(
    dir: &Path,
    path: &Path,
    json: &[u8],
) -> Result<T, CacheError> {
    let corrupt = |error: serde_json::Error| CacheError::Corrupt {
        path: path.to_path_buf(),
        what: error.to_string(),
    };
    let value: Value = serde_json::from_slice(json).map_err(corrupt)?;
    let version = value.pointer("/fingerprint/version");
    if let Some(version) = version.filter(|version| **version != Fingerprint::VERSION) {
        return Err(CacheError::Version {
            dir: dir.to_path_buf(),
            cached: version.to_string(),
            known: Fingerprint::VERSION,
        });
    }
    serde_json::from_value(value).map_err(corrupt)
}

/// Which rows stand in which shard.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShardLayout {
    num_rows: usize,
    rows_per_shard: usize,
}

impl ShardLayout {
    /// A shard has at least one row, whatever is asked for.
    pub(super) fn new(fingerprint: &Fingerprint, rows_per_shard: usize) -> Self {
        Self {
            num_rows: fingerprint.num_rows,
            rows_per_shard: rows_per_shard.max(1),
        }
    }

    pub(super) fn num_shards(self) -> usize {
        self.num_rows.div_ceil(self.rows_per_shard)
    }

    /// Rows of a shard.
    pub(super) fn rows(self, shard_idx: usize) -> std::ops::Range<usize> {
        let start = shard_idx.saturating_mul(self.rows_per_shard);
        let end = start.saturating_add(self.rows_per_shard);
        start.min(self.num_rows)..end.min(self.num_rows)
    }

    /// Shard of a row.
    pub(super) fn shard_idx(self, row_idx: usize) -> usize {
        row_idx / self.rows_per_shard
    }
}

/// File name of a shard.
pub(super) fn shard_file(shard_idx: usize) -> String {
    format!("shard-{shard_idx:05}.parquet")
}

/// Arrow schema of a shard; nothing in it is nullable.
pub(super) fn schema() -> SchemaRef {
    let list = |name: &str, item| Field::new(name, DataType::List(item), false);
    Arc::new(Schema::new(vec![
        Field::new(column::ROW_IDX, DataType::UInt64, false),
        Field::new(column::COUNTED, DataType::UInt32, false),
        Field::new(
            column::TOKENS_HASH,
            DataType::FixedSizeBinary(TOKENS_HASH_BYTES),
            false,
        ),
        list(column::TOKENS, item(DataType::UInt32)),
        list(column::ID_GAPS, item(DataType::UInt32)),
        list(column::LOG_PROBS, item(DataType::UInt16)),
        list(column::LSE, item(DataType::Float32)),
    ]))
}

/// Field of a list's entries.
pub(super) fn item(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("element", data_type, false))
}

fn fields(fingerprint: &Fingerprint) -> Vec<(String, String)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(fingerprint) else {
        unreachable!("a fingerprint is a struct of strings and numbers");
    };
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let pairs = fields.into_iter();
    pairs.map(|(name, value)| (name, text(value))).collect()
}

/// The beginning of a long value: a hash is told apart by it.
fn abridged(value: &str) -> String {
    match value.char_indices().nth(12) {
        Some((end, _)) if value.chars().count() > 24 => format!("`{}…`", &value[..end]),
        _ => format!("`{value}`"),
    }
}
