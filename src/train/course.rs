//! The course of a pass: all that decides its state after some steps, so that a longer pass may go on from there.

use serde_json::{Value, json};

use super::gradual_pruning::share_before;
use super::schedule::{learning_rate, scheduled, temperature};
use crate::files;
use crate::loss::{LossWeights, Term, Terms};
use crate::pruning::GradualPlan;
use crate::recipe::Scheduled;
use crate::train::{FitPlan, HandOn, RateSchedule, TemperaturePlan};

/// Version of courses; raised when a pass would come to another state by the same one.
const VERSION: u32 = 1;

/// Steps after which a pass keeps its state for a longer one: before the first step of a decay, or, if the rate stays, at the end.
/// `None` if no longer pass can have the same steps before it.
pub fn kept_after(plan: &FitPlan) -> Option<usize> {
    if depends_on_steps(plan).is_some() {
        return None;
    }
    let last = plan.steps.saturating_sub(1);
    match plan.schedule {
        RateSchedule::WarmupStableDecay { decay_steps, .. } => {
            let top = plan.warmup_steps.saturating_sub(1);
            Some((last.saturating_sub(decay_steps).max(top) + 1).min(plan.steps))
        }
        _ => Some(plan.steps),
    }
}

/// The key of a plan by which all its steps depend on their number, in words; `None` if there is none.
pub fn depends_on_steps(plan: &FitPlan) -> Option<&'static str> {
    match plan.schedule {
        RateSchedule::Cosine => return Some("`schedule: cosine`"),
        RateSchedule::Linear => return Some("`schedule: linear`"),
        RateSchedule::Constant | RateSchedule::WarmupStableDecay { .. } => {}
    }
    if plan.early_stop.is_some() {
        return Some("`early_stop`");
    }
    (plan.hand_on == HandOn::Best).then_some("`hand_on: best`")
}

/// BLAKE3 (hex) of all that decides the state of a pass after its first steps: what it starts from, the keys that hold for every
/// step, and the values of all schedules at these steps. Two plans with the same course are in the same state there, bit for bit.
///
/// `origin` stands for the student, the rows and the cache that the pass is given, its seed, and its keys beside training.
pub fn course(plan: &FitPlan, origin: &str, num_steps: usize) -> String {
    let kept = keys_of_every_step(plan, num_steps);
    let bits = |value: f64| value.to_bits();
    let values = |step: usize| -> Value {
        let weights: Vec<u64> = Term::ALL
            .into_iter()
            .map(|term| bits(scheduled(plan.losses.weights[term], step)))
            .collect();
        let pruned = plan.prune.as_ref();
        let pruned = pruned.and_then(|prune| share_before(prune, 0.0, step));
        json!([
            bits(learning_rate(step, plan)),
            bits(temperature(&plan.temperature, step)),
            weights,
            pruned.map(bits),
        ])
    };
    let values: Vec<Value> = (0..num_steps).map(values).collect();
    files::hash_json(&json!([VERSION, origin, kept, num_steps, values]))
}

/// The plan without what a schedule says step by step, and without what comes later.
fn keys_of_every_step(plan: &FitPlan, num_steps: usize) -> FitPlan {
    let is_used = |term: Term| f64::from(u8::from(plan.losses.weights[term].is_used()));
    FitPlan {
        steps: 0,
        learning_rate: 0.0,
        final_learning_rate_frac: 0.0,
        warmup_steps: 0,
        schedule: RateSchedule::Constant,
        temperature: TemperaturePlan::Constant(1.0),
        losses: LossWeights {
            weights: Terms::from_fn(|term| Scheduled::Constant(is_used(term))),
            ..plan.losses.clone()
        },
        start_step: plan.start_step.min(num_steps),
        prune: plan.prune.clone().map(|prune| GradualPlan {
            sparsity: 0.0,
            from_step: 0,
            to_step: prune.to_step.min(num_steps),
            every: 0,
            ..prune
        }),
        ..plan.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Shape;
    use crate::train::schedule::tests::plan;

    fn with(schedule: RateSchedule, steps: usize) -> FitPlan {
        FitPlan {
            schedule,
            ..plan(steps, 3)
        }
    }

    fn stable(steps: usize, decay_steps: usize) -> FitPlan {
        let schedule = RateSchedule::WarmupStableDecay {
            decay_steps,
            decay_shape: Shape::Linear,
        };
        with(schedule, steps)
    }

    #[test]
    fn a_state_is_kept_where_a_longer_pass_comes_by() {
        assert_eq!(kept_after(&with(RateSchedule::Constant, 20)), Some(20));
        let short = stable(20, 5);
        let kept = kept_after(&short).unwrap();
        // The last step at the peak is the one before the decay.
        assert_eq!(learning_rate(kept - 1, &short).to_bits(), 0.8_f64.to_bits());
        assert!(learning_rate(kept, &short) < 0.8);
        assert_eq!(kept_after(&stable(8, 5)), Some(3), "warm-up, then decay");
        for depends in [RateSchedule::Cosine, RateSchedule::Linear] {
            assert_eq!(kept_after(&with(depends, 20)), None);
        }
        let best = FitPlan {
            hand_on: HandOn::Best,
            ..with(RateSchedule::Constant, 20)
        };
        assert_eq!(kept_after(&best), None);
    }

    #[test]
    fn courses_are_the_same_as_far_as_every_value_is() {
        let (short, long) = (stable(20, 5), stable(40, 10));
        let kept = kept_after(&short).unwrap();
        let same = |a: &FitPlan, b: &FitPlan, steps| course(a, "o", steps) == course(b, "o", steps);
        assert!(same(&short, &long, kept));
        assert!(!same(&short, &long, kept + 1), "the short one decays");
        assert!(!same(&short, &stable(40, 10), 40));
        assert_ne!(course(&short, "o", 5), course(&short, "p", 5));
        assert_ne!(course(&short, "o", 5), course(&short, "o", 6));
        let cosine = |steps| with(RateSchedule::Cosine, steps);
        assert!(!same(&cosine(20), &cosine(40), 5));
        let change = |change: fn(&mut FitPlan)| {
            let mut other = long.clone();
            change(&mut other);
            same(&short, &other, kept)
        };
        assert!(change(|plan| plan.save_every = 7));
        for matters in [
            (|plan| plan.warmup_steps = 4) as fn(&mut FitPlan),
            |plan| plan.weight_decay = 0.1,
            |plan| plan.temperature = TemperaturePlan::Constant(2.0),
            |plan| plan.losses.weights[Term::CrossEntropy] = Scheduled::Constant(0.5),
            |plan| plan.micro_batch = 2,
            |plan| plan.start_step = 4,
            |plan| plan.evaluate_every = Some(4),
        ] {
            assert!(!change(matters));
        }
    }
}
