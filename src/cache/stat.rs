//! Statistics of a cache, and the check that all of it is sound.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::quantize::dequantize;
use super::{Cache, CacheError, Fingerprint};
use crate::support::{Support, Supports};

/// Statistics of a cache. Means are taken over counted positions, at temperature 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CacheStat {
    /// Inputs that the cache was made from.
    pub fingerprint: Fingerprint,
    /// Files that hold rows.
    pub num_shards: usize,
    /// Token rows.
    pub num_rows: usize,
    /// Positions of the rows, whether they count or not.
    pub num_positions: u64,
    /// Positions that have a support: those that count.
    pub num_counted: u64,
    /// Length of all shards.
    pub total_bytes: u64,
    /// Length of all shards per position that has a support.
    pub bytes_per_counted: f64,
    /// Length of each column's pages over all shards, without the footers.
    pub column_bytes: BTreeMap<String, u64>,
    /// Mean number of ids in a support.
    pub mean_num_ids: f64,
    /// Number of ids that are in at least one support.
    pub num_distinct_ids: usize,
    /// Mean probability of the support; 1 for samples, which have no tail.
    pub mean_support_mass: f64,
    /// Mean probability outside the support.
    pub mean_tail_mass: f64,
    /// Mean probability of the `k` likeliest ids, for powers of two up to the support; for samples, share of the draws.
    pub mean_mass_by_k: BTreeMap<usize, f64>,
    /// Mean entropy of the teacher in nats, from its likeliest ids and the tail as one class: a lower bound.
    pub mean_entropy_nats: f64,
}

/// Amount of data that was checked and is sound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Shards whose checksum is right.
    pub num_shards: usize,
    /// Rows whose token hash and values are right.
    pub num_rows: usize,
    /// Bytes read.
    pub total_bytes: u64,
}

impl Cache {
    /// Computes statistics of the whole cache. Reads all of it.
    pub fn stat(&self) -> Result<CacheStat, CacheError> {
        let fingerprint = self.fingerprint();
        let mut sums = StatSums::new(fingerprint);
        let mut column_bytes: BTreeMap<String, u64> = BTreeMap::new();
        for (shard, rows) in self.shards() {
            for (name, bytes) in shard.column_bytes(self.dir())? {
                *column_bytes.entry(name).or_default() += bytes;
            }
            sums.num_rows += rows.len();
            sums.total_bytes = sums.total_bytes.saturating_add(shard.record.bytes);
            shard.stored_rows(self.dir(), rows, fingerprint, |row| {
                sums.add(&dequantize(row.codes, fingerprint));
                Ok(())
            })?;
        }
        let num_positions = (sums.num_rows * fingerprint.sequence_length) as u64;
        let counted = sums.num_counted.max(1) as f64;
        let mass =
            |&k: &usize| Some((k, sums.mass_by_rank.get(..k)?.iter().sum::<f64>() / counted));
        let powers: Vec<usize> = (0..usize::BITS).map(|power| 1 << power).collect();
        Ok(CacheStat {
            fingerprint: fingerprint.clone(),
            num_shards: self.shards().count(),
            num_rows: sums.num_rows,
            num_positions,
            num_counted: sums.num_counted,
            total_bytes: sums.total_bytes,
            bytes_per_counted: sums.total_bytes as f64 / counted,
            column_bytes,
            mean_num_ids: sums.num_ids as f64 / counted,
            num_distinct_ids: sums.seen.iter().filter(|seen| **seen).count(),
            mean_support_mass: sums.mass / counted,
            mean_tail_mass: sums.tail_mass / counted,
            mean_mass_by_k: powers.iter().map_while(mass).collect(),
            mean_entropy_nats: sums.entropy / counted,
        })
    }
}

/// Sums over counted positions.
struct StatSums {
    num_rows: usize,
    total_bytes: u64,
    num_counted: u64,
    num_ids: u64,
    seen: Vec<bool>,
    mass: f64,
    tail_mass: f64,
    mass_by_rank: Vec<f64>,
    entropy: f64,
}

impl StatSums {
    fn new(fingerprint: &Fingerprint) -> Self {
        Self {
            num_rows: 0,
            total_bytes: 0,
            num_counted: 0,
            num_ids: 0,
            seen: vec![false; fingerprint.vocab_size],
            mass: 0.0,
            tail_mass: 0.0,
            mass_by_rank: vec![0.0; fingerprint.most_entries()],
            entropy: 0.0,
        }
    }

    fn add(&mut self, supports: &Supports) {
        for support in supports.positions() {
            self.tail_mass += support.tail_mass();
            self.entropy += support.entropy();
            self.add_position(support);
        }
    }

    fn add_position(&mut self, support: Support<'_>) {
        let (ids, mut probs) = (support.ids(), support.probs());
        self.num_counted += 1;
        self.num_ids += ids.len() as u64;
        for &id in ids {
            self.seen[id as usize] = true;
        }
        self.mass += probs.iter().sum::<f64>();
        probs.sort_by(|a, b| b.total_cmp(a));
        for (sum, prob) in self.mass_by_rank.iter_mut().zip(probs) {
            *sum += prob;
        }
    }
}

/// Reads all of a cache: checksums, hashes of tokens, ranges of values.
///
/// `progress` receives the number of rows checked so far. The check continues after a damaged shard, so
/// that one run reports them all ([`CacheError::Damaged`]).
pub fn verify(dir: &Path, mut progress: impl FnMut(usize)) -> Result<VerifyReport, CacheError> {
    let cache = Cache::open_unchecked(dir)?;
    let mut report = VerifyReport {
        num_shards: 0,
        num_rows: 0,
        total_bytes: 0,
    };
    let mut faults = Vec::new();
    for (shard, rows) in cache.shards() {
        let end = report.num_rows + rows.len();
        report.num_shards += 1;
        report.total_bytes = report.total_bytes.saturating_add(shard.record.bytes);
        let num_rows = &mut report.num_rows;
        let scanned = shard.stored_rows(dir, rows, cache.fingerprint(), |_| {
            *num_rows += 1;
            progress(*num_rows);
            Ok(())
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
