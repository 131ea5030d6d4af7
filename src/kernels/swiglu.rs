//! Gated activations.

use burn::tensor::Tensor;
use burn::tensor::activation::silu;

#[cfg(feature = "flex")]
use super::flex;

/// `silu(gate) · up`, where `silu(x) = x / (1 + exp(−x))`.
///
/// # Shapes
///
/// Both are `[B, T, F]`, as is the result.
pub fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if flex::takes(&gate) {
        return flex::swiglu(gate, up);
    }
    chain(gate, up)
}

/// Chain of tensor operations.
fn chain(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    silu(gate) * up
}

/// One pass on the host.
#[cfg(feature = "flex")]
pub(super) mod host {
    use rayon::prelude::*;

    use crate::kernels::TASK;
    use crate::vector::{sigmoid, vectorized};

    /// `gate ← gate · σ(gate) · up`.
    pub(in crate::kernels) fn swiglu(gate: &mut [f32], up: &[f32]) {
        gate.par_chunks_mut(TASK)
            .zip(up.par_chunks(TASK))
            .for_each(|(gate, up)| {
                vectorized(|| {
                    for (gate, up) in gate.iter_mut().zip(up) {
                        *gate = *gate * sigmoid(*gate) * up;
                    }
                });
            });
    }

    /// Replaces `gate` and `up` by the slopes with respect to them, given the slope of [`swiglu`]'s result.
    ///
    /// ```text
    /// d up = slope · gate σ        d gate = slope · up · σ (1 + gate (1 − σ))
    /// ```
    pub(in crate::kernels) fn swiglu_slopes(gate: &mut [f32], up: &mut [f32], slope: &[f32]) {
        gate.par_chunks_mut(TASK)
            .zip(up.par_chunks_mut(TASK))
            .zip(slope.par_chunks(TASK))
            .for_each(|((gate, up), slope)| {
                vectorized(|| {
                    for ((gate, up), slope) in gate.iter_mut().zip(up).zip(slope) {
                        let sigma = sigmoid(*gate);
                        let bend = sigma * (1.0 + *gate * (1.0 - sigma));
                        let to_up = slope * *gate * sigma;
                        *gate = slope * *up * bend;
                        *up = to_up;
                    }
                });
            });
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::super::twins::{compare, floats, tensor};
    use super::*;

    #[test]
    fn a_gated_activation_equals_its_twin_in_value_and_slopes() {
        for shape in [[1, 1, 1], [2, 3, 7], [3, 50, 333]] {
            for scale in [1.0, 60.0] {
                compare(
                    &format!("swiglu of {shape:?} times {scale}"),
                    0.0,
                    vec![tensor(shape, 1.0, scale), tensor(shape, 2.0, 1.0)],
                    |inputs| flex::swiglu(inputs[0].clone(), inputs[1].clone()),
                    |inputs| chain(inputs[0].clone(), inputs[1].clone()),
                );
            }
        }
    }

    #[test]
    fn without_a_graph_the_result_is_written_where_the_gate_was() {
        let shape = [2, 3, 64];
        let (gate, up) = (tensor(shape, 1.0, 1.0), tensor(shape, 2.0, 1.0));
        let kept = gate.clone();
        let held = floats(flex::swiglu(gate, up.clone()));
        assert_eq!(
            held,
            floats(flex::swiglu(kept, up)),
            "held by somebody else or not"
        );
    }
}
