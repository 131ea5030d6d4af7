//! Pruning: masks the least useful weights.

mod plan;
mod sparsegpt;

use std::io;
use std::path::Path;

use thiserror::Error;

pub(super) use self::plan::PRUNE;
use self::plan::contradictions;
pub use self::plan::{PruneMethod, PrunePlan};
use self::sparsegpt::compensate;
use super::removed::Removed;
use super::{Pass, PassError, PassFault, PassInputs, PassReport, calibration, saved};
use crate::calibration::{Calibration, Interrupted, NotPositiveDefinite};
use crate::cost::{self, CalibrationSteps, F32_BYTES, StageCost};
use crate::diag::Diagnostic;
use crate::model::{Site, num_parameters, parameter_specs};
use crate::pruning::{PrunedMatrix, Zeros, input_squares, mask_lowest};
use crate::recipe::Fields;
use crate::student::Student;
use crate::train::fit::PassContext;

/// What SparseGPT does to each weight.
const CORRECTS: CalibrationSteps = CalibrationSteps {
    scales: false,
    clips: false,
    corrects: true,
};

/// Error of a pruning pass.
#[derive(Debug, Error)]
pub enum PruneError {
    /// A signal asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The inputs of a layer are unusable.
    #[error("layer {layer} cannot be pruned at its {site:?}: {source}")]
    Inputs {
        /// The layer.
        layer: usize,
        /// The place in it.
        site: Site,
        /// Fault of its inputs.
        source: NotPositiveDefinite,
    },
}

impl Pass for PrunePlan {
    fn contradictions(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
        contradictions(fields, faults);
    }

    fn prunes(_: Option<Fields<'_>>) -> bool {
        true
    }

    /// Refuses a pattern whose width does not divide the rows of projections.
    fn check(&self, inputs: &PassInputs<'_>) -> Result<(), PassFault> {
        let Some(pattern) = self.zeros.pattern() else {
            return Ok(());
        };
        let width = pattern.width();
        let specs = parameter_specs(inputs.student);
        let mut linear = specs.iter().filter(|spec| spec.id.input().is_some());
        let Some(spec) = linear.find(|spec| !spec.shape[1].is_multiple_of(width)) else {
            return Ok(());
        };
        let columns = spec.shape[1];
        let fact = format!(
            "the pattern's width of {width} does not divide the {columns} columns of `{}`",
            spec.name
        );
        let label = format!("{columns} / {width} leaves {} over", columns % width);
        let share = self.zeros.sparsity();
        let fault = Diagnostic::new("prune/uneven-pattern", fact)
            .help(format!("write `sparsity: {share}` instead"));
        Err(PassFault::at("pattern", label, fault))
    }

    /// Adds the cost of the measurements before pruning. SparseGPT runs each layer twice; it holds the residual stream of its
    /// text, and the second moments of the widest input with their factor.
    fn add_cost(&self, cost: &mut StageCost, inputs: &PassInputs<'_>) {
        let (config, text) = (inputs.student, inputs.training(self.calibration_tokens));
        match self.method {
            PruneMethod::Magnitude => {}
            PruneMethod::Wanda => cost.add_runs(config, 1, text),
            PruneMethod::SparseGpt { .. } => {
                cost.work.push(cost::calibrate(config, text, CORRECTS));
                cost.tokens += text.tokens;
                cost.add_moments(config, text.tokens);
                cost.memory_bytes += num_parameters(config) * F32_BYTES;
            }
        }
    }

    fn runs_apart(&self) -> bool {
        true
    }

    fn apply(&self, student: Student, context: &PassContext<'_>) -> Result<Student, PassError> {
        prune(self, student, context)
    }

    fn report(&self, dir: &Path) -> io::Result<PassReport> {
        Removed::report(dir)
    }
}

/// Masks as many weights as the plan says, and writes the loss of each matrix into the folder of the pass.
fn prune(
    plan: &PrunePlan,
    student: Student,
    context: &PassContext<'_>,
) -> Result<Student, PassError> {
    let calibration = calibration(context, plan.calibration_tokens);
    let (student, pruned) = masked(student, plan.method, plan.zeros, &calibration)?;
    saved(context, Removed::Weights(pruned).write(context.dir))?;
    Ok(student)
}

/// Masks weights of the projections inside blocks; embedding, norms and output matrix stay dense.
///
/// Weights that were masked before stay masked, so masks only grow. The free weights are zeroed where they are masked.
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
