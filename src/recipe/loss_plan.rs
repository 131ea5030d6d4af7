//! What a pass minimises.

use serde::Serialize;

use super::schedule_plan::Scheduled;
use super::word::words;

words! {
    /// What becomes of the teacher's mass outside a top-k support.
    pub enum TailPlan {
        /// One bucket on both sides.
        Bucket = "bucket",
        /// Shared out over the support in proportion.
        Renormalize = "renormalize",
    }
}

/// Weights of the loss terms, none negative and at every step at least one positive. One that is off by default is not serialised.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LossWeights {
    /// KL(teacher ‖ student).
    pub forward_kl: Scheduled,
    /// KL(student ‖ teacher).
    #[serde(skip_serializing_if = "Scheduled::is_off")]
    pub reverse_kl: Scheduled,
    /// Generalised Jensen-Shannon divergence.
    #[serde(skip_serializing_if = "JsdPlan::is_off")]
    pub jsd: JsdPlan,
    /// KL(teacher ‖ mixture).
    #[serde(skip_serializing_if = "SkewPlan::is_off")]
    pub skew_forward_kl: SkewPlan,
    /// KL(student ‖ mixture).
    #[serde(skip_serializing_if = "SkewPlan::is_off")]
    pub skew_reverse_kl: SkewPlan,
    /// Total variation distance.
    #[serde(skip_serializing_if = "Scheduled::is_off")]
    pub tvd: Scheduled,
    /// Negative log-likelihood of the text.
    pub cross_entropy: Scheduled,
    /// Share of its label that is spread over all tokens; a key of `cross_entropy`.
    #[serde(skip_serializing_if = "is_zero")]
    pub label_smoothing: f64,
    /// Distance of hidden states from the teacher's.
    #[serde(skip_serializing_if = "HiddenPlan::is_off")]
    pub hidden_mse: HiddenPlan,
}

/// Weight and shape of `jsd`; zeros if it is off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct JsdPlan {
    /// Weight of the term.
    pub weight: Scheduled,
    /// The teacher's share of the mixture.
    pub beta: f64,
}

/// Weight and shape of a skewed divergence; zeros if it is off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct SkewPlan {
    /// Weight of the term.
    pub weight: Scheduled,
    /// Share of the mixture that is the first distribution's own.
    pub alpha: f64,
}

/// Weight of `hidden_mse` and the layers that it compares.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct HiddenPlan {
    /// Weight of the term.
    pub weight: Scheduled,
    /// Layers of the student and of the teacher whose outputs are compared, counted from 0. `None`, or if it is off: spread
    /// evenly over both models, which tell how many they have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<[usize; 2]>>,
}

impl LossWeights {
    /// Whether any term compares with the teacher's predictions.
    pub fn is_soft(&self) -> bool {
        self.soft().iter().any(|(_, weight)| weight.is_used())
    }

    /// Weights of all terms by name, in the order of the recipe's table.
    pub fn terms(&self) -> Vec<(&'static str, Scheduled)> {
        let mut terms = self.soft().to_vec();
        terms.push(("cross_entropy", self.cross_entropy));
        terms.push(("hidden_mse", self.hidden_mse.weight));
        terms
    }

    /// Weights of the terms that compare with the teacher's predictions, by name.
    fn soft(&self) -> [(&'static str, Scheduled); 6] {
        [
            ("forward_kl", self.forward_kl),
            ("reverse_kl", self.reverse_kl),
            ("jsd", self.jsd.weight),
            ("skew_forward_kl", self.skew_forward_kl.weight),
            ("skew_reverse_kl", self.skew_reverse_kl.weight),
            ("tvd", self.tvd),
        ]
    }
}

impl JsdPlan {
    fn is_off(&self) -> bool {
        self.weight.is_off()
    }
}

impl HiddenPlan {
    fn is_off(&self) -> bool {
        self.weight.is_off()
    }
}

impl SkewPlan {
    fn is_off(&self) -> bool {
        self.weight.is_off()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}
