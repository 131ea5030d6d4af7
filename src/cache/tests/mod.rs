//! Tests of the cache as a whole: a made-up teacher is captured and read back.

mod codec;
mod counted;
mod grow;
mod merge;
mod refuse;
mod resume;
mod stat;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;
use tempfile::tempdir;

use super::*;
use crate::cache::{Sampling, SupportPlan};
use crate::data::{LossMask, PositionSpan, Sequence, spans_of};
use crate::kernels::Arithmetic;
use crate::support::{CountedRow, LogSumExps, SampledSupports, Supports, TopKSupports};

const ROWS_PER_SHARD: usize = 4;

/// Rows of the test caches, unless another number is given: three shards.
const NUM_ROWS: usize = 10;

/// Rows of 16 positions.
fn fingerprint() -> Fingerprint {
    Fingerprint {
        version: Fingerprint::VERSION,
        teacher_weights: "11".repeat(32),
        precision: Arithmetic::F32,
        tokenizer: "22".repeat(32),
        sequence_length: 16,
        vocab_size: 64,
        support: SupportPlan::TopK(5),
        temperatures: vec![1.0, 2.0],
    }
}

/// Uniform numbers below one (SplitMix64), the same for the same seed.
fn uniforms(seed: usize) -> impl Iterator<Item = f64> {
    (1..).map(move |step: u64| {
        let mut z = ((seed as u64) << 32).wrapping_add(step.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    })
}

fn tokens(row_idx: usize, of: &Fingerprint) -> Vec<u32> {
    let first = 7 * row_idx;
    let ids = (0..=of.sequence_length).map(|t| (first + t * t) % of.vocab_size);
    ids.map(|id| u32::try_from(id).unwrap()).collect()
}

/// Positions that count: all, or all but one in the middle.
fn spans(row_idx: usize, of: &Fingerprint) -> Vec<PositionSpan> {
    spans_of((0..of.sequence_length).map(|position| row_idx.is_multiple_of(2) || position != 5))
}

fn counted(row_idx: usize, of: &Fingerprint) -> impl Iterator<Item = usize> {
    (0..of.sequence_length).filter(move |position| row_idx.is_multiple_of(2) || *position != 5)
}

/// The same fingerprint with samples.
fn sampled() -> Fingerprint {
    Fingerprint {
        support: SupportPlan::Samples {
            num_draws: 20,
            sampling: Sampling::Systematic,
        },
        temperatures: vec![1.0],
        ..fingerprint()
    }
}

/// Supports of a made-up teacher at the positions that count.
fn supports(row_idx: usize, of: &Fingerprint) -> Supports {
    let spans = spans(row_idx, of);
    everywhere(row_idx, of).at(LossMask::checked(&spans).positions())
}

/// Supports of a made-up teacher at all positions.
fn everywhere(row_idx: usize, of: &Fingerprint) -> Supports {
    match of.support {
        SupportPlan::TopK(top_k) => Supports::TopK(top_k_supports(row_idx, of, top_k)),
        SupportPlan::Samples { num_draws, .. } => {
            Supports::Samples(sampled_supports(row_idx, of, num_draws))
        }
    }
}

/// Log-probabilities of every position: a Zipf-like prior with noise at each position.
fn teacher(row_idx: usize, of: &Fingerprint) -> impl Iterator<Item = Vec<f64>> {
    let mut noise = uniforms(row_idx);
    let vocab_size = of.vocab_size;
    (0..of.sequence_length).map(move |_| {
        let sharpness = 2.0 + 10.0 * noise.next().unwrap();
        let mut logit =
            |id: usize| sharpness * noise.next().unwrap() - 1.1 * (id as f64 + 3.0).ln();
        let logits: Vec<f64> = (0..vocab_size).map(&mut logit).collect();
        let norm = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
        logits.iter().map(|l| l - norm).collect()
    })
}

fn top_k_supports(row_idx: usize, of: &Fingerprint, top_k: usize) -> TopKSupports {
    let mut row = TopKSupports {
        top_k,
        ids: Vec::new(),
        log_probs: Vec::new(),
        lse: of
            .temperatures
            .iter()
            .map(|&temperature| LogSumExps {
                temperature,
                of_positions: Vec::new(),
            })
            .collect(),
    };
    for log_probs in teacher(row_idx, of) {
        let mut ids: Vec<usize> = (0..of.vocab_size).collect();
        ids.sort_by(|a, b| log_probs[*b].total_cmp(&log_probs[*a]));
        ids.truncate(top_k);
        ids.sort_unstable();
        row.ids
            .extend(ids.iter().map(|id| u32::try_from(*id).unwrap()));
        row.log_probs
            .extend(ids.iter().map(|id| to_f32(log_probs[*id])));
        let top = log_probs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for LogSumExps {
            temperature: t,
            of_positions: lse,
        } in &mut row.lse
        {
            let exps = log_probs.iter().map(|l| ((l - top) / *t).exp());
            let at_1 = t.to_bits() == 1.0_f64.to_bits();
            lse.push(if at_1 {
                0.0
            } else {
                to_f32(exps.sum::<f64>().ln())
            });
        }
    }
    row
}

fn sampled_supports(row_idx: usize, of: &Fingerprint, num_draws: usize) -> SampledSupports {
    let mut row = SampledSupports {
        num_ids: Vec::new(),
        ids: Vec::new(),
        counts: Vec::new(),
        entropies: Vec::new(),
    };
    let mut draws = uniforms(1000 + row_idx);
    for log_probs in teacher(row_idx, of) {
        let mut counts = BTreeMap::new();
        for _ in 0..num_draws {
            let mut point = draws.next().unwrap();
            let after = log_probs.iter().position(|l| {
                point -= l.exp();
                point < 0.0
            });
            *counts
                .entry(u32::try_from(after.unwrap_or(0)).unwrap())
                .or_insert(0) += 1;
        }
        row.num_ids.push(u32::try_from(counts.len()).unwrap());
        row.ids.extend(counts.keys());
        row.counts.extend(counts.values());
        row.entropies
            .push(to_f32(-log_probs.iter().map(|l| l * l.exp()).sum::<f64>()));
    }
    row
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding is what a teacher in f32 does"
)]
fn to_f32(value: f64) -> f32 {
    value as f32
}

