//! The gradient of one optimizer step.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use rayon::prelude::*;

pub use super::hidden::HiddenMatch;
use super::parts::Summed;
pub use super::trunk::ActivationMemory;
use super::trunk::Trunk;
use crate::data::Sequence;
use crate::device::{self, ReadBack};
use crate::kernels::Passes;
use crate::loss::chunked::head_gradients;
use crate::loss::{LossSpec, PendingSums, RowTarget};
use crate::model::{Decoder, TokenBatch};

/// A few rows with the target of each position.
pub struct MicroBatch<'a> {
    /// Rows of `sequence_length` tokens.
    pub inputs: Vec<Sequence<'a>>,
    /// `rows · sequence_length` targets; `None` where a position does not count.
    pub targets: Vec<Option<RowTarget<'a>>>,
}

/// Loss of a step and the gradient of its mean, one tensor per parameter in the order of
/// [`parameter_specs`](crate::model::parameter_specs).
pub struct StepGradient {
    /// Sums over all counted positions of the step.
    pub sums: PendingSums,
    /// d mean loss / d parameter.
    pub gradients: Vec<Tensor<2>>,
    /// d mean loss / d projection, in the order of the projections of hidden states.
    pub projections: Vec<Tensor<2>>,
}

impl MicroBatch<'_> {
    /// True where a position counts, row by row.
    pub(super) fn counted(&self) -> Vec<Vec<bool>> {
        let seq = self
            .inputs
            .first()
            .map_or(1, |row| row.tokens().len().max(1));
        let rows = self.targets.chunks(seq);
        rows.map(|row| row.iter().map(Option::is_some).collect())
            .collect()
    }
}

/// Gradient of the mean loss over the counted positions of *all* micro-batches.
///
/// Micro-batches contribute sums; the division by the count of the whole step comes last. A mean of means
/// would let a padded row outweigh a full one.
///
/// On a CPU, micro-batches run on all cores at once: most operations of a small model are too small to be
/// split. They are added in a fixed order, so the result does not depend on the number of cores.
///
/// `decoder` holds the effective weights (masked, on the grid); the caller derives the gradient of the weights
/// behind them.
pub fn step_gradient(
    decoder: &Decoder,
    micro_batches: &[MicroBatch<'_>],
    spec: &LossSpec,
) -> StepGradient {
    let read_back = ReadBack::of(&decoder.device());
    let kept = ActivationMemory::Kept;
    step_gradient_with(decoder, micro_batches, spec, None, kept, read_back)
}

/// Same as [`step_gradient`], with the hidden states of a teacher if the loss has a term for them. `activations`
/// changes time and memory, and on the CPU no bit of the result. `read_back` selects how the loss is computed: with
/// [`ReadBack::Stalls`] nothing is read from the device here.
pub fn step_gradient_with(
    decoder: &Decoder,
    micro_batches: &[MicroBatch<'_>],
    spec: &LossSpec,
    hidden: Option<HiddenMatch<'_>>,
    activations: ActivationMemory,
    read_back: ReadBack,
) -> StepGradient {
    let decoder = &decoder.packed(Passes::ForwardAndBackward);
    let at_once = device::parallelism(&decoder.device());
    let mut total = Summed::new(micro_batches.len());
    for group in micro_batches.chunks(at_once) {
        let parts: Vec<_> = group
            .par_iter()
            .map(|micro_batch| {
                sum_gradient(decoder, micro_batch, spec, hidden, activations, read_back)
            })
            .collect();
        for part in parts {
            total.push(part, added);
        }
    }
    let (sums, gradients) = total.total(added).unwrap_or_default();
    let scale = 1.0 / sums.positions().max(1) as f64;
    let gradients = gradients.into_iter();
    let mut gradients: Vec<_> = gradients.map(|sum| sum.mul_scalar(scale)).collect();
    let num_projections = hidden.map_or(0, |hidden| hidden.projections.len());
    let projections = gradients.split_off(gradients.len().saturating_sub(num_projections));
    StepGradient {
        sums,
        gradients,
        projections,
    }
}

type SummedGradient = (PendingSums, Vec<Tensor<2>>);

fn added((sums, gradients): SummedGradient, (more_sums, more): SummedGradient) -> SummedGradient {
    let gradients = gradients.into_iter().zip(more).map(|(a, b)| a + b);
    (sums.plus(more_sums), gradients.collect())
}

/// Gradient of the summed loss of one micro-batch: first of the parameters, then of the projections.
///
/// The trunk runs under autodiff; the output matrix does not. Its two gradients come from the closed form, and
/// the one of the hidden states is the slope that the trunk's backward pass begins with. Slopes of intermediate
/// hidden states are closed forms, too.
fn sum_gradient(
    decoder: &Decoder,
    micro_batch: &MicroBatch<'_>,
    spec: &LossSpec,
    hidden: Option<HiddenMatch<'_>>,
    activations: ActivationMemory,
    read_back: ReadBack,
) -> SummedGradient {
    let tokens = TokenBatch::new(&micro_batch.inputs, &decoder.device());
    let (last, trunk) = Trunk::forward(decoder, tokens, activations);
    let pulled = hidden.map(|hidden| hidden.slopes(&trunk, micro_batch, spec, read_back));
    let [batch, seq, size] = last.dims();
    let head = head_gradients(
        &last.reshape([batch * seq, size]),
        &decoder.head(),
        &micro_batch.targets,
        spec,
        read_back,
    );
    let slope = head.hidden.reshape([batch, seq, size]);
    let Some(pulled) = pulled else {
        let gradients = trunk.backward(slope, head.weight, BTreeMap::new());
        return (head.sums, gradients);
    };
    let mut gradients = trunk.backward(slope, head.weight, pulled.layers);
    gradients.extend(pulled.projections);
    (head.sums.plus(pulled.sums), gradients)
}
