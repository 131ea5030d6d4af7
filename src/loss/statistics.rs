//! What an evaluation wants to know of one position.

use super::divergence::soft_loss;
use super::row::RowTarget;
use super::softmax::Softmax;
use super::spec::{LossSpec, Terms};

/// Measures of one position, all at temperature 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowStatistics {
    /// Negative log-likelihood of the token that came, in nats.
    pub cross_entropy: f64,
    /// KL(teacher ‖ student) in nats, if the teacher's opinion is known: on the support and one bucket, or the
    /// estimate from samples, unbiased and at times below zero.
    pub forward_kl: Option<f64>,
    /// The likeliest token; the first of equals.
    pub top_id: u32,
    /// Its probability.
    pub confidence: f32,
    /// The teacher's likeliest token; from samples the one drawn most often.
    pub teacher_top_id: Option<u32>,
}

/// The divergence that is reported, whatever is minimised.
const REPORTED: LossSpec = LossSpec::of(Terms {
    forward_kl: 1.0,
    ..Terms::ZERO
});

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
    let (top_id, top_exp) =
        logits.iter().enumerate().fold(
            (0, 0.0_f32),
            |best, (id, &exp)| if exp > best.1 { (id, exp) } else { best },
        );
    let known = target.support.as_ref().zip(support_logits.as_deref());
    let forward_kl = known.map(|(support, of_ids)| {
        let soft = soft_loss(logits, softmax, of_ids, support, &REPORTED);
        soft.values.forward_kl
    });
    let teacher_top_id = target.support.and_then(|support| support.top_id());
    RowStatistics {
        cross_entropy: softmax.log_sum_exp() - f64::from(label_logit),
        forward_kl,
        top_id: u32::try_from(top_id).expect("a vocabulary has fewer than 2^32 tokens"),
        confidence: top_exp / softmax.sum,
        teacher_top_id,
    }
}
