//! A loss that is not a number stops training and spoils nothing.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use alambic::device::ReadBack;
use alambic::student::Student;
use alambic::tensors::to_vec;
use alambic::train::fit::{PassContext, fit_with};
use alambic::train::state::{self, States, Training};
use alambic::train::{FitError, FitPlan};

use super::tiny::{config, fit_plan, random_decoder, random_rows, state_after, tensor};

/// A student one of whose weights is NaN.
fn spoilt(name: &str) -> Student {
    let mut found = false;
    let decoder = random_decoder(config(), 5).map(|spec, weight| {
        if spec.name != name {
            return weight;
        }
        found = true;
        let mut values = to_vec(&weight);
        values[7] = f32::NAN;
        tensor(values, spec.shape)
    });
    assert!(found, "no parameter `{name}`");
    Student::new(decoder)
}

fn try_fit(plan: &FitPlan, student: Student, dir: &Path) -> Result<Student, FitError> {
    try_fit_with(plan, student, dir, ReadBack::Free)
}

fn try_fit_with(
    plan: &FitPlan,
    student: Student,
    dir: &Path,
    read_back: ReadBack,
) -> Result<Student, FitError> {
    let rows = random_rows(16, &[16; 4], 6);
    let context = PassContext {
        label: "01-distill",
        dir,
        key: "key",
        origin: None,
        begin: None,
        seed: 1,
        rows: &rows,
        cache: None,
        teacher: None,
        validation: &rows,
        validation_cache: None,
        stop: &AtomicBool::new(false),
        wall_time: 0.0,
    };
    fit_with(plan, student, &context, read_back)
}

fn states(dir: &Path) -> States<'_> {
    States {
        dir,
        made_by: "key",
        keep: 1,
        has_masks: false,
        has_scales: false,
    }
}

/// The step that was not taken and the whole message.
#[track_caller]
fn not_finite(result: Result<Student, FitError>) -> (usize, String) {
    match result {
        Err(error @ FitError::NotFinite { step, .. }) => (step, error.to_string()),
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("training went on"),
    }
}

#[test]
fn a_nan_in_any_kind_of_weight_stops_training_before_its_first_step() {
    let names = [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ];
    let ways = [ReadBack::Free, ReadBack::Stalls];
    for (name, read_back) in names
        .into_iter()
        .flat_map(|name| ways.map(|way| (name, way)))
    {
        let dir = tempfile::tempdir().unwrap();
        let result = try_fit_with(&fit_plan(), spoilt(name), dir.path(), read_back);
        let (step, message) = not_finite(result);
        assert_eq!(step, 0, "{name}");
        assert_eq!(
            message, "the loss is NaN at step 0 of pass 01-distill; no state was saved yet",
            "{name}"
        );
        assert!(
            state::newest(dir.path()).is_none(),
            "{name}: a state was saved"
        );
    }
}

#[test]
fn a_nan_met_after_resuming_leaves_the_saved_state_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let student = spoilt("lm_head.weight");
    let state = state_after(3, &student);
    states(dir.path()).save(&state).unwrap();
    let path = state::newest(dir.path()).unwrap();
    let before = fs::read(&path).unwrap();

    let plan = FitPlan {
        save_every: 1,
        ..fit_plan()
    };
    let sound = Student::new(random_decoder(config(), 5));
    let (step, message) = not_finite(try_fit(&plan, sound, dir.path()));
    assert_eq!(step, 3);
    let said = format!(
        "the loss is NaN at step 3 of pass 01-distill; the last saved state, {}, is intact",
        path.display()
    );
    assert_eq!(message, said);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn training_that_diverges_stops_at_the_step_after_the_last_saved_state() {
    let dir = tempfile::tempdir().unwrap();
    let plan = FitPlan {
        learning_rate: 1e30,
        save_every: 1,
        ..fit_plan()
    };
    let student = Student::new(random_decoder(config(), 5));
    let (step, message) = not_finite(try_fit(&plan, student.clone(), dir.path()));
    assert!(
        message.contains(&format!("at step {step} of pass 01-distill")),
        "{message}"
    );
    let saved = states(dir.path())
        .load(&Training::new(student, false))
        .unwrap();
    assert_eq!(saved.unwrap().optimizer.num_updates, step, "{message}");
    assert!(step >= 1);
}

#[test]
fn a_step_that_is_looked_at_later_is_named_as_if_it_had_been_looked_at_at_once() {
    let student = Student::new(random_decoder(config(), 5));
    let plan = |learning_rate| FitPlan {
        steps: 40,
        learning_rate,
        log_every: 1,
        ..fit_plan()
    };
    let mut steps = Vec::new();
    for rate in [1e4, 1e10, 1e30] {
        let dir = tempfile::tempdir().unwrap();
        let at_once = not_finite(try_fit(&plan(rate), student.clone(), dir.path()));
        for log_every in [1, 7, 1000] {
            let dir = tempfile::tempdir().unwrap();
            let plan = FitPlan {
                log_every,
                ..plan(rate)
            };
            let result = try_fit_with(&plan, student.clone(), dir.path(), ReadBack::Stalls);
            assert_eq!(
                not_finite(result),
                at_once,
                "{rate}, logged every {log_every}"
            );
            assert!(state::newest(dir.path()).is_none());
        }
        steps.push(at_once.0);
    }
    assert!(steps.iter().any(|step| step % 7 != 0), "{steps:?}");
}

#[test]
fn no_state_and_no_measurement_follows_a_step_that_nobody_looked_at_yet() {
    let student = Student::new(random_decoder(config(), 5));
    for save_every in [1, 2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let plan = FitPlan {
            learning_rate: 1e30,
            log_every: 1000,
            save_every,
            evaluate_every: Some(1000),
            ..fit_plan()
        };
        let result = try_fit_with(&plan, student.clone(), dir.path(), ReadBack::Stalls);
        let (step, message) = not_finite(result);
        let saved = States {
            keep: 100,
            ..states(dir.path())
        }
        .load(&Training::new(student.clone(), false))
        .unwrap();
        let num_updates = saved
            .as_ref()
            .map_or(0, |state| state.optimizer.num_updates);
        assert!(num_updates <= step, "{message}: saved after {num_updates}");
        for weight in saved
            .iter()
            .flat_map(|saved| saved.student.trained_matrices())
        {
            assert!(to_vec(&weight).iter().all(|weight| weight.is_finite()));
        }
        assert_eq!(message.contains("is intact"), num_updates > 0, "{message}");
    }
}
