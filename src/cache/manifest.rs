//! Files in the folder of a cache: manifest, shards, and the mapping from rows to shards.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::read::shared_lock;
use super::{CacheError, Fingerprint};
use crate::data::Sequence;
use crate::files::{self, with_path};
use crate::hashes::Hashes;

/// Name of the file that makes a folder a finished cache; it is written last.
pub(super) const MANIFEST: &str = "manifest.json";

/// Name of the file that lists the shards of a cache that is being captured.
pub(super) const PROGRESS: &str = "progress.jsonl";

/// A shard whose bytes are on disk in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardRecord {
    /// Name of the file in the folder of the cache.
    pub file: String,
    /// Rows in it.
    pub rows: usize,
    /// BLAKE3 (hex) over the hashes of its rows' tokens; identifies the text that it was captured from.
    pub tokens_blake3: String,
    /// BLAKE3 (hex) over the spans of its rows' positions that count, which are those that it has.
    pub counted_blake3: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 (hex) of its bytes.
    pub blake3: String,
}

impl ShardRecord {
    /// True if the file holds the bytes that were written. An error of reading is no answer: it says nothing about them.
    pub(super) fn is_sound(&self, dir: &Path) -> io::Result<bool> {
        match self.check_bytes(dir) {
            Ok(()) => Ok(true),
            Err(CacheError::Io(error)) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Checks that the file exists and has the listed length; its bytes are not read.
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

    /// Checks that the file holds the bytes that were written; reads all of them.
    pub(super) fn check_bytes(&self, dir: &Path) -> Result<(), CacheError> {
        self.check_hash(dir, files::hash_file)
    }

    /// Variant of [`ShardRecord::check_bytes`] that takes the hash from `hash`.
    pub(super) fn check_hash(
        &self,
        dir: &Path,
        hash: impl FnOnce(&Path) -> io::Result<String>,
    ) -> Result<(), CacheError> {
        self.check_length(dir)?;
        let path = dir.join(&self.file);
        let found = hash(&path)?;
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

/// One of several captures that together make a cache: every `of`-th shard, starting from shard `part − 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CachePart {
    /// Number of this part, from 1.
    pub part: usize,
    /// Number of parts.
    pub of: usize,
}

/// Contents of `manifest.json`, whose presence means that the cache is complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Inputs that the cache was made from.
    pub fingerprint: Fingerprint,
    /// Rows in every shard but the last.
    pub rows_per_shard: usize,
    /// Rows in the cache; for a part, the rows of all parts together.
    pub num_rows: usize,
    /// Part of a cache that this is; `None` for a whole cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<CachePart>,
    /// All shards, in the order of their rows.
    pub shards: Vec<ShardRecord>,
    /// Shards of later rows that a gap divides from the others, in the order of their rows: they are no part of the cache
    /// until a capture of more rows closes the gap. They remain if a shard was lost, and only its first rows were wanted
    /// again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beyond: Vec<ShardRecord>,
}

/// Returns the first file of a finished cache that is missing or damaged, and `true` if it is missing. Reads the shards
/// whose hashes are not remembered. An unreadable manifest is not reported here: opening the cache refuses it. Nothing is
/// said about a cache that another process is writing to: its manifest comes last.
pub fn first_damage(dir: &Path, hashes: &Hashes) -> io::Result<Option<(String, bool)>> {
    let _lock = match shared_lock(dir) {
        Ok(lock) => lock,
        Err(CacheError::Io(error)) => return Err(error),
        Err(_) => return Ok(None),
    };
    let manifest = match Manifest::load(dir) {
        Ok(manifest) => manifest,
        Err(CacheError::NoManifest { .. }) => return Ok(Some((MANIFEST.to_owned(), true))),
        Err(_) => return Ok(None),
    };
    for shard in &manifest.shards {
        let found = match shard.check_hash(dir, |path| hashes.of_file(path)) {
            Ok(()) => continue,
            Err(CacheError::Io(error)) => return Err(error),
            Err(error) => matches!(error, CacheError::ShardMissing { .. }),
        };
        return Ok(Some((shard.file.clone(), found)));
    }
    Ok(None)
}

impl Manifest {
    /// Reads and checks the manifest of a folder, without reading the shards.
    pub(super) fn load(dir: &Path) -> Result<Self, CacheError> {
        let path = dir.join(MANIFEST);
        let json = match files::read(&path) {
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

    /// Mapping from rows to shards.
    pub(super) fn layout(&self) -> ShardLayout {
        ShardLayout::new(self.num_rows, self.rows_per_shard, self.part)
    }

    fn check(&self, path: &Path) -> Result<(), CacheError> {
        let refuse = |what: String| {
            let path = path.to_path_buf();
            Err(CacheError::Corrupt { path, what })
        };
        if let Err(error) = self.fingerprint.check_sizes() {
            return refuse(error.to_string());
        }
        if let Some(CachePart { part, of }) = self.part
            && !(1..=of).contains(&part)
        {
            return refuse(format!("is part {part} of {of}"));
        }
        let layout = self.layout();
        if self.num_rows == 0 || self.shards.len() != layout.num_shards() {
            return refuse(format!(
                "lists {} shards, {} rows in shards of {} make {}",
                self.shards.len(),
                self.num_rows,
                layout.rows_per_shard,
                layout.num_shards()
            ));
        }
        for (shard, shard_idx) in self.shards.iter().zip(layout.shard_idxs()) {
            let (file, rows) = (shard_file(shard_idx), layout.rows(shard_idx).len());
            if shard.file != file || shard.rows != rows {
                return refuse(format!(
                    "shard {shard_idx} is `{}` with {} rows, it must be `{file}` with {rows}",
                    shard.file, shard.rows
                ));
            }
        }
        let mut next = layout.next_shard_idx();
        for shard in &self.beyond {
            let shard_idx = shard_number(&shard.file).filter(|&shard_idx| shard_idx >= next);
            let Some(shard_idx) = shard_idx.filter(|_| layout.has_room(shard.rows)) else {
                return refuse(format!(
                    "lists `{}` with {} rows after the last shard",
                    shard.file, shard.rows
                ));
            };
            next = shard_idx.saturating_add(1);
        }
        Ok(())
    }
}

/// Reads JSON that begins with a fingerprint. Another version is reported before anything else, because
/// its other fields may differ too.
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

/// Mapping from rows to shards. Shards are numbered through all parts of a cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShardLayout {
    num_rows: usize,
    rows_per_shard: usize,
    part: CachePart,
}

impl ShardLayout {
    /// Creates the mapping; a shard has at least one row, even for `rows_per_shard == 0`.
    pub(super) fn new(num_rows: usize, rows_per_shard: usize, part: Option<CachePart>) -> Self {
        Self {
            num_rows,
            rows_per_shard: rows_per_shard.max(1),
            part: part.unwrap_or(CachePart { part: 1, of: 1 }),
        }
    }

    /// Numbers of the shards of this part.
    pub(super) fn shard_idxs(self) -> impl Iterator<Item = usize> {
        let all = self.num_rows.div_ceil(self.rows_per_shard);
        (self.part.part.saturating_sub(1)..all).step_by(self.step())
    }

    /// Number of the shard that would follow the last one of this part.
    pub(super) fn next_shard_idx(self) -> usize {
        let first = self.part.part.saturating_sub(1);
        self.shard_idxs()
            .last()
            .map_or(first, |last| last + self.step())
    }

    /// Distance from one shard of this part to the next.
    pub(super) fn step(self) -> usize {
        self.part.of.max(1)
    }

    /// True if a shard can have this many rows.
    pub(super) fn has_room(self, num_rows: usize) -> bool {
        (1..=self.rows_per_shard).contains(&num_rows)
    }

    /// Number of the shards in `beyond` that follow all wanted `shards` without a gap.
    pub(super) fn num_following(self, shards: &[ShardRecord], beyond: &[ShardRecord]) -> usize {
        let before = shards.last().into_iter().chain(beyond);
        let expected = (self.next_shard_idx()..).step_by(self.step());
        let places = beyond.iter().zip(before).zip(expected);
        places
            .take_while(|((shard, before), shard_idx)| {
                shard.file == shard_file(*shard_idx) && before.rows == self.rows_per_shard
            })
            .count()
    }

    /// True if all these shards belong to this part and none has more rows than it may.
    pub(super) fn has_room_for_all(self, shards: &[ShardRecord]) -> bool {
        let rows = |shard_idx| (shard_file(shard_idx), self.rows(shard_idx).len());
        let room: BTreeMap<String, usize> = self.shard_idxs().map(rows).collect();
        let fits = |shard: &ShardRecord| {
            room.get(&shard.file)
                .is_some_and(|&rows| shard.rows <= rows)
        };
        shards.iter().all(fits)
    }

    pub(super) fn num_shards(self) -> usize {
        self.shard_idxs().count()
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

/// Number in the name of a shard; `None` for any other name.
pub(super) fn shard_number(file: &str) -> Option<usize> {
    let number = file.strip_prefix("shard-")?.strip_suffix(".parquet")?;
    let number = number.parse().ok()?;
    (shard_file(number) == file).then_some(number)
}

/// BLAKE3 over the tokens of each row and where its documents begin; identifies the text that a cache is wanted for. Copies
/// share the hashes.
///
/// A cache may hold more or fewer rows than are wanted; the rows in both must be equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenHashes(Arc<[[u8; blake3::OUT_LEN]]>);

impl TokenHashes {
    /// Hashes rows, in their order.
    pub fn of<'t>(rows: impl Iterator<Item = Sequence<'t>>) -> Self {
        Self(rows.map(tokens_hash).collect())
    }

    /// Rows in all.
    pub fn num_rows(&self) -> usize {
        self.0.len()
    }

    /// Hash of a row's tokens and documents.
    pub(super) fn row(&self, row_idx: usize) -> Option<&[u8; blake3::OUT_LEN]> {
        self.0.get(row_idx)
    }

    /// Value of [`ShardRecord::tokens_blake3`] for these rows; `None` if any row is missing here.
    pub(super) fn of_rows(&self, rows: std::ops::Range<usize>) -> Option<String> {
        Some(hash_of_hashes(self.0.get(rows)?))
    }
}

/// BLAKE3 over a row's tokens and then the positions at which its documents behind the first begin, each as four
/// little-endian bytes: with other documents, a model reads the same tokens otherwise. Rows of a cache have equally many
/// tokens, so that no position is taken for a token.
pub(super) fn tokens_hash(row: Sequence<'_>) -> [u8; blake3::OUT_LEN] {
    let tokens = row.tokens().iter().copied();
    let bytes = tokens.chain(later_starts(row)).flat_map(u32::to_le_bytes);
    *blake3::hash(&bytes.collect::<Vec<u8>>()).as_bytes()
}

/// Positions at which the documents of a row behind its first begin.
pub(super) fn later_starts(row: Sequence<'_>) -> impl Iterator<Item = u32> {
    let starts = row.documents().skip(1).map(|document| document.start);
    starts.map(|start| u32::try_from(start).expect("starts are given as 32 bits"))
}

/// BLAKE3 (hex) over hashes, one after the other.
pub(super) fn hash_of_hashes(hashes: &[[u8; blake3::OUT_LEN]]) -> String {
    blake3::hash(hashes.as_flattened()).to_hex().to_string()
}
