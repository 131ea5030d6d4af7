//! What is minimised: terms, their weights, and what they are taken at.

use super::support::Tail;

/// One number for each term of the loss: its weight, or its value in nats.
///
/// `p` is the teacher, `q` the student; formulas are in [`loss_row`](super::loss_row).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Terms {
    /// KL(p ‖ q).
    pub forward_kl: f64,
    /// KL(q ‖ p).
    pub reverse_kl: f64,
    /// Generalised Jensen-Shannon divergence, a mean of the KLs of both to a mixture.
    pub jsd: f64,
    /// KL(p ‖ mixture).
    pub skew_forward_kl: f64,
    /// KL(q ‖ mixture).
    pub skew_reverse_kl: f64,
    /// Total variation distance, half the sum of |p − q|.
    pub tvd: f64,
    /// Negative log-likelihood of the text, never softened; with smoothed labels if the spec smooths them.
    pub cross_entropy: f64,
    /// Squared distance of hidden states from the teacher's, see [`hidden_gradients`](super::hidden_gradients); not in nats
    /// and nothing that logits tell.
    pub hidden_mse: f64,
}

impl Terms {
    /// No term at all.
    pub const ZERO: Self = Self {
        forward_kl: 0.0,
        reverse_kl: 0.0,
        jsd: 0.0,
        skew_forward_kl: 0.0,
        skew_reverse_kl: 0.0,
        tvd: 0.0,
        cross_entropy: 0.0,
        hidden_mse: 0.0,
    };

    /// The terms that compare with the teacher's predictions, by name.
    pub fn soft(&self) -> [(&'static str, f64); 6] {
        [
            ("forward_kl", self.forward_kl),
            ("reverse_kl", self.reverse_kl),
            ("jsd", self.jsd),
            ("skew_forward_kl", self.skew_forward_kl),
            ("skew_reverse_kl", self.skew_reverse_kl),
            ("tvd", self.tvd),
        ]
    }

    /// From the values of [`Terms::soft`], in its order, and the cross-entropy.
    pub(super) fn of_values(soft: [f64; 6], cross_entropy: f64) -> Self {
        let mut terms = Self {
            cross_entropy,
            ..Self::ZERO
        };
        terms.add_soft(soft);
        terms
    }

    /// Adds values in the order of [`Terms::soft`].
    pub(super) fn add_soft(&mut self, values: [f64; 6]) {
        let terms = [
            &mut self.forward_kl,
            &mut self.reverse_kl,
            &mut self.jsd,
            &mut self.skew_forward_kl,
            &mut self.skew_reverse_kl,
            &mut self.tvd,
        ];
        for (term, value) in terms.into_iter().zip(values) {
            *term += value;
        }
    }

    /// Σ weight · value.
    pub(super) fn weighted(&self, weights: &Self) -> f64 {
        let pairs = self.soft().into_iter().zip(weights.soft());
        let soft: f64 = pairs.map(|((_, value), (_, weight))| weight * value).sum();
        soft + weights.cross_entropy * self.cross_entropy + weights.hidden_mse * self.hidden_mse
    }

    /// Term by term.
    pub(super) fn plus(&self, other: &Self) -> Self {
        Self {
            forward_kl: self.forward_kl + other.forward_kl,
            reverse_kl: self.reverse_kl + other.reverse_kl,
            jsd: self.jsd + other.jsd,
            skew_forward_kl: self.skew_forward_kl + other.skew_forward_kl,
            skew_reverse_kl: self.skew_reverse_kl + other.skew_reverse_kl,
            tvd: self.tvd + other.tvd,
            cross_entropy: self.cross_entropy + other.cross_entropy,
            hidden_mse: self.hidden_mse + other.hidden_mse,
        }
    }

    /// Every term so many times.
    pub(super) fn times(&self, factor: f64) -> Self {
        Self {
            forward_kl: factor * self.forward_kl,
            reverse_kl: factor * self.reverse_kl,
            jsd: factor * self.jsd,
            skew_forward_kl: factor * self.skew_forward_kl,
            skew_reverse_kl: factor * self.skew_reverse_kl,
            tvd: factor * self.tvd,
            cross_entropy: factor * self.cross_entropy,
            hidden_mse: factor * self.hidden_mse,
        }
    }
}

/// What is minimised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossSpec {
    /// Weights of the terms; a term with weight 0 is not computed, but for the cross-entropy.
    pub weights: Terms,
    /// The teacher's share of the mixture of `jsd`, above 0 and below 1.
    pub jsd_beta: f64,
    /// The teacher's share of the mixture of `skew_forward_kl`, above 0 and below 1.
    pub skew_forward_alpha: f64,
    /// The student's share of the mixture of `skew_reverse_kl`, above 0 and below 1.
    pub skew_reverse_alpha: f64,
    /// Share of the label that is spread over all tokens, from 0 to below 1.
    pub label_smoothing: f64,
    /// Temperature of the soft terms, at least [`LossSpec::LOWEST_TEMPERATURE`].
    pub temperature: f32,
    /// What becomes of the teacher's mass outside a top-k support.
    pub tail: Tail,
}

impl LossSpec {
    /// A temperature below counts as this one: f32 still holds its inverse times any logit. Only logits nearer to the
    /// largest than 1e-18 would be told from it otherwise.
    pub const LOWEST_TEMPERATURE: f32 = 1e-20;

    /// These weights at temperature 1, with a bucket, labels as they are, and mixtures of equal parts or a tenth.
    pub const fn of(weights: Terms) -> Self {
        Self {
            weights,
            jsd_beta: 0.5,
            skew_forward_alpha: 0.1,
            skew_reverse_alpha: 0.1,
            label_smoothing: 0.0,
            temperature: 1.0,
            tail: Tail::Bucket,
        }
    }

    /// Whether any term compares with the teacher's predictions.
    pub fn is_soft(&self) -> bool {
        self.weights.soft().iter().any(|(_, weight)| *weight != 0.0)
    }

    /// Sees to it that nothing but `forward_kl` is to be taken from samples.
    ///
    /// # Panics
    ///
    /// If another term of the teacher's predictions is: recipes that ask for it are refused.
    pub(super) fn check_samples(&self) {
        let only_forward = Terms {
            forward_kl: self.weights.forward_kl,
            cross_entropy: self.weights.cross_entropy,
            hidden_mse: self.weights.hidden_mse,
            ..Terms::ZERO
        };
        assert!(
            self.weights == only_forward,
            "recipes with other terms over samples are refused: {self:?}"
        );
    }
}
