//! Shards → supports, with checks that they match what is wanted.

#![warn(clippy::indexing_slicing)] // untrusted input is read with `get`

use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, TryLockError};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use rayon::prelude::*;

use super::columns::{self, column};
use super::journal::remove_if_there;
use super::manifest::{Manifest, PROGRESS, ShardLayout, TokenHashes, tokens_hash};
use super::masks::{has_all, places_in};
use super::quantize::dequantize;
use super::shard::Shard;
use super::tables::Tables;
use super::{CacheError, Fingerprint};
use crate::data::{LossMask, PositionSpan, Sequence};
use crate::files;
use crate::hashes::Hashes;
use crate::support::{CountedRow, Supports};

/// A finished cache.
///
/// Rows are read from disk when they are requested, in any order and from any thread. A shard is compared
/// with its checksum the first time one of its rows is read, and each row with the tokens and the positions it is wanted
/// for.
/// During the lifetime of this value, no other process can add rows to the folder.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    manifest: Manifest,
    layout: ShardLayout,
    shards: Vec<Shard>,
    /// Shards whose tables are in memory, in the order in which they were read.
    read_tables: Mutex<VecDeque<usize>>,
    _lock: Option<File>,
}

/// Shards whose tables are in memory: some 60 MiB, with a vocabulary of 50,000. Tests have so few that some are given up.
const MAX_TABLES: usize = if cfg!(test) { 2 } else { 256 };

/// Required fingerprint of a cache, the rows that it must have, and the positions that it must have of each.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Teacher, tokenizer, support and the rest.
    pub fingerprint: &'a Fingerprint,
    /// The rows' tokens.
    pub tokens: &'a TokenHashes,
    /// Positions of a row; it may have more.
    pub mask: &'a dyn Fn(usize) -> LossMask<'a>,
}

/// A row with the teacher's supports for it, as captured.
#[derive(Debug, Clone, PartialEq)]
pub struct CapturedRow {
    tokens: Vec<u32>,
    starts: Vec<u32>,
    spans: Vec<PositionSpan>,
    /// Supports of the positions that the cache has of the row.
    pub supports: Supports,
}

impl fmt::Debug for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut wanted = f.debug_struct("Wanted");
        wanted.field("fingerprint", self.fingerprint);
        wanted.field("num_rows", &self.tokens.num_rows());
        wanted.finish_non_exhaustive()
    }
}

impl CapturedRow {
    /// The row, and the positions that the cache has of it.
    pub fn row(&self) -> CountedRow<'_> {
        CountedRow {
            sequence: Sequence::packed(&self.tokens, &self.starts),
            mask: LossMask::checked(&self.spans),
        }
    }
}

impl Cache {
    /// Opens a finished cache that was made from the wanted inputs, has all wanted positions of all wanted rows, and has all
    /// their shards in full length. The cache may have more rows; their state is not checked, so that nobody has to repair
    /// shards that they do not need. It may have more positions of a row, too.
    pub fn open(dir: &Path, wanted: Wanted<'_>) -> Result<Self, CacheError> {
        let cache = Self::open_unchecked(dir)?;
        let dir = || dir.to_path_buf();
        let fields = cache.fingerprint().differences(wanted.fingerprint);
        if !fields.is_empty() {
            return Err(CacheError::Stale { dir: dir(), fields });
        }
        if let Some(part) = cache.manifest.part {
            return Err(CacheError::OnlyPart { dir: dir(), part });
        }
        let is_wanted = |rows: &Range<usize>| rows.start < wanted.tokens.num_rows();
        for (shard, rows) in cache.shards().filter(|(_, rows)| is_wanted(rows)) {
            shard.record.check_length(&cache.dir)?;
            shard.check_tokens(&cache.dir, rows.clone(), wanted.tokens)?;
            shard.check_masks(&cache.dir, rows, wanted)?;
        }
        let (found, num_rows) = (cache.manifest.num_rows, wanted.tokens.num_rows());
        if found < num_rows {
            let missing = num_rows - found;
            return Err(CacheError::Unfinished {
                dir: dir(),
                missing,
                num_rows,
            });
        }
        Ok(cache)
    }

