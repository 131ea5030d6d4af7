//! Shards → supports, refusing strangers.

#![warn(clippy::indexing_slicing)] // what comes from outside is read with `get`

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use arrow_array::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelectionPolicy,
};
use parquet::file::metadata::PageIndexPolicy;

use super::format::{Fingerprint, Manifest, ShardLayout, ShardRecord, column, schema};
use super::{CacheError, RowSupports, codec};
use crate::files::with_path;

/// A finished cache.
///
/// Rows are read from disk when they are asked for, in any order and from any thread. A shard is
/// compared with its checksum the first time one of its rows is read, and each row with the tokens
/// it is wanted for.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    manifest: Manifest,
    layout: ShardLayout,
    shards: Vec<Shard>,
}

/// A shard, and its footer once the checksum was found right.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) record: ShardRecord,
    pub(super) path: PathBuf,
    footer: OnceLock<ArrowReaderMetadata>,
}

impl Cache {
    /// Opens a finished cache, if it was made from `wanted` and every shard is there in full length.
    ///
    /// Without `wanted`, any cache of this format will do: that is for looking at one, not for training.
    pub fn open(dir: &Path, wanted: Option<&Fingerprint>) -> Result<Self, CacheError> {
        let cache = Self::open_unchecked(dir, wanted)?;
        for shard in &cache.shards {
            shard.record.check_length(dir)?;
        }
        Ok(cache)
    }

    /// Like [`Cache::open`], but the shards are not looked at.
    pub(super) fn open_unchecked(
        dir: &Path,
        wanted: Option<&Fingerprint>,
    ) -> Result<Self, CacheError> {
        let manifest = Manifest::load(dir)?;
        let fields =
            wanted.map_or_else(Vec::new, |wanted| manifest.fingerprint.differences(wanted));
        if !fields.is_empty() {
            let dir = dir.to_path_buf();
            return Err(CacheError::Stale { dir, fields });
        }
        let shards = manifest.shards.iter().map(|record| Shard {
            record: record.clone(),
            path: dir.join(&record.file),
            footer: OnceLock::new(),
        });
        Ok(Self {
            dir: dir.to_path_buf(),
            layout: ShardLayout::new(&manifest.fingerprint, manifest.rows_per_shard),
            shards: shards.collect(),
            manifest,
        })
    }

    /// Folder of the cache.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the cache was made from, and its shards.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What the cache was made from.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.manifest.fingerprint
    }

    /// What the teacher said about these rows, in the order asked for.
    ///
    /// `tokens` gives the `sequence_length + 1` tokens of a row: those the student is about to see.
    /// A row that was captured from others is refused ([`CacheError::RowTokens`]).
    pub fn rows<'t>(
        &self,
        row_idxs: &[usize],
        tokens: impl Fn(usize) -> &'t [u32],
    ) -> Result<Vec<RowSupports>, CacheError> {
        let row = |row_idx: &usize| self.row(*row_idx, || tokens(*row_idx));
        row_idxs.iter().map(row).collect()
    }

    fn row<'t>(
        &self,
        row_idx: usize,
        tokens: impl Fn() -> &'t [u32],
    ) -> Result<RowSupports, CacheError> {
        let num_rows = self.fingerprint().num_rows;
        let shard_idx = self.layout.shard_idx(row_idx);
        let shard = self.shards.get(shard_idx).filter(|_| row_idx < num_rows);
        let Some(shard) = shard else {
            return Err(CacheError::NoSuchRow {
                dir: self.dir.clone(),
                row_idx,
                num_rows,
            });
        };
        let first_row = self.layout.rows(shard_idx).start;
        let batch = shard.read_row(&self.dir, row_idx - first_row)?;
        let (stored_idx, hash) = codec::decode_key(&batch).map_err(|what| shard.corrupt(what))?;
        if stored_idx != row_idx as u64 {
            return Err(shard.corrupt(format!("row {row_idx} says it is row {stored_idx}")));
        }
        if hash != codec::tokens_hash(tokens()) {
            return Err(CacheError::RowTokens {
                dir: self.dir.clone(),
                row_idx,
            });
        }
        codec::decode_supports(&batch, self.fingerprint())
            .map_err(|what| shard.corrupt(format!("row {row_idx}: {what}")))
    }

    /// All shards, each with the rows that it must hold.
    pub(super) fn shards(&self) -> impl Iterator<Item = (&Shard, std::ops::Range<usize>)> {
        let shards = self.shards.iter().enumerate();
        shards.map(|(shard_idx, shard)| (shard, self.layout.rows(shard_idx)))
    }
}

