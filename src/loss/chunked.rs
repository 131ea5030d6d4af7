//! The loss through the output matrix, in chunks of positions.
//!
//! Logits of all positions would be the largest tensor of a training step by far ([2048, 49152] in f32 is
//! 400 MB, and autodiff keeps several). Here they live for one chunk: product, loss and slope row by row,
//! two products back, gone.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use super::LossSums;
use super::row::{LossSpec, RowTarget, loss_row};
use super::statistics::{RowStatistics, row_statistics};
use crate::model::Head;

/// Logits held at a time; two chunks of this many f32 are the memory of the loss.
const CHUNK_LOGITS: usize = 1 << 22;

/// Loss over hidden states and its gradients.
pub struct HeadGradients {
    /// Sums over the counted positions.
    pub sums: LossSums,
    /// d total / d hidden, `[P, D]`: of the *sum*, not of the mean.
    pub hidden: Tensor<2>,
    /// d total / d output weight, `[V, D]`.
    pub weight: Tensor<2>,
}

/// Loss of all positions and its gradients with respect to hidden states and output matrix.
///
/// Where the head bends the logits (a soft-cap), the slope of the bend enters with the loss's own.
///
/// A position whose target is `None` does not count: no loss, no gradient. Gradients are those of the sum over
/// counted positions; the caller divides by the number counted in the whole optimizer step, so that
/// neither chunks nor micro-batches change them.
///
/// # Shapes
///
/// - `hidden`: `[P, D]`, without autodiff
/// - `head`: its weight `[V, D]`, without autodiff
/// - `targets`: `P` entries
pub fn head_gradients(
    hidden: &Tensor<2>,
    head: &Head,
    targets: &[Option<RowTarget<'_>>],
    spec: &LossSpec,
) -> HeadGradients {
    let [vocab, _] = head.weight.dims();
    let mut sums = LossSums::default();
    let mut hidden_gradients = Vec::new();
    let mut weight_gradient: Option<Tensor<2>> = None;
    for_chunks(hidden, vocab, targets, |chunk, targets| {
        let logits = head.logits(chunk.clone()); // [P, V]
        let bend = head.slope(&logits);
        let mut logits = read(logits);
        let rows: Vec<LossSums> = logits
            .par_chunks_mut(vocab)
            .zip(targets)
            .map_init(
                || vec![0.0; vocab],
                |scratch, (row, target)| {
                    if let Some(target) = target {
                        loss_row(row, scratch, *target, spec)
                    } else {
                        row.fill(0.0);
                        LossSums::default()
                    }
                },
            )
            .collect();
        sums = rows.into_iter().fold(sums, LossSums::plus);
        let slopes = tensor(logits, [targets.len(), vocab], &chunk.device()); // [P, V]
        let slopes = match bend {
            Some(bend) => slopes * bend,
            None => slopes,
        };
        hidden_gradients.push(slopes.clone().matmul(head.weight.clone()));
        let part = slopes.transpose().matmul(chunk); // [V, D]
        weight_gradient = Some(match weight_gradient.take() {
            Some(total) => total + part,
            None => part,
        });
    });
    HeadGradients {
        sums,
        hidden: Tensor::cat(hidden_gradients, 0),
        weight: weight_gradient.unwrap_or_else(|| head.weight.zeros_like()),
    }
}

/// Statistics of every position with a target, in order.
///
/// # Shapes
///
/// As in [`head_gradients`].
pub fn head_statistics(
    hidden: &Tensor<2>,
    head: &Head,
    targets: &[Option<RowTarget<'_>>],
) -> Vec<Option<RowStatistics>> {
    let [vocab, _] = head.weight.dims();
    let mut statistics = Vec::with_capacity(targets.len());
    for_chunks(hidden, vocab, targets, |chunk, targets| {
        let mut logits = read(head.logits(chunk));
        let rows = logits.par_chunks_mut(vocab).zip(targets);
        let rows: Vec<_> = rows
            .map(|(row, target)| target.map(|target| row_statistics(row, target)))
            .collect();
        statistics.extend(rows);
    });
    statistics
}

/// Calls `visit` with the logits of chunks of positions, row by row, `[chunk, V]`.
pub fn for_logits(hidden: &Tensor<2>, head: &Head, mut visit: impl FnMut(&mut [f32])) {
    let [positions, _] = hidden.dims();
    let [vocab, _] = head.weight.dims();
    let no_targets = vec![None; positions];
    for_chunks(hidden, vocab, &no_targets, |chunk, _| {
        visit(&mut read(head.logits(chunk)));
    });
}

fn for_chunks<'t, 'a>(
    hidden: &Tensor<2>,
    vocab: usize,
    targets: &'t [Option<RowTarget<'a>>],
    mut visit: impl FnMut(Tensor<2>, &'t [Option<RowTarget<'a>>]),
) {
    let [positions, _] = hidden.dims();
    assert_eq!(targets.len(), positions, "one target for each position");
    let chunk_size = (CHUNK_LOGITS / vocab).max(1);
    for start in (0..positions).step_by(chunk_size) {
        let size = chunk_size.min(positions - start);
        visit(
            hidden.clone().narrow(0, start, size),
            &targets[start..start + size],
        );
    }
}

fn read(logits: Tensor<2>) -> Vec<f32> {
    logits
        .try_into_vec_as::<f32>()
        .expect("a product of f32 matrices is f32 and finite in size")
}

fn tensor(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), device)
}
