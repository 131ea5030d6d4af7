//! Keys of the pass that prunes.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, json};

use crate::diag::Diagnostic;
use crate::pruning::{Pattern, SPARSITY, Within, Zeros};
use crate::recipe::{Block, Fields, Keys, Kind, SHARE_ABOVE_0, Word, or, rule, unused, words};

/// Selection of the weights to prune.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrunePlan {
    /// Score of a weight.
    #[serde(flatten)]
    pub method: PruneMethod,
    /// Number of weights to prune, and the sets in which they compete.
    #[serde(flatten)]
    pub zeros: Zeros,
    /// Training positions over which activations are measured (all but magnitude).
    pub calibration_tokens: usize,
}

/// Score of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum PruneMethod {
    /// |weight|.
    Magnitude,
    /// |weight| times the norm of its input feature (Sun et al. 2023).
    Wanda,
    /// Loss that pruning the weight costs if the weights after it compensate, as they then do (Frantar & Alistarh 2023).
    #[serde(rename = "sparsegpt")]
    SparseGpt {
        /// Added to the mean square of each input feature, as a share of the mean over all.
        damping: f64,
    },
}

words! {
    /// Words for the scores of weights; see [`PruneMethod`].
    pub(super) enum PruneWord {
        Magnitude = "magnitude",
        Wanda = "wanda",
        SparseGpt = "sparsegpt",
    }
}

pub(crate) static PRUNE: Block = Block {
    name: "prune",
    about: "Zero the least useful weights of every linear layer inside blocks. Masks of earlier passes stay in force.",
    rows: &[
        or(
            "method",
            "wanda",
            Kind::Word(PruneWord::WORDS),
            "score of a weight: its size, its size times the norm of its input, or the loss that pruning it costs if the weights after it compensate, as they then do",
        ),
        rule(
            "sparsity",
            "required unless `pattern` is given",
            SPARSITY,
            "share of zeros: a fraction, not a percentage",
        ),
        rule(
            "pattern",
            "none: zeros may be anywhere",
            Kind::Word(Pattern::WORDS),
            "number of zeros in every 4 or 8 neighbours of a row, as sparse tensor cores need; replaces `sparsity`",
        ),
        rule(
            "within",
            "`row`; with `sparsegpt`, `matrix`",
            Kind::Word(Within::WORDS),
            "the set that loses this share: each output row, or the whole matrix (with `sparsegpt`, each 128 of its columns), where rows may differ",
        ),
        or(
            "damping",
            "0.01",
            SHARE_ABOVE_0,
            "added by `sparsegpt` to the mean square of every input, as a share of their mean: more damping means less compensation",
        ),
        or(
            "calibration_tokens",
            "32k",
            Kind::Tokens(1),
            "training positions on which `wanda` and `sparsegpt` measure activations",
        ),
    ],
};

impl Keys for PrunePlan {
    fn read_keys(fields: Fields<'_>) -> Option<Self> {
        let method = match fields.get("method")? {
            PruneWord::Magnitude => PruneMethod::Magnitude,
            PruneWord::Wanda => PruneMethod::Wanda,
            PruneWord::SparseGpt => PruneMethod::SparseGpt {
                damping: fields.get("damping")?,
            },
        };
        let by_method = match method {
            PruneMethod::SparseGpt { .. } => Within::Matrix,
            PruneMethod::Magnitude | PruneMethod::Wanda => Within::Row,
        };
        Some(Self {
            method,
            zeros: match fields.get("pattern") {
                Some(pattern) => Zeros::Pattern { pattern },
                None => Zeros::Share {
                    sparsity: fields.get("sparsity")?,
                    within: fields.get("within").unwrap_or(by_method),
                },
            },
            calibration_tokens: fields.get("calibration_tokens")?,
        })
    }

    fn write_keys(&self, _: &Path, keys: &mut Map<String, serde_json::Value>) {
        if let serde_json::Value::Object(all) = json!(self) {
            keys.extend(all);
        }
        if self.method == PruneMethod::Magnitude {
            keys.shift_remove("calibration_tokens"); // it has no effect and is refused
        }
    }
}

/// Reports every contradiction within the pass.
pub(super) fn contradictions(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    let method = fields.get("method");
    if method == Some(PruneWord::Magnitude) {
        let label = "`magnitude` measures no activations";
        unused(fields, "calibration_tokens", "method", label, faults);
    }
    if method.is_some_and(|method| method != PruneWord::SparseGpt) {
        let label = "only `sparsegpt` inverts its measurements";
        unused(fields, "damping", "method", label, faults);
    }
    if !fields.is_written("pattern") {
        if !fields.is_written("sparsity") && !fields.has_unknown() {
            faults.push(
                Diagnostic::new("recipe/missing-key", "`prune` lacks `sparsity`")
                    .primary(fields.span("sparsity"), "zeros a share of the weights")
                    .help("add `sparsity: 0.5`, or `pattern: 2:4`"),
            );
        }
        return;
    }
    let label = "a pattern sets how many weights are zero, and where";
    for name in ["sparsity", "within"] {
        unused(fields, name, "pattern", label, faults);
    }
}
