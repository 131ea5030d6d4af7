//! The same as chains of tensor operations: what every device can do, and what the kernels are checked against.

use burn::tensor::Tensor;
use burn::tensor::activation::{silu, softmax};

use super::Sight;
use super::soft_cap::soft_cap;

pub(super) fn rms_norm(x: Tensor<3>, gain: &Tensor<2>, eps: f64) -> Tensor<3> {
    let mean_square = x.clone().square().mean_dim(2); // [B, T, 1]
    let scale = mean_square.add_scalar(eps).sqrt().recip();
    x * scale * gain.clone().unsqueeze::<3>()
}

pub(super) fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    silu(gate) * up
}

pub(super) fn rotate(x: Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>) -> Tensor<4> {
    let [_, _, _, head_dim] = x.dims();
    let first = x.clone().narrow(3, 0, head_dim / 2); // [B, N, T, H/2]
    let second = x.narrow(3, head_dim / 2, head_dim / 2);
    let turned_first = first.clone() * cos.clone() - second.clone() * sin.clone();
    let turned_second = second * cos.clone() + first * sin.clone();
    Tensor::cat(vec![turned_first, turned_second], 3) // [B, N, T, H]
}

/// The query heads that share a key/value head are laid behind each other along the positions, so that keys and values
/// are never repeated: `[B, KV, G·T, H] · [B, KV, H, S]`.
pub(super) fn attention(
    queries: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    sight: &Sight,
    mask: &Tensor<4>,
) -> Tensor<3> {
    let [batch, heads, seq, head_dim] = queries.dims();
    let [_, kv_heads, _, _] = keys.dims();
    let queries = queries.mul_scalar(sight.scale);
    let queries = queries.reshape([batch, kv_heads, heads / kv_heads * seq, head_dim]); // [B, KV, G·T, H]
    let scores = queries.matmul(keys.transpose()); // [B, KV, G·T, S]
    let scores = match sight.soft_cap {
        Some(cap) => soft_cap(scores, f64::from(cap)),
        None => scores,
    };
    let mixed = softmax(scores + mask.clone(), 3).matmul(values); // [B, KV, G·T, H]
    let mixed = mixed.reshape([batch, heads, seq, head_dim]).swap_dims(1, 2);
    mixed.reshape([batch, seq, heads * head_dim]) // [B, T, N·H]
}
