//! The loss of one position and its gradient.

use super::LossSums;
use super::softmax::Softmax;
use super::support::{Support, Tail, TopK};
use crate::vector::{sum, vectorized};

/// What is minimised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossSpec {
    /// Weight of KL(teacher ‖ student).
    pub forward_kl: f32,
    /// Weight of the negative log-likelihood of the text; never softened.
    pub cross_entropy: f32,
    /// Temperature of the KL.
    pub temperature: f32,
    /// What becomes of the teacher's mass outside a top-k support.
    pub tail: Tail,
}

/// What one position is measured against. Position `t` is about token `t + 1`: nothing is shifted here.
#[derive(Debug, Clone, Copy)]
pub struct RowTarget<'a> {
    /// The token that came.
    pub label: u32,
    /// The teacher's opinion; without it the KL has no value.
    pub support: Option<Support<'a>>,
}

/// Value of the loss at one position; writes d loss / d logits over `logits`.
///
/// Over a top-k support, the KL pools all other classes into one bucket on both sides, so that each side sums to one:
///
/// ```text
/// KL = Σ_K p (ln p − ln q)  +  p_tail (ln p_tail − ln q_tail)          loss = w_kl T² KL + w_ce CE
/// T dKL/dz_j = q_j − p_j                       on the support
///            = q_j (1 − p_tail / q_tail)       outside
/// ```
///
/// Pooling can only lower the divergence, and with `K = V` it is exact. [`Tail::Renormalize`] divides the
/// teacher's probabilities by their sum instead and teaches that the tail is empty: a student that fits it is
/// too sure of itself by that factor. It is there to be compared with.
///
/// Over `N` samples the weights are the shares drawn, and the tail needs no bucket:
///
/// ```text
/// KL = −Σ_S c/N ln q − H(p)        T dKL/dz_j = q_j − c_j/N
/// ```
///
/// Shares are unbiased, the entropy is the teacher's own, so value and slope are the exact KL's in the mean
/// over draws. A single position may be below zero.
///
/// `scratch` is as long as `logits` and is overwritten.
///
/// Reference: Hinton, Vinyals, Dean 2015, <https://arxiv.org/abs/1503.02531>, section 2; for samples
/// Anshumann et al. 2025, <https://arxiv.org/abs/2503.16870>.
///
/// # Panics
///
/// If an id is not below the number of logits: ids are checked where they enter the program.
#[expect(
    clippy::float_cmp,
    reason = "temperature 1 is a value that recipes write"
)]
pub fn loss_row(
    logits: &mut [f32],
    scratch: &mut [f32],
    target: RowTarget<'_>,
    spec: &LossSpec,
) -> LossSums {
    let label = target.label as usize;
    let label_logit = logits[label];
    let support = target.support.filter(|_| spec.forward_kl != 0.0);
    let mut forward_kl = 0.0;
    let plain = if let Some(support) = support {
        let temperature = spec.temperature;
        let softmax = Softmax::of(logits, temperature, scratch);
        let kl = soft_kl(scratch, softmax.sum, &support, spec);
        forward_kl = f64::from(temperature * temperature) * kl.value;

        let weight = spec.forward_kl * temperature;
        let outside = weight * kl.outside_slope / softmax.sum;
        let plain = if temperature == 1.0 {
            let slope = outside + spec.cross_entropy / softmax.sum;
            logits
                .iter_mut()
                .zip(&*scratch)
                .for_each(|(gradient, exp)| *gradient = slope * exp);
            softmax
        } else {
            let plain = Softmax::in_place(logits, 1.0);
            let slope = spec.cross_entropy / plain.sum;
            logits
                .iter_mut()
                .zip(&*scratch)
                .for_each(|(gradient, exp)| *gradient = slope * *gradient + outside * exp);
            plain
        };
        for (&id, slope) in support.ids().iter().zip(kl.support_slopes) {
            logits[id as usize] += weight * slope - outside * scratch[id as usize];
        }
        plain
    } else {
        let plain = Softmax::in_place(logits, 1.0);
        let slope = spec.cross_entropy / plain.sum;
        for gradient in logits.iter_mut() {
            *gradient *= slope;
        }
        plain
    };
    logits[label] -= spec.cross_entropy;

    let cross_entropy = f64::from(plain.log_sum_exp() - label_logit);
    let total =
        f64::from(spec.forward_kl) * forward_kl + f64::from(spec.cross_entropy) * cross_entropy;
    LossSums {
        total,
        forward_kl,
        cross_entropy,
        positions: 1,
    }
}

/// A divergence and its slopes with respect to the softened logits.
pub(super) struct SoftKl {
    pub(super) value: f64,
    /// `q − p` for each id of the support.
    support_slopes: Vec<f32>,
    /// Times `q` it is the slope of every other class: `1 − p_tail / q_tail` with a bucket, 1 without.
    outside_slope: f32,
}

