//! Recipe keys of pruning during training, and of the number of weights that any pruning removes.

use std::ops::Bound::Included;

use serde::Serialize;

use crate::diag::Diagnostic;
use crate::recipe::{Fields, Kind, MAX_STEPS, Word, keys, unused, words};

/// A share of zeros.
pub(crate) const SPARSITY: Kind = Kind::Number(Included(0.0), Included(0.95));

keys! {
    /// The share of zeros rises on a cubic curve: fast at first, slower the fewer weights are left (Zhu & Gupta 2017,
    /// <https://arxiv.org/abs/1710.01878>).
    pub struct GradualPlan in GRADUAL = "prune", "Pruning during the pass: the share of zeros rises on a cubic curve (Zhu & Gupta 2017). Weights masked before the pass stay masked." {
        method: GradualMethod = or("magnitude", Kind::Word(GradualMethod::WORDS), "score of a weight: its size, or its size times the norm of its input");
        sparsity: f64 = required(SPARSITY, "share of zeros from `to_step` on: a fraction, not a percentage");
        within: Within = or("row", Kind::Word(Within::WORDS), "part that reaches this share: each output row, or the matrix as a whole");
        from_step: usize = or("0", Kind::Integer(0, MAX_STEPS), "step before which the first weights may be pruned, counted from 0");
        to_step: usize = rule("`steps * 3 / 4`", Kind::Integer(1, MAX_STEPS), "step before which the last weights are pruned; above `from_step` and below `steps`, so that later steps can compensate for them") else to_step;
        every: usize = or("10", Kind::Integer(1, MAX_STEPS), "steps from one pruning to the next");
        calibration_tokens: usize = or("4k", Kind::Tokens(1), "training positions over which `wanda` measures activations each time") unless |plan| plan.method == GradualMethod::Magnitude;
    }
}

words! {
    /// Score of a weight while a pass trains; never SparseGPT, which moves weights itself.
    pub enum GradualMethod {
        /// |weight|.
        Magnitude = "magnitude",
        /// |weight| times the norm of its input feature (Sun et al. 2023).
        Wanda = "wanda",
    }
}

/// Default of `to_step`: three quarters of the pass, so that its last quarter can compensate for the pruned weights.
fn to_step(fields: Fields<'_>) -> Option<usize> {
    let steps: usize = fields.nearest("steps")?.get("steps")?;
    Some(steps * 3 / 4)
}

/// Number of weights of a matrix to prune, and the parts in which the lowest scores are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Zeros {
    /// A share of the weights.
    Share {
        /// Share of zeros.
        sparsity: f64,
        /// Part of the matrix that reaches this share.
        within: Within,
    },
    /// A fixed number of every few neighbours.
    Pattern {
        /// Weights kept, and neighbours in a group.
        pattern: Pattern,
    },
}

words! {
    /// Part of a matrix in which weights compete; a share of zeros is a share of this part.
    pub enum Within {
        /// Each output row.
        Row = "row",
        /// The whole matrix; with SparseGPT, each 128 columns of it.
        Matrix = "matrix",
    }
}

words! {
    /// Weights kept among neighbours in a row, as sparse tensor cores require.
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

impl Pattern {
    /// Number of neighbours in a group; divides the inputs of every layer.
    pub fn width(self) -> usize {
        match self {
            Self::TwoOfFour => 4,
            Self::FourOfEight => 8,
        }
    }

    /// Number of pruned weights in a group.
    pub fn num_zeros(self) -> usize {
        self.width() / 2
    }
}

/// Reports every contradiction within the keys of a pass that trains and prunes.
pub(crate) fn check(pass: Fields<'_>, fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    if fields.get("method") == Some(GradualMethod::Magnitude) {
        let label = "`magnitude` measures no activations";
        unused(fields, "calibration_tokens", "method", label, faults);
    }
    let (Some(steps), Some(from)) = (pass.get::<u64>("steps"), fields.get::<u64>("from_step"))
    else {
        return;
    };
    let to = match fields.get::<u64>("to_step") {
        Some(to) if to >= steps => {
            let message =
                format!("weights are pruned until step {to}, but the pass has {steps} steps");
            faults.push(
                Diagnostic::new("recipe/late-prune", message)
                    .primary(
                        fields.span("to_step"),
                        "no step is left to compensate for them",
                    )
                    .secondary(pass.span("steps"), "")
                    .help(format!("write at most `to_step: {}`", steps - 1)),
            );
            return;
        }
        Some(to) => to,
        None if fields.is_written("to_step") => return,
        None => steps * 3 / 4,
    };
    if from >= to {
        let message = format!("pruning begins at step {from} and ends at step {to}");
        faults.push(
            Diagnostic::new("recipe/backward-prune", message)
                .primary(fields.span("from_step"), "not before `to_step`")
                .secondary(fields.span("to_step"), "")
                .help("write a smaller `from_step`, or a larger `to_step`"),
        );
    }
}
