//! The gradient of one optimizer step.

use burn::tensor::Tensor;
use rayon::prelude::*;

pub use super::trunk::Activations;
use super::trunk::Trunk;
use crate::device;
use crate::loss::chunked::head_gradients;
use crate::loss::{LossSpec, LossSums, RowTarget};
use crate::model::{Decoder, ids_tensor};

/// A few rows with what each position is measured against.
pub struct MicroBatch<'a> {
    /// Token ids, one slice of `sequence_length` per row.
    pub inputs: Vec<&'a [u32]>,
    /// `rows · sequence_length` targets; `None` where a position does not count.
    pub targets: Vec<Option<RowTarget<'a>>>,
}

/// Loss of a step and the gradient of its mean, one tensor per parameter in the order of
/// [`parameter_specs`](crate::model::parameter_specs).
pub struct StepGradient {
    /// Sums over all counted positions of the step.
    pub sums: LossSums,
    /// d mean loss / d parameter.
    pub gradients: Vec<Tensor<2>>,
}

/// Gradient of the mean loss over the counted positions of *all* micro-batches.
///
/// Micro-batches contribute sums; the division comes last, by what the whole step counted. A mean of means
/// would let a padded row outweigh a full one.
///
/// On a CPU, micro-batches run on all cores at once: most operations of a small model are too small to be
/// split. They are added in their order, so the result does not depend on the number of cores.
///
/// `decoder` holds the effective weights (masked, on the grid); what the gradient means for the weights
/// behind them is the caller's business.
pub fn step_gradient(
    decoder: &Decoder,
    micro_batches: &[MicroBatch<'_>],
    spec: &LossSpec,
) -> StepGradient {
    step_gradient_with(decoder, micro_batches, spec, Activations::Kept)
}

/// As [`step_gradient`]; `activations` changes time and memory, and on the CPU no bit of the result.
pub fn step_gradient_with(
    decoder: &Decoder,
    micro_batches: &[MicroBatch<'_>],
    spec: &LossSpec,
    activations: Activations,
) -> StepGradient {
    let at_once = device::parallelism(&decoder.device());
    let mut total: Option<(LossSums, Vec<Tensor<2>>)> = None;
    for group in micro_batches.chunks(at_once) {
        let parts: Vec<_> = group
            .par_iter()
            .map(|micro_batch| sum_gradient(decoder, micro_batch, spec, activations))
            .collect();
        for (sums, gradients) in parts {
            total = Some(match total.take() {
                None => (sums, gradients),
                Some((so_far, totals)) => (
                    so_far.plus(sums),
                    totals
                        .into_iter()
                        .zip(gradients)
                        .map(|(a, b)| a + b)
                        .collect(),
                ),
            });
        }
    }
    let (sums, gradients) = total.unwrap_or_default();
    let scale = 1.0 / sums.positions.max(1) as f64;
    StepGradient {
        sums,
        gradients: gradients
            .into_iter()
            .map(|gradient| gradient.mul_scalar(scale))
            .collect(),
    }
}

/// Gradient of the summed loss of one micro-batch.
///
/// The trunk runs under autodiff; the output matrix does not. Its two gradients come from the closed form, and
/// the one of the hidden states is the slope that the trunk's backward pass begins with.
fn sum_gradient(
    decoder: &Decoder,
    micro_batch: &MicroBatch<'_>,
    spec: &LossSpec,
    activations: Activations,
) -> (LossSums, Vec<Tensor<2>>) {
    let ids = ids_tensor(&micro_batch.inputs, &decoder.device());
    let (hidden, trunk) = Trunk::forward(decoder, ids, activations);
    let [batch, seq, size] = hidden.dims();
    let head = head_gradients(
        &hidden.reshape([batch * seq, size]),
        &decoder.head(),
        &micro_batch.targets,
        spec,
    );
    let slope = head.hidden.reshape([batch, seq, size]);
    (head.sums, trunk.backward(slope, head.weight))
}
