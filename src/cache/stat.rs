//! What a cache holds, in numbers, and whether all of it is sound.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::read::Shard;
use super::{Cache, CacheError, Fingerprint, RowSupports, codec};

/// What a cache holds, in numbers. Means are taken over counted positions, at temperature 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CacheStat {
    /// What the cache was made from.
    pub fingerprint: Fingerprint,
    /// Files that hold rows.
    pub num_shards: usize,
    /// Token rows.
    pub num_rows: usize,
    /// Positions, padding included.
    pub num_positions: u64,
    /// Positions about real text.
    pub num_counted: u64,
    /// Length of all shards.
    pub total_bytes: u64,
    /// Length of all shards per position, padding included.
    pub bytes_per_position: f64,
    /// Length of each column's pages over all shards; footers are not in it.
    pub column_bytes: BTreeMap<String, u64>,
    /// Mean probability of the support.
    pub mean_support_mass: f64,
    /// Mean probability outside the support.
    pub mean_tail_mass: f64,
    /// Mean entropy of the teacher with its tail pooled into one class, in nats: a lower bound of its entropy.
    pub mean_pooled_entropy_nats: f64,
}

/// What was found sound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Shards whose checksum is right.
    pub num_shards: usize,
    /// Rows whose token hash and values are right.
    pub num_rows: usize,
    /// Bytes read.
    pub total_bytes: u64,
}

/// A row as [`scan`] gives it.
struct ScannedRow {
    counted: usize,
    supports: RowSupports,
}

impl Cache {
    /// What the cache holds, in numbers. Reads all of it.
    pub fn stat(&self) -> Result<CacheStat, CacheError> {
        let fingerprint = self.fingerprint();
        let (mut total_bytes, mut num_counted) = (0u64, 0);
        let mut column_bytes = BTreeMap::new();
        let (mut support_mass, mut tail_mass, mut entropy) = (0.0, 0.0, 0.0);
        for (shard, rows) in self.shards() {
            total_bytes = total_bytes.saturating_add(shard.record.bytes);
            add_column_bytes(shard, self.dir(), &mut column_bytes)?;
            scan(self, shard, rows, |row| {
                num_counted += row.counted as u64;
                let positions = row.supports.log_probs.chunks_exact(fingerprint.top_k);
                for log_probs in positions.take(row.counted) {
                    let mass: f64 = log_probs.iter().map(|l| f64::from(*l).exp()).sum();
                    let tail = (1.0 - mass).max(0.0);
                    support_mass += mass;
                    tail_mass += tail;
                    entropy += pooled_entropy(log_probs, tail);
                }
            })?;
        }
        let num_positions = (fingerprint.num_rows * fingerprint.sequence_length) as u64;
        let counted = num_counted.max(1) as f64;
        Ok(CacheStat {
            fingerprint: fingerprint.clone(),
            num_shards: self.shards().count(),
            num_rows: fingerprint.num_rows,
            num_positions,
            num_counted,
            total_bytes,
            bytes_per_position: total_bytes as f64 / num_positions as f64,
            column_bytes,
            mean_support_mass: support_mass / counted,
            mean_tail_mass: tail_mass / counted,
            mean_pooled_entropy_nats: entropy / counted,
        })
    }
}

/// Reads all of a cache: checksums, hashes of tokens, ranges of values.
///
/// `progress` is told how many rows of the cache have been looked at. Looking goes on behind a
/// damaged shard, so that one run names them all ([`CacheError::Damaged`]).
pub fn verify(dir: &Path, mut progress: impl FnMut(usize)) -> Result<VerifyReport, CacheError> {
    let cache = Cache::open_unchecked(dir, None)?;
    let mut report = VerifyReport {
        num_shards: 0,
        num_rows: 0,
        total_bytes: 0,
    };
    let mut faults = Vec::new();
    for (shard, rows) in cache.shards() {
        let end = rows.end;
        report.num_shards += 1;
        report.total_bytes = report.total_bytes.saturating_add(shard.record.bytes);
        let num_rows = &mut report.num_rows;
        let scanned = scan(&cache, shard, rows, |_| {
            *num_rows += 1;
            progress(*num_rows);
        });
        if let Err(fault) = scanned {
            faults.push(fault);
            report.num_rows = end;
            progress(end);
        }
    }
    if faults.is_empty() {
        return Ok(report);
    }
    let dir = dir.to_path_buf();
    Err(CacheError::Damaged { dir, faults })
}

/// Gives every row of a shard to `visit`, in order and after all its checks.
fn scan(
    cache: &Cache,
    shard: &Shard,
    rows: std::ops::Range<usize>,
    mut visit: impl FnMut(ScannedRow),
) -> Result<(), CacheError> {
    let mut next_row = rows.start;
    for batch in shard.read_all(cache.dir())? {
        let batch = batch?;
        let corrupt = |what: String| shard.corrupt(format!("row {next_row}: {what}"));
        let (row_idx, hash) = codec::decode_key(&batch).map_err(corrupt)?;
        if row_idx != next_row as u64 {
            return Err(corrupt(format!("says it is row {row_idx}")));
        }
        let tokens = codec::decode_tokens(&batch, cache.fingerprint());
        let (tokens, counted) = tokens.map_err(corrupt)?;
        if hash != codec::tokens_hash(&tokens) {
            return Err(corrupt("tokens and their hash differ".to_owned()));
        }
        let supports = codec::decode_supports(&batch, cache.fingerprint());
        visit(ScannedRow {
            counted: counted as usize,
            supports: supports.map_err(corrupt)?,
        });
        next_row += 1;
    }
    if next_row != rows.end {
        let found = next_row - rows.start;
        return Err(shard.corrupt(format!("has {found} rows instead of {}", rows.len())));
    }
    Ok(())
}

fn add_column_bytes(
    shard: &Shard,
    dir: &Path,
    column_bytes: &mut BTreeMap<String, u64>,
) -> Result<(), CacheError> {
    let footer = shard.footer(dir)?;
    for group in footer.metadata().row_groups() {
        for column in group.columns() {
            let name = column.column_path().parts().first().cloned();
            let bytes = u64::try_from(column.compressed_size()).unwrap_or(0);
            *column_bytes.entry(name.unwrap_or_default()).or_default() += bytes;
        }
    }
    Ok(())
}

fn pooled_entropy(log_probs: &[f32], tail: f64) -> f64 {
    let term = |log_prob: &f32| -f64::from(*log_prob) * f64::from(*log_prob).exp();
    let support: f64 = log_probs.iter().map(term).sum();
    let tail = if tail > 0.0 { -tail * tail.ln() } else { 0.0 };
    support + tail
}
