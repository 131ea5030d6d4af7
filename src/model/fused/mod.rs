//! Chains of small operations of the decoder, each done in one go where tensors live in the process's own memory.
//!
//! On a CPU a norm, a gated activation, a rotation or a softmax costs what its trips through memory cost, and a chain of
//! tensor operations makes one trip for each of its links, with a new tensor at the end of each. On `flex` these four run as
//! one pass each ([`kernels`]), forward and backward; on every other device they are the chain they are written as in
//! [`plain`], whose kernels the device fuses by itself. Both give the same numbers up to rounding (`tests.rs`).

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernels;
mod plain;
#[cfg(test)]
#[cfg(feature = "flex")]
mod tests;

use burn::tensor::Tensor;

/// Added to the scores of positions that may not be seen; its exponential is 0, and unlike minus infinity it
/// cannot turn into NaN on a device that subtracts it from itself.
pub(super) const HIDDEN: f32 = -1e9;

/// `x / √(mean(x²) + eps) · gain`, the mean over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467).
///
/// # Shapes
///
/// `x` is `[B, T, D]`, returned alike; `gain` is `[1, D]`.
pub fn rms_norm(x: Tensor<3>, gain: &Tensor<2>, eps: f64) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if flex::takes(&x) {
        return flex::rms_norm(x, gain.clone(), eps);
    }
    plain::rms_norm(x, gain, eps)
}

/// `silu(gate) · up`, where `silu(x) = x / (1 + exp(−x))`.
///
/// # Shapes
///
/// Both are `[B, T, F]`, returned alike.
pub(super) fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if flex::takes(&gate) {
        return flex::swiglu(gate, up);
    }
    plain::swiglu(gate, up)
}

/// Turns dimensions `j` and `j + H/2` of every row by the angle of its position.
///
/// # Shapes
///
/// `x` is `[B, N, T, H]`, returned alike; `cos` and `sin` are `[1, 1, T, H/2]` and constants: no slope reaches them.
pub(super) fn rotate(x: Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if flex::takes(&x) {
        return flex::rotate(x, cos.clone(), sin.clone());
    }
    plain::rotate(x, cos, sin)
}

/// Softmax of `scores + mask` over the last dimension. The mask is a constant: no slope reaches it.
///
/// A row of the mask that is [`HIDDEN`] everywhere has no meaning and does not occur: a position sees itself.
///
/// # Shapes
///
/// `scores` is `[B, KV, G·T, S]`, returned alike; `mask` is `[1, 1, G·T, S]`.
pub(super) fn masked_softmax(scores: Tensor<4>, mask: &Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if flex::takes(&scores) {
        return flex::masked_softmax(scores, mask.clone());
    }
    plain::masked_softmax(scores, mask)
}
