//! Schedules of a pass as pure functions of the step: nothing to save, nothing to resume.

use std::f64::consts::PI;

use crate::recipe::{Scheduled, Shape};
use crate::train::{FitPlan, RateSchedule, TemperaturePlan};

/// Learning rate of a step, counted from 0.
///
/// It rises in equal steps to the peak over `warmup_steps`, then follows the plan's schedule down to
/// `final_learning_rate_frac` of the peak:
///
/// ```text
/// peak (step + 1) / warmup                                     step < warmup
/// peak                                                         until start
/// peak (f + (1 − f) left((step − start) / (last − start)))     after
/// ```
///
/// with `left` as in [`Shape`] and `start` the end of the warm-up or, with `warmup_stable_decay`,
/// `decay_steps` before the last step; `constant` stays at the peak.
///
/// The rate of the first step is never 0, since it would teach nothing. The peak is reached exactly, on the last step
/// of the warm-up (with no warm-up: on the first step), and the final rate exactly on the last.
/// A pass of one step is at the peak. Past the last step the rate stays.
///
/// With at least one step of warm-up, the schedules are those of transformers. There a scheduler's step 0 is the rate 0
/// before the first update, so our step `s` is its `s + 1` (`tests/golden/schedules.json`).
pub fn learning_rate(step: usize, plan: &FitPlan) -> f64 {
    let peak = plan.learning_rate;
    let last = plan.steps.saturating_sub(1);
    let top = plan.warmup_steps.saturating_sub(1);
    let step = step.min(last);
    if step <= top {
        return peak * (step + 1) as f64 / (top + 1) as f64;
    }
    let (start, shape) = match plan.schedule {
        RateSchedule::Constant => return peak,
        RateSchedule::Linear => (top, Shape::Linear),
        RateSchedule::Cosine => (top, Shape::Cosine),
        RateSchedule::WarmupStableDecay {
            decay_steps,
            decay_shape,
        } => (last.saturating_sub(decay_steps).max(top), decay_shape),
    };
    if step <= start {
        return peak;
    }
    let progress = (step - start) as f64 / (last - start) as f64; // last >= step > start
    let floor = plan.final_learning_rate_frac;
    peak * (floor + (1.0 - floor) * left(shape, progress))
}

/// A number at a step: `from` at step 0, `to` at step `over − 1` and after, both exactly.
pub fn scheduled(number: Scheduled, step: usize) -> f64 {
    match number {
        Scheduled::Constant(value) => value,
        Scheduled::Ramp(ramp) => {
            let last = ramp.over.saturating_sub(1).max(1);
            let left = left(ramp.shape, step.min(last) as f64 / last as f64);
            left * ramp.from + (1.0 - left) * ramp.to
        }
    }
}

/// Temperature of a step: the first of `n` stops for the first `over / n` steps, and so on.
pub fn temperature(plan: &TemperaturePlan, step: usize) -> f64 {
    match plan {
        TemperaturePlan::Constant(value) => *value,
        TemperaturePlan::Walk(walk) => {
            let stop_idx = step * walk.stops.len() / walk.over.max(1);
            let stop = walk.stops.get(stop_idx).or(walk.stops.last());
            stop.copied().unwrap_or(walk.to)
        }
    }
}

