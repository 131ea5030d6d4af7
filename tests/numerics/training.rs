//! The loop against PyTorch's, and the laws of averages and early stops.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use alambic::data::TokenRows;
use alambic::device::ReadBack;
use alambic::model::{Decoder, DecoderConfig, ParameterKind};
use alambic::passes::PassPlan;
use alambic::student::Student;
use alambic::tensors::to_vec;
use alambic::train::evaluate::{Reference, evaluate};
use alambic::train::fit::{fit, fit_with};
use alambic::train::{
    EarlyStopPlan, FitPlan, HandOn, MetricsLine, RateSchedule, averaged, read_metrics,
};
use serde::Deserialize;
use serde_json::Value;

use super::golden::{self, Golden, Tolerance, assert_close};
use super::tiny::{bits, config, context, decoder_of, fit_plan, random_decoder, random_rows};

#[derive(Deserialize)]
struct Inputs {
    config: Value,
    weights: BTreeMap<String, Vec<f32>>,
    tokens: Vec<u32>,
    sequence_length: usize,
    counted: Vec<u32>,
    steps: usize,
    warmup_steps: usize,
    learning_rate: f64,
    betas: [f64; 2],
    epsilon: f64,
    weight_decay: f64,
    max_grad_norm: f64,
}

#[derive(Deserialize)]
struct Expected {
    steps: Vec<Step>,
    weights: BTreeMap<String, Vec<f64>>,
}

/// Before its update.
#[derive(Deserialize)]
struct Step {
    loss: f64,
    norm: f64,
    learning_rate: f64,
}

/// The student and the metrics of a fit in a folder of its own.
fn run(plan: &FitPlan, decoder: Decoder, rows: &TokenRows) -> (Decoder, Vec<MetricsLine>) {
    let dir = tempfile::tempdir().unwrap();
    let student = run_in(dir.path(), plan, Student::new(decoder), rows);
    (student.decoder, read_metrics(dir.path()).unwrap())
}

fn run_in(dir: &Path, plan: &FitPlan, student: Student, rows: &TokenRows) -> Student {
    let stop = AtomicBool::new(false);
    fit(plan, student, &context(dir, rows, &stop)).unwrap()
}

#[test]
fn ten_steps_with_warm_up_and_clipping_end_in_the_losses_and_weights_of_torch() {
    let Golden {
        tolerance,
        inputs,
        expected,
    } = golden::read::<Inputs, Expected>("training.json");
    let config = DecoderConfig::from_json(&inputs.config).unwrap();
    let num_rows = inputs.counted.len();
    let rows = TokenRows::new(inputs.sequence_length, inputs.tokens, inputs.counted, 1);
    let plan = FitPlan {
        steps: inputs.steps,
        tokens_per_step: num_rows * inputs.sequence_length,
        micro_batch: 3,
        gradient_checkpointing: false,
        learning_rate: inputs.learning_rate,
        final_learning_rate_frac: 0.0,
        warmup_steps: inputs.warmup_steps,
        weight_decay: inputs.weight_decay,
        betas: inputs.betas,
        epsilon: inputs.epsilon,
        max_grad_norm: Some(inputs.max_grad_norm),
        ..fit_plan()
    };
    for read_back in [ReadBack::Free, ReadBack::Stalls] {
        let student = Student::new(decoder_of(config.clone(), &inputs.weights));
        let (trained, lines) = run_with(&plan, student, &rows, read_back);
        assert_eq!((lines.len(), expected.steps.len()), (10, 10));
        for (line, want) in lines.iter().zip(&expected.steps) {
            for (name, want, room) in [
                ("train/loss", want.loss, 1e-5),
                // Relative: AdamW's step magnifies rounding. PyTorch's own f32 is 1e-4 off its f64 at the fifth step, where the norm is 4.9.
                ("train/grad_norm", want.norm, 1e-4 * want.norm.max(1.0)),
                ("train/learning_rate", want.learning_rate, 1e-15),
            ] {
                let got = line.get(name).unwrap();
                let step = line.step;
                assert!(
                    (got - want).abs() <= room,
                    "{name} after {step}: got {got}, want {want}, {read_back:?}"
                );
            }
        }
        for (spec, weight) in trained.decoder.parameters() {
            let want = &expected.weights[&spec.name];
            assert_close(&spec.name, &to_vec(&weight), want, tolerance);
        }
    }
}