    /// Compares the shards of the first rows with their checksums, reading the shards whose hashes are not remembered.
    pub fn check_shards(&self, num_rows: usize, hashes: &Hashes) -> Result<(), CacheError> {
        for (shard, _) in self.shards().filter(|(_, rows)| rows.start < num_rows) {
            let hash = |path: &Path| hashes.of_file(path);
            shard.record.check_hash(&self.dir, hash)?;
        }
        Ok(())
    }

    /// Deletes the list of shards that a process has left which was killed between the manifest and its last step. No writer
    /// is at work, since this value holds the folder.
    pub fn remove_progress(&self) -> Result<(), CacheError> {
        remove_if_there(&self.dir.join(PROGRESS))
    }

    /// Opens any cache of this format, parts included: for inspection, not for training.
    pub fn open_any(dir: &Path) -> Result<Self, CacheError> {
        let cache = Self::open_unchecked(dir)?;
        for shard in &cache.shards {
            shard.record.check_length(dir)?;
        }
        Ok(cache)
    }

    /// Like [`Cache::open_any`], but does not check the shards.
    pub(super) fn open_unchecked(dir: &Path) -> Result<Self, CacheError> {
        let lock = shared_lock(dir)?;
        let manifest = Manifest::load(dir)?;
        let shards = manifest.shards.iter();
        Ok(Self {
            dir: dir.to_path_buf(),
            layout: manifest.layout(),
            shards: shards.map(|record| Shard::new(dir, record)).collect(),
            manifest,
            read_tables: Mutex::default(),
            _lock: lock,
        })
    }

