//! The teacher: a frozen decoder that gives the supports of the positions that count, and its capture into a cache.

mod bench;
mod compare;
mod plan;
mod select;

use std::path::{Path, PathBuf};
use std::sync::atomic::{self, AtomicBool};
use std::time::Instant;

pub use bench::{SupportCost, bench};
use burn::tensor::{Device, Tensor, TensorData};
pub use compare::{CacheComparison, compare};
pub use plan::TeacherPlan;
pub(crate) use plan::{CHECKPOINT, TEACHER};
use rayon::prelude::*;
use select::RowDraws;
pub use select::Selection;
use thiserror::Error;

use crate::cache::{CacheError, CachePart, CacheWriter, SupportPlan, Wanted};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::cost::{self, Text};
use crate::data::{LossMask, PositionSpan, Sequence, TokenRows};
use crate::device;
use crate::kernels::{Arithmetic, QUERIES_AT_ONCE};
use crate::loss::chunked::for_logits;
use crate::loss::counted_rows;
use crate::model::{Decoder, DecoderConfig, InputLevels, ParameterSpec, TokenBatch};
use crate::progress::Progress;
use crate::rates::{self, Work};
use crate::support::{CountedRow, Supports};

/// Reasons for ending a capture early.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The cache returned an error.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The teacher's logits are unusable.
    #[error("the teacher's logits are NaN or infinite in row {row}, and cannot be cached")]
    NotFinite {
        /// The row.
        row: usize,
    },
    /// A signal asked to stop; complete shards are kept.
    #[error(
        "stopped; {rows} rows, in whole shards, are in the cache in {dir}: run the same command to resume"
    )]
    Interrupted {
        /// Rows in complete shards; those of a shard that was begun are captured again.
        rows: usize,
        /// The cache.
        dir: PathBuf,
    },
}

/// Loads a checkpoint's decoder in f32, one tensor at a time.
pub fn load_decoder(checkpoint: &Checkpoint, device: &Device) -> Result<Decoder, CheckpointError> {
    load_teacher(
        checkpoint,
        checkpoint.config().vocab_size,
        Arithmetic::F32,
        device,
    )
}

/// Loads a teacher without the embedding and output rows that no token uses.
///
/// Models are padded to sizes that suit the hardware; their logits for unused ids are noise, and two models of one
/// family may be padded differently.
///
/// With an arithmetic of bf16 it is for forward passes alone, see [`Decoder::for_reading`].
pub fn load_teacher(
    checkpoint: &Checkpoint,
    num_tokens: usize,
    arithmetic: Arithmetic,
    device: &Device,
) -> Result<Decoder, CheckpointError> {
    load(checkpoint, num_tokens, arithmetic, device, |_, _| Ok(()))
}

/// Loads like [`load_decoder`], and passes each weight to `check` before the next one is read.
pub fn load_checked<E: From<CheckpointError>>(
    checkpoint: &Checkpoint,
    device: &Device,
    check: impl FnMut(&ParameterSpec, &Tensor<2>) -> Result<(), E>,
) -> Result<Decoder, E> {
    let num_tokens = checkpoint.config().vocab_size;
    load(checkpoint, num_tokens, Arithmetic::F32, device, check)
}

fn load<E: From<CheckpointError>>(
    checkpoint: &Checkpoint,
    num_tokens: usize,
    arithmetic: Arithmetic,
    device: &Device,
    mut check: impl FnMut(&ParameterSpec, &Tensor<2>) -> Result<(), E>,
) -> Result<Decoder, E> {
    let whole = checkpoint.config();
    let config = DecoderConfig {
        vocab_size: num_tokens.min(whole.vocab_size),
        ..whole.clone()
    };
    let decoder = Decoder::for_reading(config, arithmetic, |spec| {
        let mut weight = checkpoint.values(spec)?;
        weight.truncate(spec.num_elements()); // drops rows that no token uses
        let weight = Tensor::from_data(TensorData::new(weight, spec.shape), device);
        check(spec, &weight)?;
        Ok::<_, E>(weight)
    })?;
    let inputs = InputLevels::of_layers(&checkpoint.schemes(), whole);
    Ok(decoder.with_inputs(inputs))
}

/// Positions in one forward pass on a CPU: enough to keep its units busy, few enough that the activations of a small
/// model stay in a core's cache and take little memory. Measured on SmolLM2-135M with rows of 256 on two cores: 512
/// take as long as 2,048, and use 700 MiB less.
const HOST_POSITIONS: usize = 512;

/// Rows in one forward pass of a capture on a CPU.
pub fn rows_per_pass(batch_size: usize, sequence_length: usize) -> usize {
    (HOST_POSITIONS / sequence_length).clamp(1, batch_size.max(1))
}

