//! Tokens a second of a teacher: forward pass, output head and selection of the likeliest 64 ids of each position.
//!
//! ```sh
//! cargo bench --bench capture              # products in f32
//! cargo bench --bench capture -- --bf16    # products in bf16
//! ```
//!
//! The teacher is as large as SmolLM2-135M; its weights are random, which costs the same. `--rows N` (32), `--sequence-length N`
//! (256), `--repeats N` (3) and `--threads N` (all cores). One JSON object goes to stdout; the rate is the median of the repeats.
//! Nothing is compressed or written. `scripts/bench_capture.py` compares with PyTorch.

#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

mod common;

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use alambic::allocator::{self, MiMalloc};
use alambic::cache::SupportPlan;
use alambic::data::TokenRows;
use alambic::device;
use alambic::model::Decoder;
use alambic::random::Stream;
use alambic::student::{ArchitecturePlan, Student, architecture};
use alambic::support::{CountedRow, Supports};
use alambic::teacher::{Selection, rows_per_pass, supports};
use rayon::prelude::*;
use serde_json::json;

use crate::common::{Options, cpu_secs, median, status_mib, whole};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Ids of a support.
const TOP_K: usize = 64;

/// Rows of a batch, as recipes have them by default.
const BATCH_SIZE: usize = 8;

const VOCAB_SIZE: usize = 49_152;

const SMOLLM2_135M: ArchitecturePlan = ArchitecturePlan {
    num_hidden_layers: 30,
    hidden_size: 576,
    num_attention_heads: 9,
    num_key_value_heads: 3,
    intermediate_size: 1536,
    head_dim: 64,
    rope_theta: 1e5,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: true,
    sliding_window: None,
    layer_repeats: 1,
};

fn main() -> Result<(), Box<dyn Error>> {
    allocator::keep_freed_pages();
    let options = Options::of_this_process();
    options.start_threads()?;
    let num_rows = options.number("--rows", 32)?;
    let seq = options.number("--sequence-length", 256)?;
    let repeats = options.number("--repeats", 3)?.max(1);
    let device = device::open("flex")?;
    let arithmetic = options.arithmetic();
    let config = architecture(&SMOLLM2_135M, VOCAB_SIZE, seq, None);
    let weights = Student::fresh(&config, 1, 17, &device).decoder.parameters();
    let mut weights = weights.into_iter().map(|(_, weight)| weight);
    let teacher = Decoder::for_reading(config, arithmetic, |_| {
        weights.next().ok_or("fewer weights than parameters")
    })?;
    let rows = random_rows(num_rows, seq)?;
    let rows: Vec<CountedRow<'_>> = (0..num_rows)
        .map(|idx| CountedRow::of(&rows, idx))
        .collect();
    let passes: Vec<&[CountedRow<'_>]> = rows.chunks(rows_per_pass(BATCH_SIZE, seq)).collect();
    let selection = Selection {
        support: SupportPlan::TopK(TOP_K),
        temperatures: &[1.0],
    };
    let capture = |passes: &[&[CountedRow<'_>]]| -> Vec<Vec<Supports>> {
        let passes = passes.par_iter();
        passes
            .map(|pass| supports(&teacher, pass, &selection))
            .collect()
    };

    let num_first = rayon::current_num_threads().min(passes.len());
    black_box(capture(&passes[..num_first])); // memory that is kept is made once
    let mut secs = Vec::new();
    let cpu_before = cpu_secs()?;
    for _ in 0..repeats {
        let since = Instant::now();
        black_box(capture(&passes));
        secs.push(since.elapsed().as_secs_f64());
    }
    let num_tokens = (num_rows * seq) as f64;
    let figures = json!({
        "arithmetic": arithmetic.to_string(),
        "threads": rayon::current_num_threads(),
        "tokens_per_sec": num_tokens / median(&secs),
        "cpu_secs": (cpu_secs()? - cpu_before) / repeats as f64,
        "peak_mib": status_mib("VmHWM:")?,
        "secs": secs,
    });
    println!("{figures}");
    Ok(())
}

/// Rows in which every position counts.
fn random_rows(num_rows: usize, sequence_length: usize) -> Result<TokenRows, Box<dyn Error>> {
    let mut stream = Stream::new(17, "bench capture");
    let tokens = (0..num_rows * (sequence_length + 1)).map(|_| whole(stream.uniform(), VOCAB_SIZE));
    let counted = vec![u32::try_from(sequence_length)?; num_rows];
    Ok(TokenRows::new(
        sequence_length,
        tokens.collect(),
        counted,
        0,
    ))
}
