//! Passes: each takes a student and returns a student.

mod distill;
pub mod prune;
pub mod quantize;
mod removed;
pub mod shrink;

use std::io;
use std::path::Path;

use thiserror::Error;

use self::distill::distill;
use self::prune::PruneError;
pub use self::quantize::{Choice, Cost, Part, QuantizeError, Rounding, Sensitivity, WIDTHS};
pub use self::removed::{Parts, Removed, Sizes};
pub use self::shrink::{ShrinkError, configs_of_passes};
use crate::allocator;
use crate::calibration::{Calibration, Interrupted};
use crate::recipe::PassPlan;
use crate::student::Student;
use crate::train::fit::{FitContext, FitError};
use crate::train::state;

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
