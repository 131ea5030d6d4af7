//! Learning rates against those of transformers.

use alambic::recipe::Shape;
use alambic::train::learning_rate;
use alambic::train::{FitPlan, RateSchedule};
use serde::Deserialize;

use super::golden::{self, Golden};
use super::tiny::fit_plan;

#[derive(Deserialize)]
struct Peak {
    learning_rate: f64,
}

#[derive(Deserialize)]
struct ScheduleCase {
    schedule: String,
    steps: usize,
    warmup_steps: usize,
    final_learning_rate_frac: f64,
    decay_steps: Option<usize>,
    decay_shape: Option<String>,
    rates: Vec<f64>,
}

impl ScheduleCase {
    fn schedule(&self) -> RateSchedule {
        match self.schedule.as_str() {
            "constant" => RateSchedule::Constant,
            "linear" => RateSchedule::Linear,
            "cosine" => RateSchedule::Cosine,
            "warmup_stable_decay" => RateSchedule::WarmupStableDecay {
                decay_steps: self.decay_steps.unwrap(),
                decay_shape: match self.decay_shape.as_deref() {
                    Some("linear") => Shape::Linear,
                    Some("cosine") => Shape::Cosine,
                    Some("1-sqrt") => Shape::OneMinusSqrt,
                    shape => panic!("{shape:?}"),
                },
            },
            schedule => panic!("{schedule}"),
        }
    }
}

#[test]
fn every_schedule_has_the_rates_of_transformers() {
    let Golden {
        tolerance,
        inputs,
        expected,
    } = golden::read::<Peak, Vec<ScheduleCase>>("schedules.json");
    assert_eq!(expected.len(), 30);
    for (case, want) in expected.iter().enumerate() {
        let plan = FitPlan {
            steps: want.steps,
            warmup_steps: want.warmup_steps,
            learning_rate: inputs.learning_rate,
            final_learning_rate_frac: want.final_learning_rate_frac,
            schedule: want.schedule(),
            ..fit_plan()
        };
        assert_eq!(want.rates.len(), want.steps);
        for (step, want) in want.rates.iter().enumerate() {
            let got = learning_rate(step, &plan);
            let room = tolerance.atol + tolerance.rtol * want;
            assert!(
                (got - want).abs() <= room,
                "case {case}, {:?}, step {step}: got {got}, want {want}",
                plan.schedule
            );
        }
    }
}