/// Rows with the positions of them that are asked for.
struct Rows {
    of: Fingerprint,
    tokens: Vec<Vec<u32>>,
    starts: Vec<Vec<u32>>,
    spans: Vec<Vec<PositionSpan>>,
}

/// The first rows, each one document.
fn first_rows(of: &Fingerprint, num_rows: usize) -> Rows {
    Rows {
        of: of.clone(),
        tokens: (0..num_rows).map(|row_idx| tokens(row_idx, of)).collect(),
        starts: vec![vec![0]; num_rows],
        spans: (0..num_rows).map(|row_idx| spans(row_idx, of)).collect(),
    }
}

impl Rows {
    fn row(&self, row_idx: usize) -> CountedRow<'_> {
        CountedRow {
            sequence: Sequence::packed(&self.tokens[row_idx], &self.starts[row_idx]),
            mask: LossMask::new(&self.spans[row_idx], self.of.sequence_length).unwrap(),
        }
    }

    fn wanted<R>(&self, use_it: impl FnOnce(Wanted<'_>) -> R) -> R {
        let rows = (0..self.tokens.len()).map(|row_idx| self.row(row_idx).sequence);
        use_it(Wanted {
            fingerprint: &self.of,
            tokens: &TokenHashes::of(rows),
            mask: &|row_idx| LossMask::checked(&self.spans[row_idx]),
        })
    }

    fn writer(&self, dir: &Path) -> Result<CacheWriter, CacheError> {
        self.wanted(|wanted| CacheWriter::open(dir, wanted, ROWS_PER_SHARD, None))
    }

    fn open(&self, dir: &Path) -> Result<Cache, CacheError> {
        self.wanted(|wanted| Cache::open(dir, wanted))
    }

    /// Captures what a folder lacks of these rows; returns the rows that were captured.
    fn capture(&self, dir: &Path) -> Vec<usize> {
        let mut writer = self.writer(dir).unwrap();
        let mut captured = Vec::new();
        while let Some(row_idx) = writer.next_row() {
            let row = self.row(row_idx);
            let spans = writer.positions(row_idx, row.mask).unwrap();
            let mask = LossMask::checked(&spans);
            let supports = everywhere(row_idx, &self.of).at(mask.positions());
            writer.push(CountedRow { mask, ..row }, &supports).unwrap();
            captured.push(row_idx);
        }
        writer.finish().unwrap();
        captured
    }
}

