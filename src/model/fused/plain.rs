//! The same as chains of tensor operations: what every device can do, and what the kernels are checked against.

use burn::tensor::Tensor;
use burn::tensor::activation::{silu, softmax};

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

pub(super) fn masked_softmax(scores: Tensor<4>, mask: &Tensor<4>) -> Tensor<4> {
    softmax(scores + mask.clone(), 3)
}
