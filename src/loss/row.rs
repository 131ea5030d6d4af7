//! The loss of one position and its gradient.

use super::divergence::soft_loss;
use super::softmax::Softmax;
use super::spec::LossSpec;
use super::{LossSums, Term, Terms};
use crate::support::Support;
use crate::vector::{sum, vectorized};

/// Target of one position. Position `t` is about token `t + 1`: nothing is shifted here.
#[derive(Debug, Clone, Copy)]
pub struct RowTarget<'a> {
    /// The token that came.
    pub label: u32,
    /// The teacher's prediction; without it the soft terms have no value.
    pub support: Option<Support<'a>>,
}

/// Value of the loss at one position; writes d loss / d logits over `logits`.
///
/// With the teacher `p` and the student `q`, both softened by the temperature `T`:
///
/// ```text
/// forward_kl       Σ p ln(p / q)
/// reverse_kl       Σ q ln(q / p)
/// jsd              β Σ p ln(p / m) + (1 − β) Σ q ln(q / m)    m = β p + (1 − β) q
/// skew_forward_kl  Σ p ln(p / m)                              m = α p + (1 − α) q
/// skew_reverse_kl  Σ q ln(q / m)                              m = (1 − α) p + α q
/// tvd              ½ Σ |p − q|
/// adaptive_kl      g Σ p ln(p / q) + (1 − g) Σ q ln(q / p)    g = Σ_head |p − q| / Σ |p − q|
/// cross_entropy    −Σ y ln q                                  never softened
/// loss = Σ weight · T² · soft term + weight · cross_entropy
/// ```
///
/// where `y` is the label, with a share `label_smoothing` of it spread evenly over all logits. The head is the
/// teacher's likeliest ids that have at most half of its mass together, and always the likeliest; of equals the
/// earlier in the support come first. The share `g` of a position is a constant: no slope goes through it, as in its
/// authors' code (`AKL.py`, where the student's probabilities are detached from the graph).
///
/// # The tail
///
/// Over a top-k support, all other classes are pooled into one bucket on both sides, so that each side sums to one.
/// Every soft term but `adaptive_kl` is an f-divergence: pooling can only lower it (data-processing inequality), and
/// with `K = V` it is exact.
/// Pooling hides how the two differ *within* the tail, where each term has one slope for all: the student learns how
/// much mass belongs there and keeps its own proportions.
///
/// - `forward_kl`, `skew_forward_kl` weigh classes by the teacher, so they lose little: the tail holds the classes that
///   the teacher finds unlikely.
/// - `reverse_kl` weighs by the student and punishes mass where the teacher has none. In the tail it sees such mass
///   only as a whole, so a student that moves it from one class of the tail to another goes unpunished: use a
///   large `top_k`. A teacher's tail below 1.2e-7, which f32 cannot tell from none, counts as that much.
/// - `jsd`, `skew_reverse_kl` share that blindness; their mixtures bound its cost, at `ln 1/β`, `ln 1/(1 − β)` and
///   `ln 1/α` for each unit of tail mass.
/// - `adaptive_kl` always counts the bucket to the tail, and the remarks above hold for both of its KLs.
/// - `tvd` falls short by the smaller of the two tail masses at most. Its slope jumps where `p = q` and is 0 there.
///
/// [`Tail::Renormalize`](crate::support::Tail::Renormalize) divides the teacher's probabilities by their sum
/// instead and teaches that the tail is empty: a student that fits it is overconfident by that factor. It exists for
/// comparison; `reverse_kl` would be infinite.
///
/// Over `N` samples the weights of `forward_kl` are the shares drawn, and the tail needs no bucket:
///
/// ```text
/// forward_kl = −Σ_S c/N ln q − H(p)        T d/dz_j = q_j − c_j/N
/// ```
///
/// Shares are unbiased and the entropy is the teacher's own, so the mean of value and slope over draws is that of the
/// exact KL. A single position may be below zero. No other term is linear in `p`, so none has such an estimate.
///
/// `scratch` is as long as `logits` and is overwritten.
///
/// Reference: Hinton, Vinyals, Dean 2015, <https://arxiv.org/abs/1503.02531>, section 2; for `jsd` Agarwal et al. 2024,
/// <https://arxiv.org/abs/2306.13649>, equation 1; for the skewed terms Ko et al. 2024,
/// <https://arxiv.org/abs/2402.03898>; for `adaptive_kl` Wu et al. 2024, <https://arxiv.org/abs/2404.02657>, section 5; for
/// samples Anshumann et al. 2025, <https://arxiv.org/abs/2503.16870>. Checked
/// against PyTorch: `tests/golden/losses`.
///
/// # Panics
///
/// If an id is not below the number of logits: ids are checked where they enter the program. If a term other than
/// `forward_kl` meets samples: recipes that ask for it are refused.
#[expect(clippy::cast_possible_truncation, reason = "gradients are f32")]
pub fn loss_row(
    logits: &mut [f32],
    scratch: &mut [f32],
    target: RowTarget<'_>,
    spec: &LossSpec,
) -> LossSums {
    let hard = HardLoss::of(logits, target.label, spec);
    let weight = spec.weights[Term::CrossEntropy] as f32;
    let mut terms = Terms::ZERO;
    let plain = if let Some(support) = target.support.filter(|_| spec.is_soft()) {
        let softmax = Softmax::of(logits, spec.temperature.divisor(), scratch);
        let of_ids = support.gather(logits);
        let soft = soft_loss(scratch, softmax, &of_ids, &support, spec);
        terms = soft.values;
        let plain = if spec.temperature.is_one() {
            let slope = soft.outside + weight / softmax.sum;
            logits
                .iter_mut()
                .zip(&*scratch)
                .for_each(|(gradient, exp)| *gradient = slope * exp);
            let slope = weight / softmax.sum;
            for (&id, exp) in support.ids().iter().zip(soft.exps) {
                logits[id as usize] = slope * exp;
            }
            softmax
        } else {
            let plain = Softmax::in_place(logits, 1.0);
            let slope = weight / plain.sum;
            logits
                .iter_mut()
                .zip(&*scratch)
                .for_each(|(gradient, exp)| {
                    *gradient = normal_or_zero(slope * *gradient + soft.outside * exp);
                });
            plain
        };
        for (&id, slope) in support.ids().iter().zip(soft.slopes) {
            logits[id as usize] += slope;
        }
        plain
    } else {
        let plain = Softmax::in_place(logits, 1.0);
        let slope = weight / plain.sum;
        for gradient in logits.iter_mut() {
            *gradient *= slope;
        }
        plain
    };
    hard.subtract_labels(logits, spec);
    terms[Term::CrossEntropy] = plain.log_sum_exp() - hard.logit_of_labels;
    LossSums {
        total: terms.weighted(&spec.weights),
        terms,
        positions: 1,
    }
}

