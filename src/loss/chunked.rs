//! The loss through the output matrix, in chunks of positions.
//!
//! Logits of all positions would be by far the largest tensor of a training step ([2048, 49152] in f32 is
//! 400 MB, and autodiff keeps several). Here they exist for one chunk at a time: product, loss and slope row by
//! row, two products back, freed.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use super::counted::{at_their_places, counted_rows, rows_at};
use super::row::{RowTarget, loss_row};
use super::spec::LossSpec;
use super::statistics::{RowStatistics, row_statistics};
use super::sums::{LossSums, PendingSums};
use super::tensors::{Losses, losses};
use crate::device::ReadBack;
use crate::kernels::{Arithmetic, add_product, product};
use crate::model::Head;

/// Logits held at a time, 16 MiB: 85 positions of a vocabulary of 49,152. Each chunk reads the whole output matrix, so
/// fewer positions cost more. The loss needs the memory of one chunk beside its gradients.
const CHUNK_LOGITS: usize = 1 << 22;

/// Logits held at a time by a head. In bf16 a product takes half the time, and a chunk reads and writes the gradient of the
/// output matrix as before, so chunks are larger.
fn chunk_logits(head: &Head) -> usize {
    match head.weight.arithmetic() {
        Arithmetic::F32 => CHUNK_LOGITS,
        Arithmetic::Bf16(_) => 4 * CHUNK_LOGITS,
    }
}

/// Loss over hidden states and its gradients.
pub struct HeadGradients {
    /// Sums over the counted positions.
    pub sums: PendingSums,
    /// d total / d hidden, `[P, D]`: of the *sum*, not of the mean.
    pub hidden: Tensor<2>,
    /// d total / d output weight, `[V, D]`.
    pub weight: Tensor<2>,
}

/// Loss of all positions and its gradients with respect to hidden states and output matrix.
///
/// Where the head bends the logits (a soft-cap), gradients include the slope of the bend.
///
/// A position whose target is `None` does not count: no loss, no gradient, whatever its hidden state holds (0 times
/// NaN would be NaN, so it is left out of the products). Gradients are of the sum over counted positions. The caller
/// divides by the number counted in the whole optimizer step, so that neither chunks nor micro-batches change them.
///
/// Where reading is free, rows go through [`loss_row`] on all cores. Where it stalls, logits stay on the device, and
/// the loss and its sums are a chain of tensor operations.
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
    read_back: ReadBack,
) -> HeadGradients {
    let chunks = Chunks {
        num_logits: chunk_logits(head),
        read_back,
    };
    gradients_in_chunks(hidden, head, targets, spec, chunks)
}

/// Size of the chunks of positions, and whether the host reads their logits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunks {
    /// Most logits at a time, but at least those of one position.
    pub(super) num_logits: usize,
    pub(super) read_back: ReadBack,
}

