//! What a quantising pass will do.

use serde::Serialize;

use super::calibrated_plan::CalibratedPlan;
use super::plan::FitPlan;
use super::schedule_plan::is_true;
use super::word::words;

/// How weights reach the grid.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QuantizePlan {
    /// Round to nearest, by what the weights see, or train with the rounding in the loop.
    pub method: QuantizeMethod,
    /// Of all projections that no override names.
    #[serde(flatten)]
    pub scheme: SchemePlan,
    /// The last that names a projection holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<OverridePlan>,
    /// Of the embedding, also as the output layer if the two are tied; `None` leaves it as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding: Option<SchemePlan>,
    /// Of an untied output layer; `None` leaves it as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<SchemePlan>,
    /// What is measured before weights reach the grid, if anything is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<SensitivityPlan>,
    /// Whether scales of grids around 0 are trained with the weights.
    #[serde(skip_serializing_if = "is_false")]
    pub learn_scales: bool,
}

/// What rounding each part of the student costs, and what follows from that.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SensitivityPlan {
    /// Positions of training text to measure on, in whole rows.
    pub tokens: usize,
    /// Under which widths are chosen; without it the width of the pass holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetPlan>,
}

/// How wide weights may be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BudgetPlan {
    /// Bits of a code, on average over the weights for which widths are chosen.
    pub budget: f64,
    /// Widths to choose from, ascending.
    pub widths: Vec<u32>,
}

/// What puts weights on their grids.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QuantizeMethod {
    /// Neither text nor training.
    RoundToNearest,
    /// Text, but no training ("post-training quantisation").
    #[serde(rename = "ptq")]
    Calibrated(CalibratedPlan),
    /// Quantisation-aware training, straight-through estimator.
    Qat(Box<FitPlan>),
}

/// How a weight is quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SchemePlan {
    /// 2, 3, 4 or 8; under a budget that of nothing.
    pub bits: u32,
    /// Weights that share a scale, along the input; `None` is one scale per output row.
    pub group_size: Option<usize>,
    /// Kind of number.
    #[serde(rename = "type", skip_serializing_if = "NumberType::is_default")]
    pub number: NumberType,
    /// Whether 0 is the middle of the grid.
    #[serde(skip_serializing_if = "is_true")]
    pub symmetric: bool,
    /// What enters the projection.
    #[serde(skip_serializing_if = "Activations::is_default")]
    pub activations: Activations,
}

words! {
    /// Kind of number that a code is.
    #[derive(Default)]
    pub enum NumberType {
        /// Whole numbers.
        #[default]
        Int = "int",
        /// Floats of 8 bits (E4M3).
        Fp8 = "fp8",
        /// −1, 0 and 1.
        Ternary = "ternary",
        /// Two bits without a 0.
        Stretched = "stretched",
    }
}

words! {
    /// What becomes of what enters a projection.
    #[derive(Default)]
    pub enum Activations {
        /// Nothing.
        #[default]
        None = "none",
        /// It is rounded to 8 bits while the model runs, each position with its own scale.
        PerToken = "per_token",
    }
}

/// Projections with a scheme of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OverridePlan {
    /// Such as `q_proj`.
    pub modules: Vec<String>,
    /// Counted from 0; `None` is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
    /// `None` leaves them as they are.
    pub scheme: Option<SchemePlan>,
}

impl OverridePlan {
    /// Whether it names a module of a layer.
    pub fn names(&self, layer: usize, module: &str) -> bool {
        let is_layer = |layers: &Vec<usize>| layers.contains(&layer);
        self.layers.as_ref().is_none_or(is_layer) && self.modules.iter().any(|name| name == module)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
pub(super) fn is_false(switch: &bool) -> bool {
    !*switch
}

impl NumberType {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Activations {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

words! {
    /// Methods of quantisation, as they are written; see [`QuantizeMethod`].
    pub(super) enum QuantizeWord {
        RoundToNearest = "round-to-nearest",
        Gptq = "gptq",
        Awq = "awq",
        AwqGptq = "awq-gptq",
        Qat = "qat",
    }
}

impl QuantizeWord {
    /// Tells whether later columns correct the error of a column.
    pub(super) fn is_gptq(self) -> bool {
        match self {
            Self::Gptq | Self::AwqGptq => true,
            Self::RoundToNearest | Self::Awq | Self::Qat => false,
        }
    }

    /// Tells whether inputs are scaled against the weights first.
    pub(super) fn is_awq(self) -> bool {
        match self {
            Self::Awq | Self::AwqGptq => true,
            Self::RoundToNearest | Self::Gptq | Self::Qat => false,
        }
    }
}
