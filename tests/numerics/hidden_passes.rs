//! Passes that pull hidden states to a teacher's.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use alambic::loss::{LossWeights, Term, Terms};
use alambic::model::Part;
use alambic::passes::{PassPlan, apply};
use alambic::recipe::{Ramp, Scheduled, Shape};
use alambic::student::{AdapterPlan, Student};
use alambic::tensors::to_vec;
use alambic::train::fit::PassContext;
use alambic::train::{FitPlan, read_metrics};
use serde_json::Value;

use super::hidden::sized;
use super::tiny::{bits, context, device, fit_plan, random_decoder, random_rows};

fn pulling(weight: Scheduled, layers: Option<Vec<[usize; 2]>>) -> FitPlan {
    FitPlan {
        steps: 40,
        losses: LossWeights {
            weights: Terms::default()
                .with(Term::CrossEntropy, Scheduled::Constant(0.1))
                .with(Term::HiddenMse, weight),
            hidden_layers: layers,
            ..LossWeights::default()
        },
        ema: Some(0.5),
        ..fit_plan()
    }
}

#[test]
fn a_pass_draws_hidden_states_together_and_leaves_a_student_without_projections() {
    let rows = random_rows(16, &[16, 16, 9, 16], 6);
    let teacher = random_decoder(sized(3, 12), 8);
    let student = || Student {
        layer_repeats: 2,
        ..Student::new(random_decoder(sized(1, 16), 5))
    };
    let run = |plan: FitPlan| {
        let dir = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(false);
        let context = PassContext {
            teacher: Some(&teacher),
            ..context(dir.path(), &rows, &stop)
        };
        let pass = PassPlan::Distill(Box::new(plan));
        let student = apply(&pass, student(), &context).unwrap();
        (student, read_metrics(dir.path()).unwrap())
    };
    let rising = Scheduled::Ramp(Ramp {
        from: 0.0,
        to: 0.5,
        over: 2,
        shape: Shape::Linear,
    });
    let (got, lines) = run(pulling(rising, None));
    assert!(got.projections.is_empty());
    assert_eq!(got.trained().len(), got.decoder.parameters().len());
    assert_eq!(lines[0].get("train/hidden_mse"), None, "its weight is 0");
    assert_eq!(lines[0].get("train/weight/hidden_mse"), Some(0.0));
    assert_eq!(lines[5].get("train/weight/hidden_mse"), Some(0.5));
    let told = |step: usize| lines[step].get("train/hidden_mse").unwrap();
    assert!(told(39) < 0.5 * told(1), "{} to {}", told(1), told(39));
    let sum = 0.1 * lines[39].get("train/cross_entropy").unwrap() + 0.5 * told(39);
    assert!((lines[39].get("train/loss").unwrap() - sum).abs() < 1e-12);

    // The even map of two runs on three layers; and the same once more.
    let (named, _) = run(pulling(rising, Some(vec![[0, 0], [1, 2]])));
    assert_eq!(bits(&named.decoder), bits(&got.decoder));
    let (other, _) = run(pulling(rising, Some(vec![[0, 1], [1, 2]])));
    assert_ne!(bits(&other.decoder), bits(&got.decoder));
}

#[test]
fn an_adapter_and_projections_are_trained_side_by_side() {
    let rows = random_rows(16, &[16, 16, 9, 16], 6);
    let teacher = random_decoder(sized(1, 12), 8);
    let student = Student::new(random_decoder(sized(1, 16), 5));
    let dir = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let context = PassContext {
        teacher: Some(&teacher),
        ..context(dir.path(), &rows, &stop)
    };
    let adapter = AdapterPlan {
        rank: 4,
        alpha: 8.0,
        targets: vec![Part::Output, Part::Down],
    };
    let pass = PassPlan::Distill(Box::new(FitPlan {
        adapter: Some(adapter),
        ..pulling(Scheduled::Constant(0.5), None)
    }));
    let got = apply(&pass, student.clone(), &context).unwrap();
    assert!(got.projections.is_empty() && got.adapter.is_none());
    let lines = read_metrics(dir.path()).unwrap();
    let told = |step: usize| lines[step].get("train/hidden_mse").unwrap();
    assert!(told(39) < 0.9 * told(0), "{} to {}", told(0), told(39));
    let before = student.decoder.parameters().into_iter();
    for ((spec, before), (_, after)) in before.zip(got.decoder.parameters()) {
        let is_target = spec.name.contains("o_proj") || spec.name.contains("down_proj");
        assert_eq!(
            to_vec(&before) != to_vec(&after),
            is_target,
            "{}",
            spec.name
        );
    }
    let (names, _): (BTreeMap<String, _>, Value) = alambic::tensors::load(
        &dir.path().join("adapter/adapter_model.safetensors"),
        &device(),
    )
    .unwrap();
    assert_eq!(names.len(), 4, "the adapter's own: {:?}", names.keys());
}
