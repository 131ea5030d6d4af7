//! The only linear layer.

use burn::tensor::Tensor;

use crate::kernels::Weight;

/// `x · weightᵀ`, with the weight `[out, in]` as checkpoints store it.
///
/// # Shapes
///
/// `x` is `[B, T, in]`; returns `[B, T, out]`.
pub fn linear(x: Tensor<3>, weight: &Weight) -> Tensor<3> {
    let [batch, seq, inputs] = x.dims();
    let [outputs, _] = weight.tensor().dims();
    let flat = x.reshape([batch * seq, inputs]); // one large product instead of B small ones
    weight.linear(flat).reshape([batch, seq, outputs])
}
