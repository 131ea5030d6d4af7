//! What `shrink` leaves computes what the whole does with the rest at zero.

use std::sync::atomic::AtomicBool;

use alambic::calibration::Calibration;
use alambic::data::TokenRows;
use alambic::model::{Architecture, DecoderConfig};
use alambic::passes::{
    LayersBy, Parts, PassPlan, PruneMethod, PrunePlan, Removed, ShrinkPlan, ShrinkSizes,
    ShrinkTarget, Side, apply,
};
use alambic::pruning::{Pattern, Zeros};
use alambic::student::{Importance, PartSelection, Student, run_influence};
use alambic::tensors::to_vec;
use alambic::train::evaluate::{Reference, evaluate};

use super::from_teacher::{ROUNDED, SAME, logits, teacher, zeroed};
use super::golden::assert_close;
use super::passes::run;
use super::tiny::{context, random_rows};

fn rows() -> TokenRows {
    random_rows(8, &[8, 8, 8, 8, 8, 8], 4)
}

fn shrink(target: ShrinkTarget) -> ShrinkPlan {
    ShrinkPlan {
        target,
        layers_by: LayersBy::Influence,
        contiguous: false,
        calibration_tokens: 40,
    }
}

fn layers(count: usize) -> ShrinkTarget {
    ShrinkTarget::Sizes(ShrinkSizes {
        num_hidden_layers: Some(count),
        ..ShrinkSizes::default()
    })
}

/// The student that is left, and what the pass says of it.
fn shrunk(plan: ShrinkPlan, student: &Student) -> (Student, Parts) {
    let (dir, rows, stop) = (tempfile::tempdir().unwrap(), rows(), AtomicBool::new(false));
    let context = context(dir.path(), &rows, &stop);
    let small = apply(&PassPlan::Shrink(plan), student.clone(), &context).unwrap();
    match Removed::read(dir.path()).unwrap() {
        Some(Removed::Parts(parts)) => (small, parts),
        other => panic!("{other:?}"),
    }
}

fn assert_equal_to_zeroed(name: &str, small: &Student, whole: &Student, kept: &PartSelection) {
    let want = logits(&zeroed(&whole.effective(), kept));
    let want: Vec<f64> = want.into_iter().map(f64::from).collect();
    let tolerance = if kept.hidden.is_some() { ROUNDED } else { SAME };
    assert_close(name, &logits(&small.effective()), &want, tolerance);
    let json = small.effective_config().to_json("float32");
    assert_eq!(
        DecoderConfig::from_json(&json).unwrap(),
        small.decoder.config,
        "{name}"
    );
}

fn targets() -> [ShrinkTarget; 6] {
    let sizes = ShrinkSizes::default();
    let by_share = |parameters, along: &[Side]| ShrinkTarget::Parameters {
        parameters,
        along: along.to_vec(),
    };
    [
        layers(2),
        ShrinkTarget::Sizes(ShrinkSizes {
            intermediate_size: Some(12),
            num_key_value_heads: Some(3),
            ..sizes
        }),
        ShrinkTarget::Sizes(ShrinkSizes {
            hidden_size: Some(11),
            ..sizes
        }),
        ShrinkTarget::Sizes(ShrinkSizes {
            num_hidden_layers: Some(3),
            hidden_size: Some(12),
            intermediate_size: Some(20),
            num_key_value_heads: Some(2),
        }),
        by_share(0.7, &[Side::NumHiddenLayers, Side::NumKeyValueHeads]),
        by_share(0.8, &[Side::NumKeyValueHeads]),
    ]
}

