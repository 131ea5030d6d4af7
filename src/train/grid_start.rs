//! Grids that come into force while a pass trains.

use std::mem;

use super::state::Training;
use crate::model::Schemes;
use crate::progress::log;
use crate::student::Student;
use crate::train::FitPlan;

/// Grids of a student that first trains without them.
pub(super) struct GridStart {
    /// The step before which they come into force; above 0.
    step: usize,
    schemes: Schemes,
}

impl GridStart {
    /// Removes the grids from the student that a pass was given, if they come into force later.
    pub(super) fn of(plan: &FitPlan, student: &mut Student) -> Option<Self> {
        let step = plan.start_step;
        (step > 0).then(|| Self {
            step,
            schemes: mem::take(&mut student.schemes),
        })
    }

    /// The last step before which the student changes.
    pub(super) fn last_step(&self) -> usize {
        self.step
    }

    /// Restores the grids of a resumed student.
    pub(super) fn resume(&self, training: &mut Training) {
        if training.optimizer.num_updates > self.step {
            training.student.schemes = self.schemes.clone();
        }
    }

    /// Puts the grids on before their step. Learned scales begin with those that fit the weights at that step.
    pub(super) fn apply(&self, step: usize, label: &str, training: &mut Training) {
        if step != self.step {
            return;
        }
        let student = &mut training.student;
        student.schemes = self.schemes.clone();
        if !student.scales.is_empty() {
            student.learn_scales();
        }
        log(&format!("{label}: on its grid from step {step}"));
    }
}
