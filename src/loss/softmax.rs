//! Softmax of one row, fast enough that the loss costs less than the products around it.

use crate::vector::{exp_gap, exp_in_place, exp_nonpositive, exp_sum, max, vectorized};

/// Numbers that turn exponentials into probabilities.
#[derive(Debug, Clone, Copy)]
pub(super) struct Softmax {
    /// Largest logit.
    largest: f32,
    temperature: f32,
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
        let inverse = temperature.recip();
        let (largest, sum) = vectorized(|| {
            let largest = max(logits);
            (largest, exp_in_place(logits, largest, inverse))
        });
        Self {
            largest,
            temperature,
            sum,
        }
    }

    /// (z − max) / T of one logit: the logarithm of its exponential.
    pub(super) fn exponent(self, logit: f32) -> f64 {
        (f64::from(logit) - f64::from(self.largest)) / f64::from(self.temperature)
    }

    /// ln Σ exp(z / T).
    pub(super) fn log_sum_exp(self) -> f64 {
        f64::from(self.largest) / f64::from(self.temperature) + f64::from(self.sum).ln()
    }
}

/// ln Σ exp(z) of a row, within 1e-6 whatever is added to all logits.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let (largest, sum) = vectorized(|| {
        let largest = max(logits);
        (largest, exp_sum(logits, largest, 1.0))
    });
    let softmax = Softmax {
        largest,
        temperature: 1.0,
        sum,
    };
    softmax.log_sum_exp()
}

/// A log-sum-exp below this is rounded to f32 before it is subtracted from a logit. That costs 4e-6 nats at most, and
/// caches of such teachers keep their bits. For logits of 10⁴ it would cost a thousandth of a probability.
const ROUNDED_BELOW: f64 = 128.0;

/// Natural logarithm of the probability of a logit, in a row with this [`log_sum_exp`].
#[expect(clippy::cast_possible_truncation, reason = "supports hold f32")]
pub fn log_prob(logit: f32, log_sum_exp: f64) -> f32 {
    if log_sum_exp.abs() < ROUNDED_BELOW {
        logit - log_sum_exp as f32
    } else {
        (f64::from(logit) - log_sum_exp) as f32
    }
}

/// ln Σ exp((z − max) / T) of a row, from which [`softened`](crate::support::softened) computes probabilities.
///
/// At low temperatures the rounding of a log-probability, divided by `T`, would alone be a nat. So the likeliest `ids`
/// enter through their `log_probs`, and others through their logits: the mass of the support never exceeds 1.
#[expect(clippy::cast_possible_truncation, reason = "what is asked for is f32")]
pub fn softened_log_sum_exp(
    logits: &[f32],
    ids: &[u32],
    log_probs: &[f32],
    temperature: f64,
) -> f32 {
    let inverse = (temperature.recip() as f32).min(f32::MAX);
    let (sum, of_ids) = vectorized(|| {
        let largest = max(logits);
        let exp = |&id: &u32| exp_nonpositive((logits[id as usize] - largest) * inverse);
        let of_ids: f64 = ids.iter().map(exp).map(f64::from).sum();
        (exp_sum(logits, largest, inverse), of_ids)
    });
    let outside = (f64::from(sum) - of_ids).max(0.0);
    let largest = max(log_probs);
    let below = |&log_prob: &f32| (f64::from(log_prob) - f64::from(largest)) / temperature;
    let inside: f64 = log_probs.iter().map(below).map(f64::exp).sum();
    (inside + outside).ln() as f32
}

/// KL(p ‖ q) of two rows of logits, in nats: exact to about 1e-7, and 0 where the rows are the same. p gives no mass to
/// classes that q has behind those of p.
///
/// # Panics
///
/// If p has more classes.
pub fn kl_of_logits(p: &[f32], q: &[f32]) -> f64 {
    let ([sum_p, gap], sum_q) = vectorized(|| {
        let largest = [max(p), max(q)];
        (
            exp_gap(p, &q[..p.len()], largest),
            exp_sum(q, largest[1], 1.0),
        )
    });
    let (sum_p, sum_q) = (f64::from(sum_p), f64::from(sum_q));
    f64::from(gap) / sum_p + (sum_q / sum_p).ln()
}

/// Replaces logits by `exp((z − max) / T)`: probabilities up to a common factor.
pub fn exps_in_place(logits: &mut [f32], temperature: f32) {
    Softmax::in_place(logits, temperature);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kl_of_two_rows_is_that_of_their_probabilities() {
        for count in [1, 31, 33, 1000] {
            let p: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin() * 6.0).collect();
            let q: Vec<f32> = (0..count)
                .map(|i| p[i] + (i as f32 * 1.3).cos() * 0.2 + 40.0)
                .collect();
            assert_eq!(kl_of_logits(&p, &p).to_bits(), 0.0_f64.to_bits());
            let log_probs = |logits: &[f32]| {
                let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
                let logits = logits.iter();
                logits
                    .map(|&logit| f64::from(logit) - sum.ln())
                    .collect::<Vec<f64>>()
            };
            let pairs = log_probs(&p).into_iter().zip(log_probs(&q));
            let want: f64 = pairs.map(|(p, q)| p.exp() * (p - q)).sum();
            let got = kl_of_logits(&p, &q);
            assert!((got - want).abs() < 1e-6, "{count}: {got}, {want}");
            // Classes unknown to p take probability from those it knows.
            let more: f64 = 0.5;
            let sum: f64 = q.iter().map(|&logit| f64::from(logit).exp()).sum();
            #[expect(clippy::cast_possible_truncation, reason = "logits are f32")]
            let longer = [&q[..], &[(sum * more).ln() as f32]].concat();
            let got = kl_of_logits(&p, &longer);
            assert!((got - want - more.ln_1p()).abs() < 2e-6, "{count}: {got}");
        }
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
                let got = softmax.log_sum_exp() - f64::from(offset) / 2.0;
                assert!((got - want).abs() < 1e-6, "{count} {offset}: {got} {want}");
            }
        }
    }
}
