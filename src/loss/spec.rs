//! The loss to minimise: terms, their weights and their settings.

use super::{Term, Terms};
use crate::support::{Tail, Temperature};

/// The loss to minimise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossSpec {
    /// Weights of the terms. A term with weight 0 is not computed, except the cross-entropy.
    pub weights: Terms,
    /// The number that a term has beside its weight, if it has one:
    ///
    /// - the teacher's share of the mixture of `jsd` and `skew_forward_kl`, above 0 and below 1
    /// - the student's share of the mixture of `skew_reverse_kl`, above 0 and below 1
    /// - the share of the label of `cross_entropy` that is spread over all tokens, from 0 to below 1
    pub shapes: Terms,
    /// Temperature of the soft terms.
    pub temperature: Temperature,
    /// Treatment of the teacher's mass outside a top-k support.
    pub tail: Tail,
}

impl LossSpec {
    /// Loss with these weights at temperature 1, with a bucket, plain labels, and mixtures of equal parts or a tenth.
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

    /// Share of the label that is spread evenly over all tokens.
    pub(super) fn label_smoothing(&self) -> f64 {
        self.shapes[Term::CrossEntropy]
    }

    /// True if any term compares with the teacher's predictions.
    pub fn is_soft(&self) -> bool {
        let mut terms = self.weights.iter();
        terms.any(|(term, weight)| term.is_soft() && *weight != 0.0)
    }

    /// Checks that no soft term but `forward_kl` is computed from samples.
    ///
    /// # Panics
    ///
    /// If another one is: recipes that ask for it are refused.
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