/// The student and the metrics of a fit on a device that takes reads in this way.
fn run_with(
    plan: &FitPlan,
    student: Student,
    rows: &TokenRows,
    read_back: ReadBack,
) -> (Student, Vec<MetricsLine>) {
    let dir = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let context = context(dir.path(), rows, &stop);
    let student = fit_with(plan, student, &context, read_back).unwrap();
    (student, read_metrics(dir.path()).unwrap())
}

#[test]
fn what_is_logged_seldom_is_what_is_logged_at_every_step() {
    let rows = random_rows(16, &[16, 16, 9, 16, 16, 16], 6);
    let logged = |log_every, read_back| {
        let plan = FitPlan {
            steps: 11,
            log_every,
            evaluate_every: Some(3),
            ema: Some(0.5),
            ..fit_plan()
        };
        let student = Student::new(random_decoder(config(), 5));
        run_with(&plan, student, &rows, read_back).1
    };
    let every = logged(1, ReadBack::Free);
    for (log_every, read_back) in [
        (4, ReadBack::Free),
        (4, ReadBack::Stalls),
        (1, ReadBack::Stalls),
    ] {
        let lines = logged(log_every, read_back);
        let mut num_numbers = 0;
        for (name, room) in [
            ("train/loss", 1e-5),
            ("train/cross_entropy", 1e-5),
            ("train/grad_norm", 1e-5),
            ("train/learning_rate", 0.0),
            ("validation/loss", 1e-5),
        ] {
            for line in lines.iter().filter(|line| line.get(name).is_some()) {
                let wanted = every
                    .iter()
                    .find(|want| want.step == line.step && want.get(name).is_some());
                let (got, want) = (line.get(name).unwrap(), wanted.unwrap().get(name).unwrap());
                assert!(
                    (got - want).abs() <= room * want.abs(),
                    "{name} at {}: {got}, want {want}",
                    line.step
                );
                num_numbers += 1;
            }
        }
        let num_logged = 11_usize.div_ceil(log_every);
        assert_eq!(
            num_numbers,
            4 * num_logged + 4,
            "{read_back:?}, every {log_every}"
        );
    }
}

/// Weights after each of the first steps at a rate that stays.
fn steady(steps: usize) -> FitPlan {
    FitPlan {
        steps,
        schedule: RateSchedule::Constant,
        ..fit_plan()
    }
}

fn assert_same(got: &Decoder, want: &Decoder) {
    let atol = 1e-6;
    for ((spec, got), (_, want)) in got.parameters().iter().zip(want.parameters()) {
        let want: Vec<f64> = to_vec(&want).into_iter().map(f64::from).collect();
        let tolerance = Tolerance { atol, rtol: 0.0 };
        assert_close(&spec.name, &to_vec(got), &want, tolerance);
    }
}

#[test]
fn the_average_that_is_handed_on_is_that_of_the_weights_after_each_step() {
    let rows = random_rows(16, &[16, 16, 9, 16, 16, 16], 6);
    let start = random_decoder(config(), 5);
    let matrices = |decoder: &Decoder| Student::new(decoder.clone()).trained_matrices();
    let mut average = matrices(&start);
    for steps in 1..=5 {
        let (weights, _) = run(&steady(steps), start.clone(), &rows);
        average = averaged(&average, &matrices(&weights), 0.3, steps); // below the bound (1 + n) / (10 + n) from step 3 on
        let plan = FitPlan {
            ema: Some(0.3),
            ..steady(steps)
        };
        let want = Student::new(start.clone())
            .with_trained(average.clone())
            .decoder;
        assert_same(&run(&plan, start.clone(), &rows).0, &want);
        // By hand, of one weight after one step: two elevenths of the old, nine of the new.
        if steps == 1 {
            let first = |decoder: &Decoder| f64::from(to_vec(&decoder.parameters()[0].1)[0]);
            let by_hand = (2.0 * first(&start) + 9.0 * first(&weights)) / 11.0;
            assert!((first(&want) - by_hand).abs() < 1e-7);
            assert!((first(&start) - first(&weights)).abs() > 1e-3);
        }
    }
}

/// Trains on one text and measures on another, which it forgets: the loss falls for a while and then rises.
fn overfitted(plan: &FitPlan) -> (Student, Vec<(u64, f64)>, f64) {
    let rows = random_rows(16, &[16; 4], 6);
    let other = random_rows(16, &[16; 6], 7);
    let dir = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let context = alambic::train::fit::PassContext {
        validation: &other,
        ..context(dir.path(), &rows, &stop)
    };
    let student = Student::new(random_decoder(config(), 5));
    let student = fit(plan, student, &context).unwrap();
    let lines = read_metrics(dir.path()).unwrap();
    let losses = lines
        .iter()
        .filter_map(|line| Some((line.step, line.get("validation/loss")?)))
        .collect();
    let last = evaluate(&student.effective(), &other, Reference::None, "test").unwrap();
    (student, losses, last.loss_nats)
}