/// The divergence at one position, from the student's exponentials and their sum.
pub(super) fn soft_kl(
    exps: &mut [f32],
    exps_sum: f32,
    support: &Support<'_>,
    spec: &LossSpec,
) -> SoftKl {
    match (support, spec.tail) {
        (Support::TopK(top_k), Tail::Bucket) => {
            bucketed_kl(exps, exps_sum, top_k, spec.temperature)
        }
        (Support::TopK(top_k), Tail::Renormalize) => {
            let (mut probs, _) = top_k.probs(spec.temperature);
            let mass = probs.iter().sum::<f32>(); // one less the tail would be rounding where the support holds little
            for prob in &mut probs {
                *prob /= mass;
            }
            let entropy = -probs.iter().map(|&p| relative_entropy(p, 1.0)).sum::<f64>();
            weighted_kl(exps, exps_sum, top_k.ids, &probs, entropy)
        }
        (Support::Samples(samples), _) => {
            let shares = samples.shares();
            weighted_kl(
                exps,
                exps_sum,
                samples.ids,
                &shares,
                f64::from(samples.entropy),
            )
        }
    }
}

/// Cross-entropy of the student against weights that sum to one, less an entropy.
fn weighted_kl(exps: &[f32], exps_sum: f32, ids: &[u32], weights: &[f32], entropy: f64) -> SoftKl {
    let mut value = -entropy;
    let mut support_slopes = Vec::with_capacity(ids.len());
    for (&id, &weight) in ids.iter().zip(weights) {
        let q = exps[id as usize] / exps_sum;
        value -= f64::from(weight) * f64::from(q.max(f32::MIN_POSITIVE)).ln();
        support_slopes.push(q - weight);
    }
    SoftKl {
        value,
        support_slopes,
        outside_slope: 1.0,
    }
}

/// KL over the support and one bucket.
///
/// The student's tail is summed over the classes outside the support; taken as 1 − Σ_K q it would be rounding
/// noise once the student is sure of itself. `exps` is changed for that sum and put back.
fn bucketed_kl(exps: &mut [f32], exps_sum: f32, support: &TopK<'_>, temperature: f32) -> SoftKl {
    let (teacher, teacher_tail) = support.probs(temperature);
    let kept: Vec<f32> = support
        .ids
        .iter()
        .map(|&id| std::mem::take(&mut exps[id as usize]))
        .collect();
    let outside = vectorized(|| sum(exps));
    for (&id, &exp) in support.ids.iter().zip(&kept) {
        exps[id as usize] = exp;
    }

    let mut value = 0.0;
    let mut support_slopes = Vec::with_capacity(kept.len());
    for (&p, &exp) in teacher.iter().zip(&kept) {
        let q = exp / exps_sum;
        value += relative_entropy(p, q);
        support_slopes.push(q - p);
    }
    if kept.len() == exps.len() {
        return SoftKl {
            value,
            support_slopes,
            outside_slope: 0.0,
        };
    }
    let student_tail = (outside / exps_sum).max(f32::MIN_POSITIVE);
    value += relative_entropy(teacher_tail, student_tail);
    SoftKl {
        value,
        support_slopes,
        outside_slope: 1.0 - teacher_tail / student_tail,
    }
}

/// `p (ln p − ln q)`, 0 at `p = 0`.
fn relative_entropy(p: f32, q: f32) -> f64 {
    if p <= 0.0 {
        return 0.0;
    }
    let (p, q) = (f64::from(p), f64::from(q.max(f32::MIN_POSITIVE)));
    p * (p.ln() - q.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_little_the_support_holds_renormalised_it_sums_to_one() {
        for mass in [1e-2_f32, 3e-6, 1e-9] {
            let spec = LossSpec {
                forward_kl: 1.0,
                cross_entropy: 0.0,
                temperature: 1.0,
                tail: Tail::Renormalize,
            };
            let support = Support::TopK(TopK {
                ids: &[2],
                log_probs: &[mass.ln()],
                log_sum_exp: 0.0,
            });
            let target = RowTarget {
                label: 0,
                support: Some(support),
            };
            let mut gradient = [0.0_f32; 4];
            let sums = loss_row(&mut gradient, &mut [0.0; 4], target, &spec);
            assert!(
                (sums.total - 4_f64.ln()).abs() < 1e-6,
                "{mass}: {}",
                sums.total
            );
            for (slope, want) in gradient.iter().zip([0.25, 0.25, -0.75, 0.25]) {
                assert!((slope - want).abs() < 1e-6, "{mass}: {gradient:?}");
            }
        }
    }
}
