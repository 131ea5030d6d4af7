//! Pruning: the least useful weights are masked.

mod plan;
mod sparsegpt;

use thiserror::Error;

pub(super) use self::plan::{PRUNE, check};
pub use self::plan::{PruneMethod, PrunePlan};
use self::sparsegpt::compensate;
use super::removed::Removed;
use super::{PassError, calibration, saved};
use crate::calibration::{Calibration, Interrupted, NotPositiveDefinite};
use crate::model::Site;
use crate::pruning::{PrunedMatrix, Zeros, input_squares, mask_lowest};
use crate::student::Student;
use crate::train::fit::FitContext;

/// Why weights are not pruned.
#[derive(Debug, Error)]
pub enum PruneError {
    /// A signal asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// What enters a layer cannot be worked with.
    #[error("layer {layer} cannot be pruned at its {site:?}: {source}")]
    Inputs {
        /// The layer.
        layer: usize,
        /// The place in it.
        site: Site,
        /// What is wrong with its inputs.
        source: NotPositiveDefinite,
    },
}

/// Masks as many weights as the plan says, and writes which matrix lost how much into the folder of the pass.
pub fn prune(
    plan: &PrunePlan,
    student: Student,
    context: &FitContext<'_>,
) -> Result<Student, PassError> {
    let calibration = calibration(context, plan.calibration_tokens);
    let (student, pruned) = masked(student, plan.method, plan.zeros, &calibration)?;
    saved(context, Removed::Weights(pruned).write(context.dir))?;
    Ok(student)
}

/// Masks weights of the projections inside blocks; embedding, norms and output matrix stay dense.
///
/// What was masked before stays masked, so masks only grow. The free weights are zeroed where they are masked.
fn masked(
    student: Student,
    method: PruneMethod,
    zeros: Zeros,
    calibration: &Calibration<'_>,
) -> Result<(Student, Vec<PrunedMatrix>), PruneError> {
    let squares = match method {
        PruneMethod::Magnitude => None,
        PruneMethod::Wanda => Some(input_squares(&student, calibration)?),
        PruneMethod::SparseGpt { damping } => {
            return compensate(student, damping, zeros, calibration);
        }
    };
    Ok(mask_lowest(student, squares.as_ref(), zeros))
}
