//! Rotary positions, half-split as Hugging Face stores them: dimension `j` is rotated together with `j + H/2`.

use std::f64::consts::TAU;
use std::iter;
use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};

use super::{Rope, RopeScaling};
use crate::kernels::rotate;

/// Cosines and sines of every position and frequency.
///
/// # Shapes
///
/// Both are `[1, 1, T, R/2]`, with R rotary dimensions of a head, or `[B, 1, T, R/2]` if positions differ from row to row.
#[derive(Debug, Clone)]
pub struct RopeTable {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl RopeTable {
    /// The table of the given positions, the same in every row.
    ///
    /// Angles are products of f32 numbers, as in `transformers`: at position 8,000 an f64 table would differ from the
    /// angles that the model was trained with.
    pub fn new(rope: &Rope, head_dim: usize, positions: Range<usize>, device: &Device) -> Self {
        let shape = [1, 1, positions.len(), rope.dims(head_dim) / 2];
        Self::of_runs(rope, head_dim, shape, iter::once(positions), device)
    }

    /// The table of rows of documents, given the places of these. The first token of a document is at position 0, and all
    /// of it is rotated as in a pass over this document alone.
    pub fn of_documents(
        rope: &Rope,
        head_dim: usize,
        rows: &[Vec<Range<usize>>],
        device: &Device,
    ) -> Self {
        let seq = rows.first().and_then(|row| row.last());
        let seq = seq.map_or(0, |last| last.end);
        let shape = [rows.len(), 1, seq, rope.dims(head_dim) / 2];
        let runs = rows.iter().flatten().map(|place| 0..place.len());
        Self::of_runs(rope, head_dim, shape, runs, device)
    }

    fn of_runs(
        rope: &Rope,
        head_dim: usize,
        shape: [usize; 4],
        runs: impl Iterator<Item = Range<usize>>,
        device: &Device,
    ) -> Self {
        let mut angles: Vec<f32> = Vec::with_capacity(shape.iter().product());
        for positions in runs {
            let frequencies = inverse_frequencies(rope, head_dim, positions.end);
            for position in positions {
                angles.extend(
                    frequencies
                        .iter()
                        .map(|frequency| position as f32 * frequency),
                );
            }
        }
        let size = to_f32(rope.scaling.attention_factor());
        let table = |function: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|&angle| size * function(angle)).collect();
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        Self {
            cos: table(f32::cos),
            sin: table(f32::sin),
        }
    }

    /// Rotates queries or keys: the first R dimensions of each head.
    ///
    /// # Shapes
    ///
    /// `[B, N, T, H]`, as is the result.
    pub fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, _, head_dim] = x.dims();
        let [_, _, _, pairs] = self.cos.dims();
        let dims = 2 * pairs;
        if dims == head_dim {
            return rotate(x, &self.cos, &self.sin);
        }
        let rest = x.clone().narrow(3, dims, head_dim - dims);
        let turned = rotate(x.narrow(3, 0, dims), &self.cos, &self.sin); // [B, N, T, R]
        Tensor::cat(vec![turned, rest], 3) // [B, N, T, H]
    }
}

/// Radians per position of each pair of rotary dimensions, `[R/2]`, in a pass over the first `num_positions` positions.
///
/// For long contexts a share of every wave is stretched by a factor: 1 (linear), or 1 for long waves and 0 for short
/// ones, with a ramp by wavelength (Llama 3.1 release, 2024) or by dimension (`YaRN`, Peng et al. 2023, arXiv
/// 2309.00071, section 3.2). `LongRoPE` has a factor per wave. The numbers equal `ROPE_INIT_FUNCTIONS` of
/// `transformers`.
pub fn inverse_frequencies(rope: &Rope, head_dim: usize, num_positions: usize) -> Vec<f32> {
    let dims = rope.dims(head_dim);
    (0..dims / 2)
        .map(|pair| {
            let exponent = (2 * pair) as f64 / dims as f64;
            let frequency = rope.theta.powf(-exponent);
            let (share, factor) = match rope.scaling {
                RopeScaling::Default => (0.0, 1.0),
                RopeScaling::Linear { factor } => (1.0, factor),
                RopeScaling::Llama3 {
                    factor,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: context,
                } => {
                    let turns = context as f64 * frequency / TAU; // of this wave in the trained context
                    (ramp(turns, high, low), factor)
                }
                RopeScaling::Yarn { factor, .. } => {
                    let (low, high) = yarn_range(rope, dims);
                    (ramp(pair as f64, low, high), factor)
                }
                RopeScaling::LongRope {
                    ref short_factor,
                    ref long_factor,
                    original_max_position_embeddings: context,
                    ..
                } => {
                    let is_short = num_positions <= context;
                    let factors = if is_short { short_factor } else { long_factor };
                    (1.0, f64::from(factors[pair]))
                }
            };
            to_f32((1.0 - share) * frequency + share * frequency / factor)
        })
        .collect()
}

