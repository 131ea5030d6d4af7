//! Summary of the measurements of a pass on the validation text: which was best, and when to end.

use serde::{Deserialize, Serialize};

use crate::train::{EarlyStopPlan, FitPlan};

/// Summary of all measurements so far, which a training state holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// The lowest loss.
    pub best: Option<Best>,
    /// Loss that the next one must be below, by `min_delta`, to count as better.
    reference_nats: Option<f64>,
    /// Measurements since the last better one.
    num_stale: usize,
    /// Updates made before the last measurement.
    last_step: Option<usize>,
}

/// The best measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Updates made before it.
    pub step: usize,
    /// Validation loss.
    pub loss_nats: f64,
}

impl Validation {
    /// Records a loss; true if it is the lowest.
    ///
    /// The lowest may be handed on, however small the difference. Patience waits for a fall of more than `min_delta`,
    /// to which slow falls add up.
    pub fn note(&mut self, step: usize, loss_nats: f64, early_stop: Option<EarlyStopPlan>) -> bool {
        self.last_step = Some(step);
        let min_delta = early_stop.map_or(0.0, |plan| plan.min_delta);
        if self
            .reference_nats
            .is_none_or(|reference| loss_nats < reference - min_delta)
        {
            self.reference_nats = Some(loss_nats);
            self.num_stale = 0;
        } else {
            self.num_stale += 1;
        }
        let is_best = self.best.is_none_or(|best| loss_nats < best.loss_nats);
        if is_best {
            self.best = Some(Best { step, loss_nats });
        }
        is_best
    }

    /// Records a measurement that cannot be the best.
    pub fn pass_over(&mut self, step: usize) {
        self.last_step = Some(step);
    }

    /// True if a measurement after `step` updates is due: every `evaluate_every`, at the end, and never twice.
    pub fn is_due(&self, step: usize, plan: &FitPlan) -> bool {
        let is_time = |every: usize| step > 0 && (step.is_multiple_of(every) || step == plan.steps);
        plan.evaluate_every.is_some_and(is_time) && self.last_step != Some(step)
    }

    /// True if the pass ends here.
    pub fn is_over(&self, early_stop: Option<EarlyStopPlan>) -> bool {
        early_stop.is_some_and(|plan| self.num_stale >= plan.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::schedule::tests::plan;

    /// Steps at which a loss was the lowest, and the one at which the pass ended.
    fn told(losses: &[f64], patience: usize, min_delta: f64) -> (Vec<usize>, Option<usize>) {
        let plan = Some(EarlyStopPlan {
            patience,
            min_delta,
        });
        let mut validation = Validation::default();
        let mut best = Vec::new();
        for (step, &loss) in losses.iter().enumerate() {
            if validation.note(step, loss, plan) {
                best.push(step);
            }
            assert_eq!(validation.best.map(|best| best.step), best.last().copied());
            if validation.is_over(plan) {
                return (best, Some(step));
            }
        }
        (best, None)
    }

    #[test]
    fn a_pass_ends_when_patience_is_at_its_end() {
        assert_eq!(
            told(&[3.0, 2.0, 2.5, 2.0, 1.0], 2, 0.0),
            (vec![0, 1], Some(3))
        );
        assert_eq!(
            told(&[3.0, 2.0, 2.5, 1.5, 2.0], 2, 0.0),
            (vec![0, 1, 3], None)
        );
        assert_eq!(told(&[3.0, 3.0], 1, 0.0), (vec![0], Some(1)));
    }

    #[test]
    fn a_small_fall_is_the_best_but_does_not_renew_patience_until_falls_add_up() {
        let losses = [3.0, 2.75, 2.5, 2.25, 2.125];
        assert_eq!(told(&losses, 2, 0.5), (vec![0, 1, 2], Some(2)));
        assert_eq!(told(&losses, 3, 0.5), (vec![0, 1, 2, 3, 4], None));
        assert_eq!(told(&losses, 9, 0.0), (vec![0, 1, 2, 3, 4], None));
    }

    #[test]
    fn measurements_are_due_every_so_many_steps_and_at_the_end_but_never_twice() {
        let plan = FitPlan {
            evaluate_every: Some(3),
            ..plan(8, 1)
        };
        let mut validation = Validation::default();
        let due: Vec<usize> = (0..=8)
            .filter(|&step| validation.is_due(step, &plan))
            .collect();
        assert_eq!(due, [3, 6, 8]);
        validation.note(6, 1.0, None);
        assert!(!validation.is_due(6, &plan));
        let never = FitPlan {
            evaluate_every: None,
            ..plan
        };
        assert!(!(0..=8).any(|step| validation.is_due(step, &never)));
    }

    #[test]
    fn without_early_stop_nothing_ends() {
        let mut validation = Validation::default();
        for step in 0..100 {
            validation.note(step, 1.0, None);
            assert!(!validation.is_over(None));
        }
        assert_eq!(validation.best.unwrap().step, 0);
    }
}