/// Captures all rows into a cache, or resumes an interrupted capture.
///
/// Shards are committed one by one; a process killed at any moment loses at most one shard.
pub fn capture(
    decoder: &Decoder,
    rows: &TokenRows,
    wanted: Wanted<'_>,
    job: &CaptureJob<'_>,
) -> Result<(), CaptureError> {
    let mut writer = CacheWriter::open(job.dir, wanted, job.rows_per_shard, job.part)?;
    let selection = Selection::of(wanted.fingerprint);
    let missing = writer.missing_rows();
    let mut progress = Progress::new(
        job.label,
        (writer.num_rows() * rows.sequence_length()) as u64,
    );
    progress.resume_at(((writer.num_rows() - missing.len()) * rows.sequence_length()) as u64);
    let at_once = device::parallelism(&decoder.device());
    let rows_per_pass = if device::is_host(&decoder.device()) {
        rows_per_pass(job.batch_size, rows.sequence_length())
    } else {
        job.batch_size
    };
    // A batch never crosses a shard: its shape may change the last bits, and a resumed capture starts at a shard.
    let batches: Vec<&[usize]> = missing
        .chunk_by(|a, b| a / job.rows_per_shard == b / job.rows_per_shard)
        .flat_map(|shard| shard.chunks(job.batch_size))
        .collect();
    let since = Instant::now();
    let mut amount = Amount::default();
    for group in batches.chunks(at_once) {
        if job.stop.load(atomic::Ordering::Relaxed) {
            progress.finish();
            return Err(CaptureError::Interrupted {
                rows: writer.num_saved_rows(),
                dir: job.dir.to_path_buf(),
            });
        }
        let row_idxs = group.concat();
        let spans = row_idxs
            .iter()
            .map(|&row_idx| writer.positions(row_idx, rows.mask(row_idx)));
        let spans: Vec<Vec<PositionSpan>> = spans.collect::<Result<_, _>>()?;
        let counted = counted_rows_of(rows, &row_idxs, &spans);
        let passes = passes_of(&counted, group, rows_per_pass);
        let supports = passes
            .par_iter()
            .map(|pass| supports(decoder, pass, &selection));
        let supports: Vec<Vec<Supports>> = supports.collect();
        let pushed = row_idxs.iter().zip(&counted);
        for ((&row_idx, &row), supports) in pushed.zip(supports.iter().flatten()) {
            if supports.has_nan() {
                return Err(CaptureError::NotFinite { row: row_idx });
            }
            writer.push(row, supports)?;
        }
        amount.add(decoder, &passes);
        progress.advance((row_idxs.len() * rows.sequence_length()) as u64);
    }
    progress.finish();
    rates::note(amount.work(decoder, rows, &selection), since.elapsed());
    Ok(writer.finish()?)
}

fn counted_rows_of<'r>(
    rows: &'r TokenRows,
    row_idxs: &[usize],
    spans: &'r [Vec<PositionSpan>],
) -> Vec<CountedRow<'r>> {
    let pairs = row_idxs.iter().zip(spans);
    pairs
        .map(|(&row_idx, spans)| CountedRow {
            sequence: rows.sequence(row_idx),
            mask: LossMask::checked(spans),
        })
        .collect()
}

/// Rows of batches, in passes of at most so many rows of one batch.
fn passes_of<'r, 'c>(
    mut counted: &'c [CountedRow<'r>],
    batches: &[&[usize]],
    rows_per_pass: usize,
) -> Vec<&'c [CountedRow<'r>]> {
    let mut passes = Vec::new();
    for pass in batches.iter().flat_map(|batch| batch.chunks(rows_per_pass)) {
        let (pass, rest) = counted.split_at(pass.len());
        passes.push(pass);
        counted = rest;
    }
    passes
}

/// Positions that a capture has run.
#[derive(Default)]
struct Amount {
    /// Through the layers.
    num_read: u64,
    /// Through the output head.
    num_counted: u64,
}

