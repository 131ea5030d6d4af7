//! A shard in memory: the size that rows would have, and the values that would be read back.

use super::columns::{StoredRow, column, store};
use super::quantize::dequantize;
use super::shard::Shard;
use super::tables::Tables;
use super::write::shard_bytes;
use super::{CacheError, Fingerprint, ShardRecord, manifest};
use crate::support::{CountedRow, Supports};

/// A few rows as they would be stored in one shard.
#[derive(Debug)]
pub struct Trial {
    /// Length of the shard without its tables.
    pub rows_bytes: u64,
    /// Length of its tables, stored once per shard; more rows need somewhat larger ones.
    pub tables_bytes: u64,
    fingerprint: Fingerprint,
    tables: Tables,
    /// Stream of each row, and the number of its positions.
    streams: Vec<(Vec<u8>, usize)>,
}

impl Trial {
    /// Stores rows, each with the supports of its counted positions.
    pub fn of(
        fingerprint: &Fingerprint,
        rows: &[(CountedRow<'_>, &Supports)],
    ) -> Result<Self, CacheError> {
        fingerprint.check_sizes()?;
        let mut stored = Vec::new();
        for (row_idx, &(row, supports)) in rows.iter().enumerate() {
            let row = store(row, supports, fingerprint);
            stored.push(row.map_err(|what| CacheError::Refused { row_idx, what })?);
        }
        let bytes = shard_bytes(fingerprint, 0, &stored)?;
        let dir = tempfile::tempdir()?;
        let record = ShardRecord {
            file: manifest::shard_file(0),
            rows: rows.len(),
            tokens_blake3: String::new(),
            counted_blake3: String::new(),
            bytes: bytes.len() as u64,
            blake3: blake3::hash(&bytes).to_hex().to_string(),
        };
        let path = dir.path().join(&record.file);
        crate::files::write_atomically(&path, |out| out.write_all(&bytes))?;
        let columns = Shard::new(dir.path(), &record).column_bytes(dir.path())?;
        let tables_bytes = columns.get(column::TABLES).copied().unwrap_or(0);
        let written = Tables::measure(fingerprint, stored.iter().map(|row| &row.codes));
        let ranks = written.ranks();
        let stream = |row: &StoredRow| (written.encode(&row.codes, &ranks), row.mask().count());
        let streams = stored.iter().map(stream).collect();
        let tables = Tables::from_bytes(&written.to_bytes(), fingerprint);
        Ok(Self {
            rows_bytes: record.bytes.saturating_sub(tables_bytes),
            tables_bytes,
            fingerprint: fingerprint.clone(),
            tables: tables.expect("tables come back from their own bytes"),
            streams,
        })
    }

    /// Rows as a reader gets them.
    pub fn decode(&self) -> Vec<Supports> {
        let decode = |(stream, num_positions): &(Vec<u8>, usize)| {
            let codes = self
                .tables
                .decode(stream, *num_positions)
                .expect("a stream of these tables");
            dequantize(codes, &self.fingerprint)
        };
        self.streams.iter().map(decode).collect()
    }
}
