//! Pruning masks against a direct formula over activations that PyTorch's hooks saw.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use alambic::data::TokenRows;
use alambic::model::{Architecture, DecoderConfig, WeightId};
use alambic::passes::{PassPlan, PruneMethod, PrunePlan, Removed, apply};
use alambic::pruning::{Pattern, Within, Zeros};
use alambic::student::Student;
use alambic::tensors::to_vec;
use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::Value;

use super::golden::{self, Golden};
use super::tiny::{context, decoder_of};

#[derive(Deserialize)]
struct Inputs {
    config: Value,
    weights: BTreeMap<String, Vec<f32>>,
    tokens: Vec<u32>,
    sequence_length: usize,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    method: String,
    sparsity: Option<f64>,
    within: Option<String>,
    pattern: Option<String>,
}

/// By parameter name, a digit for each weight.
type Masks = BTreeMap<String, String>;

fn plan(case: &Case, num_tokens: usize) -> PrunePlan {
    let zeros = match (case.pattern.as_deref(), case.within.as_deref()) {
        (Some("2:4"), None) => Zeros::Pattern {
            pattern: Pattern::TwoOfFour,
        },
        (Some("4:8"), None) => Zeros::Pattern {
            pattern: Pattern::FourOfEight,
        },
        (None, within) => Zeros::Share {
            sparsity: case.sparsity.unwrap(),
            within: match within {
                Some("matrix") => Within::Matrix,
                None => Within::Row,
                other => panic!("{other:?}"),
            },
        },
        other => panic!("{other:?}"),
    };
    PrunePlan {
        method: match case.method.as_str() {
            "magnitude" => PruneMethod::Magnitude,
            "wanda" => PruneMethod::Wanda,
            other => panic!("{other}"),
        },
        zeros,
        calibration_tokens: num_tokens,
    }
}

fn rows(inputs: &Inputs) -> TokenRows {
    let num_rows = inputs.tokens.len() / (inputs.sequence_length + 1);
    let counted = vec![u32::try_from(inputs.sequence_length).unwrap(); num_rows];
    TokenRows::new(inputs.sequence_length, inputs.tokens.clone(), counted, 1)
}

fn digits(mask: &[f32]) -> String {
    let digit = |kept: &f32| if *kept == 0.0 { '0' } else { '1' };
    mask.iter().map(digit).collect()
}

fn name_of(id: WeightId) -> String {
    Architecture::Llama.family().name_of(id)
}

fn named(masks: &BTreeMap<WeightId, Tensor<2>>) -> BTreeMap<String, &Tensor<2>> {
    masks
        .iter()
        .map(|(&id, mask)| (name_of(id), mask))
        .collect()
}

#[test]
fn masks_equal_those_of_the_formula() {
    let Golden {
        inputs, expected, ..
    } = golden::read::<Inputs, BTreeMap<String, Masks>>("prune.json");
    let config = DecoderConfig::from_json(&inputs.config).unwrap();
    let student = Student::new(decoder_of(config, &inputs.weights));
    let rows = rows(&inputs);
    let (dir, stop) = (tempfile::tempdir().unwrap(), AtomicBool::new(false));
    let context = context(dir.path(), &rows, &stop);
    assert_eq!(inputs.cases.len(), 6);
    for (label, case) in &inputs.cases {
        let plan = PassPlan::Prune(plan(case, rows.num_rows() * rows.sequence_length()));
        let pruned = apply(&plan, student.clone(), &context).unwrap();
        let want = &expected[label];
        let masks = named(&pruned.masks);
        assert!(masks.keys().eq(want.keys()), "{label}: masked layers");
        assert_eq!(want.len(), 14, "two blocks of seven linear layers");
        for (name, mask) in &masks {
            let got = digits(&to_vec(mask));
            let pairs = got.chars().zip(want[name].chars());
            let differing = pairs.filter(|(got, want)| got != want).count();
            assert_eq!(got, want[name], "{label}, {name}: {differing} differ");
        }
    }
}

#[derive(Deserialize)]
struct Compensation {
    model_damping: f64,
}

#[derive(Deserialize)]
struct Compensated {
    models: BTreeMap<String, BTreeMap<String, Matrix>>,
}

#[derive(Deserialize)]
struct Matrix {
    weight: Vec<f64>,
    mask: String,
    output_error: f64,
}

#[test]
fn each_projection_makes_up_for_its_losses_on_what_the_pruned_ones_before_it_give() {
    let model = golden::read::<Inputs, Value>("prune.json").inputs;
    let Golden {
        tolerance,
        inputs,
        expected,
    } = golden::read::<Compensation, Compensated>("sparsegpt.json");
    let config = DecoderConfig::from_json(&model.config).unwrap();
    let student = Student::new(decoder_of(config, &model.weights));
    let rows = rows(&model);
    let (dir, stop) = (tempfile::tempdir().unwrap(), AtomicBool::new(false));
    let context = context(dir.path(), &rows, &stop);
    assert_eq!(expected.models.len(), 2);
    for (label, want) in &expected.models {
        let plan = PassPlan::Prune(PrunePlan {
            method: PruneMethod::SparseGpt {
                damping: inputs.model_damping,
            },
            zeros: match label.as_str() {
                "share" => Zeros::Share {
                    sparsity: 0.5,
                    within: Within::Matrix,
                },
                _ => Zeros::Pattern {
                    pattern: Pattern::TwoOfFour,
                },
            },
            calibration_tokens: rows.num_rows() * rows.sequence_length(),
        });
        let pruned = apply(&plan, student.clone(), &context).unwrap();
        assert!(
            named(&pruned.masks).keys().eq(want.keys()) && want.len() == 14,
            "{label}"
        );
        for (spec, weight) in pruned.decoder.parameters() {
            let Some(want) = want.get(&spec.name) else {
                continue;
            };
            let name = format!("{label}, {}", spec.name);
            assert_eq!(
                digits(&to_vec(&pruned.masks[&spec.id])),
                want.mask,
                "{name}"
            );
            golden::assert_close(&name, &to_vec(&weight), &want.weight, tolerance);
        }
        let Some(Removed::Weights(told)) = Removed::read(dir.path()).unwrap() else {
            panic!("the pass tells what it took out")
        };
        assert_eq!(told.len(), 14);
        for matrix in told {
            let got = matrix.output_error.unwrap();
            let name = name_of(matrix.weight);
            let want = want[&name].output_error;
            assert!((got - want).abs() < 1e-3 * want, "{name}: {got}, {want}");
            assert!((matrix.sparsity - 0.5).abs() < 1e-6, "{name}");
        }
    }
}