/// Replaces a number below the normal ones of f32 by 0. At low temperatures the slope of nearly every class is one, and
/// processors take many times as long over products with them.
fn normal_or_zero(value: f32) -> f32 {
    if value.abs() < f32::MIN_POSITIVE {
        0.0
    } else {
        value
    }
}

/// Part of the cross-entropy that depends on the label.
struct HardLoss {
    label: usize,
    /// Σ y z, the logits weighted by the smoothed label.
    logit_of_labels: f64,
}

impl HardLoss {
    fn of(logits: &[f32], label: u32, spec: &LossSpec) -> Self {
        let label = label as usize;
        let mut logit_of_labels = f64::from(logits[label]);
        let smoothing = spec.label_smoothing();
        if smoothing > 0.0 {
            let mean = f64::from(vectorized(|| sum(logits))) / logits.len() as f64;
            logit_of_labels = (1.0 - smoothing) * logit_of_labels + smoothing * mean;
        }
        Self {
            label,
            logit_of_labels,
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "gradients are f32")]
    fn subtract_labels(&self, gradient: &mut [f32], spec: &LossSpec) {
        let (weight, smoothing) = (spec.weights[Term::CrossEntropy], spec.label_smoothing());
        gradient[self.label] -= (weight * (1.0 - smoothing)) as f32;
        if smoothing > 0.0 {
            let everywhere = (weight * smoothing / gradient.len() as f64) as f32;
            for slope in gradient {
                *slope -= everywhere;
            }
        }
    }
}
