//! Layers that share weights: one set of numbers, whatever a pass does, and a plain model in the end.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use alambic::calibration::Calibration;
use alambic::loss::{LossSpec, Term, Terms};
use alambic::model::{DecoderConfig, LayerType, Part, Site, parameter_specs};
use alambic::passes::{PassPlan, PruneMethod, PrunePlan, apply};
use alambic::pruning::{Zeros, input_squares};
use alambic::student::AdapterPlan;
use alambic::student::Student;
use alambic::tensors::{self, to_vec};
use alambic::train::gradient::{MicroBatch, StepGradient, step_gradient};
use alambic::train::{FitPlan, row_targets};

use super::tiny::{config, context, device, fit_plan, random_decoder, random_rows};

fn two_layers() -> DecoderConfig {
    DecoderConfig {
        num_hidden_layers: 2,
        layer_types: vec![LayerType::Full; 2],
        ..config()
    }
}

/// Two layers that run three times each.
fn shared() -> Student {
    Student {
        layer_repeats: 3,
        ..Student::new(random_decoder(two_layers(), 5))
    }
}

fn run(pass: &PassPlan, student: Student, dir: &Path) -> Student {
    let rows = random_rows(16, &[16, 16, 16, 16, 16, 7], 6);
    apply(pass, student, &context(dir, &rows, &AtomicBool::new(false))).unwrap()
}

fn loss_and_gradient(student: &Student) -> StepGradient {
    let rows = random_rows(8, &[8, 8], 9);
    let micro_batch = MicroBatch {
        inputs: vec![rows.inputs(0), rows.inputs(1)],
        targets: [0, 1]
            .into_iter()
            .flat_map(|row_idx| row_targets(&rows, row_idx, None))
            .collect(),
    };
    let spec = LossSpec::of(Terms::ZERO.with(Term::CrossEntropy, 1.0));
    step_gradient(&student.effective(), &[micro_batch], &spec)
}

#[test]
fn the_model_that_runs_has_a_layer_for_each_run() {
    let student = shared();
    let effective = student.effective();
    assert_eq!(effective.config.num_hidden_layers, 6);
    assert_eq!(effective.config, student.effective_config());
    let own = student.decoder.parameters();
    for (spec, weight) in effective.parameters() {
        let name = match spec.name.strip_prefix("model.layers.") {
            Some(rest) => {
                let (run, part) = rest.split_once('.').unwrap();
                let layer = run.parse::<usize>().unwrap() / 3;
                format!("model.layers.{layer}.{part}")
            }
            None => spec.name.clone(),
        };
        let (_, want) = own.iter().find(|(own, _)| own.name == name).unwrap();
        assert_eq!(to_vec(&weight), to_vec(want), "{}", spec.name);
    }
}

#[test]
fn the_gradient_of_a_shared_weight_is_the_slope_of_the_loss_along_it() {
    let student = shared();
    let gradients = student.pull_back(loss_and_gradient(&student).gradients);
    let trained = student.trained();
    assert_eq!(gradients.len(), trained.len());
    let mut num_checked = 0;
    for (place, (spec, weight)) in trained.iter().enumerate() {
        if !spec.name.starts_with("model.layers.1.") {
            continue;
        }
        // One step along the gradient itself, there and back.
        let norm = gradients[place]
            .clone()
            .square()
            .sum()
            .sqrt()
            .into_scalar::<f32>();
        let step = 2e-3 / f64::from(norm);
        let loss_at = |step: f64| {
            let mut moved: Vec<_> = trained.iter().map(|(_, weight)| weight.clone()).collect();
            moved[place] = weight.clone() + gradients[place].clone().mul_scalar(step);
            loss_and_gradient(&student.with_trained(moved))
                .sums
                .read()
                .means()
                .total
        };
        let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
        let want = f64::from(norm * norm);
        assert!(
            (slope - want).abs() < 0.02 * want,
            "{}: {slope}, want {want}",
            spec.name
        );
        num_checked += 1;
    }
    assert_eq!(num_checked, 9);
}

#[test]
fn inputs_of_a_shared_layer_are_those_of_all_its_runs() {
    let rows = random_rows(16, &[16, 16], 6);
    let calibration = Calibration {
        rows: &rows,
        num_tokens: 32,
        label: "prune",
        is_silent: false,
        stop: &AtomicBool::new(false),
    };
    let student = shared();
    let got = input_squares(&student, &calibration).unwrap();
    let unrolled = input_squares(&student.unrolled(), &calibration).unwrap();
    assert_eq!((got.len(), unrolled.len()), (2 * 4, 6 * 4));
    for ((layer, site), sums) in &got {
        for (feature, sum) in sums.iter().enumerate() {
            let runs = 3 * layer..3 * layer + 3;
            let want: f64 = runs.map(|run| unrolled[&(run, *site)][feature]).sum();
            assert!(
                (sum - want).abs() <= 1e-9 * want,
                "{layer} {site:?} {feature}"
            );
        }
    }
    assert!(got.keys().all(|(_, site)| *site != Site::Residual));
}