fn try_writer(dir: &Path, of: &Fingerprint, num_rows: usize) -> Result<CacheWriter, CacheError> {
    first_rows(of, num_rows).writer(dir)
}

fn open_writer(dir: &Path) -> CacheWriter {
    try_writer(dir, &fingerprint(), NUM_ROWS).unwrap()
}

fn open_for(dir: &Path, of: &Fingerprint, num_rows: usize) -> Result<Cache, CacheError> {
    first_rows(of, num_rows).open(dir)
}

/// Pushes the next rows, at most `limit`; returns their indices.
fn capture(writer: &mut CacheWriter, of: &Fingerprint, limit: usize) -> Vec<usize> {
    let mut captured = Vec::new();
    while let Some(row_idx) = writer.next_row().filter(|_| captured.len() < limit) {
        let rows = first_rows(of, row_idx + 1);
        writer
            .push(rows.row(row_idx), &supports(row_idx, of))
            .unwrap();
        captured.push(row_idx);
    }
    captured
}

fn build(dir: &Path, of: &Fingerprint) -> Cache {
    build_rows(dir, of, NUM_ROWS)
}

fn build_rows(dir: &Path, of: &Fingerprint, num_rows: usize) -> Cache {
    let mut writer = try_writer(dir, of, num_rows).unwrap();
    capture(&mut writer, of, usize::MAX);
    writer.finish().unwrap();
    open_for(dir, of, num_rows).unwrap()
}

/// Rows of a cache, for the tokens that [`fingerprint`] was captured from.
fn read(cache: &Cache, row_idxs: &[usize]) -> Result<Vec<Supports>, CacheError> {
    read_for(cache, row_idxs, cache.fingerprint())
}

fn read_for(
    cache: &Cache,
    row_idxs: &[usize],
    of: &Fingerprint,
) -> Result<Vec<Supports>, CacheError> {
    let all = first_rows(of, NUM_ROWS);
    cache.rows(row_idxs, |row_idx| all.row(row_idx.min(NUM_ROWS - 1)))
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    };
    entries.map(file).collect()
}

/// Changes a file in place; nothing is flushed to disk, since a test does this thousands of times.
fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path)
        .unwrap();
    file.write_all(&bytes).unwrap();
}

fn assert_close(got: &Supports, want: &Supports) {
    match (got, want) {
        (Supports::TopK(got), Supports::TopK(want)) => assert_top_k_close(got, want),
        (Supports::Samples(got), Supports::Samples(want)) => {
            assert_eq!(
                (&got.num_ids, &got.ids, &got.counts),
                (&want.num_ids, &want.ids, &want.counts)
            );
            for (got, want) in got.entropies.iter().zip(&want.entropies) {
                assert!(
                    (got - want).abs() <= ENTROPY_ERROR_BOUND + 1e-5,
                    "{got} for {want}"
                );
            }
        }
        _ => panic!("another kind of support"),
    }
}

