//! Weights or parts that a pass removed from its student, written beside it.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::PassReport;
use crate::files::{read_json, write_json};
use crate::model::{DecoderConfig, num_parameters};
use crate::progress::thousands;
use crate::pruning::PrunedMatrix;
use crate::student::PartSelection;

/// File in the folder of a pass that removed something.
const FILE: &str = "removed.json";

/// Weights or parts that a pass removed from its student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removed {
    /// Weights, which are zero now.
    Weights(Vec<PrunedMatrix>),
    /// Whole parts, which no longer exist.
    Parts(Parts),
}

/// Remainder of a larger student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// Sizes before the pass.
    pub before: StudentSizes,
    /// Sizes after the pass.
    pub after: StudentSizes,
    /// Kept parts, by their places in the larger student.
    pub kept: PartSelection,
    /// Influence of each layer of the larger student, if the layers were chosen by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub influence: Option<Vec<f64>>,
}

/// Sizes of a student; the names are those of `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of config.json")]
pub struct StudentSizes {
    pub num_hidden_layers: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    /// Number of all weights.
    pub parameters: u64,
}

impl StudentSizes {
    /// Sizes of an architecture.
    pub fn of(config: &DecoderConfig) -> Self {
        Self {
            num_hidden_layers: config.num_hidden_layers,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_attention_heads: config.num_attention_heads,
            num_key_value_heads: config.num_key_value_heads,
            parameters: num_parameters(config),
        }
    }
}

impl Parts {
    /// Describes in a sentence what was removed.
    pub fn describe(&self) -> String {
        let (before, after) = (&self.before, &self.after);
        let gone: Vec<String> = (0..before.num_hidden_layers)
            .filter(|layer| !self.kept.layers.contains(layer))
            .map(|layer| layer.to_string())
            .collect();
        let mut parts = Vec::new();
        if !gone.is_empty() {
            let plural = if gone.len() == 1 { "" } else { "s" };
            let (gone, there) = (gone.join(", "), before.num_hidden_layers);
            parts.push(format!("layer{plural} {gone} of {there}"));
        }
        for (what, before, after) in [
            ("dimensions", before.hidden_size, after.hidden_size),
            (
                "channels a layer",
                before.intermediate_size,
                after.intermediate_size,
            ),
            (
                "key and value heads a layer",
                before.num_key_value_heads,
                after.num_key_value_heads,
            ),
        ] {
            if after < before {
                parts.push(format!("{} of {before} {what}", before - after));
            }
        }
        let share = 100.0 * after.parameters as f64 / before.parameters as f64;
        format!(
            "without {}: {} parameters are left, {share:.1} %",
            parts.join(", "),
            thousands(after.parameters)
        )
    }
}

impl Removed {
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        write_json(&dir.join(FILE), self)
    }

    /// Removal that a pass wrote, if it removed something.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        read_json(&dir.join(FILE))
    }

    /// Report of a pass that removes something.
    pub(super) fn report(dir: &Path) -> io::Result<PassReport> {
        Ok(PassReport {
            removed: Self::read(dir)?,
            ..PassReport::default()
        })
    }

    /// Describes in a sentence what was removed.
    pub fn describe(&self) -> String {
        match self {
            Self::Weights(matrices) => {
                let sparsities = matrices.iter().map(|matrix| matrix.sparsity);
                let mean = sparsities.sum::<f64>() / matrices.len().max(1) as f64;
                let zeros = 100.0 * mean;
                format!("{zeros:.1} % of a matrix are zero, on average")
            }
            Self::Parts(parts) => parts.describe(),
        }
    }
}
