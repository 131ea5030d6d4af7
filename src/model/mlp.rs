//! Gated feed-forward layer.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
use std::ops::ControlFlow::Continue;

use burn::tensor::Tensor;

use super::linear::linear;
use super::tap::Passed;
use super::{Activation, Site, Tap};
use crate::kernels::{Weight, swiglu};

/// Weights of one feed-forward layer: `down(activation(gate(x)) · up(x))` (Shazeer 2020, arXiv 2002.05202).
#[derive(Debug, Clone)]
pub struct Mlp {
    /// `[F, D]`
    pub gate_proj: Weight,
    /// `[F, D]`
    pub up_proj: Weight,
    /// `[D, F]`
    pub down_proj: Weight,
}

impl Mlp {
    /// Runs the layer, up to the place at which the tap ends the pass.
    ///
    /// # Shapes
    ///
    /// `x` is `[B, T, D]`, as is the result.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        activation: Activation,
        tap: &mut Tap<'_>,
    ) -> Passed {
        let x = tap.pass(Site::MlpInput, x)?;
        let gate = linear(x.clone(), &self.gate_proj); // [B, T, F]
        let up = linear(x, &self.up_proj);
        let hidden = match activation {
            Activation::Silu => swiglu(gate, up),
            Activation::GeluTanh => gelu_tanh(gate) * up,
        };
        let hidden = tap.pass(Site::MlpHidden, hidden)?;
        Continue(linear(hidden, &self.down_proj))
    }
}

/// `x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))` (Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2).
///
/// Burn's `gelu_approximate` has the same value, but computes x³ by a general power, which is slower.
fn gelu_tanh(x: Tensor<3>) -> Tensor<3> {
    let bend = x.clone().square().mul_scalar(0.044_715).add_scalar(1.0);
    let inner = (x.clone() * bend).mul_scalar(FRAC_2_SQRT_PI * FRAC_1_SQRT_2);
    (x * inner.tanh().add_scalar(1.0)).mul_scalar(0.5)
}
