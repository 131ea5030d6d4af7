//! A moving average of the weights.

use burn::tensor::Tensor;

/// Moving average after one more update, which gave `weights`: `a ← a + (1 − d) (w − a)`.
///
/// `d` is `ema`, but at most `(1 + n) / (10 + n)` after `n` updates: otherwise the average would stay at the first
/// weights for `1 / (1 − ema)` steps. (The bound is that of TensorFlow's
/// `ExponentialMovingAverage` with `num_updates`.)
///
/// Zeros of both stay zero, so an average of masked weights is masked. Trained matrices are averaged: the free weights,
/// which are put on a grid when they are used, or the matrices of an adapter.
///
/// Reference: Polyak, Juditsky 1992, SIAM J. Control Optim. 30, in the exponential form of Tarvainen, Valpola 2017,
/// <https://arxiv.org/abs/1703.01780>.
pub fn averaged(
    average: &[Tensor<2>],
    weights: &[Tensor<2>],
    ema: f64,
    num_updates: usize,
) -> Vec<Tensor<2>> {
    let share = 1.0 - decay(ema, num_updates);
    let pairs = average.iter().cloned().zip(weights.iter().cloned());
    pairs
        .map(|(average, weight)| average.clone() + (weight - average).mul_scalar(share))
        .collect()
}

fn decay(ema: f64, num_updates: usize) -> f64 {
    let count = num_updates as f64;
    ema.min((1.0 + count) / (10.0 + count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decay_rises_to_its_own() {
        for (num_updates, want) in [(1, 2.0 / 11.0), (8, 0.5), (79, 80.0 / 89.0), (80, 0.9)] {
            let got = decay(0.9, num_updates);
            assert!((got - want).abs() < 1e-15, "{num_updates}: {got}, {want}");
        }
        assert!((decay(0.9, 1000) - 0.9).abs() < 1e-15);
    }
}
