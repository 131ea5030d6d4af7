//! Passes: each takes a student and returns a student.

mod distill;
pub mod prune;
pub mod quantize;
mod removed;
pub mod shrink;

use std::io;
use std::path::Path;

use thiserror::Error;

use self::distill::{DISTILL, distill};
use self::prune::{PRUNE, PruneError};
pub use self::prune::{PruneMethod, PrunePlan};
use self::quantize::QUANTIZE;
pub(crate) use self::quantize::group_size;
pub use self::quantize::{
    Activations, BudgetPlan, CalibratedPlan, Choice, Cost, GptqPlan, NumberType, OverridePlan,
    Part, QuantizeError, QuantizeMethod, QuantizePlan, Rounding, SchemePlan, Sensitivity,
    SensitivityPlan, WIDTHS,
};
pub use self::removed::{Parts, Removed, Sizes};
use self::shrink::SHRINK;
pub use self::shrink::{
    LayersBy, ShrinkError, ShrinkPlan, ShrinkSizes, ShrinkTarget, Side, configs_of_passes,
};
use crate::allocator;
use crate::calibration::{Calibration, Interrupted};
use crate::diag::Diagnostic;
use crate::recipe::{Fields, Kind, choice};
use crate::student::Student;
use crate::train::fit::FitContext;
use crate::train::{FitError, FitPlan, state};

choice! {
    pub enum PassPlan of PassWord in PASS = "pass", "One pass: takes a student and returns a student. `--set distill.steps=200` sets a key of every `distill` pass." {
        Distill(Box<FitPlan>) = "distill", Kind::Block(&DISTILL), "train against the cache and the text";
        Prune(PrunePlan) = "prune", Kind::Block(&PRUNE), "zero the least useful weights";
        Shrink(ShrinkPlan) = "shrink", Kind::Block(&SHRINK), "take the least useful layers, channels, heads or dimensions out";
        Quantize(QuantizePlan) = "quantize", Kind::Block(&QUANTIZE), "put the weights on a quantised grid; the last pass";
    }
}

impl PassPlan {
    /// How it trains, if it does.
    pub fn fit(&self) -> Option<&FitPlan> {
        match self {
            Self::Distill(fit) => Some(fit),
            Self::Quantize(plan) => match &plan.method {
                QuantizeMethod::Qat(fit) => Some(fit),
                QuantizeMethod::RoundToNearest | QuantizeMethod::Calibrated(_) => None,
            },
            Self::Prune(_) | Self::Shrink(_) => None,
        }
    }
}

/// Tells whether a pass with these keys trains and knows for how long.
pub(crate) fn trains(pass: PassWord, fields: Fields<'_>) -> bool {
    match pass {
        PassWord::Distill => true,
        PassWord::Prune | PassWord::Shrink => false,
        PassWord::Quantize => quantize::trains(fields),
    }
}

/// Every contradiction within the keys of a pass.
pub(crate) fn check(pass: PassWord, fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    match pass {
        PassWord::Distill => distill::check(fields, faults),
        PassWord::Prune => prune::check(fields, faults),
        PassWord::Shrink => shrink::check(fields, faults),
        PassWord::Quantize => quantize::check(fields, faults),
    }
}

/// Why a pass ended early.
#[derive(Debug, Error)]
pub enum PassError {
    /// Training did.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// A signal asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Pruning cannot.
    #[error(transparent)]
    Prune(PruneError),
    /// Quantising cannot.
    #[error(transparent)]
    Quantize(QuantizeError),
}

impl From<QuantizeError> for PassError {
    fn from(error: QuantizeError) -> Self {
        match error {
            QuantizeError::Interrupted(interrupted) => interrupted.into(),
            error => Self::Quantize(error),
        }
    }
}

impl From<PruneError> for PassError {
    fn from(error: PruneError) -> Self {
        match error {
            PruneError::Interrupted(interrupted) => interrupted.into(),
            error @ PruneError::Inputs { .. } => Self::Prune(error),
        }
    }
}

/// Short name of a pass, as in the recipe.
pub fn name(pass: &PassPlan) -> &'static str {
    match pass {
        PassPlan::Distill(_) => "distill",
        PassPlan::Prune(_) => "prune",
        PassPlan::Shrink(_) => "shrink",
        PassPlan::Quantize(_) => "quantize",
    }
}

/// Runs one pass, and gives back the memory that it alone needed.
pub fn apply(
    pass: &PassPlan,
    student: Student,
    context: &FitContext<'_>,
) -> Result<Student, PassError> {
    let student = match pass {
        PassPlan::Distill(plan) => distill(plan, student, context)?,
        PassPlan::Prune(plan) => prune::prune(plan, student, context)?,
        PassPlan::Shrink(plan) => shrink::shrink(plan, student, context)?,
        PassPlan::Quantize(plan) => quantize::quantize(plan, student, context)?,
    };
    allocator::give_freed_pages_back();
    Ok(student)
}

/// Deletes what only an unfinished pass needs from the folder of a finished one.
pub fn discard(dir: &Path) -> io::Result<()> {
    state::discard(dir)?;
    quantize::discard(dir)
}

/// Tells whether [`discard`] would delete what lies at this place inside of the folder.
pub fn is_temporary(inside: &Path) -> bool {
    state::is_state(inside) || quantize::is_of_finished_layers(inside)
}

/// What a pass measures over the first training rows, with its own name and signal.
fn calibration<'a>(context: &FitContext<'a>, num_tokens: usize) -> Calibration<'a> {
    Calibration {
        rows: context.rows,
        num_tokens,
        label: context.label,
        is_silent: false,
        stop: context.stop,
    }
}

/// The error of a pass whose folder cannot be written to or read.
fn saved<T>(context: &FitContext<'_>, outcome: io::Result<T>) -> Result<T, FitError> {
    outcome.map_err(|source| FitError::Save {
        label: context.label.to_owned(),
        source,
    })
}
