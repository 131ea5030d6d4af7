//! The teacher: a frozen decoder that tells the support of every position, and its capture into a cache.

use std::path::{Path, PathBuf};
use std::sync::atomic::{self, AtomicBool};

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use thiserror::Error;

use crate::cache::{Cache, CacheError, CacheWriter, Fingerprint, RowSupports};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::data::TokenRows;
use crate::device;
use crate::loss::chunked::for_logits;
use crate::loss::{likeliest, log_sum_exp};
use crate::model::{Decoder, DecoderConfig, ParameterKind, ParameterSpec, ids_tensor};
use crate::progress::Progress;

/// Why a capture ended early.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The cache refused.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A signal asked to stop; whole shards are kept.
    #[error("stopped after {rows} rows of the cache in {dir}; run the same command to go on")]
    Interrupted {
        /// Rows captured so far, those of unfinished shards included.
        rows: usize,
        /// The cache.
        dir: PathBuf,
    },
}

/// Loads a checkpoint's decoder in f32, one tensor at a time.
pub fn load_decoder(checkpoint: &Checkpoint, device: &Device) -> Result<Decoder, CheckpointError> {
    Decoder::from_parameters(checkpoint.config().clone(), |spec| {
        let weight = checkpoint.weight(spec)?;
        Ok(Tensor::from_data(
            TensorData::new(weight, spec.shape),
            device,
        ))
    })
}

/// Loads a teacher without the rows of its embedding and output matrix that no token uses.
///
/// Models are padded to sizes that suit the hardware; what such a model gives to ids that mean nothing is noise, and
/// two models of one family may be padded differently.
pub fn load_teacher(
    checkpoint: &Checkpoint,
    num_tokens: usize,
    device: &Device,
) -> Result<Decoder, CheckpointError> {
    let whole = checkpoint.config();
    let config = DecoderConfig {
        vocab_size: num_tokens.min(whole.vocab_size),
        ..whole.clone()
    };
    Decoder::from_parameters(config, |spec| {
        let mut weight = match spec.kind {
            ParameterKind::Embedding | ParameterKind::Head => {
                checkpoint.weight(&ParameterSpec {
                    shape: [whole.vocab_size, spec.shape[1]],
                    ..spec.clone()
                })?
            }
            _ => checkpoint.weight(spec)?,
        };
        weight.truncate(spec.num_elements());
        Ok(Tensor::from_data(
            TensorData::new(weight, spec.shape),
            device,
        ))
    })
}

/// Positions in one forward pass on a CPU: enough to keep its units busy, few enough that the activations of a small
/// model stay in a core's cache and take little memory. Measured on SmolLM2-135M with rows of 256 on two cores: 512 take
/// as long as 2,048, and 700 MiB less.
const HOST_POSITIONS: usize = 512;

/// Captures all rows into a cache, or goes on where an earlier process stopped.
///
/// Whole shards are committed one by one; a process killed at any instant loses one shard at most.
pub fn capture(
    decoder: &Decoder,
    rows: &TokenRows,
    fingerprint: &Fingerprint,
    job: &CaptureJob<'_>,
) -> Result<Cache, CaptureError> {
    let mut writer = CacheWriter::open(job.dir, fingerprint, job.rows_per_shard)?;
    let missing = writer.missing_rows();
    let mut progress = Progress::new(job.label, (rows.num_rows() * rows.sequence_length()) as u64);
    progress.resume_at(((rows.num_rows() - missing.len()) * rows.sequence_length()) as u64);
    let at_once = device::parallelism(&decoder.device());
    let rows_per_pass = if device::is_host(&decoder.device()) {
        (HOST_POSITIONS / rows.sequence_length()).max(1)
    } else {
        job.batch_size
    };
    let mut done = rows.num_rows() - missing.len();
    // A batch never crosses a shard: its shape may move the last bits, and a resumed capture starts at a shard.
    let batches: Vec<&[usize]> = missing
        .chunk_by(|a, b| a / job.rows_per_shard == b / job.rows_per_shard)
        .flat_map(|shard| shard.chunks(job.batch_size))
        .collect();
    for group in batches.chunks(at_once) {
        if job.stop.load(atomic::Ordering::Relaxed) {
            progress.finish();
            return Err(CaptureError::Interrupted {
                rows: done,
                dir: job.dir.to_path_buf(),
            });
        }
        let passes: Vec<&[usize]> = group
            .iter()
            .flat_map(|batch| batch.chunks(rows_per_pass))
            .collect();
        let supports: Vec<Vec<RowSupports>> = passes
            .par_iter()
            .map(|pass| {
                let inputs: Vec<&[u32]> =
                    pass.iter().map(|&row_idx| rows.inputs(row_idx)).collect();
                supports(
                    decoder,
                    &inputs,
                    fingerprint.top_k,
                    &fingerprint.temperatures,
                )
            })
            .collect();
        let row_idxs: Vec<usize> = group.concat();
        for (&row_idx, supports) in row_idxs.iter().zip(supports.iter().flatten()) {
            let counted =
                u32::try_from(rows.counted(row_idx)).expect("a row has fewer than 2^32 positions");
            writer.push(rows.row(row_idx), counted, supports)?;
        }
        done += row_idxs.len();
        progress.advance((row_idxs.len() * rows.sequence_length()) as u64);
    }
    progress.finish();
    Ok(writer.finish()?)
}

