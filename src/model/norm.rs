//! Root-mean-square norms.

use burn::tensor::Tensor;

use super::DecoderConfig;
use crate::kernels::rms_norm;

/// Norm of a decoder: [`rms_norm`] with the gain that the stored `weight` means.
///
/// # Shapes
///
/// The same as in [`rms_norm`].
pub fn norm(x: Tensor<3>, weight: &Tensor<2>, config: &DecoderConfig) -> Tensor<3> {
    let offset = config.family().gain_offset;
    if offset == 0.0 {
        rms_norm(x, weight, config.rms_norm_eps)
    } else {
        rms_norm(x, &weight.clone().add_scalar(offset), config.rms_norm_eps)
    }
}
