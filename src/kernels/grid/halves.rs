//! Rounding to floats of fewer bits with f32 arithmetic only, because not every device has their types.

use burn::tensor::Tensor;

/// Smallest positive number of f16: weights of a group that would need a smaller scale become zero.
pub(super) const SMALLEST_SCALE: f64 = 5.960_464_477_539_063e-8; // 2^-24
/// Below this, numbers of f16 are the multiples of the smallest one.
const SMALLEST_NORMAL: f64 = 6.103_515_625e-5; // 2^-14
/// Below this, numbers of fp8 are the multiples of 2^-9.
pub(super) const SMALLEST_NORMAL_FP8: f64 = 0.015_625; // 2^-6

/// Rounds to a number that is exact in bf16 and in f16: with the 8 significant bits of bf16, and no finer than the
/// smallest number of f16.
pub(super) fn round_to_halves<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let x = round_to_bf16(x);
    // Numbers between 0.5 and 1 are 2^-24 apart in f32: the sum is rounded to a multiple of that.
    let coarse = x.clone().add_scalar(0.75).sub_scalar(0.75);
    x.clone()
        .mask_where(x.lower_scalar(SMALLEST_NORMAL), coarse)
}

/// Rounds f32 to the 8 significant bits of bf16 (Dekker's splitting). Numbers above 2^111 overflow.
pub fn round_to_bf16<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    leading_bits(x, 65_537.0) // 2^16 + 1
}

/// Rounds numbers from −448 to 448 to fp8 (E4M3): 4 significant bits, and no finer than 2^-9.
pub(super) fn round_to_fp8<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    // Numbers between 2^14 and 2^15 are 2^-9 apart in f32.
    let coarse = x.clone().add_scalar(24_576.0).sub_scalar(24_576.0);
    let is_small = x.clone().abs().lower_scalar(SMALLEST_NORMAL_FP8);
    leading_bits(x, 1_048_577.0).mask_where(is_small, coarse) // 2^20 + 1
}

/// The leading 24 − s bits of f32, rounded to nearest, for a factor of 2^s + 1.
fn leading_bits<const D: usize>(x: Tensor<D>, factor: f64) -> Tensor<D> {
    let spread = x.clone().mul_scalar(factor);
    spread.clone() - (spread - x)
}
