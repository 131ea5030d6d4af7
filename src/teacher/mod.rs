//! The teacher: a frozen decoder that gives the support of every position, and its capture into a cache.

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
use crate::data::{Sequence, TokenRows};
use crate::device;
use crate::loss::chunked::for_logits;
use crate::model::{Decoder, DecoderConfig, InputLevels, ParameterSpec, TokenBatch};
use crate::progress::Progress;
use crate::rates;
use crate::support::Supports;

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
    load_teacher(checkpoint, checkpoint.config().vocab_size, device)
}

/// Loads a teacher without the embedding and output rows that no token uses.
///
/// Models are padded to sizes that suit the hardware; their logits for unused ids are noise, and two models of one
/// family may be padded differently.
pub fn load_teacher(
    checkpoint: &Checkpoint,
    num_tokens: usize,
    device: &Device,
) -> Result<Decoder, CheckpointError> {
    load(checkpoint, num_tokens, device, |_, _| Ok(()))
}

/// Loads like [`load_decoder`], and passes each weight to `check` before the next one is read.
pub fn load_checked<E: From<CheckpointError>>(
    checkpoint: &Checkpoint,
    device: &Device,
    check: impl FnMut(&ParameterSpec, &Tensor<2>) -> Result<(), E>,
) -> Result<Decoder, E> {
    load(checkpoint, checkpoint.config().vocab_size, device, check)
}

fn load<E: From<CheckpointError>>(
    checkpoint: &Checkpoint,
    num_tokens: usize,
    device: &Device,
    mut check: impl FnMut(&ParameterSpec, &Tensor<2>) -> Result<(), E>,
) -> Result<Decoder, E> {
    let whole = checkpoint.config();
    let config = DecoderConfig {
        vocab_size: num_tokens.min(whole.vocab_size),
        ..whole.clone()
    };
    let decoder = Decoder::from_parameters(config, |spec| {
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
pub(crate) fn rows_per_pass(batch_size: usize, sequence_length: usize) -> usize {
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
    for group in batches.chunks(at_once) {
        if job.stop.load(atomic::Ordering::Relaxed) {
            progress.finish();
            return Err(CaptureError::Interrupted {
                rows: writer.num_saved_rows(),
                dir: job.dir.to_path_buf(),
            });
        }
        let passes: Vec<&[usize]> = group
            .iter()
            .flat_map(|batch| batch.chunks(rows_per_pass))
            .collect();
        let supports: Vec<Vec<Supports>> = passes
            .par_iter()
            .map(|pass| {
                let rows: Vec<Sequence<'_>> =
                    pass.iter().map(|&row_idx| rows.sequence(row_idx)).collect();
                supports(decoder, &rows, &selection)
            })
            .collect();
        let row_idxs: Vec<usize> = group.concat();
        for (&row_idx, supports) in row_idxs.iter().zip(supports.iter().flatten()) {
            if supports.has_nan() {
                return Err(CaptureError::NotFinite { row: row_idx });
            }
            writer.push(rows.row(row_idx), rows.mask(row_idx), supports)?;
        }
        progress.advance((row_idxs.len() * rows.sequence_length()) as u64);
    }
    progress.finish();
    let text = Text {
        tokens: (missing.len() * rows.sequence_length()) as u64,
        sequence_length: rows.sequence_length(),
    };
    let draws = matches!(selection.support, SupportPlan::Samples { .. });
    rates::note(cost::capture(&decoder.config, text, draws), since.elapsed());
    Ok(writer.finish()?)
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

/// Computes the teacher's support at every position of some rows of equal length. `rows` are whole: the last token of
/// each is not an input, but identifies the row where draws depend on it.
///
/// No autodiff graph is recorded, and logits exist for one chunk of positions at a time.
pub fn supports(
    decoder: &Decoder,
    rows: &[Sequence<'_>],
    selection: &Selection<'_>,
) -> Vec<Supports> {
    let vocab = decoder.config.vocab_size;
    let inputs: Vec<Sequence<'_>> = rows.iter().map(|row| row.inputs()).collect();
    let hidden = decoder.hidden(&TokenBatch::new(&inputs, &decoder.device())); // [B, T, D]
    let [batch, seq, size] = hidden.dims();
    let draws = rows.iter().map(|row| selection.draws(row.tokens()));
    let draws: Vec<RowDraws> = draws.collect();
    let mut positions: Vec<Supports> = Vec::with_capacity(batch * seq);
    for_logits(
        &hidden.reshape([batch * seq, size]),
        &decoder.head(),
        |logits| {
            let first = positions.len();
            let chunk = logits.par_chunks(vocab).enumerate().map(|(place, logits)| {
                let position = first + place;
                selection.select(logits, &draws[position / seq], position % seq)
            });
            positions.par_extend(chunk);
        },
    );
    let mut positions = positions.into_iter();
    let row = |_| {
        let mut row = positions.next()?;
        positions
            .by_ref()
            .take(seq - 1)
            .for_each(|position| row.extend(position));
        Some(row)
    };
    (0..batch).map_while(row).collect()
}
