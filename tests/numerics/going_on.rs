//! A pass that goes on from a training state ends as one that never stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use alambic::data::TokenRows;
use alambic::loss::{LossWeights, Term, Terms};
use alambic::model::DecoderConfig;
use alambic::passes::{Pass, PruneMethod, PrunePlan};
use alambic::pruning::Zeros;
use alambic::recipe::{Ramp, Scheduled, Shape};
use alambic::student::{Projection, Student};
use alambic::tensors::to_vec;
use alambic::train::fit::{PassContext, fit};
use alambic::train::state::States;
use alambic::train::{EarlyStopPlan, FitError, FitPlan, HandOn, RateSchedule, read_metrics};

use super::tiny::{
    bits, config, context, device, fit_plan, random_decoder, random_rows, state_after,
};

fn state_path(dir: &Path, num_updates: usize) -> PathBuf {
    dir.join(format!("state-{num_updates:010}.safetensors"))
}

/// Everything that a state has to hold is in play.
fn busy_plan() -> FitPlan {
    FitPlan {
        steps: 14,
        micro_batch: 1,
        gradient_checkpointing: false,
        learning_rate: 3e-2,
        warmup_steps: 2,
        schedule: RateSchedule::WarmupStableDecay {
            decay_steps: 4,
            decay_shape: Shape::OneMinusSqrt,
        },
        losses: LossWeights {
            weights: Terms::default().with(
                Term::CrossEntropy,
                Scheduled::Ramp(Ramp {
                    from: 0.2,
                    to: 1.0,
                    over: 9,
                    shape: Shape::Cosine,
                }),
            ),
            ..fit_plan().losses
        },
        ema: Some(0.7),
        evaluate_every: Some(3),
        early_stop: Some(EarlyStopPlan {
            patience: 3,
            min_delta: 0.0,
        }),
        hand_on: HandOn::Best,
        save_every: 1,
        keep_states: 100,
        ..fit_plan()
    }
}

fn pruned(rows: &TokenRows) -> Student {
    let plan = PrunePlan {
        method: PruneMethod::Magnitude,
        zeros: Zeros::of_rows(0.5),
        calibration_tokens: 16,
    };
    let (dir, stop) = (tempfile::tempdir().unwrap(), AtomicBool::new(false));
    let student = Student::new(random_decoder(config(), 5));
    plan.apply(student, &context(dir.path(), rows, &stop))
        .unwrap()
}

#[test]
fn going_on_from_any_state_ends_in_the_weights_of_never_having_stopped() {
    let rows = random_rows(16, &[16, 16, 9, 16, 16, 16], 6);
    // Measured on its own text the student runs to the end, on another one it ends early and hands on earlier weights.
    let other = random_rows(16, &[16; 4], 7);
    let student = pruned(&rows);
    let stop = AtomicBool::new(false);
    for (validation, num_states) in [(&rows, 13), (&other, 11)] {
        let context = PassContext {
            validation,
            ..context(Path::new("unused"), &rows, &stop)
        };
        let found = go_on_from_every_state(&busy_plan(), &student, context);
        assert_eq!(found, num_states);
    }
}

#[test]
fn projections_of_hidden_states_go_on_with_the_pass() {
    let rows = random_rows(16, &[16, 16, 9, 16, 16, 16], 6);
    let narrow = DecoderConfig {
        hidden_size: 12,
        ..config()
    };
    let teacher = random_decoder(narrow, 9);
    let student = Student {
        projections: Projection::init(&[[0, 0]], 16, 12, 3, &device()),
        ..pruned(&rows)
    };
    let losses = busy_plan().losses;
    let half = Scheduled::Constant(0.5);
    let plan = FitPlan {
        losses: LossWeights {
            weights: losses.weights.with(Term::HiddenMse, half),
            ..losses
        },
        ..busy_plan()
    };
    let stop = AtomicBool::new(false);
    let context = PassContext {
        teacher: Some(&teacher),
        ..context(Path::new("unused"), &rows, &stop)
    };
    assert_eq!(go_on_from_every_state(&plan, &student, context), 13);
}

