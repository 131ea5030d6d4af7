//! What is minimised: terms, their weights, and what they are taken at.

use super::{Term, Terms};
use crate::support::{Tail, Temperature};

/// What is minimised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossSpec {
    /// Weights of the terms; a term with weight 0 is not computed, but for the cross-entropy.
    pub weights: Terms,
    /// The number that a term has beside its weight, if it has one:
    ///
    /// - the teacher's share of the mixture of `jsd` and `skew_forward_kl`, above 0 and below 1
    /// - the student's share of the mixture of `skew_reverse_kl`, above 0 and below 1
    /// - the share of the label of `cross_entropy` that is spread over all tokens, from 0 to below 1
    pub shapes: Terms,
    /// Temperature of the soft terms.
    pub temperature: Temperature,
    /// What becomes of the teacher's mass outside a top-k support.
    pub tail: Tail,
}

impl LossSpec {
    /// These weights at temperature 1, with a bucket, labels as they are, and mixtures of equal parts or a tenth.
    pub const fn of(weights: Terms) -> Self {
        Self {
            weights,
            shapes: Terms::ZERO
                .with(Term::Jsd, 0.5)
                .with(Term::SkewForwardKl, 0.1)
                .with(Term::SkewReverseKl, 0.1),
            temperature: Temperature::ONE,
            tail: Tail::Bucket,
        }
    }

    /// Share of the label that is spread over all tokens.
    pub(super) fn label_smoothing(&self) -> f64 {
        self.shapes[Term::CrossEntropy]
    }

    /// Whether any term compares with the teacher's predictions.
    pub fn is_soft(&self) -> bool {
        let mut terms = self.weights.iter();
        terms.any(|(term, weight)| term.is_soft() && *weight != 0.0)
    }

    /// Sees to it that nothing but `forward_kl` is to be taken from samples.
    ///
    /// # Panics
    ///
    /// If another term of the teacher's predictions is: recipes that ask for it are refused.
    pub(super) fn check_samples(&self) {
        let mut others = self.weights.iter().filter(|(term, weight)| {
            let is_other = term.is_soft() && *term != Term::ForwardKl;
            is_other && **weight != 0.0
        });
        assert!(
            others.next().is_none(),
            "recipes with other terms over samples are refused: {self:?}"
        );
    }
}
