//! Statistics of one position, for evaluation.

use super::divergence::soft_loss;
use super::row::RowTarget;
use super::softmax::{Softmax, kl_of_logits};
use super::spec::LossSpec;
use super::{Term, Terms};

/// Measures of one position, all at temperature 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowStatistics {
    /// Negative log-likelihood of the token that came, in nats.
    pub cross_entropy: f64,
    /// KL(teacher ‖ student) in nats, if the teacher's prediction is known: on the support and one bucket, or an
    /// estimate from samples, which is unbiased and at times below zero.
    pub forward_kl: Option<f64>,
    /// The likeliest token; the first of equals.
    pub top_id: u32,
    /// Probability of `top_id`.
    pub confidence: f32,
    /// The teacher's likeliest token; from samples the one drawn most often.
    pub teacher_top_id: Option<u32>,
}

/// Divergence that is reported, whatever is minimised.
const REPORTED: LossSpec = LossSpec::of(Terms::ZERO.with(Term::ForwardKl, 1.0));

/// Measures one position. Overwrites `logits`.
///
/// `target.support` must be given at temperature 1.
///
/// # Panics
///
/// If an id is not below the number of logits.
pub fn row_statistics(logits: &mut [f32], target: RowTarget<'_>) -> RowStatistics {
    let label_logit = logits[target.label as usize];
    let support_logits = target.support.map(|support| support.gather(logits));
    let softmax = Softmax::in_place(logits, 1.0);
    let top_id = top_id(logits);
    let confidence = logits[top_id as usize] / softmax.sum; // what follows overwrites the exponentials
    let known = target.support.as_ref().zip(support_logits.as_deref());
    let forward_kl = known.map(|(support, of_ids)| {
        let soft = soft_loss(logits, softmax, of_ids, support, &REPORTED);
        soft.values[Term::ForwardKl]
    });
    let teacher_top_id = target.support.and_then(|support| support.top_id());
    RowStatistics {
        cross_entropy: softmax.log_sum_exp() - f64::from(label_logit),
        forward_kl,
        top_id,
        confidence,
        teacher_top_id,
    }
}

/// Same as [`row_statistics`], with the divergence from a teacher's whole vocabulary. Overwrites `logits`.
///
/// # Panics
///
/// If the label is not below the number of logits, or the teacher has more of them.
pub fn statistics_against(logits: &mut [f32], teacher: &[f32], label: u32) -> RowStatistics {
    let forward_kl = kl_of_logits(teacher, logits);
    let target = RowTarget {
        label,
        support: None,
    };
    RowStatistics {
        forward_kl: Some(forward_kl),
        teacher_top_id: Some(top_id(teacher)),
        ..row_statistics(logits, target)
    }
}

/// The class of the largest value, the first of equals; 0 if none is above minus infinity.
pub fn top_id(values: &[f32]) -> u32 {
    let best = |best: (usize, f32), (id, &value)| if value > best.1 { (id, value) } else { best };
    let (id, _) = values.iter().enumerate().fold((0, f32::NEG_INFINITY), best);
    u32::try_from(id).expect("a vocabulary has fewer than 2^32 classes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{log_prob, log_sum_exp};
    use crate::support::{Support, TopK};

    #[test]
    fn a_teacher_beside_says_what_it_says_as_a_support_of_every_class() {
        let teacher: Vec<f32> = (0_u8..100)
            .map(|i| (f32::from(i) * 0.7).sin() * 4.0)
            .collect();
        let mut logits: Vec<f32> = (0_u8..100)
            .map(|i| (f32::from(i) * 0.3).cos() * 5.0)
            .collect();
        logits.extend([1.0; 3]); // padded: the teacher does not know these
        let lse = log_sum_exp(&teacher);
        let log_probs: Vec<f32> = teacher.iter().map(|&logit| log_prob(logit, lse)).collect();
        let support = Support::TopK(TopK {
            ids: &(0..100).collect::<Vec<_>>(),
            log_probs: &log_probs,
            lse: &[],
            position: 0,
        });
        let target = RowTarget {
            label: 7,
            support: Some(support),
        };
        let want = row_statistics(&mut logits.clone(), target);
        let got = statistics_against(&mut logits, &teacher, 7);
        let kl = [want, got].map(|found| found.forward_kl.unwrap());
        assert!(kl[0] > 1.0 && (kl[0] - kl[1]).abs() < 1e-5, "{kl:?}");
        let forward_kl = want.forward_kl;
        assert_eq!(RowStatistics { forward_kl, ..got }, want);
    }
}