    /// Folder of the cache.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Manifest: the inputs that the cache was made from, and its shards.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Inputs that the cache was made from.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.manifest.fingerprint
    }

    /// Reads the teacher's supports of the counted positions of these rows, in the order given.
    ///
    /// `wanted` gives a row that the student is about to see, and the positions of it that count. A row that was captured
    /// from other tokens is refused ([`CacheError::RowTokens`]), as is one that lacks a position ([`CacheError::Positions`]).
    pub fn rows<'t>(
        &self,
        row_idxs: &[usize],
        wanted: impl Fn(usize) -> CountedRow<'t> + Sync,
    ) -> Result<Vec<Supports>, CacheError> {
        let row = |row_idx: &usize| self.row(*row_idx, || wanted(*row_idx));
        row_idxs.par_iter().map(row).collect()
    }

    fn row<'t>(
        &self,
        row_idx: usize,
        wanted: impl Fn() -> CountedRow<'t>,
    ) -> Result<Supports, CacheError> {
        let num_rows = self.manifest.num_rows;
        let shard_idx = self.layout.shard_idx(row_idx);
        let shard = self.shards.get(shard_idx).filter(|_| row_idx < num_rows);
        let Some(shard) = shard.filter(|_| self.manifest.part.is_none()) else {
            return Err(CacheError::NoSuchRow {
                dir: self.dir.clone(),
                row_idx,
                num_rows,
            });
        };
        let tables = self.tables(shard_idx, shard)?;
        let first_row = self.layout.rows(shard_idx).start;
        let batch = shard.read_row(&self.dir, row_idx - first_row)?;
        let (stored_idx, hash) = columns::decode_key(&batch).map_err(|what| shard.corrupt(what))?;
        if stored_idx != row_idx as u64 {
            return Err(shard.corrupt(format!("row {row_idx} is stored as row {stored_idx}")));
        }
        let CountedRow { sequence, mask } = wanted();
        if hash != tokens_hash(sequence) {
            return Err(CacheError::RowTokens {
                dir: self.dir.clone(),
                row_idx,
            });
        }
        let corrupt = |what: String| shard.corrupt(format!("row {row_idx}: {what}"));
        let spans = columns::decode_spans(&batch, self.fingerprint()).map_err(corrupt)?;
        let stored = LossMask::checked(&spans);
        if !has_all(stored, mask) {
            let path = shard.path.clone();
            return Err(CacheError::Positions { path, row_idx });
        }
        let supports = self.supports(&tables, &batch, stored).map_err(corrupt)?;
        Ok(if stored == mask {
            supports
        } else {
            supports.at(places_in(stored, mask))
        })
    }

    /// Rows that are here: all, or those of a part.
    pub fn row_idxs(&self) -> Vec<usize> {
        self.shards().flat_map(|(_, rows)| rows).collect()
    }

    /// A row and the teacher's supports for it, as captured.
    pub fn captured_row(&self, row_idx: usize) -> Result<CapturedRow, CacheError> {
        let mut shards = self.shards().enumerate();
        let found = shards.find(|(_, (_, rows))| rows.contains(&row_idx));
        let (place, (shard, rows)) = found.ok_or_else(|| CacheError::NoSuchRow {
            dir: self.dir.clone(),
            row_idx,
            num_rows: self.manifest.num_rows,
        })?;
        let fingerprint = self.fingerprint();
        let footer = shard.footer(&self.dir)?;
        let tables = self.tables(place, shard)?;
        let columns = [
            column::COUNTED,
            column::STARTS,
            column::TOKENS,
            column::SUPPORTS,
        ];
        let batch = shard.read_columns(footer, row_idx - rows.start, &columns)?;
        let corrupt = |what: String| shard.corrupt(format!("row {row_idx}: {what}"));
        let (tokens, starts) = columns::decode_tokens(&batch, fingerprint).map_err(corrupt)?;
        let spans = columns::decode_spans(&batch, fingerprint).map_err(corrupt)?;
        let mask = LossMask::checked(&spans);
        let supports = self.supports(&tables, &batch, mask).map_err(corrupt)?;
        Ok(CapturedRow {
            tokens,
            starts,
            spans,
            supports,
        })
    }

    /// Tables of a shard. Those that were read longest ago are given up, so that memory does not follow the cache.
    fn tables(&self, shard_idx: usize, shard: &Shard) -> Result<Arc<Tables>, CacheError> {
        let is_new = !shard.has_tables();
        let tables = shard.tables(&self.dir, self.fingerprint())?;
        if is_new {
            let mut read = self
                .read_tables
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            read.push_back(shard_idx);
            if read.len() > MAX_TABLES {
                let oldest = read.pop_front().and_then(|idx| self.shards.get(idx));
                oldest.into_iter().for_each(Shard::forget_tables);
            }
        }
        Ok(tables)
    }

    /// Number of shards whose tables are in memory.
    #[cfg(test)]
    pub(super) fn num_tables(&self) -> usize {
        let has_tables = |shard: &&Shard| shard.has_tables();
        self.shards.iter().filter(has_tables).count()
    }

    /// Supports of a batch of one row that has these positions.
    fn supports(
        &self,
        tables: &Tables,
        batch: &RecordBatch,
        mask: LossMask<'_>,
    ) -> Result<Supports, String> {
        let codes = Shard::codes(tables, batch, mask.count())?;
        Ok(dequantize(codes, self.fingerprint()))
    }

    /// All shards, each with the rows that it must hold.
    pub(super) fn shards(&self) -> impl Iterator<Item = (&Shard, Range<usize>)> {
        let shards = self.shards.iter().zip(self.layout.shard_idxs());
        shards.map(|(shard, shard_idx)| (shard, self.layout.rows(shard_idx)))
    }
}

/// Keeps writers out of a folder. On a file system without locks, nothing is checked.
pub(super) fn shared_lock(dir: &Path) -> Result<Option<File>, CacheError> {
    let folder = match files::open_folder(dir) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match folder.try_lock_shared() {
        Ok(()) => Ok(Some(folder)),
        Err(TryLockError::WouldBlock) => Err(CacheError::Locked {
            dir: dir.to_path_buf(),
        }),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}
