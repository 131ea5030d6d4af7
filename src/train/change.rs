//! Changes of the student itself while a pass trains it, beside the values of its weights.

use super::fit::PassContext;
use super::gradual_pruning::GradualPruning;
use super::grid_start::GridStart;
use super::state::Training;
use crate::student::Student;
use crate::train::FitPlan;

/// A change during a pass.
pub(super) enum Change<'a> {
    /// A grid comes into force.
    Grid(GridStart),
    /// Weights are pruned.
    Prune(GradualPruning<'a>),
}

impl<'a> Change<'a> {
    /// Changes that a plan asks for, in the order in which they are applied before a step. Removes from the student the
    /// parts that come later.
    pub(super) fn all(
        plan: &'a FitPlan,
        given: &mut Student,
        context: &'a PassContext<'a>,
    ) -> Vec<Self> {
        let pruning = GradualPruning::of(plan, given, context).map(Self::Prune);
        let grid = GridStart::of(plan, given).map(Self::Grid);
        grid.into_iter().chain(pruning).collect()
    }

    /// Restores the parts of a resumed student that no state holds.
    pub(super) fn resume(&self, training: &mut Training) {
        match self {
            Self::Grid(grid) => grid.resume(training),
            Self::Prune(_) => {} // a state holds the masks
        }
    }

    /// Changes the student before a step, if it is time.
    pub(super) fn apply(&self, step: usize, label: &str, training: &mut Training) {
        match self {
            Self::Grid(grid) => grid.apply(step, label, training),
            Self::Prune(pruning) => pruning.apply(step, training),
        }
    }

    /// True if it may still change a student that was measured after `done` steps. Such a measurement is never the
    /// best: a student with more weights, or without a grid, is no better.
    pub(super) fn is_to_come(&self, done: usize) -> bool {
        let last_step = match self {
            Self::Grid(grid) => grid.last_step(),
            Self::Prune(pruning) => pruning.last_step(),
        };
        done <= last_step
    }
}
