//! Root-mean-square norms.

use burn::tensor::Tensor;

use super::DecoderConfig;

/// The norm that a decoder has: [`rms_norm`] with the gain that the stored `weight` stands for.
///
/// # Shapes
///
/// As in [`rms_norm`].
pub fn norm(x: Tensor<3>, weight: &Tensor<2>, config: &DecoderConfig) -> Tensor<3> {
    let offset = config.architecture.gain_offset();
    if offset == 0.0 {
        rms_norm(x, weight, config.rms_norm_eps)
    } else {
        rms_norm(x, &weight.clone().add_scalar(offset), config.rms_norm_eps)
    }
}

/// `x / √(mean(x²) + eps) · gain`, the mean over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467).
///
/// # Shapes
///
/// `x` is `[B, T, D]`, returned alike; `gain` is `[1, D]`.
pub fn rms_norm(x: Tensor<3>, gain: &Tensor<2>, eps: f64) -> Tensor<3> {
    let mean_square = x.clone().square().mean_dim(2); // [B, T, 1]
    let scale = mean_square.add_scalar(eps).sqrt().recip();
    x * scale * gain.clone().unsqueeze::<3>()
}
