//! The terms that compare student and teacher at one position, and their slopes.
//!
//! Every one of them is a sum over classes `Σ φ(p, q)`: the classes are the ids of the support and, for all others
//! together, one bucket. With `h = q ∂φ/∂q`, the slope with respect to ln q, a softmax gives
//!
//! ```text
//! T d/dz_j = h_j − q_j Σh                          on the support
//!          = q_j (h_bucket / q_bucket − Σh)        outside
//! ```
//!
//! A multiple of `q` may be left out of every `h`, since it cancels. Slopes may be small differences, so the
//! arithmetic is f64; it is done for the support alone.

use super::classes::{Mass, class_terms};
use super::softmax::Softmax;
use super::spec::{LossSpec, Terms};
use super::support::{Samples, Support, TopK};
use crate::vector::{sum, vectorized};

/// A tail that a support leaves is known to this only, the rounding of a sum of f32: what a divergence takes the
/// logarithm of is no less.
pub(super) const SMALLEST_TAIL: f64 = f32::EPSILON as f64;

/// The soft terms at one position.
pub(super) struct SoftLoss {
    /// Value of each term that is on, times T².
    pub(super) values: Terms,
    /// d weighted sum / d logit of each id of the support.
    pub(super) slopes: Vec<f32>,
    /// Times its exponential it is the slope of every other class.
    pub(super) outside: f32,
    /// Exponentials of the ids of the support.
    pub(super) exps: Vec<f32>,
}

/// The soft terms at one position.
///
/// `exps` are the student's exponentials at the temperature of the loss, `logits` its logits of the ids of the support.
/// The exponentials of those ids are taken out of `exps`, which keeps zeros in their place: the student's tail must be
/// summed without them (as 1 − Σ_K q it would be rounding noise once the student is sure of itself), and what is then
/// done to every class must leave theirs alone.
pub(super) fn soft_loss(
    exps: &mut [f32],
    softmax: Softmax,
    logits: &[f32],
    support: &Support<'_>,
    spec: &LossSpec,
) -> SoftLoss {
    let ids = support.ids();
    let taken = |&id: &u32| std::mem::take(&mut exps[id as usize]);
    let kept: Vec<f32> = ids.iter().map(taken).collect();
    let exact: Vec<(f64, f64)> = logits
        .iter()
        .map(|&logit| softmax.exponent(logit))
        .map(|exponent| (exponent, exponent.exp()))
        .collect();
    let outside = f64::from(vectorized(|| sum(exps)));
    let total = exact.iter().map(|(_, exp)| exp).sum::<f64>() + outside;
    let log_total = total.ln();
    let student = exact.into_iter().map(|(exponent, exp)| Mass {
        prob: exp / total,
        ln: exponent - log_total,
    });
    let sums = match support {
        Support::TopK(top_k) => {
            let tail = Mass {
                prob: outside / total,
                ln: outside.ln() - log_total,
            };
            let tail = (ids.len() < exps.len()).then_some(tail);
            over_classes(top_k, student, tail, spec)
        }
        Support::Samples(samples) => over_samples(samples, student, spec),
    };
    sums.with_logits_as_variables(kept, total, f64::from(spec.temperature))
}

/// Sums over classes.
struct ClassSums {
    values: Terms,
    /// `h` and `q` of each id of the support.
    support: Vec<(f64, f64)>,
    /// `h / q` of every class outside.
    outside: f64,
    /// Σh over all classes.
    slope: f64,
}

impl ClassSums {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "gradients are f32; where the student leaves next to no tail, its slope is held to the largest one"
    )]
    fn with_logits_as_variables(self, exps: Vec<f32>, total: f64, temperature: f64) -> SoftLoss {
        let outside = temperature * (self.outside - self.slope) / total;
        let slopes = self.support.iter();
        SoftLoss {
            values: self.values.times(temperature * temperature),
            slopes: slopes
                .map(|(slope, q)| (temperature * (slope - q * self.slope)) as f32)
                .collect(),
            outside: outside.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32,
            exps,
        }
    }
}

fn over_classes(
    top_k: &TopK<'_>,
    student: impl Iterator<Item = Mass<f64>>,
    tail: Option<Mass<f64>>,
    spec: &LossSpec,
) -> ClassSums {
    let (teacher, teacher_tail) = top_k.log_probs_and_tail(spec.temperature, spec.tail);
    let mut sums = ClassSums {
        values: Terms::ZERO,
        support: Vec::with_capacity(teacher.len()),
        outside: 0.0,
        slope: 0.0,
    };
    for (ln, q) in teacher.into_iter().zip(student) {
        let p = Mass { prob: ln.exp(), ln };
        let slope = add_class(&mut sums.values, p, q, spec);
        sums.slope += slope;
        sums.support.push((slope, q.prob));
    }
    if let Some(q) = tail {
        let p = Mass {
            prob: teacher_tail,
            ln: teacher_tail.max(SMALLEST_TAIL).ln(),
        };
        let slope = add_class(&mut sums.values, p, q, spec);
        sums.slope += slope;
        sums.outside = slope / q.prob;
    }
    sums
}

/// Adds one class to every term that is on; returns its `h`, weighted.
fn add_class(values: &mut Terms, p: Mass<f64>, q: Mass<f64>, spec: &LossSpec) -> f64 {
    let terms = class_terms(&p, &q, spec);
    values.add_soft(terms.values.map(Option::unwrap_or_default));
    terms.slope.unwrap_or_default()
}

/// Cross-entropy against the shares drawn, less the teacher's entropy.
fn over_samples(
    samples: &Samples<'_>,
    student: impl Iterator<Item = Mass<f64>>,
    spec: &LossSpec,
) -> ClassSums {
    spec.check_samples();
    let weight = spec.weights.forward_kl;
    let mut value = -f64::from(samples.entropy);
    let mut support = Vec::with_capacity(samples.ids.len());
    for (share, q) in samples.shares().zip(student) {
        value -= share * q.ln;
        support.push((-weight * share, q.prob));
    }
    ClassSums {
        values: Terms {
            forward_kl: value,
            ..Terms::ZERO
        },
        support,
        outside: 0.0,
        slope: -weight,
    }
}
