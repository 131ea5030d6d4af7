//! Keys of which weights go while a pass trains; and of how many go, wherever they do.

use std::ops::Bound::Included;

use serde::Serialize;

use crate::diag::Diagnostic;
use crate::recipe::{Fields, Kind, MAX_STEPS, Word, keys, unused, words};

/// A share of zeros.
pub(crate) const SPARSITY: Kind = Kind::Number(Included(0.0), Included(0.95));

keys! {
    /// Their share rises on a cubic curve, fast at first and slower the fewer are left (Zhu & Gupta 2017,
    /// <https://arxiv.org/abs/1710.01878>).
    pub struct GradualPlan in GRADUAL = "prune", "Weights that go during the pass, more and more of them, on a cubic curve (Zhu & Gupta 2017). What was masked before the pass stays masked." {
        method: GradualMethod = or("magnitude", Kind::Word(GradualMethod::WORDS), "how a weight is scored: its size, or its size times the norm of its input");
        sparsity: f64 = required(SPARSITY, "share of zeros from `to_step` on: a fraction, not a percentage");
        within: Within = or("row", Kind::Word(Within::WORDS), "what loses this share: each output row, or the matrix as a whole");
        from_step: usize = or("0", Kind::Integer(0, MAX_STEPS), "step before which the first weights may go, counted from 0");
        to_step: usize = rule("`steps * 3 / 4`", Kind::Integer(1, MAX_STEPS), "step before which the last weights go; above `from_step`, and below `steps`, so that something is left to make up for them") else to_step;
        every: usize = or("10", Kind::Integer(1, MAX_STEPS), "steps between the times when weights go");
        calibration_tokens: usize = or("4k", Kind::Tokens(1), "training positions over which `wanda` measures activations each time") unless |plan| plan.method == GradualMethod::Magnitude;
    }
}

words! {
    /// How a weight is scored while a pass trains; not by SparseGPT, which moves weights itself.
    pub enum GradualMethod {
        /// |weight|.
        Magnitude = "magnitude",
        /// |weight| times the norm of its input feature (Sun et al. 2023).
        Wanda = "wanda",
    }
}

/// The step before which the last weights go, where it is not written: a quarter of the pass is left to make up for them.
fn to_step(fields: Fields<'_>) -> Option<usize> {
    let steps: usize = fields.nearest("steps")?.get("steps")?;
    Some(steps * 3 / 4)
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

/// Every contradiction within the keys of a pass that trains and prunes.
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
            let message = format!("weights go until step {to}, but the pass has {steps}");
            faults.push(
                Diagnostic::new("recipe/late-prune", message)
                    .primary(
                        fields.span("to_step"),
                        "no step is left to make up for them",
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
        let message = format!("weights begin to go at step {from} and have gone at step {to}");
        faults.push(
            Diagnostic::new("recipe/backward-prune", message)
                .primary(fields.span("from_step"), "not before they have all gone")
                .secondary(fields.span("to_step"), "")
                .help("write a smaller `from_step`, or a larger `to_step`"),
        );
    }
}
