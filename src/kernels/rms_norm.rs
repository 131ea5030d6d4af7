//! Root-mean-square norms.

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
use super::flex;

/// `x / √(mean(x²) + eps) · gain`, the mean over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467).
///
/// # Shapes
///
/// `x` is `[B, T, D]`, as is the result; `gain` is `[1, D]`.
pub fn rms_norm(x: Tensor<3>, gain: &Tensor<2>, eps: f64) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if flex::takes(&x) {
        return flex::rms_norm(x, gain.clone(), eps);
    }
    chain(x, gain, eps)
}

/// Chain of tensor operations.
fn chain(x: Tensor<3>, gain: &Tensor<2>, eps: f64) -> Tensor<3> {
    let mean_square = x.clone().square().mean_dim(2); // [B, T, 1]
    let scale = mean_square.add_scalar(eps).sqrt().recip();
    x * scale * gain.clone().unsqueeze::<3>()
}

/// One pass over rows on the host.
#[cfg(feature = "flex")]
pub(super) mod host {
    use rayon::prelude::*;

    use crate::kernels::TASK;
    use crate::vector::{dot, vectorized};

    /// Rows whose contributions to the gradient of a gain are added up before they join the total.
    const ROWS_PER_SUM: usize = 64;

    /// Rows of `x` divided by the root of their mean square, times `gain`; a row is as long as `gain`.
    pub(in crate::kernels) fn rms_norm(x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
        let size = gain.len();
        let mut normed = vec![0.0; x.len()];
        let task = rows_per_task(size) * size;
        normed
            .par_chunks_mut(task)
            .zip(x.par_chunks(task))
            .for_each(|(normed, x)| {
                vectorized(|| {
                    for (normed, x) in normed.chunks_exact_mut(size).zip(x.chunks_exact(size)) {
                        let scale = (dot(x, x) / size as f32 + eps).sqrt().recip();
                        for ((normed, x), gain) in normed.iter_mut().zip(x).zip(gain) {
                            *normed = x * scale * gain;
                        }
                    }
                });
            });
        normed
    }

    /// Replaces `slope`, that of [`rms_norm`]'s result, by the slope with respect to `x`; returns the slope of `gain`.
    ///
    /// ```text
    /// r = 1 / √(mean(x²) + eps)        d x = r (slope · gain − x r² mean(slope · gain · x))        d gain = Σ_rows slope · x r
    /// ```
    pub(in crate::kernels) fn rms_norm_slopes(
        x: &[f32],
        gain: &[f32],
        eps: f32,
        slope: &mut [f32],
    ) -> Vec<f32> {
        let size = gain.len();
        let block = ROWS_PER_SUM * size;
        let of_blocks: Vec<Vec<f32>> = slope
            .par_chunks_mut(block)
            .zip(x.par_chunks(block))
            .map(|(slope, x)| {
                let mut to_gain = vec![0.0; size];
                vectorized(|| {
                    for (slope, x) in slope.chunks_exact_mut(size).zip(x.chunks_exact(size)) {
                        rms_norm_row_slopes(x, gain, eps, slope, &mut to_gain);
                    }
                });
                to_gain
            })
            .collect();
        let mut total = vec![0.0; size];
        for to_gain in of_blocks {
            total
                .iter_mut()
                .zip(to_gain)
                .for_each(|(total, part)| *total += part);
        }
        total
    }

    #[expect(
        clippy::inline_always,
        reason = "compiled for a vector width only where it is inlined"
    )]
    #[inline(always)]
    fn rms_norm_row_slopes(
        x: &[f32],
        gain: &[f32],
        eps: f32,
        slope: &mut [f32],
        to_gain: &mut [f32],
    ) {
        let size = gain.len() as f32;
        let scale = (dot(x, x) / size + eps).sqrt().recip();
        for (((slope, x), gain), to_gain) in slope.iter_mut().zip(x).zip(gain).zip(to_gain) {
            *to_gain += *slope * x * scale;
            *slope *= gain;
        }
        let pull = scale * scale * dot(slope, x) / size;
        for (slope, x) in slope.iter_mut().zip(x) {
            *slope = scale * (*slope - x * pull);
        }
    }

    fn rows_per_task(width: usize) -> usize {
        (TASK / width).max(1)
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::super::twins::{compare, tensor};
    use super::*;

    #[test]
    fn a_norm_equals_its_twin_in_value_and_slopes() {
        for shape in [[1, 1, 5], [2, 3, 7], [2, 80, 96], [1, 1, 576]] {
            let [_, _, size] = shape;
            let gain = tensor([1, 1, size], 2.0, 1.5);
            let flat = |gain: &Tensor<3>| gain.clone().reshape([1, size]);
            for scale in [1e-3, 1.0, 1e3] {
                compare(
                    &format!("rms_norm of {shape:?} times {scale}"),
                    0.0,
                    vec![tensor(shape, 1.0, scale), gain.clone()],
                    |inputs| flex::rms_norm(inputs[0].clone(), flat(&inputs[1]), 1e-5),
                    |inputs| chain(inputs[0].clone(), &flat(&inputs[1]), 1e-5),
                );
            }
        }
    }
}