/// 0 up to `from`, 1 from `to` on, a line between; `from` may be the larger.
fn ramp(x: f64, from: f64, to: f64) -> f64 {
    ((x - from) / (to - from)).clamp(0.0, 1.0)
}

/// Pairs of dimensions between which `YaRN`'s ramp rises: their waves turn `beta_fast` and `beta_slow` times in the
/// trained context.
fn yarn_range(rope: &Rope, dims: usize) -> (f64, f64) {
    let RopeScaling::Yarn {
        beta_fast,
        beta_slow,
        original_max_position_embeddings: context,
        truncate,
        ..
    } = rope.scaling
    else {
        unreachable!("asked for YaRN alone")
    };
    let pair_turning = |turns: f64| {
        let wavelength = context as f64 / turns;
        dims as f64 * (wavelength / TAU).ln() / (2.0 * rope.theta.ln())
    };
    let (mut low, mut high) = (pair_turning(beta_fast), pair_turning(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, high) = (low.max(0.0), high.min((dims - 1) as f64));
    let is_step = (high - low).abs() < f64::EPSILON;
    (low, if is_step { low + 0.001 } else { high }) // as transformers avoids 0 / 0
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the model computes rotary angles in f32"
)]
fn to_f32(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_geometrically_from_one() {
        let rope = Rope::plain(10_000.0);
        assert_eq!(inverse_frequencies(&rope, 8, 1), [1.0, 0.1, 0.01, 0.001]);
    }

    #[test]
    fn linear_scaling_stretches_all_waves() {
        let rope = Rope {
            scaling: RopeScaling::Linear { factor: 4.0 },
            ..Rope::plain(10_000.0)
        };
        assert_eq!(
            inverse_frequencies(&rope, 8, 1),
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
            scaling,
            ..Rope::plain(10_000.0)
        };
        let got = inverse_frequencies(&rope, 8, 1);
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

    /// `ROPE_INIT_FUNCTIONS["yarn"]` of transformers 5.17: Qwen2.5's long context, and a head of 8 without rounding.
    #[test]
    fn yarn_equals_transformers() {
        let yarn = |factor, context, truncate| RopeScaling::Yarn {
            factor,
            attention_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_max_position_embeddings: context,
            truncate,
        };
        let check = |rope: &Rope, head_dim, at: &[usize], want: &[f32]| {
            let all = inverse_frequencies(rope, head_dim, 1);
            for (&pair, &want) in at.iter().zip(want) {
                let got = all[pair];
                assert!(
                    (got - want).abs() <= 1e-6 * want,
                    "{pair}: {got}, not {want}"
                );
            }
        };
        let qwen = Rope {
            scaling: yarn(4.0, 32_768, true),
            ..Rope::plain(1e6)
        };
        check(
            &qwen,
            128,
            &[0, 20, 24, 30, 36, 40, 50, 63],
            &[
                1.0,
                0.013_335_215,
                0.005_375_321_5,
                0.001_064_361,
                0.000_179_841_15,
                4.445_698_5e-5,
                5.133_812_5e-6,
                3.102_344_4e-7,
            ],
        );
        let tiny = Rope {
            scaling: yarn(8.0, 64, false),
            ..Rope::plain(1e4)
        };
        let want = [1.0, 0.013_194_458, 0.001_25, 0.000_125];
        check(&tiny, 8, &[0, 1, 2, 3], &want);
    }
}
