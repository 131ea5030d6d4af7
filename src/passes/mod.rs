//! Passes: each takes a student and returns a student.

pub mod calibrate;
pub mod prune;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use thiserror::Error;

use crate::cache::Cache;
use crate::data::TokenRows;
use crate::model::grid::Grid;
use crate::recipe::{FitPlan, PassPlan, QuantizeMethod};
use crate::student::Student;
use crate::train::fit::{FitContext, FitError, fit};

/// What passes train and measure on.
pub struct PassContext<'a> {
    /// Name in progress and messages, such as `01-distill`.
    pub label: &'a str,
    /// Folder of the unfinished pass.
    pub dir: &'a Path,
    /// Seed of this pass.
    pub seed: u64,
    /// Training rows.
    pub rows: &'a TokenRows,
    /// The teacher's opinion of those rows.
    pub cache: Option<&'a Cache>,
    /// Set by the first signal.
    pub stop: &'a AtomicBool,
    /// Now, in seconds since 1970; reaches the TensorBoard events and nothing else.
    pub wall_time: f64,
}

/// Why a pass ended early.
#[derive(Debug, Error)]
pub enum PassError {
    /// Training did.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// A signal asked to stop.
    #[error("stopped in pass {label}: run the same command to go on")]
    Interrupted {
        /// The pass.
        label: String,
    },
}

/// Short name of a pass, as in the recipe.
pub fn name(pass: &PassPlan) -> &'static str {
    match pass {
        PassPlan::Distill(_) => "distill",
        PassPlan::Prune(_) => "prune",
        PassPlan::Quantize(_) => "quantize",
    }
}

/// Runs one pass.
pub fn apply(
    pass: &PassPlan,
    student: Student,
    context: &PassContext<'_>,
) -> Result<Student, PassError> {
    match pass {
        PassPlan::Distill(plan) => Ok(distill(plan, student, context)?),
        PassPlan::Prune(plan) => prune::prune(plan, student, context),
        PassPlan::Quantize(plan) => {
            let mut student = student;
            student.grid = Some(Grid {
                bits: plan.bits,
                group_size: plan.group_size,
            });
            match &plan.method {
                QuantizeMethod::RoundToNearest => Ok(student),
                QuantizeMethod::Qat(fit) => Ok(distill(fit, student, context)?),
            }
        }
    }
}

/// Trains against the cache and the text, with whatever masks and grid the student has.
fn distill(
    plan: &FitPlan,
    student: Student,
    context: &PassContext<'_>,
) -> Result<Student, FitError> {
    let PassContext {
        label,
        dir,
        seed,
        rows,
        cache,
        stop,
        wall_time,
    } = *context;
    let cache = cache.filter(|_| plan.losses.forward_kl > 0.0);
    fit(
        plan,
        student,
        &FitContext {
            label,
            dir,
            seed,
            rows,
            cache,
            stop,
            wall_time,
        },
    )
}