#[test]
fn pruning_and_training_keep_one_set_of_weights_and_a_folder_keeps_how_often_they_run() {
    let dir = tempfile::tempdir().unwrap();
    let prune = PassPlan::Prune(PrunePlan {
        method: PruneMethod::Wanda,
        zeros: Zeros::of_rows(0.5),
        calibration_tokens: 32,
    });
    let pruned = run(&prune, shared(), dir.path());
    assert_eq!(
        pruned.masks.len(),
        14,
        "seven for each of the student's own layers"
    );
    assert!((pruned.sparsity() - 0.5).abs() < 1e-6);
    let trained = run(
        &PassPlan::Distill(Box::new(fit_plan())),
        pruned.clone(),
        dir.path(),
    );
    assert_eq!(
        (
            trained.layer_repeats,
            trained.decoder.config.num_hidden_layers
        ),
        (3, 2)
    );
    let [before, after] =
        [&pruned, &trained].map(|student| loss_and_gradient(student).sums.read().means().total);
    assert!(
        (before - after).abs() > 1e-3,
        "training moves it: {before}, {after}"
    );

    trained.save(dir.path()).unwrap();
    let loaded = Student::load(dir.path(), &device()).unwrap();
    let unrolled = loaded.unrolled();
    assert_eq!((loaded.layer_repeats, unrolled.layer_repeats), (3, 1));
    assert_eq!(unrolled.masks.len(), 6 * 7);
    assert_eq!(loaded.size_bytes(), unrolled.size_bytes());
    for other in [loaded.effective(), unrolled.effective()] {
        for ((spec, got), (_, want)) in other
            .parameters()
            .into_iter()
            .zip(trained.effective().parameters())
        {
            assert_eq!(to_vec(&got), to_vec(&want), "{}", spec.name);
        }
    }
}

#[test]
fn an_adapter_of_shared_layers_is_left_for_every_run() {
    let dir = tempfile::tempdir().unwrap();
    let pass = PassPlan::Distill(Box::new(FitPlan {
        adapter: Some(AdapterPlan {
            rank: 2,
            alpha: 2.0,
            targets: vec![Part::Value],
        }),
        ..fit_plan()
    }));
    let before = shared();
    let after = run(&pass, before.clone(), dir.path());
    let path = dir.path().join("adapter/adapter_model.safetensors");
    let (matrices, ()) = tensors::load(&path, &device()).unwrap();
    assert_eq!(matrices.len(), 6 * 2);
    let merged = before.effective().map(|spec, weight| {
        let part = |part: &str| {
            matrices.get(&format!(
                "base_model.model.{}",
                spec.name.replace(".weight", part)
            ))
        };
        match (part(".lora_A.weight"), part(".lora_B.weight")) {
            (Some(a), Some(b)) => weight + b.clone().matmul(a.clone()),
            _ => weight,
        }
    });
    for ((spec, got), (_, want)) in merged
        .parameters()
        .into_iter()
        .zip(after.effective().parameters())
    {
        assert_eq!(to_vec(&got), to_vec(&want), "{}", spec.name);
    }
}

#[test]
fn fresh_shared_layers_are_drawn_once_and_scaled_by_the_runs() {
    let config = DecoderConfig {
        num_hidden_layers: 6,
        layer_types: vec![LayerType::Full; 6],
        hidden_size: 64,
        intermediate_size: 128,
        ..config()
    };
    let student = Student::fresh(&config, 3, 1, &device());
    assert_eq!(student.effective_config(), config);
    assert_eq!(
        student.decoder.parameters().len(),
        parameter_specs(&two_layers()).len()
    );
    let deviation = |name: &str| {
        let parameters = student.decoder.parameters();
        let (_, weight) = parameters
            .iter()
            .find(|(spec, _)| spec.name == name)
            .unwrap();
        let values = to_vec(weight);
        (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt()
    };
    let written = deviation("model.layers.1.mlp.down_proj.weight");
    assert!(
        (written / (0.02 / 12_f32.sqrt()) - 1.0).abs() < 0.05,
        "{written}"
    );
    let read = deviation("model.layers.1.mlp.up_proj.weight");
    assert!((read / 0.02 - 1.0).abs() < 0.05, "{read}");
}
