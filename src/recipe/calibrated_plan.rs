//! What a pass will do that quantises by what weights see, without training.

use serde::Serialize;

use super::quantize_plan::is_false;

/// How weights reach their grids by what they see of a text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CalibratedPlan {
    /// Whether columns of weights that see large inputs are made larger first, and the inputs smaller (AWQ).
    #[serde(skip_serializing_if = "is_false")]
    pub awq: bool,
    /// Whether scales may leave out the largest weights of a group.
    #[serde(skip_serializing_if = "is_false")]
    pub clip: bool,
    /// What makes up for rounding; `None` rounds each weight to the nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gptq: Option<GptqPlan>,
    /// Training positions that are read, in whole rows.
    pub calibration_tokens: usize,
}

/// Weights make up for the rounding of those before them (GPTQ).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GptqPlan {
    /// Whether columns are rounded by the size of their inputs, the largest first, and not as they stand.
    pub act_order: bool,
    /// Added to the mean square of every input, as a share of their mean.
    pub damping: f64,
}

impl CalibratedPlan {
    /// Name of the method in recipes.
    pub fn method(&self) -> &'static str {
        match (self.awq, self.gptq) {
            (false, None) => "round-to-nearest",
            (false, Some(_)) => "gptq",
            (true, None) => "awq",
            (true, Some(_)) => "awq-gptq",
        }
    }
}