fn assert_top_k_close(got: &TopKSupports, want: &TopKSupports) {
    assert_eq!((got.top_k, &got.ids), (want.top_k, &want.ids));
    assert_eq!(got.log_probs.len(), want.log_probs.len());
    let positions = got
        .log_probs
        .chunks(got.top_k)
        .zip(want.log_probs.chunks(got.top_k));
    for (got, want) in positions {
        let top = want.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for (got, want) in got.iter().zip(want) {
            let want = want.max(top - LOWEST_BELOW_TOP);
            assert!(
                (got - want).abs() <= LOG_PROB_ERROR_BOUND + 1e-5,
                "{got} for {want}"
            );
        }
    }
    assert_eq!(got.lse.len(), want.lse.len());
    let lse = |row: &TopKSupports| -> Vec<f32> {
        let all = row.lse.iter().flat_map(|lse| lse.of_positions.clone());
        all.collect()
    };
    for (got, want) in lse(got).iter().zip(&lse(want)) {
        assert!(
            (got - want).abs() <= 2.0 * LOG_PROB_ERROR_BOUND,
            "{got} for {want}"
        );
    }
}

#[test]
fn rows_come_back_in_the_order_asked_for() {
    for of in [fingerprint(), sampled()] {
        let dir = tempdir().unwrap();
        let cache = build(dir.path(), &of);
        let row_idxs = [9, 0, 5, 5, 3, 8];
        let rows = read(&cache, &row_idxs).unwrap();
        assert_eq!(rows.len(), row_idxs.len());
        for (row_idx, row) in row_idxs.into_iter().zip(&rows) {
            assert_close(row, &supports(row_idx, &of));
        }
    }
}

#[test]
fn threads_read_the_same_rows_from_one_cache() {
    let dir = tempdir().unwrap();
    let cache = build(dir.path(), &fingerprint());
    std::thread::scope(|scope| {
        for first in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                for row_idx in (first..10).chain(0..first) {
                    let rows = read(cache, &[row_idx]).unwrap();
                    assert_close(&rows[0], &supports(row_idx, &fingerprint()));
                }
            });
        }
    });
}

#[test]
fn the_lowest_log_probability_stands_for_all_below_it() {
    let of = fingerprint();
    let mut row = top_k_supports(0, &of, 5);
    let top = row.log_probs[..5]
        .iter()
        .copied()
        .fold(f32::NEG_INFINITY, f32::max);
    let lowest = row.log_probs[..5].iter().position(|l| *l < top).unwrap();
    for log_prob in [top - 64.0, -1e30, f32::NEG_INFINITY] {
        row.log_probs[lowest] = log_prob;
        let codes = quantize::quantize(&Supports::TopK(row.clone()));
        let Supports::TopK(back) = quantize::dequantize(codes, &of) else {
            panic!("the likeliest ids");
        };
        let back_top = back.log_probs[..5]
            .iter()
            .copied()
            .fold(f32::NEG_INFINITY, f32::max);
        assert!((back_top - back.log_probs[lowest] - LOWEST_BELOW_TOP).abs() < 1e-4);
    }
}

proptest! {
    #[test]
    fn a_cache_of_any_size_comes_back(
        sequence_length in 1usize..20,
        num_rows in 1usize..6,
        (vocab_size, support) in (1usize..50).prop_flat_map(|v| (Just(v), prop_oneof![
            (1..=v).prop_map(SupportPlan::TopK),
            (1usize..70).prop_map(|num_draws| SupportPlan::Samples { num_draws, sampling: Sampling::Independent }),
        ])),
    ) {
        let temperatures = match support {
            SupportPlan::TopK(_) => vec![0.5, 2.0],
            SupportPlan::Samples { .. } => vec![1.0],
        };
        let sizes = Fingerprint { sequence_length, vocab_size, support, temperatures, ..fingerprint() };
        let dir = tempdir().unwrap();
        let cache = build_rows(dir.path(), &sizes, num_rows);
        let row_idxs: Vec<usize> = (0..num_rows).collect();
        for (row_idx, row) in read(&cache, &row_idxs).unwrap().iter().enumerate() {
            assert_close(row, &supports(row_idx, &sizes));
        }
    }
}
