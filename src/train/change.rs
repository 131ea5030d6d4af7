//! Changes of what a student is while a pass trains it, and not only of how well it does.

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
    /// Weights go.
    Prune(GradualPruning<'a>),
}

impl<'a> Change<'a> {
    /// Those that a plan asks for, in the order in which they are applied before a step. Takes off the student what comes
    /// later.
    pub(super) fn all(
        plan: &'a FitPlan,
        given: &mut Student,
        context: &'a PassContext<'a>,
    ) -> Vec<Self> {
        let pruning = GradualPruning::of(plan, given, context).map(Self::Prune);
        let grid = GridStart::of(plan, given).map(Self::Grid);
        grid.into_iter().chain(pruning).collect()
    }

    /// Gives a student that goes on what it had when it was stopped, as far as no state holds it.
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

    /// Tells whether it may still change a student that was measured after so many steps. Such a measurement is not the best
    /// of any: a student with more weights, or without a grid, is no better.
    pub(super) fn is_to_come(&self, done: usize) -> bool {
        let last_step = match self {
            Self::Grid(grid) => grid.last_step(),
            Self::Prune(pruning) => pruning.last_step(),
        };
        done <= last_step
    }
}
