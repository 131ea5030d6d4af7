//! Masks that grow while a pass trains.

use std::sync::atomic::AtomicBool;

use burn::tensor::Tensor;

use super::fit::PassContext;
use super::state::Training;
use crate::calibration::Calibration;
use crate::pruning::{GradualMethod, GradualPlan, Zeros, input_squares, mask_lowest};
use crate::student::Student;
use crate::train::FitPlan;

/// Pruning during a pass.
pub(super) struct GradualPruning<'a> {
    plan: &'a GradualPlan,
    context: &'a PassContext<'a>,
    /// Share of zeros of the student that the pass was given.
    from_sparsity: f64,
}

impl<'a> GradualPruning<'a> {
    /// Pruning of the student that the pass was given, not of a resumed one; `None` if the plan does not prune.
    pub(super) fn of(
        plan: &'a FitPlan,
        given: &Student,
        context: &'a PassContext<'a>,
    ) -> Option<Self> {
        plan.prune.as_ref().map(|plan| Self {
            plan,
            context,
            from_sparsity: given.sparsity(),
        })
    }

    /// The last step before which weights are pruned.
    pub(super) fn last_step(&self) -> usize {
        self.plan.to_step
    }

    /// Prunes the weights that are due before a step, and clears their moments and averages.
    pub(super) fn apply(&self, step: usize, training: &mut Training) {
        let plan = self.plan;
        let Some(sparsity) = share_before(plan, self.from_sparsity, step) else {
            return;
        };
        let zeros = Zeros::Share {
            sparsity,
            within: plan.within,
        };
        let student = &mut training.student;
        let squares = (plan.method == GradualMethod::Wanda).then(|| {
            let calibration = Calibration {
                rows: self.context.rows,
                num_tokens: plan.calibration_tokens,
                label: self.context.label,
                is_silent: true,
                stop: &AtomicBool::new(false), // takes seconds; the loop checks the signal next
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
        let moments = &mut training.optimizer.moments;
        mask(&mut moments.iter_mut().map(|one| &mut one.first));
        mask(&mut moments.iter_mut().map(|one| &mut one.second));
        if let Some(average) = &mut training.average {
            mask(&mut average.iter_mut());
        }
    }
}

/// Share of zeros that a pass from `from` on has before a step at which weights are pruned; `None` at other steps.
pub(super) fn share_before(plan: &GradualPlan, from: f64, step: usize) -> Option<f64> {
    is_due(plan, step).then(|| sparsity(plan, from, step))
}

fn is_due(plan: &GradualPlan, step: usize) -> bool {
    let is_within = (plan.from_step..=plan.to_step).contains(&step);
    is_within && ((step - plan.from_step).is_multiple_of(plan.every) || step == plan.to_step)
}

/// Share of zeros before a step: `s + (s₀ − s)(1 − t)³`, where `t` is the elapsed part of the way (Zhu & Gupta 2017,
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
