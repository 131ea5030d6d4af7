//! The learning rate, as a pure function of the step: nothing to save, nothing to resume.

use std::f64::consts::PI;

use crate::recipe::FitPlan;

/// Learning rate of a step, counted from 0.
///
/// It rises in equal steps to the peak over `warmup_steps`, then follows half a cosine down to
/// `final_learning_rate_frac` of the peak:
///
/// ```text
/// peak (step + 1) / warmup                                     step < warmup
/// peak (f + (1 − f) (1 + cos(π (step − top) / (last − top))) / 2)   after, top = warmup − 1
/// ```
///
/// The first step is never 0, since it would teach nothing; the peak is reached exactly, on the last
/// step of the warm-up (with no warm-up: on the first step), and the final rate exactly on the last.
/// A run that is one step long is at the peak. Past the last step the rate stays.
///
/// Reference: Loshchilov, Hutter 2017, <https://arxiv.org/abs/1608.03983>, equation 5, without restarts.
pub fn learning_rate(step: usize, plan: &FitPlan) -> f64 {
    let peak = plan.learning_rate;
    let last = plan.steps.saturating_sub(1);
    let top = plan.warmup_steps.saturating_sub(1);
    let step = step.min(last);
    if step <= top {
        return peak * (step + 1) as f64 / (top + 1) as f64;
    }
    let progress = (step - top) as f64 / (last - top) as f64; // last >= step > top
    let share = 0.5 * (1.0 + (PI * progress).cos());
    let floor = plan.final_learning_rate_frac;
    peak * (floor + (1.0 - floor) * share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{LossWeights, TailPlan};

    fn rates(steps: usize, warmup_steps: usize) -> Vec<f64> {
        let plan = FitPlan {
            adapter: None,
            steps,
            tokens_per_step: 64,
            micro_batch: 1,
            learning_rate: 0.8,
            final_learning_rate_frac: 0.5,
            warmup_steps,
            weight_decay: 0.0,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            max_grad_norm: 1.0,
            temperature: 1.0,
            losses: LossWeights {
                forward_kl: 0.0,
                cross_entropy: 1.0,
            },
            tail: TailPlan::Bucket,
            save_every: 1,
            log_every: 1,
        };
        (0..steps).map(|step| learning_rate(step, &plan)).collect()
    }

    #[track_caller]
    fn assert_rates(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len(), "got {got:?}, want {want:?}");
        let differs = |(got, want): (&f64, &f64)| (got - want).abs() > 1e-15;
        assert!(
            !got.iter().zip(want).any(differs),
            "got {got:?}, want {want:?}"
        );
    }

    #[test]
    fn warm_up_rises_to_the_peak_and_a_cosine_falls_to_the_final_rate() {
        // After the peak at step 3, thirds of a half turn: cos 60° = 1/2, cos 120° = -1/2, cos 180° = -1.
        assert_rates(&rates(7, 4), &[0.2, 0.4, 0.6, 0.8, 0.7, 0.5, 0.4]);
    }

    #[test]
    fn without_warm_up_the_first_step_is_at_the_peak() {
        assert_rates(&rates(3, 0), &[0.8, 0.6, 0.4]);
        assert_rates(&rates(3, 1), &rates(3, 0));
    }

    #[test]
    fn warm_up_may_take_every_step_or_all_but_one() {
        assert_rates(&rates(4, 4), &[0.2, 0.4, 0.6, 0.8]);
        assert_rates(&rates(3, 2), &[0.4, 0.8, 0.4]);
        assert_rates(&rates(2, 4), &[0.2, 0.4]);
    }

    #[test]
    fn a_run_of_one_step_is_at_the_peak() {
        assert_rates(&rates(1, 0), &[0.8]);
        assert_rates(&rates(1, 1), &[0.8]);
    }
}
