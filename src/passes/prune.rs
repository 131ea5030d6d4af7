//! Zeros the least useful weights of the student.

use super::removed::Removed;
use super::{PassError, calibration, saved};
use crate::pruning;
use crate::recipe::PrunePlan;
use crate::student::Student;
use crate::train::fit::FitContext;

/// Masks as many weights as the plan says, and writes which matrix lost how much into the folder of the pass.
pub fn prune(
    plan: &PrunePlan,
    student: Student,
    context: &FitContext<'_>,
) -> Result<Student, PassError> {
    let calibration = calibration(context, plan.calibration_tokens);
    let (student, pruned) = pruning::prune(student, plan.method, plan.zeros, &calibration)?;
    saved(context, Removed::Weights(pruned).write(context.dir))?;
    Ok(student)
}
