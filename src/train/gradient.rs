//! The gradient of one optimizer step.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use crate::device;
use crate::loss::chunked::head_gradients;
use crate::loss::{LossSpec, LossSums, RowTarget};
use crate::model::{Decoder, ParameterKind, ids_tensor};

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
    let at_once = device::parallelism(&decoder.device());
    let mut total: Option<(LossSums, Vec<Tensor<2>>)> = None;
    for group in micro_batches.chunks(at_once) {
        let parts: Vec<_> = group
            .par_iter()
            .map(|micro_batch| sum_gradient(decoder, micro_batch, spec))
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
/// the one of the hidden states enters the trunk's tape as the slope of `Σ hidden · slope`.
fn sum_gradient(
    decoder: &Decoder,
    micro_batch: &MicroBatch<'_>,
    spec: &LossSpec,
) -> (LossSums, Vec<Tensor<2>>) {
    let device = decoder.device();
    let tracked = decoder.map(|_, parameter| parameter.autodiff().require_grad());
    let ids = ids_tensor(&micro_batch.inputs, &device).autodiff();
    let hidden = tracked.hidden(ids); // [B, T, D]
    let [batch, seq, size] = hidden.dims();
    let hidden = hidden.reshape([batch * seq, size]);

    let head = head_gradients(
        &hidden.clone().inner(),
        &decoder.head(),
        &micro_batch.targets,
        spec,
    );
    let tape = (hidden * head.hidden.autodiff()).sum().backward();

    let tied = decoder.config.tie_word_embeddings;
    let mut gradients = Vec::new();
    for (spec, parameter) in tracked.parameters() {
        let from_trunk = parameter.grad(&tape);
        let is_output = match spec.kind {
            ParameterKind::Head => true,
            ParameterKind::Embedding => tied,
            ParameterKind::Norm | ParameterKind::Linear | ParameterKind::Bias => false,
        };
        gradients.push(match (from_trunk, is_output) {
            (Some(gradient), false) => gradient,
            (Some(gradient), true) => gradient + head.weight.clone(),
            (None, true) => head.weight.clone(),
            (None, false) => Tensor::from_data(TensorData::zeros::<f32, _>(spec.shape), &device),
        });
    }
    (head.sums, gradients)
}