/// Same as [`head_gradients`], in the given chunks.
pub(super) fn gradients_in_chunks(
    hidden: &Tensor<2>,
    head: &Head,
    targets: &[Option<RowTarget<'_>>],
    spec: &LossSpec,
    chunks: Chunks,
) -> HeadGradients {
    let counted: Vec<RowTarget<'_>> = targets.iter().copied().flatten().collect();
    if counted.is_empty() {
        return HeadGradients {
            sums: PendingSums::default(),
            hidden: hidden.zeros_like(),
            weight: head.weight.tensor().zeros_like(),
        };
    }
    let is_counted: Vec<bool> = targets.iter().map(Option::is_some).collect();
    let rows = counted_rows(hidden, &is_counted);
    let got = counted_gradients(&rows, head, &counted, spec, chunks);
    HeadGradients {
        hidden: at_their_places(got.hidden, &is_counted),
        ..got
    }
}

/// Gradients where every position counts, and there is at least one.
fn counted_gradients(
    hidden: &Tensor<2>,
    head: &Head,
    targets: &[RowTarget<'_>],
    spec: &LossSpec,
    chunks: Chunks,
) -> HeadGradients {
    let [vocab, _] = head.weight.tensor().dims();
    let mut known = LossSums::default();
    let mut terms: Option<Tensor<1>> = None;
    let mut hidden_gradients = Vec::new();
    let mut weight_gradient: Option<Tensor<2>> = None;
    for_chunks(
        hidden,
        vocab,
        targets,
        chunks.num_logits,
        |chunk, targets| {
            let logits = head.logits(chunk.clone()); // [P, V]
            let bend = head.slope(&logits);
            let slopes = match chunks.read_back {
                ReadBack::Free => {
                    let (rows, slopes) = row_losses(logits, targets, spec);
                    known = rows.into_iter().fold(known, LossSums::plus);
                    slopes
                }
                ReadBack::Stalls => {
                    let Losses {
                        terms: part,
                        slopes,
                    } = losses(logits, targets, spec);
                    terms = Some(match terms.take() {
                        Some(terms) => terms + part,
                        None => part,
                    });
                    slopes
                }
            };
            let slopes = match bend {
                Some(bend) => slopes * bend,
                None => slopes,
            };
            hidden_gradients.push(head.weight.slope_of_input(slopes.clone()));
            let arithmetic = head.weight.arithmetic();
            let slopes = slopes.transpose();
            let total = match weight_gradient.take() {
                Some(total) => add_product(total, slopes, chunk, arithmetic),
                None => product(slopes, chunk, arithmetic),
            };
            weight_gradient = Some(total); // [V, D]
        },
    );
    let sums = match terms {
        Some(terms) => PendingSums::on_device(terms, spec.weights, targets.len() as u64),
        None => known.into(),
    };
    HeadGradients {
        sums,
        hidden: Tensor::cat(hidden_gradients, 0),
        weight: weight_gradient.expect("at least one position was visited"),
    }
}

/// Loss and slopes of each position, row by row on the host.
fn row_losses(
    logits: Tensor<2>,
    targets: &[RowTarget<'_>],
    spec: &LossSpec,
) -> (Vec<LossSums>, Tensor<2>) {
    let ([_, vocab], device) = (logits.dims(), logits.device());
    let mut logits = read(logits);
    let rows = logits
        .par_chunks_mut(vocab)
        .zip(targets)
        .map_init(
            || vec![0.0; vocab],
            |scratch, (row, target)| loss_row(row, scratch, *target, spec),
        )
        .collect();
    (rows, tensor(logits, [targets.len(), vocab], &device)) // [P, V]
}

/// Statistics of every position with a target, in order.
///
/// # Shapes
///
/// Same as in [`head_gradients`].
pub fn head_statistics(
    hidden: &Tensor<2>,
    head: &Head,
    targets: &[Option<RowTarget<'_>>],
) -> Vec<Option<RowStatistics>> {
    let [vocab, _] = head.weight.tensor().dims();
    let mut statistics = Vec::with_capacity(targets.len());
    for_chunks(hidden, vocab, targets, CHUNK_LOGITS, |chunk, targets| {
        let mut logits = read(head.logits(chunk));
        let rows = logits.par_chunks_mut(vocab).zip(targets);
        let rows: Vec<_> = rows
            .map(|(row, target)| target.map(|target| row_statistics(row, target)))
            .collect();
        statistics.extend(rows);
    });
    statistics
}

/// Results of `of` for the logits of two models at some positions; vocabularies may differ in size.
///
/// # Shapes
///
/// - `hidden`: `[P, D]` of each model, with a D of its own
/// - `of`: receives the position and both rows of logits
pub fn compare_logits<R: Send>(
    hidden: [&Tensor<2>; 2],
    heads: [&Head; 2],
    positions: impl Iterator<Item = usize>,
    of: impl Fn(usize, &mut [f32], &[f32]) -> R + Sync,
) -> Vec<R> {
    let [vocab, other_vocab] = heads.map(|head| head.weight.tensor().dims()[0]);
    let positions: Vec<usize> = positions.collect();
    let mut found = Vec::with_capacity(positions.len());
    for places in positions.chunks((CHUNK_LOGITS / (vocab + other_vocab)).max(1)) {
        let of_chunk = |hidden: &Tensor<2>, head: &Head| read(head.logits(rows_at(hidden, places)));
        let mut logits = of_chunk(hidden[0], heads[0]);
        let other = of_chunk(hidden[1], heads[1]);
        let pairs = logits
            .par_chunks_mut(vocab)
            .zip(other.par_chunks(other_vocab));
        let pairs = pairs.zip(places);
        found.par_extend(pairs.map(|((logits, other), &position)| of(position, logits, other)));
    }
    found
}

/// Calls `visit` with the logits of chunks of positions, row by row, `[chunk, V]`.
///
/// On a CPU the logits of a position are the same bits whichever positions stand beside it. For this no product has one row:
/// a product of a single row sums in another order than those of more rows, which sum alike.
pub fn for_logits(hidden: &Tensor<2>, head: &Head, mut visit: impl FnMut(&mut [f32])) {
    let [positions, _] = hidden.dims();
    let [vocab, _] = head.weight.tensor().dims();
    if positions == 1 {
        let twice = Tensor::cat(vec![hidden.clone(), hidden.clone()], 0);
        visit(&mut read(head.logits(twice))[..vocab]);
        return;
    }
    let chunk_size = (chunk_logits(head) / vocab).max(3);
    let mut start = 0;
    while start < positions {
        let left = positions - start;
        let would_leave_one = left == chunk_size + 1;
        let size = chunk_size.min(left) - usize::from(would_leave_one);
        let chunk = hidden.clone().narrow(0, start, size);
        visit(&mut read(head.logits(chunk)));
        start += size;
    }
}

/// Logits of all positions, row-major `[P, V]`; only for few of them, since a vocabulary is large.
pub fn all_logits(hidden: &Tensor<2>, head: &Head) -> Vec<f32> {
    let mut all = Vec::new();
    for_logits(hidden, head, |logits| all.extend_from_slice(logits));
    all
}

fn for_chunks<'t, T>(
    hidden: &Tensor<2>,
    vocab: usize,
    targets: &'t [T],
    chunk_logits: usize,
    mut visit: impl FnMut(Tensor<2>, &'t [T]),
) {
    let [positions, _] = hidden.dims();
    assert_eq!(targets.len(), positions, "one target for each position");
    let chunk_size = (chunk_logits / vocab).max(1);
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
