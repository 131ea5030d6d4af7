//! Chains of small operations of the decoder, each done in one go where tensors live in the process's own memory.
//!
//! On a CPU a norm, a gated activation, a rotation or an attention costs what its trips through memory cost, and a chain of
//! tensor operations makes one trip for each of its links, with a new tensor at the end of each. On `flex` these four run as
//! one pass each ([`kernels`]), forward and backward; on every other device they are the chain they are written as in
//! [`plain`], whose kernels the device fuses by itself. Both give the same numbers up to rounding (`tests.rs`).

#[cfg(feature = "flex")]
mod attention;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernels;
mod plain;
#[cfg(feature = "flex")]
mod product;
mod soft_cap;
#[cfg(test)]
#[cfg(feature = "flex")]
mod tests;
#[cfg(feature = "flex")]
mod views;

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};

pub use self::soft_cap::{soft_cap, soft_cap_slope};
use crate::device;

/// Added to the scores of positions that may not be seen; its exponential is 0, and unlike minus infinity it
/// cannot turn into NaN on a device that subtracts it from itself.
const HIDDEN: f32 = -1e9;

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
pub fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
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
pub fn rotate(x: Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if flex::takes(&x) {
        return flex::rotate(x, cos.clone(), sin.clone());
    }
    plain::rotate(x, cos, sin)
}

/// Which keys a query sees, and what becomes of their scores.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    /// Positions before the first query; key `s` stands at position `s`.
    pub num_past: usize,
    /// Positions that a query sees, its own the last of them; at least 1.
    pub window: usize,
    /// What products of query and key are multiplied by.
    pub scale: f32,
    /// Bound of the scores, if they have one.
    pub soft_cap: Option<f32>,
}

impl Sight {
    /// Keys that a query sees: its own position and at most `window − 1` before it.
    fn seen_by(&self, query: usize) -> Range<usize> {
        let end = self.num_past + query + 1;
        end.saturating_sub(self.window)..end
    }

    /// From the first to the last key that any of some neighbouring queries sees.
    #[cfg(feature = "flex")]
    fn seen_by_any(&self, queries: &Range<usize>) -> Range<usize> {
        self.seen_by(queries.start).start..self.seen_by(queries.end - 1).end
    }

    /// What [`attention`] needs besides on a device that has no kernel for it, `[1, 1, G·T, S]`: 0 where a query sees a key,
    /// a number whose exponential is 0 elsewhere. As large as the scores of one head, so it is made once for all layers, and only there.
    pub fn mask(&self, groups: usize, num_queries: usize, device: &Device) -> Option<Tensor<4>> {
        (!device::is_host(device)).then(|| self.mask_on(groups, num_queries, device))
    }

    fn mask_on(&self, groups: usize, num_queries: usize, device: &Device) -> Tensor<4> {
        let num_keys = self.num_past + num_queries;
        let mut mask = Vec::with_capacity(groups * num_queries * num_keys);
        for query in (0..groups).flat_map(|_| 0..num_queries) {
            let seen = self.seen_by(query);
            mask.extend((0..num_keys).map(|key| if seen.contains(&key) { 0.0 } else { HIDDEN }));
        }
        let shape = [1, 1, groups * num_queries, num_keys];
        Tensor::from_data(TensorData::new(mask, shape), device)
    }
}

/// Values mixed by the softmax of the scores, `softmax(cap(scale · queries · keysᵀ)) · values`.
///
/// # Shapes
///
/// `queries` is `[B, N, T, H]`, `keys` and `values` are `[B, KV, S, H]` with `S = num_past + T`; returns `[B, T, N·H]`.
pub fn attention(
    queries: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    sight: &Sight,
    mask: Option<&Tensor<4>>,
) -> Tensor<3> {
    match mask {
        Some(mask) => plain::attention(queries, keys, values, sight, mask),
        #[cfg(feature = "flex")]
        None => flex::attention(queries, keys, values, *sight),
        #[cfg(not(feature = "flex"))]
        None => unreachable!("a device without kernels has a mask"),
    }
}

/// `left · right`.
///
/// # Shapes
///
/// `[P, D]` and `[D, V]`; returns `[P, V]`.
pub fn product(left: Tensor<2>, right: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if flex::takes(&left) {
        return flex::product(left, right);
    }
    left.matmul(right)
}

/// `total + left · right`, added where `total` lies if nobody else holds it: no second matrix of its size is made.
///
/// # Shapes
///
/// `total` is `[P, V]`, returned alike; `left` is `[P, D]`, `right` is `[D, V]`.
pub fn add_product(total: Tensor<2>, left: Tensor<2>, right: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if flex::takes(&total) {
        return flex::add_product(total, left, right);
    }
    total + left.matmul(right)
}
