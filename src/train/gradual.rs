//! Masks that grow while a pass trains.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use burn::tensor::Tensor;

use super::Validation;
use super::fit::FitContext;
use super::optim::AdamW;
use crate::calibration::Calibration;
use crate::model::WeightId;
use crate::pruning::{GradualMethod, GradualPlan, Zeros, input_squares, mask_lowest};
use crate::student::Student;
use crate::train::{EarlyStopPlan, FitPlan};

/// What prunes during a pass, if its plan says so.
pub(super) struct Gradual<'a> {
    plan: Option<&'a GradualPlan>,
    context: &'a FitContext<'a>,
    /// Share of zeros that the student came with.
    from_sparsity: f64,
    /// The last step that changes what the student is, and not only how well it does: weights go, or a grid comes.
    last_change: Option<usize>,
}

impl<'a> Gradual<'a> {
    /// For the student that the pass was given, and not one that it goes on with.
    pub(super) fn of(plan: &'a FitPlan, given: &Student, context: &'a FitContext<'a>) -> Self {
        Self {
            plan: plan.prune.as_ref(),
            context,
            from_sparsity: given.sparsity(),
            last_change: [
                plan.prune.as_ref().map(|plan| plan.to_step),
                Some(plan.start_step).filter(|step| *step > 0),
            ]
            .into_iter()
            .flatten()
            .max(),
        }
    }

    /// Takes away what goes before a step, and with it what optimizer and average remember of it.
    pub(super) fn prune(
        &self,
        step: usize,
        student: &mut Student,
        optimizer: &mut AdamW,
        average: &mut Option<Vec<Tensor<2>>>,
    ) {
        let Some(plan) = self.plan.filter(|plan| is_due(plan, step)) else {
            return;
        };
        let zeros = Zeros::Share {
            sparsity: sparsity(plan, self.from_sparsity, step),
            within: plan.within,
        };
        let squares = (plan.method == GradualMethod::Wanda).then(|| {
            let calibration = Calibration {
                rows: self.context.rows,
                num_tokens: plan.calibration_tokens,
                label: self.context.label,
                is_silent: true,
                stop: &AtomicBool::new(false), // seconds; the loop looks at the signal next
            };
            input_squares(student, &calibration).expect("nothing asks it to stop")
        });
        (*student, _) = mask_lowest(student.clone(), squares.as_ref(), zeros);
        if student.adapter.is_some() {
            return; // its matrices have no masks of their own
        }
        let specs: Vec<_> = student
            .trained()
            .into_iter()
            .map(|(spec, _)| spec)
            .collect();
        let mask = |matrices: &mut dyn Iterator<Item = &mut Tensor<2>>| {
            for (spec, matrix) in specs.iter().zip(matrices) {
                if let Some(id) = spec.weight {
                    *matrix = student.masked(id, matrix.clone());
                }
            }
        };
        mask(&mut optimizer.moments.iter_mut().map(|one| &mut one.first));
        mask(&mut optimizer.moments.iter_mut().map(|one| &mut one.second));
        if let Some(average) = average {
            mask(&mut average.iter_mut());
        }
    }

    /// What a training state has to know of the masks: all of them, where they grow.
    pub(super) fn masks(&self, student: &Student) -> BTreeMap<WeightId, Tensor<2>> {
        self.plan
            .map_or_else(BTreeMap::new, |_| student.masks.clone())
    }

    /// Takes note of a measurement; whether it is the best so far. While weights go, or before a grid comes, there is none:
    /// a student with more of them, or without one, is no better.
    pub(super) fn note(
        &self,
        validation: &mut Validation,
        done: usize,
        loss_nats: f64,
        early_stop: Option<EarlyStopPlan>,
    ) -> bool {
        if self.last_change.is_some_and(|step| done <= step) {
            validation.pass_over(done);
            return false;
        }
        validation.note(done, loss_nats, early_stop)
    }
}

fn is_due(plan: &GradualPlan, step: usize) -> bool {
    let is_within = (plan.from_step..=plan.to_step).contains(&step);
    is_within && ((step - plan.from_step).is_multiple_of(plan.every) || step == plan.to_step)
}

/// Share of zeros before a step: `s + (s₀ − s)(1 − t)³`, `t` being the part of the way that is done (Zhu & Gupta 2017,
/// <https://arxiv.org/abs/1710.01878>, equation 1).
fn sparsity(plan: &GradualPlan, from: f64, step: usize) -> f64 {
    let way = (plan.to_step - plan.from_step) as f64;
    let left = 1.0 - (step - plan.from_step) as f64 / way;
    plan.sparsity + (from - plan.sparsity) * left.powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pruning::Within;

    fn plan(from_step: usize, to_step: usize, every: usize) -> GradualPlan {
        GradualPlan {
            method: GradualMethod::Magnitude,
            sparsity: 0.8,
            within: Within::Row,
            from_step,
            to_step,
            every,
            calibration_tokens: 1,
        }
    }

    #[test]
    fn the_share_of_zeros_rises_on_the_cubic_curve() {
        let shares = [100, 125, 150, 175, 200].map(|step| sparsity(&plan(100, 200, 25), 0.0, step));
        for (share, want) in shares.into_iter().zip([0.0, 0.4625, 0.7, 0.7875, 0.8]) {
            assert!((share - want).abs() < 1e-12, "{share}, {want}");
        }
        let half = sparsity(&plan(0, 10, 1), 0.5, 5);
        assert!((half - (0.8 - 0.3 / 8.0)).abs() < 1e-12, "{half}");
    }

    #[test]
    fn weights_go_every_so_many_steps_and_at_the_last() {
        let due = |plan: &GradualPlan| -> Vec<usize> {
            (0..20).filter(|&step| is_due(plan, step)).collect()
        };
        assert_eq!(due(&plan(3, 12, 4)), [3, 7, 11, 12]);
        assert_eq!(due(&plan(0, 6, 3)), [0, 3, 6]);
    }
}
