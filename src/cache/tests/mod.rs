//! Tests of the cache as a whole: a made-up teacher is captured and read back.

mod refuse;
mod resume;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;
use tempfile::tempdir;

use super::codec::{log_prob_to_steps, steps_to_log_prob};
use super::*;

const ROWS_PER_SHARD: usize = 4;

/// Ten rows of 16 positions: three shards.
fn fingerprint() -> Fingerprint {
    Fingerprint {
        version: Fingerprint::VERSION,
        teacher_weights: "11".repeat(32),
        tokenizer: "22".repeat(32),
        rows: "33".repeat(32),
        sequence_length: 16,
        num_rows: 10,
        vocab_size: 64,
        top_k: 5,
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

fn counted(row_idx: usize, of: &Fingerprint) -> usize {
    of.sequence_length - row_idx % 2
}

/// Supports of a made-up teacher: a Zipf-like prior that each position shakes up.
fn supports(row_idx: usize, of: &Fingerprint) -> RowSupports {
    let mut noise = uniforms(row_idx);
    let mut row = RowSupports {
        top_k: of.top_k,
        ids: Vec::new(),
        log_probs: Vec::new(),
        lse: vec![Vec::new(); of.temperatures.len()],
    };
    for _ in 0..of.sequence_length {
        let sharpness = 2.0 + 10.0 * noise.next().unwrap();
        let mut logit =
            |id: usize| sharpness * noise.next().unwrap() - 1.1 * (id as f64 + 3.0).ln();
        let logits: Vec<f64> = (0..of.vocab_size).map(&mut logit).collect();
        let norm = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
        let log_probs: Vec<f64> = logits.iter().map(|l| l - norm).collect();
        let mut ids: Vec<usize> = (0..of.vocab_size).collect();
        ids.sort_by(|a, b| log_probs[*b].total_cmp(&log_probs[*a]));
        ids.truncate(of.top_k);
        ids.sort_unstable();
        row.ids
            .extend(ids.iter().map(|id| u32::try_from(*id).unwrap()));
        row.log_probs
            .extend(ids.iter().map(|id| to_f32(log_probs[*id])));
        for (lse, t) in row.lse.iter_mut().zip(&of.temperatures) {
            lse.push(to_f32(
                log_probs.iter().map(|l| (l / t).exp()).sum::<f64>().ln(),
            ));
        }
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

fn open_writer(dir: &Path) -> CacheWriter {
    CacheWriter::open(dir, &fingerprint(), ROWS_PER_SHARD).unwrap()
}

/// Pushes the next rows, at most `limit`; tells which.
fn capture(writer: &mut CacheWriter, of: &Fingerprint, limit: usize) -> Vec<usize> {
    let mut captured = Vec::new();
    while let Some(row_idx) = writer.next_row().filter(|_| captured.len() < limit) {
        let counted = u32::try_from(counted(row_idx, of)).unwrap();
        writer
            .push(&tokens(row_idx, of), counted, &supports(row_idx, of))
            .unwrap();
        captured.push(row_idx);
    }
    captured
}

fn build(dir: &Path, of: &Fingerprint) -> Cache {
    let mut writer = CacheWriter::open(dir, of, ROWS_PER_SHARD).unwrap();
    capture(&mut writer, of, usize::MAX);
    writer.finish().unwrap()
}

/// Rows of a cache, for the tokens that [`fingerprint`] was captured from.
fn read(cache: &Cache, row_idxs: &[usize]) -> Result<Vec<RowSupports>, CacheError> {
    read_for(cache, row_idxs, cache.fingerprint())
}

fn read_for(
    cache: &Cache,
    row_idxs: &[usize],
    of: &Fingerprint,
) -> Result<Vec<RowSupports>, CacheError> {
    let all: Vec<Vec<u32>> = (0..of.num_rows)
        .map(|row_idx| tokens(row_idx, of))
        .collect();
    cache.rows(row_idxs, |row_idx| {
        all.get(row_idx).map_or(&[][..], Vec::as_slice)
    })
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

fn assert_close(got: &RowSupports, want: &RowSupports) {
    assert_eq!((got.top_k, &got.ids), (want.top_k, &want.ids));
    assert_eq!(got.lse, want.lse);
    assert_eq!(got.log_probs.len(), want.log_probs.len());
    for (got, want) in got.log_probs.iter().zip(&want.log_probs) {
        let want = want.max(LOWEST_LOG_PROB);
        assert!(
            (got - want).abs() <= LOG_PROB_ERROR_BOUND,
            "{got} for {want}"
        );
    }
}

#[test]
fn rows_come_back_in_the_order_asked_for() {
    let dir = tempdir().unwrap();
    let cache = build(dir.path(), &fingerprint());
    let row_idxs = [9, 0, 5, 5, 3, 8];
    let rows = read(&cache, &row_idxs).unwrap();
    assert_eq!(rows.len(), row_idxs.len());
    for (row_idx, row) in row_idxs.into_iter().zip(&rows) {
        assert_close(row, &supports(row_idx, &fingerprint()));
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
fn the_whole_vocabulary_leaves_no_tail() {
    let dir = tempdir().unwrap();
    let whole = Fingerprint {
        top_k: 64,
        ..fingerprint()
    };
    let cache = build(dir.path(), &whole);
    assert_close(&read(&cache, &[7]).unwrap()[0], &supports(7, &whole));
    let stat = cache.stat().unwrap();
    assert!((stat.mean_support_mass - 1.0).abs() < 2.5e-4, "{stat:?}");
    assert!((0.0..2.5e-4).contains(&stat.mean_tail_mass), "{stat:?}");
}

#[test]
fn the_statistics_are_those_of_the_teacher() {
    let dir = tempdir().unwrap();
    let of = fingerprint();
    let stat = build(dir.path(), &of).stat().unwrap();
    let (mut mass, mut entropy) = (0.0, 0.0);
    for row_idx in 0..10 {
        let row = supports(row_idx, &of);
        for log_probs in row.log_probs.chunks(5).take(counted(row_idx, &of)) {
            let probs: Vec<f64> = log_probs.iter().map(|l| f64::from(*l).exp()).collect();
            let tail = 1.0 - probs.iter().sum::<f64>();
            mass += 1.0 - tail;
            entropy -= probs.iter().map(|p| p * p.ln()).sum::<f64>() + tail * tail.ln();
        }
    }
    assert_eq!((stat.num_positions, stat.num_counted), (160, 155));
    assert!(
        (stat.mean_support_mass - mass / 155.0).abs() < 1e-4,
        "{stat:?}"
    );
    assert!(
        (stat.mean_tail_mass - (1.0 - mass / 155.0)).abs() < 1e-4,
        "{stat:?}"
    );
    assert!(
        (stat.mean_pooled_entropy_nats - entropy / 155.0).abs() < 1e-3,
        "{stat:?}"
    );
    assert_eq!(stat.column_bytes.len(), 7);
    assert!(stat.column_bytes.values().sum::<u64>() < stat.total_bytes);
}

#[test]
fn a_zipf_like_teacher_takes_less_than_84_bytes_per_position() {
    let dir = tempdir().unwrap();
    let large = Fingerprint {
        sequence_length: 256,
        num_rows: 8,
        vocab_size: 4096,
        top_k: 32,
        temperatures: vec![1.0],
        ..fingerprint()
    };
    let stat = build(dir.path(), &large).stat().unwrap();
    assert!(stat.bytes_per_position < 84.0, "{stat:?}");
}

#[test]
fn the_lowest_log_probability_stands_for_all_below_it() {
    for log_prob in [-32.0, -1e30, f32::NEG_INFINITY] {
        let back = steps_to_log_prob(log_prob_to_steps(log_prob));
        assert_eq!(back.to_bits(), LOWEST_LOG_PROB.to_bits());
    }
    assert_eq!(
        log_prob_to_steps(1e-4),
        0,
        "rounding above one is pulled back"
    );
}

proptest! {
    #[test]
    fn a_log_probability_comes_back_within_the_bound(log_prob in -40.0f32..=0.0) {
        let back = steps_to_log_prob(log_prob_to_steps(log_prob));
        let want = log_prob.max(LOWEST_LOG_PROB);
        prop_assert!((back - want).abs() <= LOG_PROB_ERROR_BOUND, "{} for {}", back, want);
    }

    #[test]
    fn a_cache_of_any_size_comes_back(
        sequence_length in 1usize..20,
        num_rows in 1usize..6,
        (vocab_size, top_k) in (1usize..50).prop_flat_map(|v| (Just(v), 1..=v)),
    ) {
        let sizes = Fingerprint {
            sequence_length, num_rows, vocab_size, top_k, ..fingerprint()
        };
        let dir = tempdir().unwrap();
        let cache = build(dir.path(), &sizes);
        let row_idxs: Vec<usize> = (0..num_rows).collect();
        for (row_idx, row) in read(&cache, &row_idxs).unwrap().iter().enumerate() {
            assert_close(row, &supports(row_idx, &sizes));
        }
    }
}