fn measured_plan() -> FitPlan {
    FitPlan {
        steps: 40,
        learning_rate: 3e-2,
        evaluate_every: Some(3),
        ..fit_plan()
    }
}

fn lowest(losses: &[(u64, f64)]) -> (u64, f64) {
    *losses.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap()
}

#[test]
fn measurements_change_nothing_and_the_last_weights_are_handed_on_by_default() {
    let (student, losses, last) = overfitted(&measured_plan());
    let steps: Vec<u64> = losses.iter().map(|(step, _)| *step).collect();
    let want: Vec<u64> = (1..14).map(|count| count * 3).chain([40]).collect();
    assert_eq!(steps, want);
    assert_eq!(losses.last().unwrap().1, last);
    assert!(lowest(&losses).0 < 30, "{losses:?}");
    let plan = FitPlan {
        evaluate_every: None,
        ..measured_plan()
    };
    let (unmeasured, none, _) = overfitted(&plan);
    assert_eq!(none, []);
    for ((spec, got), (_, want)) in student
        .decoder
        .parameters()
        .iter()
        .zip(unmeasured.decoder.parameters())
    {
        assert_eq!(to_vec(got), to_vec(&want), "{}", spec.name);
    }
}

#[test]
fn the_best_measured_weights_are_handed_on_if_asked_for() {
    for ema in [None, Some(0.8)] {
        let plan = FitPlan {
            hand_on: HandOn::Best,
            ema,
            ..measured_plan()
        };
        let (_, losses, handed_on) = overfitted(&plan);
        assert_eq!(losses.len(), 14, "the pass runs to its end");
        assert_eq!(lowest(&losses).1, handed_on, "{losses:?}");
        assert!(losses.last().unwrap().1 > handed_on + 0.01, "{losses:?}");
    }
}

#[test]
fn a_pass_without_progress_ends_early_and_hands_on_its_best() {
    let plan = FitPlan {
        early_stop: Some(EarlyStopPlan {
            patience: 2,
            min_delta: 0.0,
        }),
        hand_on: HandOn::Best,
        ..measured_plan()
    };
    let (_, losses, handed_on) = overfitted(&plan);
    let (best, loss) = lowest(&losses);
    assert_eq!(loss, handed_on);
    assert_eq!(losses.last().unwrap().0, best + 6, "{losses:?}");
    assert!(best + 6 < 40);
}

#[test]
fn weight_decay_spares_the_embedding_if_told() {
    let rows = random_rows(16, &[16; 4], 6);
    let start = random_decoder(config(), 5);
    let trained = |weight_decay, decay_embeddings| {
        let plan = FitPlan {
            weight_decay,
            decay_embeddings,
            ..steady(1)
        };
        run(&plan, start.clone(), &rows).0.parameters()
    };
    let (spared, decayed, free) = (trained(0.5, false), trained(0.5, true), trained(0.0, true));
    let mut num_matrices = 0;
    for (((spec, spared), (_, decayed)), (_, free)) in spared.iter().zip(&decayed).zip(&free) {
        let (spared, decayed, free) = (to_vec(spared), to_vec(decayed), to_vec(free));
        match spec.kind() {
            ParameterKind::Embedding => {
                assert_eq!(spared, free);
                assert_ne!(spared, decayed);
            }
            ParameterKind::Norm | ParameterKind::Bias | ParameterKind::Scale => {
                assert_eq!(decayed, free);
            }
            ParameterKind::Linear | ParameterKind::Head => {
                assert_eq!(spared, decayed);
                assert_ne!(decayed, free);
                num_matrices += 1;
            }
        }
    }
    assert_eq!(num_matrices, 8);
}

#[test]
fn without_a_bound_gradients_are_left_as_they_are() {
    let rows = random_rows(16, &[16; 4], 3);
    let trained = |max_grad_norm| {
        let plan = FitPlan {
            max_grad_norm,
            ..fit_plan()
        };
        let pass = PassPlan::Distill(Box::new(plan));
        let student = Student::new(random_decoder(config(), 5));
        bits(&super::passes::run(&pass, student, &rows).decoder)
    };
    let unbounded = trained(None);
    assert!(unbounded == trained(Some(1e9)));
    assert!(unbounded != trained(Some(1e-3)));
}
