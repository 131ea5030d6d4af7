//! Positions a second that a cache gives to a training: read from its shards on all cores, and decoded alone on one.
//!
//! ```sh
//! cargo bench --bench decode
//! ```
//!
//! A cache of made-up supports, the likeliest 64 of 49,152 ids of each position, is written to a temporary folder. Their
//! probabilities fall with the rank, in some positions faster than in others, and low ids are likelier, as in a tokenizer's
//! vocabulary. `--rows N` (256), `--sequence-length N` (256), `--repeats N` (5) and `--threads N` (all cores). One JSON object
//! goes to stdout; rates are medians of the repeats. `alambic cache bench` has the same second figure for a real teacher.

#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

mod common;

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use alambic::allocator::{self, MiMalloc};
use alambic::cache::{Cache, CacheWriter, Fingerprint, SupportPlan, TokenHashes, Trial, Wanted};
use alambic::data::TokenRows;
use alambic::kernels::Arithmetic;
use alambic::random::Stream;
use alambic::support::{CountedRow, LogSumExps, Supports, TopKSupports};
use serde_json::json;

use crate::common::{Options, median, single, whole};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Ids of a support.
const TOP_K: usize = 64;

const VOCAB_SIZE: usize = 49_152;

/// Rows per shard, as recipes have them by default.
const ROWS_PER_SHARD: usize = 128;

/// Rows that a training reads at once: those of a step of 2,048 positions in rows of 256.
const ROWS_AT_ONCE: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    allocator::keep_freed_pages();
    let options = Options::of_this_process();
    options.start_threads()?;
    let num_rows = options.number("--rows", 256)?;
    let seq = options.number("--sequence-length", 256)?;
    let repeats = options.number("--repeats", 5)?.max(1);
    let mut stream = Stream::new(17, "bench decode");
    let rows = random_rows(num_rows, seq, &mut stream)?;
    let supports: Vec<Supports> = (0..num_rows)
        .map(|_| random_supports(seq, &mut stream))
        .collect();
    let fingerprint = Fingerprint {
        version: Fingerprint::VERSION,
        teacher_weights: "1".repeat(64),
        tokenizer: "2".repeat(64),
        precision: Arithmetic::F32,
        sequence_length: seq,
        vocab_size: VOCAB_SIZE,
        support: SupportPlan::TopK(TOP_K),
        temperatures: vec![1.0],
    };
    let dir = tempfile::tempdir()?;
    let cache = written(dir.path(), &fingerprint, &rows, &supports)?;

    let row_idxs: Vec<usize> = (0..num_rows).collect();
    let read = || {
        row_idxs.chunks(ROWS_AT_ONCE).try_for_each(|row_idxs| {
            black_box(cache.rows(row_idxs, |row_idx| CountedRow::of(&rows, row_idx))?);
            Ok::<_, Box<dyn Error>>(())
        })
    };
    read()?; // checksums are compared once
    let shard = supports.iter().take(ROWS_PER_SHARD).enumerate();
    let entries: Vec<(CountedRow<'_>, &Supports)> = shard
        .map(|(row_idx, supports)| (CountedRow::of(&rows, row_idx), supports))
        .collect();
    let trial = Trial::of(&fingerprint, &entries)?;
    let in_trial = (entries.len() * seq) as f64;
    let (mut read_rates, mut decode_rates) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        let since = Instant::now();
        read()?;
        read_rates.push((num_rows * seq) as f64 / since.elapsed().as_secs_f64());
        let since = Instant::now();
        black_box(trial.decode());
        decode_rates.push(in_trial / since.elapsed().as_secs_f64());
    }
    let figures = json!({
        "threads": rayon::current_num_threads(),
        "read_per_sec": median(&read_rates),
        "decoded_per_sec_on_one_core": median(&decode_rates),
        "bytes_per_position": trial.rows_bytes as f64 / in_trial,
    });
    println!("{figures}");
    Ok(())
}

/// Writes a cache and opens it.
fn written(
    dir: &Path,
    fingerprint: &Fingerprint,
    rows: &TokenRows,
    supports: &[Supports],
) -> Result<Cache, Box<dyn Error>> {
    let sequences = (0..rows.num_rows()).map(|row_idx| rows.sequence(row_idx));
    let tokens = TokenHashes::of(sequences);
    let wanted = Wanted {
        fingerprint,
        tokens: &tokens,
        mask: &|row_idx| rows.mask(row_idx),
    };
    let mut writer = CacheWriter::open(dir, wanted, ROWS_PER_SHARD, None)?;
    for (row_idx, supports) in supports.iter().enumerate() {
        writer.push(CountedRow::of(rows, row_idx), supports)?;
    }
    writer.finish()?;
    Ok(Cache::open(dir, wanted)?)
}

/// Rows in which every position counts.
fn random_rows(
    num_rows: usize,
    sequence_length: usize,
    stream: &mut Stream,
) -> Result<TokenRows, Box<dyn Error>> {
    let tokens = (0..num_rows * (sequence_length + 1)).map(|_| likely_id(stream));
    let tokens = tokens.collect();
    let counted = vec![u32::try_from(sequence_length)?; num_rows];
    Ok(TokenRows::new(sequence_length, tokens, counted, 0))
}

/// An id; its probability falls faster than its inverse. So a position takes some 115 bytes; one of SmolLM2-135M takes about 102.
fn likely_id(stream: &mut Stream) -> u32 {
    let power = (VOCAB_SIZE as f64).powf(stream.uniform().powi(2));
    whole(power / VOCAB_SIZE as f64, VOCAB_SIZE)
}

/// Supports of a row. The probability of rank `r` is as `r⁻ᵃ`, with an exponent of the position and some noise.
fn random_supports(num_positions: usize, stream: &mut Stream) -> Supports {
    let (mut all_ids, mut all_log_probs) = (Vec::new(), Vec::new());
    for _ in 0..num_positions {
        let exponent = 1.1 + 1.4 * stream.uniform();
        let weight = |rank: usize, noise: f64| (-exponent * (rank as f64).ln() + noise).exp();
        let kept: Vec<f64> = (1..=TOP_K)
            .map(|rank| weight(rank, 0.3 * stream.normal()))
            .collect();
        let tail = weight(TOP_K, 0.0) * TOP_K as f64 / (exponent - 1.0);
        let total = kept.iter().sum::<f64>() + tail;
        let mut position = BTreeMap::new();
        for weight in kept {
            let mut id = likely_id(stream);
            while position.contains_key(&id) {
                id = likely_id(stream);
            }
            position.insert(id, single((weight / total).ln()));
        }
        all_ids.extend(position.keys());
        all_log_probs.extend(position.values());
    }
    Supports::TopK(TopKSupports {
        top_k: TOP_K,
        ids: all_ids,
        log_probs: all_log_probs,
        lse: vec![LogSumExps {
            temperature: 1.0,
            of_positions: vec![0.0; num_positions],
        }],
    })
}
