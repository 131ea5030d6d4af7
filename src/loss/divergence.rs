//! The terms that compare student and teacher at one position, and their slopes.
//!
//! Each is a sum over classes `Σ φ`. The classes are the ids of the support and one bucket for all others. With
//! `h = q ∂φ/∂q`, the slope with respect to ln q, a softmax gives
//!
//! ```text
//! T d/dz_j = h_j − q_j Σh                          on the support
//!          = q_j (h_bucket / q_bucket − Σh)        outside
//! ```
//!
//! A multiple of `q` may be left out of every `h`, since it cancels. Slopes may be small differences, so the
//! arithmetic is f64, for the support alone.

use super::classes::{ClassTerms, ClassValues, Mass, TeacherSide, class_terms};
use super::softmax::Softmax;
use super::spec::LossSpec;
use super::{Term, Terms};
use crate::support::{Samples, Support, TopK};
use crate::vector::{sum, vectorized};

/// Values and slopes of the soft terms at one position.
pub(super) struct SoftLoss {
    /// Value of each term that is on, times T².
    pub(super) values: Terms,
    /// d weighted sum / d logit of each id of the support.
    pub(super) slopes: Vec<f32>,
    /// Slope of every other class, divided by its exponential.
    pub(super) outside: f32,
    /// Exponentials of the ids of the support.
    pub(super) exps: Vec<f32>,
}

/// Computes the soft terms at one position.
///
/// `exps` are the student's exponentials at the temperature of the loss, `logits` its logits of the ids of the support.
/// The exponentials of those ids are moved out of `exps`, which keeps zeros in their place. The student's tail must be
/// summed without them: as 1 − Σ_K q it would be rounding noise once the student is sure of itself. Later steps over
/// every class must leave them alone, too.
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
    let exponents = logits.iter().map(|&logit| softmax.exponent(logit));
    let mut ln: Vec<f64> = exponents.collect();
    let mut prob: Vec<f64> = ln.iter().map(|exponent| exponent.exp()).collect();
    let outside = f64::from(vectorized(|| sum(exps)));
    let total = prob.iter().sum::<f64>() + outside;
    let log_total = total.ln();
    prob.push(outside);
    ln.push(outside.ln());
    for (exp, exponent) in prob.iter_mut().zip(&mut ln) {
        *exp /= total;
        *exponent -= log_total;
    }
    let student = Mass {
        prob: ClassValues(prob),
        ln: ClassValues(ln),
    };
    let sums = match support {
        Support::TopK(top_k) => over_classes(top_k, student, spec),
        Support::Samples(samples) => over_samples(samples, student, spec),
    };
    sums.with_logits_as_variables(kept, total, f64::from(spec.temperature.divisor()))
}

/// Sums over classes.
struct ClassSums {
    values: Terms,
    /// `h` of each id of the support.
    slopes: Vec<f64>,
    /// `q` of each id of the support.
    probs: Vec<f64>,
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
        let slopes = self.slopes.iter().zip(&self.probs);
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

/// Sums over the ids of a support and, last, the tail, to which both sides give 0 if there are no other classes.
fn over_classes(top_k: &TopK<'_>, student: Mass<ClassValues>, spec: &LossSpec) -> ClassSums {
    let num_ids = top_k.ids.len();
    let has_tail = student.prob.0[num_ids] > 0.0;
    let teacher = TeacherSide::of_top_k(top_k, has_tail, spec);
    let ClassTerms { values, slope } = class_terms(&teacher, &student, spec);
    let slope = slope.expect("a term is on");
    let (sum, mut slopes, mut probs) = (slope.sum(), slope.0, student.prob.0);
    let outside = if has_tail {
        slopes[num_ids] / probs[num_ids]
    } else {
        0.0
    };
    slopes.truncate(num_ids);
    probs.truncate(num_ids);
    ClassSums {
        values: Terms::from_fn(|term| values[term].as_ref().map_or(0.0, ClassValues::sum)),
        slopes,
        probs,
        outside,
        slope: sum,
    }
}

/// Cross-entropy against the shares drawn, minus the teacher's entropy.
fn over_samples(samples: &Samples<'_>, student: Mass<ClassValues>, spec: &LossSpec) -> ClassSums {
    spec.check_samples();
    let weight = spec.weights[Term::ForwardKl];
    let mut value = -f64::from(samples.entropy);
    for (share, ln) in samples.shares().zip(&student.ln.0) {
        value -= share * ln;
    }
    let mut probs = student.prob.0;
    probs.truncate(samples.ids.len()); // there is no tail
    ClassSums {
        values: Terms::ZERO.with(Term::ForwardKl, value),
        slopes: samples.shares().map(|share| -weight * share).collect(),
        probs,
        outside: 0.0,
        slope: -weight,
    }
}
