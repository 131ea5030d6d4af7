//! One shard: its footer, tables and rows, each checked before use.

#![warn(clippy::indexing_slicing)] // untrusted input is read with `get`

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow_array::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelectionPolicy,
};
use parquet::file::metadata::PageIndexPolicy;

use super::columns::{self, FINGERPRINT, StoredRow, column, schema};
use super::manifest::{ShardRecord, TokenHashes, hash_of_hashes, tokens_hash};
use super::masks::{has_all, masks_hash};
use super::quantize::RowCodes;
use super::shard_file::ShardFile;
use super::tables::Tables;
use super::{CacheError, Fingerprint, Wanted};
use crate::data::{LossMask, PositionSpan, Sequence};
use crate::files::{self, with_path};
use crate::panics;

/// A shard; its footer and tables are loaded once the checksum is confirmed.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) record: ShardRecord,
    pub(super) path: PathBuf,
    footer: OnceLock<ArrowReaderMetadata>,
    tables: Mutex<Option<Arc<Tables>>>,
}

impl Shard {
    pub(super) fn new(dir: &Path, record: &ShardRecord) -> Self {
        Self {
            record: record.clone(),
            path: dir.join(&record.file),
            footer: OnceLock::new(),
            tables: Mutex::default(),
        }
    }

    /// Refuses a shard if any of its rows is wanted for other tokens than it was captured from.
    ///
    /// The record answers this for all rows at once; if only some of them are wanted, their hashes are read.
    pub(super) fn check_tokens(
        &self,
        dir: &Path,
        rows: Range<usize>,
        wanted: &TokenHashes,
    ) -> Result<(), CacheError> {
        let others = || {
            let rows = rows.clone();
            Err(CacheError::OtherRows {
                path: self.path.clone(),
                rows,
            })
        };
        match wanted.of_rows(rows.clone()) {
            Some(hash) if hash == self.record.tokens_blake3 => return Ok(()),
            Some(_) => return others(),
            None => {}
        }
        let footer = self.footer(dir)?;
        let columns = [column::ROW_IDX, column::TOKENS_HASH];
        let mask = ProjectionMask::columns(footer.parquet_schema(), columns);
        let batches = self.batches(footer, |reader| reader.with_projection(mask))?;
        for (batch, row_idx) in batches.zip(rows.clone()) {
            let batch = batch?;
            let (_, hash) = columns::decode_key(&batch).map_err(|what| self.corrupt(what))?;
            if wanted.row(row_idx).is_some_and(|wanted| wanted != hash) {
                return others();
            }
        }
        Ok(())
    }

    /// Reports the first row that lacks a position which is wanted of it ([`CacheError::Positions`]).
    ///
    /// The record answers this if all rows have exactly the wanted positions; if not, those that they have are read.
    pub(super) fn check_masks(
        &self,
        dir: &Path,
        rows: Range<usize>,
        wanted: Wanted<'_>,
    ) -> Result<(), CacheError> {
        let asked = rows.start..rows.end.min(wanted.tokens.num_rows());
        if asked == rows && masks_hash(asked.clone().map(wanted.mask)) == self.record.counted_blake3
        {
            return Ok(());
        }
        for (row_idx, spans) in asked.zip(self.masks(dir, wanted.fingerprint)?) {
            if !has_all(LossMask::checked(&spans), (wanted.mask)(row_idx)) {
                let path = self.path.clone();
                return Err(CacheError::Positions { path, row_idx });
            }
        }
        Ok(())
    }

    /// Spans of the positions that each row has.
    pub(super) fn masks(
        &self,
        dir: &Path,
        fingerprint: &Fingerprint,
    ) -> Result<Vec<Vec<PositionSpan>>, CacheError> {
        let footer = self.footer(dir)?;
        let mask = ProjectionMask::columns(footer.parquet_schema(), [column::COUNTED]);
        let batches = self.batches(footer, |reader| reader.with_projection(mask))?;
        let spans = |batch: RecordBatch| columns::decode_spans(&batch, fingerprint);
        batches
            .map(|batch| spans(batch?).map_err(|what| self.corrupt(what)))
            .collect()
    }

    /// Decodes the integers of a batch of one row that has so many positions.
    pub(super) fn codes(
        tables: &Tables,
        batch: &RecordBatch,
        num_positions: usize,
    ) -> Result<RowCodes, String> {
        let stream = columns::decode_bytes(batch, column::SUPPORTS)?;
        let codes = tables.decode(stream, num_positions);
        codes.ok_or_else(|| "its supports cannot be decoded with this shard's tables".to_owned())
    }

