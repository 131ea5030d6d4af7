//! Root-mean-square norms.

use burn::tensor::Tensor;

use super::DecoderConfig;
pub use super::fused::rms_norm;

/// The norm that a decoder has: [`rms_norm`] with the gain that the stored `weight` stands for.
///
/// # Shapes
///
/// As in [`rms_norm`].
pub fn norm(x: Tensor<3>, weight: &Tensor<2>, config: &DecoderConfig) -> Tensor<3> {
    let offset = config.family().gain_offset;
    if offset == 0.0 {
        rms_norm(x, weight, config.rms_norm_eps)
    } else {
        rms_norm(x, &weight.clone().add_scalar(offset), config.rms_norm_eps)
    }
}