/// Compares with the run that never stopped, and gives the number of states that it left.
fn go_on_from_every_state(plan: &FitPlan, student: &Student, context: PassContext<'_>) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let context = PassContext {
        dir: dir.path(),
        ..context
    };
    let run = || fit(plan, student.clone(), &context).unwrap();
    let whole = run();
    let mut num_states = 0;
    let metrics = || {
        let lines = read_metrics(dir.path()).unwrap();
        let exact = |name: &str| name != "train/tokens_per_sec";
        let values = lines.into_iter().flat_map(|line| {
            line.values
                .into_iter()
                .filter(|(name, _)| exact(name))
                .map(move |(name, value)| (line.step, name, value.to_bits()))
        });
        values.collect::<Vec<_>>()
    };
    let told = metrics();
    for (id, mask) in &whole.masks {
        let weights = whole.decoder.parameters();
        let (_, weight) = weights.iter().find(|(spec, _)| spec.id == *id).unwrap();
        let pairs = to_vec(mask).into_iter().zip(to_vec(weight));
        let masked: Vec<f32> = pairs
            .filter(|(kept, _)| *kept == 0.0)
            .map(|(_, w)| w)
            .collect();
        assert!(
            masked.len() >= 64 && masked.iter().all(|weight| *weight == 0.0),
            "{id:?}"
        );
    }
    for num_updates in (1..14).rev() {
        if !state_path(dir.path(), num_updates).exists() {
            continue; // it ended early
        }
        num_states += 1;
        for later in num_updates + 1..=14 {
            let _ = fs::remove_file(state_path(dir.path(), later));
        }
        assert_eq!(
            bits(&run().decoder),
            bits(&whole.decoder),
            "from {num_updates}"
        );
        assert_eq!(metrics(), told, "from {num_updates}");
    }
    num_states
}

#[test]
fn a_stop_saves_at_once_and_at_any_step() {
    let rows = random_rows(16, &[16, 16, 9, 16, 16, 16], 6);
    let student = pruned(&rows);
    let dir = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(true);
    let stopped = fit(
        &busy_plan(),
        student.clone(),
        &context(dir.path(), &rows, &stop),
    );
    let Err(FitError::Interrupted { step, path, .. }) = stopped else {
        panic!("it went on")
    };
    assert_eq!(step, 0);
    assert!(path.exists());
    stop.store(false, Ordering::Relaxed);
    let resumed = fit(
        &busy_plan(),
        student.clone(),
        &context(dir.path(), &rows, &stop),
    )
    .unwrap();
    let other = tempfile::tempdir().unwrap();
    let whole = fit(&busy_plan(), student, &context(other.path(), &rows, &stop)).unwrap();
    assert_eq!(bits(&resumed.decoder), bits(&whole.decoder));
}

#[test]
fn a_measurement_that_a_signal_ended_is_made_by_the_next_run() {
    let rows = random_rows(16, &[16; 4], 6);
    let student = Student::new(random_decoder(config(), 5));
    let dir = tempfile::tempdir().unwrap();
    let plan = FitPlan {
        steps: 3,
        evaluate_every: Some(3),
        hand_on: HandOn::Best,
        ..fit_plan()
    };
    // After its last step, and not measured yet.
    let state = state_after(3, &student);
    let states = States {
        dir: dir.path(),
        made_by: "key",
        keep: 2,
        has_masks: false,
        has_scales: false,
    };
    states.save(&state).unwrap();
    let stop = AtomicBool::new(true);
    let run = || fit(&plan, student.clone(), &context(dir.path(), &rows, &stop));
    assert!(matches!(run(), Err(FitError::Interrupted { step: 3, .. })));
    assert_eq!(read_metrics(dir.path()).unwrap(), []);
    stop.store(false, Ordering::Relaxed);
    assert_eq!(bits(&run().unwrap().decoder), bits(&student.decoder));
    let lines = read_metrics(dir.path()).unwrap();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].get("validation/loss").is_some());
}
