//! Gated feed-forward layer.

use burn::tensor::Tensor;

use super::fused::swiglu;
use super::linear::linear;
use super::{Site, Tap};

/// Weights of one feed-forward layer: `down(silu(gate(x)) · up(x))` (Shazeer 2020, arXiv 2002.05202).
#[derive(Debug, Clone)]
pub struct Mlp {
    /// `[F, D]`
    pub gate_proj: Tensor<2>,
    /// `[F, D]`
    pub up_proj: Tensor<2>,
    /// `[D, F]`
    pub down_proj: Tensor<2>,
}

impl Mlp {
    /// # Shapes
    ///
    /// `x` is `[B, T, D]`, returned alike.
    pub fn forward(&self, x: Tensor<3>, tap: &mut Tap<'_>) -> Tensor<3> {
        tap.observe(Site::MlpInput, &x);
        let gate = linear(x.clone(), &self.gate_proj); // [B, T, F]
        let hidden = swiglu(gate, linear(x, &self.up_proj));
        tap.observe(Site::MlpHidden, &hidden);
        linear(hidden, &self.down_proj)
    }
}
