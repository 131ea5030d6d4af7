//! Quantisation grids: the one place where a weight is rounded.
//!
//! Training against a grid and packing for export both go through [`Grid::quantize`], so what is exported is
//! what was trained, bit for bit.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// The least number of f16: weights of a group that would need a smaller scale become zero.
const SMALLEST_SCALE: f64 = 5.960_464_477_539_063e-8; // 2^-24
/// Below this, numbers of f16 are the multiples of the least one.
const SMALLEST_NORMAL: f64 = 6.103_515_625e-5; // 2^-14

/// A symmetric integer grid: weight ≈ code × scale, with codes from −2^(bits−1) to 2^(bits−1) − 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grid {
    /// 4 or 8.
    pub bits: u32,
    /// Neighbouring weights of a row that share a scale; `None` is one scale per row.
    pub group_size: Option<usize>,
}

/// A weight on a grid.
///
/// # Shapes
///
/// `codes` is `[R, G, C/G]`, `scales` is `[R, G, 1]`, for a weight of R rows and C columns in G groups.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// Integers, held as floats.
    pub codes: Tensor<3>,
    /// Positive, exact in bf16 and, up to 65,504, in f16; 1 where all weights of the group are zero, or too small for a scale.
    pub scales: Tensor<3>,
}

impl Grid {
    /// Whether rows of this many columns fall into whole groups.
    pub fn divides(&self, columns: usize) -> bool {
        self.group_size
            .is_none_or(|group_size| group_size > 0 && columns.is_multiple_of(group_size))
    }

    /// Rounds a weight to the grid, half to even.
    ///
    /// The scale is max|w| / (2^bits − 1) · 2, so that both ends of the range lose at most half a step, as the
    /// reference quantiser of compressed-tensors does; it is rounded to a number that both bf16 and f16 hold before it
    /// is used, because that is what files hold: one grid then fits every container.
    ///
    /// # Shapes
    ///
    /// `weight` is `[R, C]`.
    ///
    /// # Panics
    ///
    /// If the groups do not divide the columns ([`Grid::divides`]).
    pub fn quantize(&self, weight: Tensor<2>) -> Quantized {
        let [rows, columns] = weight.dims();
        assert!(
            self.divides(columns),
            "groups of {:?} in {columns} columns",
            self.group_size
        );
        let group_size = self.group_size.unwrap_or(columns);
        let grouped = weight.reshape([rows, columns / group_size, group_size]); // [R, G, C/G]
        let largest = grouped.clone().abs().max_dim(2); // [R, G, 1]
        let steps = f64::from((1_u32 << self.bits) - 1) / 2.0;
        let scales = round_to_halves(largest.div_scalar(steps));
        let scales = scales
            .clone()
            .mask_fill(scales.lower_scalar(SMALLEST_SCALE), 1.0);
        let limit = f64::from(1_u32 << (self.bits - 1));
        let codes = (grouped / scales.clone())
            .round()
            .clamp(-limit, limit - 1.0);
        Quantized { codes, scales }
    }

    /// The nearest weight on the grid: what the exported file decodes to.
    ///
    /// # Shapes
    ///
    /// `[R, C]`, returned alike.
    pub fn fake_quantize(&self, weight: Tensor<2>) -> Tensor<2> {
        let shape = weight.dims();
        let Quantized { codes, scales } = self.quantize(weight);
        (codes * scales).reshape(shape)
    }

    /// Bits stored for a weight of this shape: codes and 16-bit scales.
    pub fn stored_bits(&self, [rows, columns]: [usize; 2]) -> u64 {
        let groups = self.group_size.map_or(1, |group_size| columns / group_size);
        (rows * columns) as u64 * u64::from(self.bits) + (rows * groups) as u64 * 16
    }
}

/// Rounds to a number that is exact in bf16 and in f16: the 8 significant bits of the one, and no finer than the least
/// number of the other.
fn round_to_halves<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let x = round_to_bf16(x);
    // Numbers between 0.5 and 1 are 2^-24 apart in f32: the sum is rounded to a multiple of that.
    let coarse = x.clone().add_scalar(0.75).sub_scalar(0.75);
    x.clone()
        .mask_where(x.lower_scalar(SMALLEST_NORMAL), coarse)
}