    /// Visits all rows as stored, each after all its checks.
    pub(super) fn stored_rows(
        &self,
        dir: &Path,
        rows: Range<usize>,
        fingerprint: &Fingerprint,
        mut visit: impl FnMut(StoredRow) -> Result<(), CacheError>,
    ) -> Result<(), CacheError> {
        let (mut hashes, mut masks) = (Vec::new(), Vec::new());
        let tables = self.tables(dir, fingerprint)?;
        self.forget_tables(); // each shard is visited once
        for batch in self.batches(self.footer(dir)?, |reader| reader)? {
            let batch = batch?;
            let row_idx = rows.start + hashes.len();
            let corrupt = |what: String| self.corrupt(format!("row {row_idx}: {what}"));
            let (stored_idx, hash) = columns::decode_key(&batch).map_err(corrupt)?;
            if stored_idx != row_idx as u64 {
                return Err(corrupt(format!("is stored as row {stored_idx}")));
            }
            let (tokens, starts) = columns::decode_tokens(&batch, fingerprint).map_err(corrupt)?;
            let found = tokens_hash(Sequence::packed(&tokens, &starts));
            if hash != found {
                return Err(corrupt("tokens and their hash differ".to_owned()));
            }
            hashes.push(found);
            let spans = columns::decode_spans(&batch, fingerprint).map_err(corrupt)?;
            let num_positions = LossMask::checked(&spans).count();
            let codes = Self::codes(&tables, &batch, num_positions).map_err(corrupt)?;
            masks.push(spans.clone());
            visit(StoredRow {
                tokens,
                starts,
                spans,
                codes,
            })?;
        }
        if hashes.len() != rows.len() {
            let found = hashes.len();
            return Err(self.corrupt(format!("has {found} rows instead of {}", rows.len())));
        }
        if hash_of_hashes(&hashes) != self.record.tokens_blake3 {
            return Err(self.corrupt("holds other tokens than the manifest lists".to_owned()));
        }
        let masks = masks.iter().map(|spans| LossMask::checked(spans));
        if masks_hash(masks) != self.record.counted_blake3 {
            return Err(self.corrupt("holds other positions than the manifest lists".to_owned()));
        }
        Ok(())
    }

    /// Footer of the shard; the first call compares the whole file with its checksum.
    pub(super) fn footer(&self, dir: &Path) -> Result<&ArrowReaderMetadata, CacheError> {
        if let Some(footer) = self.footer.get() {
            return Ok(footer);
        }
        self.record.check_bytes(dir)?;
        let footer = self.footer_of(&self.open()?)?;
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

    fn footer_of(&self, file: &ShardFile) -> Result<ArrowReaderMetadata, CacheError> {
        let options = ArrowReaderOptions::new()
            .with_offset_index_policy(PageIndexPolicy::Required)
            .with_column_index_policy(PageIndexPolicy::Skip);
        self.guard(file, || {
            ArrowReaderMetadata::load(file, options)
                .map_err(|error| self.corrupt(error.to_string()))
        })
    }

    /// Length of each column's pages.
    pub(super) fn column_bytes(&self, dir: &Path) -> Result<BTreeMap<String, u64>, CacheError> {
        let mut column_bytes: BTreeMap<String, u64> = BTreeMap::new();
        for group in self.footer(dir)?.metadata().row_groups() {
            for column in group.columns() {
                let name = column.column_path().parts().first().cloned();
                let bytes = u64::try_from(column.compressed_size()).unwrap_or(0);
                *column_bytes.entry(name.unwrap_or_default()).or_default() += bytes;
            }
        }
        Ok(column_bytes)
    }

    /// One row as a batch, without the columns that only [`verify`](super::verify) reads.
    pub(super) fn read_row(
        &self,
        dir: &Path,
        idx_in_shard: usize,
    ) -> Result<RecordBatch, CacheError> {
        let footer = self.footer(dir)?;
        let columns = [
            column::ROW_IDX,
            column::COUNTED,
            column::TOKENS_HASH,
            column::SUPPORTS,
        ];
        self.read_columns(footer, idx_in_shard, &columns)
    }

    pub(super) fn read_columns(
        &self,
        footer: &ArrowReaderMetadata,
        idx_in_shard: usize,
        columns: &[&str],
    ) -> Result<RecordBatch, CacheError> {
        let mask = ProjectionMask::columns(footer.parquet_schema(), columns.iter().copied());
        let row = idx_in_shard..idx_in_shard + 1;
        let selection = RowSelection::from_consecutive_ranges([row].into_iter(), self.record.rows);
        let mut batches = self.batches(footer, |reader| {
            reader
                .with_projection(mask)
                .with_row_selection(selection)
                .with_row_selection_policy(RowSelectionPolicy::Selectors) // a mask decodes all rows
        })?;
        let batch = batches.next();
        batch.unwrap_or_else(|| Err(self.corrupt(format!("has no row {idx_in_shard}"))))
    }

    /// Tables of the shard, from its first row.
    pub(super) fn tables(
        &self,
        dir: &Path,
        fingerprint: &Fingerprint,
    ) -> Result<Arc<Tables>, CacheError> {
        let mut kept = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tables) = &*kept {
            return Ok(Arc::clone(tables));
        }
        let footer = self.footer(dir)?;
        let stored = footer.metadata().file_metadata().key_value_metadata();
        let stored =
            stored.and_then(|entries| entries.iter().find(|entry| entry.key == FINGERPRINT));
        let stored = stored
            .and_then(|entry| entry.value.as_deref())
            .unwrap_or_default();
        if stored != columns::fingerprint_text(fingerprint) {
            let what = "has another fingerprint than the manifest";
            return Err(self.corrupt(what.to_owned()));
        }
        let batch = self.read_columns(footer, 0, &[column::TABLES])?;
        let bytes = columns::decode_bytes(&batch, column::TABLES);
        let bytes = bytes.map_err(|what| self.corrupt(what))?;
        let tables = Tables::from_bytes(bytes, fingerprint);
        let tables =
            tables.ok_or_else(|| self.corrupt("has tables of another shape".to_owned()))?;
        Ok(Arc::clone(kept.insert(Arc::new(tables))))
    }

