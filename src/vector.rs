//! Exponentials, sums and maxima over slices of f32, vectorised for the machine.
//!
//! Plain Rust without branches or calls, which a compiler turns into vector instructions; [`vectorized`] compiles it
//! for each vector width and picks one at run time. Sums use a fixed number of lanes and no fused multiply-add, so the
//! results are the same at every width.
#![expect(
    clippy::inline_always,
    reason = "code is compiled for a vector width only where it is inlined into `vectorized`"
)]

use std::f32::consts::{LN_2, LOG2_E};

/// Number of lanes of a sum: a fixed order of additions that compilers can vectorise.
pub const LANES: usize = 32;

/// Runs code compiled for the widest vectors of this machine.
///
/// Called functions are included only if they are `#[inline(always)]`.
pub fn vectorized<R>(kernel: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(kernel)
}

/// Largest value; minus infinity if there is none. NaN is ignored.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
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
#[inline(always)]
pub fn sum(values: &[f32]) -> f32 {
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

/// Sum of products in a fixed order of lanes; the slices have the same length.
#[inline(always)]
pub fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (left_chunks, left_rest) = left.as_chunks::<LANES>();
    let (right_chunks, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left_chunks.iter().zip(right_chunks) {
        for ((a, b), lane) in left.iter().zip(right).zip(&mut lanes) {
            *lane += a * b;
        }
    }
    let rest = left_rest.iter().zip(right_rest).map(|(a, b)| a * b);
    rest.chain(lanes).sum()
}

/// Replaces values by `exp((value − shift) · scale)`, where no exponent is above 0, and returns their sum.
#[inline(always)]
pub fn exp_in_place(values: &mut [f32], shift: f32, scale: f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (value, sum) in chunk.iter_mut().zip(&mut sums) {
            *value = exp_nonpositive((*value - shift) * scale);
            *sum += *value;
        }
    }
    for (value, sum) in rest.iter_mut().zip(&mut sums) {
        *value = exp_nonpositive((*value - shift) * scale);
        *sum += *value;
    }
    sums.iter().sum()
}

/// Returns the same sum as [`exp_in_place`], to the bit, without writing.
#[inline(always)]
pub fn exp_sum(values: &[f32], shift: f32, scale: f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (value, sum) in chunk.iter().zip(&mut sums) {
            *sum += exp_nonpositive((value - shift) * scale);
        }
    }
    for (value, sum) in rest.iter().zip(&mut sums) {
        *sum += exp_nonpositive((value - shift) * scale);
    }
    sums.iter().sum()
}

/// Computes `Σ exp(p)`, equal to [`exp_sum`] to the bit, and `Σ exp(p) (p − q)`, with `p` and `q` each shifted down by
/// its own number; the slices have the same length, and no `p` is above its shift.
#[inline(always)]
pub fn exp_gap(p: &[f32], q: &[f32], shifts: [f32; 2]) -> [f32; 2] {
    let mut sums = [0.0_f32; LANES];
    let mut gaps = [0.0_f32; LANES];
    let (p_chunks, p_rest) = p.as_chunks::<LANES>();
    let (q_chunks, q_rest) = q.as_chunks::<LANES>();
    for (p, q) in p_chunks.iter().zip(q_chunks) {
        let lanes = sums.iter_mut().zip(&mut gaps);
        for ((p, q), (sum, gap)) in p.iter().zip(q).zip(lanes) {
            let (p, q) = (p - shifts[0], q - shifts[1]);
            let exp = exp_nonpositive(p);
            *sum += exp;
            *gap += exp * (p - q);
        }
    }
    let lanes = sums.iter_mut().zip(&mut gaps);
    for ((p, q), (sum, gap)) in p_rest.iter().zip(q_rest).zip(lanes) {
        let (p, q) = (p - shifts[0], q - shifts[1]);
        let exp = exp_nonpositive(p);
        *sum += exp;
        *gap += exp * (p - q);
    }
    [sums.iter().sum(), gaps.iter().sum()]
}

/// `1 / (1 + exp(−x))`, within 3e-7 relative error; for `x < −87` it stays at the smallest normal number.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    let small = exp_nonpositive(-x.abs()); // this form cannot overflow
    let numerator = if x >= 0.0 { 1.0 } else { small };
    numerator / (1.0 + small)
}

/// `exp(x)` for `x ≤ 0`, within 2e-7 relative error, without branches or calls, so that it vectorises.
///
/// Splits `x = n ln 2 + f` and evaluates a polynomial in `f` (Cephes `expf`, Moshier 1992). Below −87 the result
/// stays at the smallest normal number: every caller treats so small a probability as zero. NaN stays NaN.
#[inline(always)]
pub fn exp_nonpositive(x: f32) -> f32 {
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
    fn the_sigmoid_is_within_3e_7_of_the_library_on_both_sides_of_zero() {
        let mut worst = 0.0_f64;
        for i in -870_000..870_000 {
            let x = i as f32 * 1e-4;
            let want = 1.0 / (1.0 + (-f64::from(x)).exp());
            worst = worst.max((f64::from(sigmoid(x)) - want).abs() / want);
        }
        assert!(worst < 3e-7, "{worst}");
        assert_eq!(sigmoid(0.0).to_bits(), 0.5_f32.to_bits());
        assert_eq!(sigmoid(f32::INFINITY).to_bits(), 1.0_f32.to_bits());
        assert!(sigmoid(f32::NEG_INFINITY) < 2e-38);
        assert!(sigmoid(f32::NAN).is_nan());
    }

    #[test]
    fn every_width_of_vectors_gives_the_same_bits() {
        for count in [1, 31, 32, 33, 97, 1000] {
            let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
            let all = || {
                let mut exps = values.clone();
                let largest = max(&values);
                let sum_exps = exp_in_place(&mut exps, largest, 0.7);
                assert_eq!(exp_sum(&values, largest, 0.7).to_bits(), sum_exps.to_bits());
                let sigmoids: Vec<f32> = values.iter().map(|&x| sigmoid(x)).collect();
                let mut all = vec![largest, sum_exps, sum(&values), dot(&values, &exps)];
                all.extend(exps);
                all.extend(sigmoids);
                all.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            assert_eq!(vectorized(all), all(), "{count} values");
        }
    }

    #[test]
    fn reductions_see_every_element() {
        let values: Vec<f32> = (0..70).map(|i| i as f32 - 35.0).collect();
        let got = [max(&values), sum(&values), dot(&values, &values), max(&[])];
        let want = [34.0, -35.0, 28_595.0, f32::NEG_INFINITY]; // Σ i² over 1..=35 and 1..=34
        assert_eq!(got.map(f32::to_bits), want.map(f32::to_bits), "{got:?}");
    }
}
