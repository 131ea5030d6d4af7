//! Gated feed-forward layer.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use burn::tensor::Tensor;

use super::linear::linear;
use super::{Activation, InputLevels, Site, Tap};
use crate::kernels::swiglu;

/// Weights of one feed-forward layer: `down(activation(gate(x)) · up(x))` (Shazeer 2020, arXiv 2002.05202).
#[derive(Debug, Clone)]
pub struct Mlp {
    /// `[F, D]`
    pub gate_proj: Tensor<2>,
    /// `[F, D]`
    pub up_proj: Tensor<2>,
    /// `[D, F]`
    pub down_proj: Tensor<2>,
    /// What enters them is rounded to.
    pub inputs: InputLevels,
}

impl Mlp {
    /// # Shapes
    ///
    /// `x` is `[B, T, D]`, returned alike.
    pub fn forward(&self, x: Tensor<3>, activation: Activation, tap: &mut Tap<'_>) -> Tensor<3> {
        linear(self.hidden(x, activation, tap), &self.down_proj)
    }

    /// As [`Mlp::forward`], without the projection at its end.
    ///
    /// # Shapes
    ///
    /// `x` is `[B, T, D]`; returns `[B, T, F]`.
    pub(super) fn hidden(
        &self,
        x: Tensor<3>,
        activation: Activation,
        tap: &mut Tap<'_>,
    ) -> Tensor<3> {
        tap.observe(Site::MlpInput, &x);
        let x = self.inputs.round(Site::MlpInput, x);
        let gate = linear(x.clone(), &self.gate_proj); // [B, T, F]
        let up = linear(x, &self.up_proj);
        let hidden = match activation {
            Activation::Silu => swiglu(gate, up),
            Activation::GeluTanh => gelu_tanh(gate) * up,
        };
        tap.observe(Site::MlpHidden, &hidden);
        self.inputs.round(Site::MlpHidden, hidden)
    }
}

/// `x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))` (Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2).
///
/// Burn's `gelu_approximate` has the same value, but takes x³ by a general power, which is slower.
fn gelu_tanh(x: Tensor<3>) -> Tensor<3> {
    let bend = x.clone().square().mul_scalar(0.044_715).add_scalar(1.0);
    let inner = (x.clone() * bend).mul_scalar(FRAC_2_SQRT_PI * FRAC_1_SQRT_2);
    (x * inner.tanh().add_scalar(1.0)).mul_scalar(0.5)
}