    /// True if the tables are in memory.
    pub(super) fn has_tables(&self) -> bool {
        let kept = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        kept.is_some()
    }

    /// Frees the memory of the tables; they are read again when they are needed.
    pub(super) fn forget_tables(&self) {
        let mut kept = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = None;
    }

    /// Rows as batches of one, as `choose` has chosen. The file is opened for each call, and not kept open: a cache may have
    /// more shards than a process may have handles.
    fn batches(
        &self,
        footer: &ArrowReaderMetadata,
        choose: impl FnOnce(
            ParquetRecordBatchReaderBuilder<ShardFile>,
        ) -> ParquetRecordBatchReaderBuilder<ShardFile>,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, CacheError>>, CacheError> {
        let file = self.open()?;
        let reader =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), footer.clone());
        let reader = choose(reader.with_batch_size(1));
        let corrupt = |error: &dyn std::fmt::Display| self.corrupt(error.to_string());
        let mut batches = self.guard(&file, || reader.build().map_err(|error| corrupt(&error)))?;
        let mut next = move || {
            let batch = batches.next().transpose();
            batch.map_err(|error| corrupt(&error))
        };
        Ok(std::iter::from_fn(move || {
            self.guard(&file, &mut next).transpose()
        }))
    }

    /// Runs the Parquet decoder and turns its panics into errors of the file: it panics on some files that have the
    /// right checksum but that no writer makes. Where it failed because `file` could not be read, that is the error.
    fn guard<T>(
        &self,
        file: &ShardFile,
        decode: impl FnOnce() -> Result<T, CacheError>,
    ) -> Result<T, CacheError> {
        // Any state that a panic leaves half done is local to `decode` and dropped with it.
        let decoded = panics::caught(decode)
            .unwrap_or_else(|| Err(self.corrupt("makes the Parquet decoder panic".to_owned())));
        let unread = |error| with_path(error, &self.path).into();
        decoded.map_err(|fault| file.take_fault().map_or(fault, unread))
    }

    pub(super) fn corrupt(&self, what: String) -> CacheError {
        let path = self.path.clone();
        CacheError::Corrupt { path, what }
    }

    fn open(&self) -> Result<ShardFile, CacheError> {
        let opened = files::open(&self.path).and_then(ShardFile::new);
        opened.map_err(|error| with_path(error, &self.path).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_cannot_be_read_is_not_called_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shard-00000.parquet");
        files::write_atomically(&path, |out| out.write_all(&[0; 64])).unwrap();
        let record = ShardRecord {
            file: "shard-00000.parquet".to_owned(),
            rows: 1,
            tokens_blake3: String::new(),
            counted_blake3: String::new(),
            bytes: 64,
            blake3: String::new(),
        };
        let shard = Shard::new(dir.path(), &record);
        let footer = |file: std::fs::File| {
            let error = shard.footer_of(&ShardFile::new(file).unwrap()).unwrap_err();
            (error.help(), error)
        };
        let read_only = files::open(&path).unwrap();
        let (help, damaged) = footer(read_only);
        assert!(matches!(damaged, CacheError::Corrupt { .. }), "{damaged}");
        assert!(help.unwrap().contains("delete"));
        let write_only = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let (help, unread) = footer(write_only);
        assert!(matches!(unread, CacheError::Io(_)), "{unread}");
        assert!(
            unread.to_string().contains("shard-00000.parquet"),
            "{unread}"
        );
        assert_eq!(help, None);
    }
}