#[test]
fn what_is_left_is_the_student_with_the_rest_at_zero_masks_and_all() {
    for architecture in [
        Architecture::Llama,
        Architecture::Qwen2,
        Architecture::Olmo2,
    ] {
        let plain = Student::new(teacher(architecture, true));
        let rows = rows();
        let prune = PassPlan::Prune(PrunePlan {
            method: PruneMethod::Wanda,
            zeros: Zeros::Pattern {
                pattern: Pattern::TwoOfFour,
            },
            calibration_tokens: 40,
        });
        let masked = run(&prune, plain.clone(), &rows);
        for student in [&plain, &masked] {
            for target in targets() {
                let name = format!("{architecture:?}, {target:?}");
                let (small, parts) = shrunk(shrink(target), student);
                assert_equal_to_zeroed(&name, &small, student, &parts.kept);
                assert!(parts.after.parameters < parts.before.parameters, "{name}");
                let num_linear = 7 * small.decoder.config.num_hidden_layers;
                let want = if student.masks.is_empty() {
                    0
                } else {
                    num_linear
                };
                assert_eq!(small.masks.len(), want, "{name}");
                for (spec, weight) in small.decoder.parameters() {
                    let Some(mask) = small.masks.get(&spec.id) else {
                        continue;
                    };
                    let pairs = to_vec(&weight).into_iter().zip(to_vec(mask));
                    let is_held = |(weight, kept): (f32, f32)| (kept == 0.0) == (weight == 0.0);
                    assert!(pairs.into_iter().all(is_held), "{name}: {}", spec.name);
                }
            }
        }
    }
}

#[test]
fn a_share_of_the_parameters_is_not_exceeded() {
    let student = Student::new(teacher(Architecture::Llama, false));
    for share in [0.95, 0.8, 0.6] {
        let target = ShrinkTarget::Parameters {
            parameters: share,
            along: vec![
                Side::HiddenSize,
                Side::IntermediateSize,
                Side::NumHiddenLayers,
            ],
        };
        let (_, parts) = shrunk(shrink(target), &student);
        let left = parts.after.parameters as f64 / parts.before.parameters as f64;
        assert!(left <= share && left > share - 0.4, "{share}: {left}");
    }
}

#[test]
fn the_layers_that_go_are_those_whose_absence_costs_the_least() {
    let student = Student::new(teacher(Architecture::Llama, true));
    let rows = random_rows(8, &[8, 8, 8, 8, 8], 4);
    let loss = |layers: &[usize]| {
        let decoder = PartSelection::layers(layers).cut(&student.decoder);
        let measured = evaluate(&decoder, &rows, Reference::None, "test");
        measured.unwrap().loss_nats
    };
    let best = |choices: &[Vec<usize>]| {
        let losses = choices.iter().map(|layers| loss(layers));
        let best = losses.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
        choices[best.unwrap().0].clone()
    };
    let without_one = |layers: &[usize]| -> Vec<Vec<usize>> {
        let places = 0..layers.len();
        let without = |place: usize| [&layers[..place], &layers[place + 1..]].concat();
        places.map(without).collect()
    };
    let by_loss = |count, contiguous| ShrinkPlan {
        layers_by: LayersBy::Loss,
        contiguous,
        ..shrink(layers(count))
    };
    let first = best(&without_one(&[0, 1, 2, 3]));
    assert_eq!(shrunk(by_loss(3, false), &student).1.kept.layers, first);
    let second = best(&without_one(&first));
    assert_eq!(shrunk(by_loss(2, false), &student).1.kept.layers, second);
    let run = best(&[vec![2, 3], vec![0, 3], vec![0, 1]]);
    assert_eq!(shrunk(by_loss(2, true), &student).1.kept.layers, run);
}

#[test]
fn a_run_of_one_layer_has_its_influence_and_the_run_of_least_goes() {
    let student = Student::new(teacher(Architecture::Llama, true));
    let rows = rows();
    let calibration = Calibration {
        rows: &rows,
        num_tokens: 40,
        label: "test",
        is_silent: true,
        stop: &AtomicBool::new(false),
    };
    let one = run_influence(&student.decoder, 1, &calibration).unwrap();
    let importance = Importance::measure(&student.decoder, &calibration).unwrap();
    assert_eq!(one, importance.influence);
    let two = run_influence(&student.decoder, 2, &calibration).unwrap();
    assert_eq!(two.len(), 3);
    let lowest = (0..3).min_by(|&a, &b| two[a].total_cmp(&two[b])).unwrap();
    let plan = ShrinkPlan {
        contiguous: true,
        ..shrink(layers(2))
    };
    let want: Vec<usize> = (0..4)
        .filter(|layer| !(lowest..lowest + 2).contains(layer))
        .collect();
    assert_eq!(shrunk(plan, &student).1.kept.layers, want);
}
