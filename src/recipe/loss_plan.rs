//! What a pass minimises.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::json;

use super::loss_keys::shape_key;
use super::loss_terms::{Term, Terms};
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

/// Weights of the loss terms, none negative and at every step at least one positive, and their further keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LossWeights {
    /// Weight of each term.
    pub weights: Terms<Scheduled>,
    /// The number that a term has beside its weight: a share of a mixture, or of the label that is smoothed. 0 where a term has
    /// none or is off.
    pub shapes: Terms,
    /// Layers of the student and of the teacher whose outputs `hidden_mse` compares, counted from 0. `None`, or if it is off:
    /// spread evenly over both models, which tell how many they have.
    pub hidden_layers: Option<Vec<[usize; 2]>>,
}

impl LossWeights {
    /// One term alone, of weight 1 and without further keys.
    pub fn only(term: Term) -> Self {
        let mut losses = Self::default();
        losses.weights[term] = Scheduled::Constant(1.0);
        losses
    }

    /// Tells whether a term has a weight above 0 at some step.
    pub fn uses(&self, term: Term) -> bool {
        self.weights[term].is_used()
    }

    /// Tells whether any term compares with the teacher's predictions.
    pub fn is_soft(&self) -> bool {
        let soft = Term::ALL.into_iter().filter(|term| term.is_soft());
        soft.into_iter().any(|term| self.uses(term))
    }
}

/// As it is written in a recipe, without the terms that are off by default.
impl Serialize for LossWeights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut written = serializer.serialize_map(None)?;
        for (term, &weight) in self.weights.iter() {
            let is_told = matches!(term, Term::ForwardKl | Term::CrossEntropy);
            if weight.is_off() && !is_told {
                continue;
            }
            let shape = self.shapes[term];
            match (shape_key(term), term, &self.hidden_layers) {
                (Some(key), ..) if shape != 0.0 => {
                    written.serialize_entry(term.word(), &json!({"weight": weight, key: shape}))
                }
                (_, Term::HiddenMse, Some(layers)) => written
                    .serialize_entry(term.word(), &json!({"weight": weight, "layers": layers})),
                (_, Term::HiddenMse, None) => {
                    written.serialize_entry(term.word(), &json!({"weight": weight}))
                }
                _ => written.serialize_entry(term.word(), &weight),
            }?;
        }
        written.end()
    }
}
