//! Which weights go, and which parts.

use serde::Serialize;

use super::word::words;

/// Which weights go.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrunePlan {
    /// How a weight is scored.
    #[serde(flatten)]
    pub method: PruneMethod,
    /// How many go, and among which.
    #[serde(flatten)]
    pub zeros: Zeros,
    /// Training positions over which activations are measured (all but magnitude).
    pub calibration_tokens: usize,
}

/// Weights that go while a pass trains, more and more of them.
///
/// Their share rises on a cubic curve, fast at first and slower the fewer are left (Zhu & Gupta 2017,
/// <https://arxiv.org/abs/1710.01878>).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GradualPlan {
    /// How a weight is scored; not SparseGPT, which moves weights itself.
    #[serde(flatten)]
    pub method: PruneMethod,
    /// Share of zeros from `to_step` on.
    pub sparsity: f64,
    /// What loses it.
    #[serde(skip_serializing_if = "Within::is_row")]
    pub within: Within,
    /// Step before which the first weights may go.
    pub from_step: usize,
    /// Step before which the last go; one of the pass.
    pub to_step: usize,
    /// Steps between the times when weights go.
    pub every: usize,
    /// Training positions over which activations are measured each time (Wanda).
    pub calibration_tokens: usize,
}

/// Which parts of the student are taken out, so that a smaller one is left.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShrinkPlan {
    /// What is left.
    #[serde(flatten)]
    pub target: ShrinkTarget,
    /// How layers are scored.
    #[serde(skip_serializing_if = "LayersBy::is_influence")]
    pub layers_by: LayersBy,
    /// Whether the layers that go stand in a row.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub contiguous: bool,
    /// Training positions over which parts are scored.
    pub calibration_tokens: usize,
}

/// How large a student is left.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ShrinkTarget {
    /// At most a share of the parameters.
    Parameters {
        /// The share.
        parameters: f64,
        /// What becomes smaller, all in one proportion; distinct.
        along: Vec<Side>,
    },
    /// These sizes; `None` leaves one as it is, and at least one is there.
    Sizes(ShrinkSizes),
}

/// Sizes of a student; the names are those of `config.json`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names are those of config.json")]
pub struct ShrinkSizes {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_hidden_layers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intermediate_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<usize>,
}

words! {
    /// A size that a student can lose of.
    #[expect(missing_docs, reason = "the names are those of config.json")]
    pub enum Side {
        NumHiddenLayers = "num_hidden_layers",
        HiddenSize = "hidden_size",
        IntermediateSize = "intermediate_size",
        NumKeyValueHeads = "num_key_value_heads",
    }
}

words! {
    /// How a layer is scored.
    pub enum LayersBy {
        /// How far it turns the residual stream (Men et al. 2024).
        Influence = "influence",
        /// The loss on the calibration text without it, one layer after the other.
        Loss = "loss",
    }
}

/// How a weight is scored.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum PruneMethod {
    /// |weight|.
    Magnitude,
    /// |weight| times the norm of its input feature (Sun et al. 2023).
    Wanda,
    /// What its loss costs when the weights after it make up for it, as they then do (Frantar & Alistarh 2023).
    #[serde(rename = "sparsegpt")]
    SparseGpt {
        /// What is added to the mean square of each input feature, as a share of the mean over all.
        damping: f64,
    },
}

/// How many weights of a matrix go, and among which the lowest scores are sought.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Zeros {
    /// A share of them.
    Share {
        /// Share of zeros.
        sparsity: f64,
        /// What loses this share.
        #[serde(skip_serializing_if = "Within::is_row")]
        within: Within,
    },
    /// So many of every few neighbours.
    Pattern {
        /// How many of how many.
        pattern: Pattern,
    },
}

words! {
    /// What a share of zeros is a share of: there, weights compete for their place.
    pub enum Within {
        /// Each output row.
        Row = "row",
        /// The whole matrix; with SparseGPT, each 128 columns of it.
        Matrix = "matrix",
    }
}

words! {
    /// Weights that stay among neighbours in a row, as sparse tensor cores want them.
    pub enum Pattern {
        /// 2 of every 4.
        TwoOfFour = "2:4",
        /// 4 of every 8.
        FourOfEight = "4:8",
    }
}

impl Zeros {
    /// A share of every output row.
    pub fn of_rows(sparsity: f64) -> Self {
        let within = Within::Row;
        Self::Share { sparsity, within }
    }

    /// Share of zeros.
    pub fn sparsity(self) -> f64 {
        match self {
            Self::Share { sparsity, .. } => sparsity,
            Self::Pattern { pattern } => pattern.num_zeros() as f64 / pattern.width() as f64,
        }
    }

    /// The pattern, if there is one.
    pub fn pattern(self) -> Option<Pattern> {
        match self {
            Self::Share { .. } => None,
            Self::Pattern { pattern } => Some(pattern),
        }
    }
}

impl ShrinkTarget {
    /// Whether the student loses whole layers.
    pub fn takes_layers(&self) -> bool {
        match self {
            Self::Parameters { along, .. } => along.contains(&Side::NumHiddenLayers),
            Self::Sizes(sizes) => sizes.num_hidden_layers.is_some(),
        }
    }
}

impl LayersBy {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    fn is_influence(&self) -> bool {
        *self == Self::Influence
    }
}

impl Within {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    fn is_row(&self) -> bool {
        *self == Self::Row
    }
}

impl Pattern {
    /// Neighbours among which weights are counted; divides the inputs of every layer.
    pub fn width(self) -> usize {
        match self {
            Self::TwoOfFour => 4,
            Self::FourOfEight => 8,
        }
    }

    /// Those of them that go.
    pub fn num_zeros(self) -> usize {
        self.width() / 2
    }
}

words! {
    /// Scores of weights, as they are written; see [`PruneMethod`].
    pub(super) enum PruneWord {
        Magnitude = "magnitude",
        Wanda = "wanda",
        SparseGpt = "sparsegpt",
    }
}

words! {
    /// The methods that prune while a pass trains.
    pub(super) enum GradualWord {
        Magnitude = "magnitude",
        Wanda = "wanda",
    }
}
