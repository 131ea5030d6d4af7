//! Rounding of a single number, for code that processes a row weight by weight.

use super::Levels;
use super::halves::SMALLEST_NORMAL_FP8;

impl Levels {
    /// Result of [`Levels::round`] for one number, times its scale: the nearest value of the grid, bit for bit, except
    /// that a zero is never negative.
    ///
    /// `zero` is 0 if [`Levels::has_zeros`] is false.
    #[expect(
        clippy::inline_always,
        reason = "compiled for a vector width, which has an instruction for it, only where it is inlined"
    )]
    #[inline(always)]
    pub fn nearest(self, number: f32, scale: f32, zero: f32) -> f32 {
        let code = self.nearest_code(number / scale, zero);
        (code - zero) * scale + 0.0 // -0 + 0 = 0
    }

    /// The code of [`Levels::nearest`] for a number that was divided by its scale.
    #[expect(clippy::inline_always, reason = "a part of `nearest`")]
    #[inline(always)]
    pub fn nearest_code(self, quotient: f32, zero: f32) -> f32 {
        let [lowest, highest] = self.limits().map(to_f32);
        match self {
            Self::Fp8 => fp8(quotient.clamp(lowest, highest)),
            Self::Stretched => {
                let [least, most] = self.followed().map(to_f32);
                let half = quotient.clamp(least, most) / 2.0;
                (half - 0.5).round_ties_even() * 2.0 + 1.0
            }
            Self::Asymmetric { .. } => (quotient + zero).round_ties_even().clamp(lowest, highest),
            Self::Symmetric { .. } | Self::Affine { .. } | Self::Ternary => {
                quotient.round_ties_even().clamp(lowest, highest)
            }
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "what numbers of a tensor are clamped to is f32, too"
)]
#[expect(clippy::inline_always, reason = "a part of `nearest`")]
#[inline(always)]
fn to_f32(limit: f64) -> f32 {
    limit as f32
}

/// `round_to_fp8` for one number.
#[expect(clippy::inline_always, reason = "a part of `nearest`")]
#[inline(always)]
fn fp8(x: f32) -> f32 {
    if x.abs() < to_f32(SMALLEST_NORMAL_FP8) {
        return (x + 24_576.0) - 24_576.0;
    }
    let spread = x * 1_048_577.0;
    spread - (spread - x)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Tensor, TensorData};

    use super::super::{Grid, Levels};
    use crate::random::Stream;
    use crate::tensors;

    #[test]
    fn one_number_is_rounded_as_a_tensor_of_them_is() {
        let device = crate::device::open("flex").unwrap();
        let (rows, columns) = (8, 96);
        let mut stream = Stream::new(5, "numbers");
        #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
        let mut values: Vec<f32> = (0..rows * columns)
            .map(|_| (stream.normal() * 0.3) as f32)
            .collect();
        values[..4].copy_from_slice(&[0.0, -0.0, 1e-9, -1e-9]);
        values[columns * 7..].fill(0.0);
        let weight = Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &device);
        let all = [2, 3, 4, 8]
            .into_iter()
            .flat_map(|bits| [Levels::Symmetric { bits }, Levels::Asymmetric { bits }])
            .chain([Levels::Fp8, Levels::Ternary, Levels::Stretched]);
        let mut num_levels = 0;
        for levels in all {
            num_levels += 1;
            let group_size = 32;
            let grid = Grid {
                levels,
                group_size: Some(group_size),
            };
            // Numbers that the scales were not fitted to: some are beyond the ends, some in the middle of two levels.
            let numbers = weight.clone().mul_scalar(1.5);
            let scaling = grid.scaling(weight.clone());
            let read = |tensor: &Tensor<3>| tensor.try_to_vec_as::<f32>().unwrap();
            let scales = read(&scaling.scales);
            let zeros = scaling.zeros.as_ref().map(read);
            let codes = grid.round(numbers.clone(), scaling.clone()).codes;
            let want = read(&scaling.values(codes));
            for (idx, number) in tensors::to_vec(&numbers).into_iter().enumerate() {
                let group = idx / group_size;
                let zero = zeros.as_ref().map_or(0.0, |zeros| zeros[group]);
                let got = levels.nearest(number, scales[group], zero);
                assert_eq!(
                    got.to_bits(),
                    (want[idx] + 0.0).to_bits(),
                    "{levels}: {number}"
                );
            }
        }
        assert_eq!(num_levels, 11);
    }
}
