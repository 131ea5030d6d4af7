//! Rotary positions, half-split as Hugging Face stores them: dimension `j` turns with `j + H/2`.

use std::f64::consts::TAU;
use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};

use super::fused::rotate;
use super::{Rope, RopeScaling};

/// Cosines and sines of every position and frequency.
///
/// # Shapes
///
/// Both are `[1, 1, T, H/2]`.
#[derive(Debug, Clone)]
pub struct RopeTable {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl RopeTable {
    /// The table of the given positions.
    ///
    /// Angles are products of f32 numbers, as in `transformers`: at position 8,000 an f64 table would differ
    /// from what the model was trained with.
    pub fn new(rope: &Rope, head_dim: usize, positions: Range<usize>, device: &Device) -> Self {
        let frequencies = inverse_frequencies(rope, head_dim);
        let shape = [1, 1, positions.len(), frequencies.len()];
        let angles: Vec<f32> = positions
            .flat_map(|position| {
                frequencies
                    .iter()
                    .map(move |frequency| position as f32 * frequency)
            })
            .collect();
        let table = |function: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|&angle| function(angle)).collect();
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        Self {
            cos: table(f32::cos),
            sin: table(f32::sin),
        }
    }

    /// Turns queries or keys.
    ///
    /// # Shapes
    ///
    /// `[B, N, T, H]`, returned alike.
    pub fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        rotate(x, &self.cos, &self.sin)
    }
}

/// Radians per position of each pair of dimensions, `[H/2]`.
///
/// Llama-3 scaling stretches the long waves by `factor`, leaves the short ones and blends between, as
/// `_compute_llama3_parameters` of `transformers` does (Llama 3.1 release, 2024).
pub fn inverse_frequencies(rope: &Rope, head_dim: usize) -> Vec<f32> {
    (0..head_dim / 2)
        .map(|pair| {
            let exponent = (2 * pair) as f64 / head_dim as f64;
            let frequency = rope.theta.powf(-exponent);
            scale_frequency(frequency, &rope.scaling)
        })
        .collect()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the model computes rotary angles in f32"
)]
fn scale_frequency(frequency: f64, scaling: &RopeScaling) -> f32 {
    let (factor, low_freq_factor, high_freq_factor, context) = match *scaling {
        RopeScaling::Default => return frequency as f32,
        RopeScaling::Linear { factor } => return (frequency / factor) as f32,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: context,
        } => (factor, low_freq_factor, high_freq_factor, context as f64),
    };
    let wavelength = TAU / frequency;
    let scaled = if wavelength < context / high_freq_factor {
        frequency
    } else if wavelength > context / low_freq_factor {
        frequency / factor
    } else {
        let smooth =
            (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    };
    scaled as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_geometrically_from_one() {
        let rope = Rope {
            theta: 10_000.0,
            scaling: RopeScaling::Default,
        };
        assert_eq!(inverse_frequencies(&rope, 8), [1.0, 0.1, 0.01, 0.001]);
    }

    #[test]
    fn linear_scaling_stretches_all_waves() {
        let rope = Rope {
            theta: 10_000.0,
            scaling: RopeScaling::Linear { factor: 4.0 },
        };
        assert_eq!(
            inverse_frequencies(&rope, 8),
            [0.25, 0.025, 0.0025, 0.00025]
        );
    }

    #[test]
    fn llama3_scaling_leaves_short_waves_and_stretches_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        };
        let rope = Rope {
            theta: 10_000.0,
            scaling,
        };
        let got = inverse_frequencies(&rope, 8);
        // Wavelengths 6.28, 62.8, 628, 6283 against bounds 16 and 64: the second lies between.
        let smooth = (64.0 / (TAU * 10.0) - 1.0) / 3.0;
        let blended = (1.0 - smooth) * 0.1 / 8.0 + smooth * 0.1;
        let want = [1.0, blended, 0.01 / 8.0, 0.001 / 8.0];
        for (got, want) in got.iter().zip(want) {
            assert!(
                (f64::from(*got) - want).abs() < 1e-8,
                "got {got}, want {want}"
            );
        }
    }
}
