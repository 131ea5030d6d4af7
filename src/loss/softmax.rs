//! Softmax of one row, fast enough that the loss costs less than the products around it.

use std::f32::consts::{LN_2, LOG2_E};

/// The two numbers that turn exponentials into probabilities.
#[derive(Debug, Clone, Copy)]
pub(super) struct Softmax {
    /// Largest logit, divided by the temperature.
    shift: f32,
    /// Σ exp(z / T − shift).
    pub(super) sum: f32,
}

impl Softmax {
    /// Writes `exp((z − max) / T)` of every logit to `exps`.
    pub(super) fn of(logits: &[f32], temperature: f32, exps: &mut [f32]) -> Self {
        exps.copy_from_slice(logits);
        Self::in_place(exps, temperature)
    }

    /// Replaces logits by their exponentials.
    pub(super) fn in_place(logits: &mut [f32], temperature: f32) -> Self {
        let largest = max(logits);
        let inverse = temperature.recip();
        let mut sums = [0.0_f32; LANES];
        let (chunks, rest) = logits.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for (value, sum) in chunk.iter_mut().zip(&mut sums) {
                *value = exp_nonpositive((*value - largest) * inverse);
                *sum += *value;
            }
        }
        for (value, sum) in rest.iter_mut().zip(&mut sums) {
            *value = exp_nonpositive((*value - largest) * inverse);
            *sum += *value;
        }
        Self {
            shift: largest * inverse,
            sum: sums.iter().sum(),
        }
    }

    /// ln Σ exp(z / T).
    pub(super) fn log_sum_exp(self) -> f32 {
        self.shift + self.sum.ln()
    }
}

/// ln Σ exp(z / T) of a row, in f32: within 1e-6 relatively.
pub fn log_sum_exp(logits: &[f32], temperature: f32) -> f32 {
    Softmax::of(logits, temperature, &mut vec![0.0; logits.len()]).log_sum_exp()
}

/// Replaces logits by `exp((z − max) / T)`: probabilities but for their sum.
pub fn exps_in_place(logits: &mut [f32], temperature: f32) {
    Softmax::in_place(logits, temperature);
}

/// Sums run in this many lanes: a fixed order of additions that compilers can vectorise.
const LANES: usize = 32;

/// Largest value; minus infinity if there is none.
fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (value, lane) in chunk.iter().zip(&mut lanes) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    rest.iter()
        .chain(&lanes)
        .fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// Sum in a fixed order of lanes.
pub(super) fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        chunk
            .iter()
            .zip(&mut lanes)
            .for_each(|(value, lane)| *lane += value);
    }
    rest.iter().chain(&lanes).sum()
}

/// `exp(x)` for `x ≤ 0`, within 2e-7 of it relatively, without a branch or a call, so that it vectorises.
///
/// Splits `x = n ln 2 + f` and takes a polynomial of `f` (Cephes `expf`, Moshier 1992). Below −87 the result
/// stays at the smallest normal number: a probability that small is zero to everything that reads it. NaN
/// stays NaN.
fn exp_nonpositive(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 · 2^23: adding it leaves the nearest integer in the low bits
    const LN_2_HIGH: f32 = 355.0 / 512.0; // nine bits of ln 2, so that n times it is exact
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let f = x - n * LN_2_HIGH - n * LN_2_LOW;
    let p = 1.987_569_1e-4 * f + 1.398_2e-3;
    let p = p * f + 8.333_452e-3;
    let p = p * f + 4.166_579_6e-2;
    let p = p * f + 1.666_666_5e-1;
    let p = p * f + 0.5;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1_f32.to_bits()));
    debug_assert!(f.is_nan() || f.abs() <= LN_2);
    (p * f * f + f + 1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_within_2e_7_of_the_library() {
        let mut worst = 0.0_f64;
        for i in 0..870_000 {
            let x = -(i as f32) * 1e-4;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp_nonpositive(x)) - want).abs() / want);
        }
        assert!(worst < 2e-7, "{worst}");
        assert_eq!(exp_nonpositive(0.0).to_bits(), 1.0_f32.to_bits());
        assert!(exp_nonpositive(f32::NEG_INFINITY) < 2e-38);
        assert!(exp_nonpositive(f32::NAN).is_nan());
    }

    #[test]
    fn probabilities_sum_to_one_at_every_length_and_shift() {
        for count in [1, 31, 32, 33, 97] {
            for offset in [-300.0, 0.0, 300.0] {
                let logits: Vec<f32> = (0..count).map(|i| offset + (i * 7 % 11) as f32).collect();
                let mut exps = vec![0.0; count];
                let softmax = Softmax::of(&logits, 2.0, &mut exps);
                let total: f64 = exps.iter().map(|exp| f64::from(exp / softmax.sum)).sum();
                assert!((total - 1.0).abs() < 1e-6, "{count} {offset}: {total}");
                let want = logits
                    .iter()
                    .map(|z| f64::from(z / 2.0 - offset / 2.0).exp())
                    .sum::<f64>()
                    .ln();
                let got = f64::from(softmax.log_sum_exp()) - f64::from(offset) / 2.0;
                assert!((got - want).abs() < 3e-5, "{count} {offset}: {got} {want}");
            }
        }
    }
}