/// Share of the fall that is left after a share `progress`, from 0 to 1, of its steps.
fn left(shape: Shape, progress: f64) -> f64 {
    match shape {
        Shape::Linear => 1.0 - progress,
        Shape::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
        Shape::OneMinusSqrt => 1.0 - progress.sqrt(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::kernels::Arithmetic;
    use crate::loss::{LossWeights, Term};
    use crate::recipe::Ramp;
    use crate::support::Tail;
    use crate::train::{HandOn, TemperatureWalk};

    /// Plan of cross-entropy alone, with a peak of 0.8 and a final rate of 0.4.
    pub(in crate::train) fn plan(steps: usize, warmup_steps: usize) -> FitPlan {
        FitPlan {
            adapter: None,
            prune: None,
            start_step: 0,
            steps,
            tokens_per_step: 64,
            micro_batch: 1,
            gradient_checkpointing: false,
            precision: Arithmetic::F32,
            learning_rate: 0.8,
            final_learning_rate_frac: 0.5,
            warmup_steps,
            schedule: RateSchedule::Cosine,
            weight_decay: 0.0,
            decay_embeddings: true,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            max_grad_norm: Some(1.0),
            temperature: TemperaturePlan::Constant(1.0),
            losses: LossWeights::only(Term::CrossEntropy),
            tail: Tail::Bucket,
            ema: None,
            evaluate_every: None,
            early_stop: None,
            hand_on: HandOn::Last,
            save_every: 1,
            keep_states: 1,
            log_every: 1,
        }
    }

    fn rates(plan: &FitPlan) -> Vec<f64> {
        (0..plan.steps)
            .map(|step| learning_rate(step, plan))
            .collect()
    }

    fn with(schedule: RateSchedule, plan: FitPlan) -> FitPlan {
        FitPlan { schedule, ..plan }
    }

    #[track_caller]
    fn assert_numbers(got: &[f64], want: &[f64]) {
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
        assert_numbers(&rates(&plan(7, 4)), &[0.2, 0.4, 0.6, 0.8, 0.7, 0.5, 0.4]);
    }

    #[test]
    fn without_warm_up_the_first_step_is_at_the_peak() {
        assert_numbers(&rates(&plan(3, 0)), &[0.8, 0.6, 0.4]);
        assert_numbers(&rates(&plan(3, 1)), &rates(&plan(3, 0)));
    }

    #[test]
    fn warm_up_may_take_every_step_or_all_but_one() {
        assert_numbers(&rates(&plan(4, 4)), &[0.2, 0.4, 0.6, 0.8]);
        assert_numbers(&rates(&plan(3, 2)), &[0.4, 0.8, 0.4]);
        assert_numbers(&rates(&plan(2, 4)), &[0.2, 0.4]);
    }

    #[test]
    fn a_run_of_one_step_is_at_the_peak() {
        assert_numbers(&rates(&plan(1, 0)), &[0.8]);
        assert_numbers(&rates(&plan(1, 1)), &[0.8]);
    }

    #[test]
    fn a_line_falls_in_equal_steps_and_a_constant_rate_stays() {
        let line = with(RateSchedule::Linear, plan(6, 2));
        assert_numbers(&rates(&line), &[0.4, 0.8, 0.7, 0.6, 0.5, 0.4]);
        let constant = with(RateSchedule::Constant, plan(4, 2));
        assert_numbers(&rates(&constant), &[0.4, 0.8, 0.8, 0.8]);
        assert_numbers(&[learning_rate(99, &line)], &[0.4]);
    }

    #[test]
    fn a_stable_rate_falls_in_the_last_steps_alone() {
        let stable = |decay_steps, decay_shape, plan| {
            let schedule = RateSchedule::WarmupStableDecay {
                decay_steps,
                decay_shape,
            };
            rates(&with(schedule, plan))
        };
        let line = stable(2, Shape::Linear, plan(7, 2));
        assert_numbers(&line, &[0.4, 0.8, 0.8, 0.8, 0.8, 0.6, 0.4]);
        let root = stable(4, Shape::OneMinusSqrt, plan(6, 2));
        let quarter = |share: f64| 0.4 + 0.4 * (1.0 - share.sqrt());
        let want = [0.4, 0.8, quarter(0.25), quarter(0.5), quarter(0.75), 0.4];
        assert_numbers(&root, &want);
        assert_numbers(&stable(3, Shape::Cosine, plan(4, 1)), &rates(&plan(4, 1)));
        assert_numbers(&stable(1, Shape::Cosine, plan(1, 1)), &[0.8]);
    }

    #[test]
    fn a_ramp_begins_and_ends_exactly_and_stays() {
        let ramp = |shape| {
            Scheduled::Ramp(Ramp {
                from: 0.1,
                to: 0.7,
                over: 5,
                shape,
            })
        };
        let values = |number| {
            (0..7)
                .map(|step| scheduled(number, step))
                .collect::<Vec<_>>()
        };
        let line = values(ramp(Shape::Linear));
        assert_numbers(&line, &[0.1, 0.25, 0.4, 0.55, 0.7, 0.7, 0.7]);
        let bent = (1.0 - 0.5_f64.sqrt()) / 2.0; // half a cosine at a quarter of the way
        let curve = values(ramp(Shape::Cosine));
        let want = [0.1, 0.1 + 0.6 * bent, 0.4, 0.7 - 0.6 * bent, 0.7, 0.7, 0.7];
        assert_numbers(&curve, &want);
        for values in [line, curve] {
            assert_eq!(
                (values[0].to_bits(), values[4].to_bits()),
                (0.1_f64.to_bits(), 0.7_f64.to_bits())
            );
        }
        assert_numbers(&values(Scheduled::Constant(0.3)), &[0.3; 7]);
    }

    #[test]
    fn a_temperature_walks_through_its_stops_in_equal_parts() {
        let walk = TemperaturePlan::Walk(TemperatureWalk {
            from: 4.0,
            to: 1.0,
            over: 7,
            stops: vec![4.0, 2.0, 1.0],
        });
        let values: Vec<f64> = (0..9).map(|step| temperature(&walk, step)).collect();
        assert_numbers(&values, &[4.0, 4.0, 4.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0]);
    }
}
