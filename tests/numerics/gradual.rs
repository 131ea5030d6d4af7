//! Weights that go while a pass trains.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use alambic::data::TokenRows;
use alambic::model::Part;
use alambic::passes::PassPlan;
use alambic::pruning::{GradualMethod, GradualPlan, Within};
use alambic::student::{AdapterPlan, Student};
use alambic::tensors::{self, to_vec};
use alambic::train::{FitPlan, HandOn, fit::fit};
use burn::tensor::Tensor;
use serde_json::Value;

use super::passes::{assert_zeros, run};
use super::tiny::{bits, config, context, device, fit_plan, random_decoder, random_rows};

const STEPS: usize = 12;

fn plan(method: GradualMethod) -> FitPlan {
    FitPlan {
        steps: STEPS,
        ema: Some(0.5),
        save_every: 1,
        keep_states: 100,
        prune: Some(GradualPlan {
            method,
            sparsity: 0.75,
            within: Within::Row,
            from_step: 2,
            to_step: 8,
            every: 2,
            calibration_tokens: 32,
        }),
        ..fit_plan()
    }
}

fn rows() -> TokenRows {
    random_rows(16, &[16; 6], 6)
}

fn masks(student: &Student) -> Vec<Vec<f32>> {
    student.masks.values().map(to_vec).collect()
}

fn state(dir: &Path, num_updates: usize) -> PathBuf {
    dir.join(format!("state-{num_updates:010}.safetensors"))
}

#[test]
fn weights_that_went_are_zero_in_the_end_and_a_pass_goes_on_from_any_step_to_the_same_bits() {
    for method in [GradualMethod::Magnitude, GradualMethod::Wanda] {
        let (rows, stop) = (rows(), AtomicBool::new(false));
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path(), &rows, &stop);
        let student = Student::new(random_decoder(config(), 5));
        let run = || fit(&plan(method), student.clone(), &context).unwrap();
        let whole = run();
        assert_zeros(&format!("{method:?}"), &whole, 0.75);
        let mut num_states = 0;
        for num_updates in (1..STEPS).rev() {
            for later in num_updates + 1..=STEPS {
                let _ = fs::remove_file(state(dir.path(), later));
            }
            assert!(state(dir.path(), num_updates).exists());
            num_states += 1;
            let resumed = run();
            assert_eq!(
                bits(&resumed.decoder),
                bits(&whole.decoder),
                "{num_updates}"
            );
            assert_eq!(masks(&resumed), masks(&whole), "from {num_updates}");
        }
        assert_eq!(num_states, STEPS - 1);
    }
}

#[test]
fn weights_go_little_by_little_and_none_comes_back() {
    let (rows, stop) = (rows(), AtomicBool::new(false));
    let dir = tempfile::tempdir().unwrap();
    let context = context(dir.path(), &rows, &stop);
    let student = Student::new(random_decoder(config(), 5));
    fit(&plan(GradualMethod::Magnitude), student, &context).unwrap();
    let mut before: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (num_updates, left) in [(2, 1.0), (3, 1.0), (5, 2.0 / 3.0), (7, 1.0 / 3.0), (9, 0.0)] {
        let path = state(dir.path(), num_updates);
        let (matrices, _): (BTreeMap<String, Tensor<2>>, Value) =
            tensors::load(&path, &device()).unwrap();
        let masks = matrices
            .iter()
            .filter(|(name, _)| name.starts_with("mask."));
        let masks: BTreeMap<String, Vec<f32>> = masks
            .map(|(name, mask)| (name.clone(), to_vec(mask)))
            .collect();
        assert_eq!(masks.len(), if num_updates == 2 { 0 } else { 7 });
        let want = 0.75 * (1.0 - f64::powi(left, 3));
        for (name, mask) in &masks {
            let zeros = mask.iter().filter(|kept| **kept == 0.0).count();
            let share = zeros as f64 / mask.len() as f64;
            assert!(
                (share - want).abs() <= 0.5 / 16.0,
                "{num_updates}, {name}: {share}, {want}"
            );
            if let Some(before) = before.get(name) {
                assert!(
                    mask.iter().zip(before).all(|(new, old)| new <= old),
                    "{name}"
                );
            }
        }
        before = masks;
    }
}

#[test]
fn an_adapter_may_be_trained_meanwhile_and_what_is_masked_already_stays() {
    let rows = rows();
    let adapted = FitPlan {
        ema: None,
        adapter: Some(AdapterPlan {
            rank: 2,
            alpha: 4.0,
            targets: vec![Part::Query, Part::Down],
        }),
        ..plan(GradualMethod::Magnitude)
    };
    let start = Student::new(random_decoder(config(), 5));
    let pruned = run(&PassPlan::Distill(Box::new(adapted)), start, &rows);
    assert_zeros("with an adapter", &pruned, 0.75);
    let lower = FitPlan {
        prune: plan(GradualMethod::Wanda).prune.map(|prune| GradualPlan {
            sparsity: 0.25,
            ..prune
        }),
        ..plan(GradualMethod::Wanda)
    };
    let again = run(&PassPlan::Distill(Box::new(lower)), pruned.clone(), &rows);
    assert_eq!(masks(&again), masks(&pruned), "less than there was");
}

#[test]
fn the_best_weights_are_those_of_a_student_that_has_lost_all_it_will_lose() {
    let rows = rows();
    let dir = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let context = context(dir.path(), &rows, &stop);
    let measured = FitPlan {
        evaluate_every: Some(1),
        hand_on: HandOn::Best,
        learning_rate: 0.3, // the loss rises: the earliest would be the best
        ..plan(GradualMethod::Magnitude)
    };
    let student = Student::new(random_decoder(config(), 5));
    let best = fit(&measured, student, &context).unwrap();
    assert_zeros("the best", &best, 0.75);
    let kept = fs::read_dir(dir.path()).unwrap();
    let steps: Vec<usize> = kept
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let step = name.strip_prefix("best-")?.strip_suffix(".safetensors")?;
            step.parse().ok()
        })
        .collect();
    assert!(
        !steps.is_empty() && steps.iter().all(|step| *step > 8),
        "{steps:?}"
    );
}