/// Where and how a capture runs; nothing here changes what is captured.
pub struct CaptureJob<'a> {
    /// Folder of the cache.
    pub dir: &'a Path,
    /// Rows in one forward pass; on a CPU, rows that each core is given at a time.
    pub batch_size: usize,
    /// Rows per shard.
    pub rows_per_shard: usize,
    /// Name in progress.
    pub label: &'a str,
    /// Set by the first signal.
    pub stop: &'a AtomicBool,
}

/// The teacher's `top_k` at every position of some rows of equal length, with its log-sum-exp at each
/// temperature.
///
/// No graph is recorded, and logits live for one chunk of positions. The likeliest ids are selected, not
/// sorted out of the whole vocabulary; of equals the lower id is kept.
pub fn supports(
    decoder: &Decoder,
    rows: &[&[u32]],
    top_k: usize,
    temperatures: &[f64],
) -> Vec<RowSupports> {
    let vocab = decoder.config.vocab_size;
    let top_k = top_k.min(vocab);
    let hidden = decoder.hidden(ids_tensor(rows, &decoder.device())); // [B, T, D]
    let [batch, seq, size] = hidden.dims();
    let mut positions: Vec<PositionSupport> = Vec::with_capacity(batch * seq);
    for_logits(
        &hidden.reshape([batch * seq, size]),
        &decoder.head(),
        |logits| {
            positions.par_extend(
                logits
                    .par_chunks(vocab)
                    .map(|row| position_support(row, top_k, temperatures)),
            );
        },
    );
    positions
        .chunks(seq)
        .map(|positions| RowSupports {
            top_k,
            ids: positions
                .iter()
                .flat_map(|position| position.ids.iter().copied())
                .collect(),
            log_probs: positions
                .iter()
                .flat_map(|position| position.log_probs.iter().copied())
                .collect(),
            lse: (0..temperatures.len())
                .map(|temperature| {
                    positions
                        .iter()
                        .map(|position| position.lse[temperature])
                        .collect()
                })
                .collect(),
        })
        .collect()
}

struct PositionSupport {
    ids: Vec<u32>,
    log_probs: Vec<f32>,
    lse: Vec<f32>,
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "temperatures are f32 in arithmetic"
)]
fn position_support(logits: &[f32], top_k: usize, temperatures: &[f64]) -> PositionSupport {
    let plain = log_sum_exp(logits, 1.0);
    let ids = likeliest(logits, top_k);
    let log_probs = ids.iter().map(|&id| logits[id as usize] - plain).collect();
    let lse = |&temperature: &f64| match temperature as f32 {
        1.0 => 0.0, // log-probabilities are normalised at 1
        temperature => log_sum_exp(logits, temperature) - plain / temperature,
    };
    PositionSupport {
        ids,
        log_probs,
        lse: temperatures.iter().map(lse).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_support_is_the_likeliest_ids_in_ascending_order_with_exact_log_sum_exps() {
        let logits = [0.0, 3.0, 1.0, 3.0, -2.0];
        let got = position_support(&logits, 3, &[1.0, 2.0]);
        assert_eq!(got.ids, [1, 2, 3]);
        let sum: f64 = logits.iter().map(|z| f64::from(*z).exp()).sum();
        for (id, log_prob) in got.ids.iter().zip(&got.log_probs) {
            assert!(
                (f64::from(*log_prob) - (f64::from(logits[*id as usize]) - sum.ln())).abs() < 2e-6
            );
        }
        assert!(got.lse[0].abs() < 1e-6);
        let softened: f64 = logits
            .iter()
            .map(|z| (f64::from(*z) / 2.0 - sum.ln() / 2.0).exp())
            .sum();
        assert!((f64::from(got.lse[1]) - softened.ln()).abs() < 1e-6);
    }

    #[test]
    fn of_equal_logits_the_lower_id_is_kept() {
        assert_eq!(position_support(&[1.0; 6], 2, &[1.0]).ids, [0, 1]);
        assert_eq!(
            position_support(&[1.0; 6], 6, &[1.0]).ids,
            [0, 1, 2, 3, 4, 5]
        );
    }
}