impl Amount {
    fn add(&mut self, decoder: &Decoder, passes: &[&[CountedRow<'_>]]) {
        let num_read = |pass: &&[CountedRow<'_>]| (pass.len() * num_read(decoder, pass)) as u64;
        self.num_read += passes.iter().map(num_read).sum::<u64>();
        let rows = passes.iter().copied().flatten();
        self.num_counted += rows.map(|row| row.mask.count() as u64).sum::<u64>();
    }

    fn work(&self, decoder: &Decoder, rows: &TokenRows, selection: &Selection<'_>) -> Work {
        let text = Text {
            tokens: self.num_read,
            sequence_length: rows.sequence_length(),
        };
        let draws = matches!(selection.support, SupportPlan::Samples { .. });
        cost::capture(
            &decoder.config,
            decoder.arithmetic(),
            text,
            self.num_counted,
            draws,
        )
    }
}

/// Location and settings of a capture; nothing here changes the captured values.
pub struct CaptureJob<'a> {
    /// Folder of the cache.
    pub dir: &'a Path,
    /// Rows in one forward pass; on a CPU, rows that each core gets at a time.
    pub batch_size: usize,
    /// Rows per shard.
    pub rows_per_shard: usize,
    /// Part of the shards to capture; `None` captures all.
    pub part: Option<CachePart>,
    /// Name in progress messages.
    pub label: &'a str,
    /// Set by the first signal.
    pub stop: &'a AtomicBool,
}

/// Computes the teacher's supports of the counted positions of some rows of equal length. The last token of a row is not an
/// input, but identifies the row where draws depend on it.
///
/// All tokens that a counted position sees run through the layers, and only the counted positions of all rows together
/// through the output head. No autodiff graph is recorded, and logits exist for one chunk of positions at a time.
pub fn supports(
    decoder: &Decoder,
    rows: &[CountedRow<'_>],
    selection: &Selection<'_>,
) -> Vec<Supports> {
    let mut found: Vec<Supports> = rows.iter().map(|_| selection.none()).collect();
    let seq = num_read(decoder, rows);
    if seq == 0 {
        return found;
    }
    let vocab = decoder.config.vocab_size;
    let batch = token_batch(rows, seq, &decoder.device());
    let hidden = decoder.hidden(&batch); // [B, T, D]
    let [_, _, size] = hidden.dims();
    let counts: Vec<bool> = rows.iter().flat_map(|row| row.mask.flags(seq)).collect();
    let hidden = hidden.reshape([counts.len(), size]);
    let hidden = counted_rows(&hidden, &counts); // [P, D]
    let draws = rows
        .iter()
        .map(|row| selection.draws(row.sequence.tokens()));
    let draws: Vec<RowDraws> = draws.collect();
    let places = rows.iter().enumerate();
    let places =
        places.flat_map(|(row, counted)| counted.mask.positions().map(move |at| (row, at)));
    let places: Vec<(usize, usize)> = places.collect();
    let mut rest = places.as_slice();
    for_logits(&hidden, &decoder.head(), |logits| {
        let (chunk, after) = rest.split_at(logits.len() / vocab);
        rest = after;
        let selected = logits.par_chunks(vocab).zip(chunk);
        let selected: Vec<Supports> = selected
            .map(|(logits, &(row, at))| selection.select(logits, &draws[row], at))
            .collect();
        for (support, &(row, _)) in selected.into_iter().zip(chunk) {
            found[row].extend(support);
        }
    });
    found
}

/// Positions of each row that are read in a pass: those that counted positions of any row see, for on a CPU the values of
/// these are then the same bits. Attention computes some queries at once, and these are kept together: products of other
/// shapes may sum in another order. Other devices choose their kernels by shapes, so that each length would be searched for
/// its own, and would have its own last bits. Where rotary positions depend on how many are read, all are, too.
fn num_read(decoder: &Decoder, rows: &[CountedRow<'_>]) -> usize {
    let ends = rows.iter().filter_map(|row| {
        let last = row.mask.spans().last()?.end as usize - 1;
        let mut documents = row.sequence.inputs().documents();
        let document = documents.find(|document| document.contains(&last))?;
        let num_read = (last - document.start + 1).next_multiple_of(QUERIES_AT_ONCE);
        Some(document.end.min(document.start + num_read))
    });
    let Some(end) = ends.max() else {
        return 0;
    };
    let depends_on_length = decoder.config.rope.scaling.depends_on_length();
    if device::is_host(&decoder.device()) && !depends_on_length {
        return end;
    }
    let inputs = rows.iter().map(|row| row.sequence.inputs().tokens().len());
    inputs.max().unwrap_or(0)
}

/// The first positions of rows.
fn token_batch(rows: &[CountedRow<'_>], num_positions: usize, device: &Device) -> TokenBatch {
    let starts: Vec<Vec<u32>> = rows
        .iter()
        .map(|row| {
            let starts = row.sequence.documents().map(|document| document.start);
            let starts = starts.take_while(|&start| start < num_positions);
            let to_u32 = |start| u32::try_from(start).expect("starts are given as 32 bits");
            starts.map(to_u32).collect()
        })
        .collect();
    let inputs: Vec<Sequence<'_>> = rows
        .iter()
        .zip(&starts)
        .map(|(row, starts)| Sequence::packed(&row.sequence.tokens()[..num_positions], starts))
        .collect();
    TokenBatch::new(&inputs, device)
}
