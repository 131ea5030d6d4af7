//! The only linear layer.

use burn::tensor::Tensor;

use crate::kernels;

/// `x · weightᵀ`, with the weight `[out, in]` as checkpoints store it.
///
/// A transposed view costs nothing, so no weight is ever kept in another orientation.
///
/// # Shapes
///
/// `x` is `[B, T, in]`; returns `[B, T, out]`.
pub fn linear(x: Tensor<3>, weight: &Tensor<2>) -> Tensor<3> {
    let [batch, seq, inputs] = x.dims();
    let [outputs, _] = weight.dims();
    let flat = x.reshape([batch * seq, inputs]); // one large product instead of B small ones
    let weight = weight.clone().transpose();
    let product = if batch * seq == 1 {
        kernels::product(flat, weight) // a token that is generated: all cores read the weight
    } else {
        flat.matmul(weight)
    };
    product.reshape([batch, seq, outputs])
}
