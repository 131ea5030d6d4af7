//! Grids that come into force while a pass trains.

use std::collections::BTreeMap;
use std::mem;

use burn::tensor::Tensor;

use crate::model::{Schemes, WeightId};
use crate::progress::say;
use crate::student::Student;
use crate::train::FitPlan;

/// The grids of a student that trains without them at first, if its plan says so.
pub(super) struct Delayed {
    /// 0 if the student has its grids all the time.
    start_step: usize,
    schemes: Schemes,
}

impl Delayed {
    /// Takes the grids off the student that a pass was given, if they are to come later.
    pub(super) fn of(plan: &FitPlan, student: &mut Student) -> Self {
        let start_step = plan.start_step;
        let schemes = if start_step > 0 {
            mem::take(&mut student.schemes)
        } else {
            Schemes::new()
        };
        Self {
            start_step,
            schemes,
        }
    }

    /// Gives a student that goes on after so many steps what it had then; `scales` are those from which learned scales
    /// began.
    pub(super) fn resume(
        &self,
        num_updates: usize,
        scales: &BTreeMap<WeightId, Tensor<2>>,
        student: &mut Student,
    ) {
        if self.start_step > 0 && num_updates > self.start_step {
            student.schemes = self.schemes.clone();
            student.begin_scales(scales);
        }
    }

    /// Puts the grids on before their step; scales that are learned begin with those that fit the weights as they are by
    /// then.
    pub(super) fn start(&self, step: usize, label: &str, student: &mut Student) {
        if self.start_step == 0 || step != self.start_step {
            return;
        }
        student.schemes = self.schemes.clone();
        if !student.scales.is_empty() {
            student.learn_scales();
        }
        say(&format!("{label}: on its grid from step {step}"));
    }

    /// What a training state has to know: the scales from which learned ones began.
    pub(super) fn scales(&self, student: &Student) -> BTreeMap<WeightId, Tensor<2>> {
        let scales = student.scales.iter().filter(|_| self.start_step > 0);
        let scales = scales.map(|(id, learned)| (*id, learned.first()));
        scales.collect()
    }
}