/// Rounds f32 to the 8 significant bits of bf16, with f32 arithmetic alone (Dekker's splitting): not every
/// device has the type. Numbers above 2^111 overflow.
pub fn round_to_bf16<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let spread = x.clone().mul_scalar(65_537.0_f64); // 2^16 + 1
    spread.clone() - (spread - x)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use half::{bf16, f16};

    use super::*;

    fn tensor(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn noise(count: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 2_654_435_761) % 100_003) as f32 / 50_001.0 - 1.0)
            .collect()
    }

    #[test]
    fn a_row_worked_by_hand_lands_on_its_codes() {
        let grid = Grid {
            bits: 4,
            group_size: Some(4),
        };
        // max 7.5, scale 1: ties go to even, and both ends lose half a step at most.
        let quantized = grid.quantize(tensor(
            vec![7.5, -7.5, 0.5, 1.5, 0.0, 0.0, 0.0, 0.0],
            [1, 8],
        ));
        let codes: Vec<f32> = quantized.codes.to_data().try_into_vec().unwrap();
        let scales: Vec<f32> = quantized.scales.to_data().try_into_vec().unwrap();
        assert_eq!(codes, [7.0, -8.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(scales, [1.0, 1.0], "a group of zeros has scale 1");
    }

    #[test]
    fn every_weight_is_within_half_a_step_and_scales_are_exact_in_bf16() {
        for grid in [
            Grid {
                bits: 4,
                group_size: Some(32),
            },
            Grid {
                bits: 8,
                group_size: None,
            },
        ] {
            let weight = noise(64 * 96);
            let quantized = grid.quantize(tensor(weight.clone(), [64, 96]));
            let scales: Vec<f32> = quantized.scales.to_data().try_into_vec().unwrap();
            for scale in &scales {
                assert_eq!(bf16::from_f32(*scale).to_f32().to_bits(), scale.to_bits());
            }
            let group_size = grid.group_size.unwrap_or(96);
            let fake: Vec<f32> = grid
                .fake_quantize(tensor(weight.clone(), [64, 96]))
                .to_data()
                .try_into_vec()
                .unwrap();
            for (i, (got, want)) in fake.iter().zip(&weight).enumerate() {
                // A scale rounded down by 2^-9 moves the largest code by up to 2^-9 of the range.
                let step = scales[i / group_size];
                let slack = want.abs() / 256.0;
                assert!(
                    (got - want).abs() <= step / 2.0 + slack,
                    "weight {i}: {got} for {want}, step {step}"
                );
            }
        }
    }

    #[test]
    fn scales_of_any_size_are_exact_in_both_halves() {
        let grid = Grid {
            bits: 4,
            group_size: Some(32),
        };
        for exponent in -30..15 {
            let weight: Vec<f32> = noise(32 * 8)
                .iter()
                .map(|x| x * 2_f32.powi(exponent))
                .collect();
            let quantized = grid.quantize(tensor(weight, [8, 32]));
            let scales: Vec<f32> = quantized.scales.to_data().try_into_vec().unwrap();
            for scale in scales {
                assert_eq!(bf16::from_f32(scale).to_f32().to_bits(), scale.to_bits());
                assert_eq!(
                    f16::from_f32(scale).to_f32().to_bits(),
                    scale.to_bits(),
                    "{scale}"
                );
            }
        }
    }

    #[test]
    fn zeros_stay_zeros_so_a_mask_survives_the_grid() {
        let mut weight = noise(32 * 32);
        weight
            .iter_mut()
            .step_by(2)
            .for_each(|weight| *weight = 0.0);
        let grid = Grid {
            bits: 4,
            group_size: Some(32),
        };
        let fake: Vec<f32> = grid
            .fake_quantize(tensor(weight, [32, 32]))
            .to_data()
            .try_into_vec()
            .unwrap();
        assert!(fake.iter().step_by(2).all(|weight| *weight == 0.0));
    }
}