impl Shard {
    /// The footer; the first call compares the whole file with its checksum.
    pub(super) fn footer(&self, dir: &Path) -> Result<&ArrowReaderMetadata, CacheError> {
        if let Some(footer) = self.footer.get() {
            return Ok(footer);
        }
        self.record.check_bytes(dir)?;
        let options = ArrowReaderOptions::new()
            .with_offset_index_policy(PageIndexPolicy::Required)
            .with_column_index_policy(PageIndexPolicy::Skip);
        let file = self.open()?;
        let footer = self.guard(|| {
            ArrowReaderMetadata::load(&file, options)
                .map_err(|error| self.corrupt(error.to_string()))
        })?;
        if footer.schema().fields() != schema().fields() {
            return Err(self.corrupt("has other columns than a cache".to_owned()));
        }
        let rows = footer.metadata().file_metadata().num_rows();
        if usize::try_from(rows) != Ok(self.record.rows) {
            let listed = self.record.rows;
            return Err(self.corrupt(format!("has {rows} rows, the manifest lists {listed}")));
        }
        Ok(self.footer.get_or_init(|| footer))
    }

    /// One row as a batch, without the columns that only [`verify`](super::verify) looks at.
    fn read_row(&self, dir: &Path, idx_in_shard: usize) -> Result<RecordBatch, CacheError> {
        let footer = self.footer(dir)?;
        let columns = [
            column::ROW_IDX,
            column::TOKENS_HASH,
            column::ID_GAPS,
            column::LOG_PROBS,
            column::LSE,
        ];
        let mask = ProjectionMask::columns(footer.parquet_schema(), columns);
        let row = idx_in_shard..idx_in_shard + 1;
        let selection = RowSelection::from_consecutive_ranges([row].into_iter(), self.record.rows);
        let reader = self.reader(footer)?.with_projection(mask);
        let reader = reader
            .with_row_selection(selection)
            .with_row_selection_policy(RowSelectionPolicy::Selectors); // a mask decodes all rows
        let batch = self.batches(reader)?.next();
        batch.unwrap_or_else(|| Err(self.corrupt(format!("has no row {idx_in_shard}"))))
    }

    /// All rows, one per batch, with all columns; ends with the first fault.
    pub(super) fn read_all(
        &self,
        dir: &Path,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, CacheError>>, CacheError> {
        self.batches(self.reader(self.footer(dir)?)?)
    }

    fn batches(
        &self,
        reader: ParquetRecordBatchReaderBuilder<File>,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, CacheError>>, CacheError> {
        let corrupt = |error: &dyn std::fmt::Display| self.corrupt(error.to_string());
        let mut batches = self.guard(|| reader.build().map_err(|error| corrupt(&error)))?;
        let mut next = move || {
            let batch = batches.next().transpose();
            batch.map_err(|error| corrupt(&error))
        };
        Ok(std::iter::from_fn(move || {
            self.guard(&mut next).transpose()
        }))
    }

    /// Runs the Parquet decoder, which panics instead of failing on some files that carry the right
    /// checksum and that no writer makes: here that is a fault of the file.
    fn guard<T>(&self, decode: impl FnOnce() -> Result<T, CacheError>) -> Result<T, CacheError> {
        // What a panic may leave half done is local to `decode` and dropped with it.
        catch_unwind(AssertUnwindSafe(decode))
            .unwrap_or_else(|_| Err(self.corrupt("makes the Parquet decoder panic".to_owned())))
    }

    pub(super) fn corrupt(&self, what: String) -> CacheError {
        let path = self.path.clone();
        CacheError::Corrupt { path, what }
    }

    /// The file is opened for each read: clones of a `File` share one position, and threads would
    /// read from each other's.
    fn reader(
        &self,
        footer: &ArrowReaderMetadata,
    ) -> Result<ParquetRecordBatchReaderBuilder<File>, CacheError> {
        let reader =
            ParquetRecordBatchReaderBuilder::new_with_metadata(self.open()?, footer.clone());
        Ok(reader.with_batch_size(1))
    }

    fn open(&self) -> Result<File, CacheError> {
        File::open(&self.path).map_err(|error| with_path(error, &self.path).into())
    }
}
