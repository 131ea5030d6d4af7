//! Low-rank adapters: numbers of `peft`, what they leave alone, and what they leave behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use alambic::data::{Sequence, TokenRows};
use alambic::loss::{LossSpec, Term, Terms};
use alambic::model::{
    Architecture, Decoder, DecoderConfig, Part, TokenBatch, WeightId, tensor_specs,
};
use alambic::passes::{PassPlan, PruneMethod, PrunePlan, apply};
use alambic::pruning::Zeros;
use alambic::student::AdapterPlan;
use alambic::student::{Adapter, Student};
use alambic::tensors::{self, to_vec};
use alambic::train::fit::PassContext;
use alambic::train::gradient::{MicroBatch, step_gradient};
use alambic::train::{FitPlan, row_targets};
use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::Value;

use super::golden::{self, Golden, Tolerance, assert_close};
use super::tiny::{
    config, context, decoder_of, device, fit_plan, random_decoder, random_rows, tensor,
};

#[derive(Deserialize)]
struct Inputs {
    config: Value,
    weights: BTreeMap<String, Vec<f32>>,
    adapter: Settings,
    matrices: BTreeMap<String, Vec<f32>>,
    tokens: Vec<u32>,
    sequence_length: usize,
}

#[derive(Deserialize)]
struct Settings {
    rank: usize,
    alpha: f64,
    targets: Vec<Part>,
}

impl Inputs {
    fn student(&self) -> Student {
        let plan = AdapterPlan {
            rank: self.adapter.rank,
            alpha: self.adapter.alpha,
            targets: self.adapter.targets.clone(),
        };
        let config = DecoderConfig::from_json(&self.config).unwrap();
        let student = with_adapter(decoder_of(config, &self.weights), &plan);
        let matrices = student.trained().into_iter();
        let matrices =
            matrices.map(|(spec, _)| tensor(self.matrices[&spec.name].clone(), spec.shape));
        student.with_trained(matrices.collect())
    }
}

#[derive(Deserialize)]
struct Expected {
    logits: Vec<f64>,
    gradients: BTreeMap<String, Vec<f64>>,
}

fn adapter_plan(rank: usize, targets: &[Part]) -> AdapterPlan {
    AdapterPlan {
        rank,
        alpha: 4.0,
        targets: targets.to_vec(),
    }
}

fn with_adapter(decoder: Decoder, plan: &AdapterPlan) -> Student {
    let adapter = Adapter::init(plan, &decoder.config, 7, &device());
    Student {
        adapter: Some(adapter),
        ..Student::new(decoder)
    }
}

fn logits(decoder: &Decoder, rows: &[Sequence<'_>]) -> Vec<f32> {
    let hidden = decoder.hidden(&TokenBatch::new(rows, &device()));
    decoder.logits(hidden).try_into_vec_as::<f32>().unwrap()
}

#[test]
fn logits_and_gradients_equal_those_of_peft() {
    let Golden {
        tolerance,
        inputs,
        expected,
    } = golden::read::<Inputs, Expected>("adapter.json");
    let student = inputs.student();
    assert_eq!(student.trained().len(), 8, "two modules of two layers");

    let num_rows = inputs.tokens.len() / (inputs.sequence_length + 1);
    let counted = vec![u32::try_from(inputs.sequence_length).unwrap(); num_rows];
    let rows = TokenRows::new(inputs.sequence_length, inputs.tokens, counted, 1);
    let all: Vec<Sequence<'_>> = (0..num_rows).map(|row_idx| rows.inputs(row_idx)).collect();
    let whole_model = Tolerance {
        atol: 1e-5,
        rtol: 1e-5,
    };
    for (name, decoder) in [
        ("effective", student.effective()),
        ("merged", student.clone().merged().decoder),
    ] {
        assert_close(name, &logits(&decoder, &all), &expected.logits, whole_model);
    }

    let targets = (0..num_rows).flat_map(|row_idx| row_targets(&rows, row_idx, None));
    let micro_batch = MicroBatch {
        inputs: all,
        targets: targets.collect(),
    };
    let spec = LossSpec::of(Terms::ZERO.with(Term::CrossEntropy, 1.0));
    let step = step_gradient(&student.effective(), &[micro_batch], &spec);
    let gradients = student.pull_back(step.gradients);
    assert_eq!(gradients.len(), 8);
    for ((spec, _), gradient) in student.trained().iter().zip(&gradients) {
        assert_close(
            &spec.name,
            &to_vec(gradient),
            &expected.gradients[&spec.name],
            tolerance,
        );
    }
}

#[test]
fn an_adapter_starts_as_nothing_within_kaimings_bound() {
    let plan = adapter_plan(5, &[Part::Value, Part::Up]);
    let decoder = random_decoder(config(), 5);
    let student = with_adapter(decoder.clone(), &plan);
    let ids = [Sequence::document(&[3, 14, 15])];
    assert_eq!(logits(&student.effective(), &ids), logits(&decoder, &ids));
    let trained = student.trained();
    let shapes: Vec<_> = trained
        .iter()
        .map(|(spec, _)| (spec.name.as_str(), spec.shape))
        .collect();
    assert_eq!(
        shapes,
        [
            ("model.layers.0.self_attn.v_proj.lora_A.weight", [5, 16]),
            ("model.layers.0.self_attn.v_proj.lora_B.weight", [8, 5]),
            ("model.layers.0.mlp.up_proj.lora_A.weight", [5, 16]),
            ("model.layers.0.mlp.up_proj.lora_B.weight", [32, 5]),
        ]
    );
    let bound = 0.25; // 1 / √16
    for (spec, matrix) in trained {
        let values = to_vec(&matrix);
        let largest = values
            .iter()
            .fold(0.0_f32, |largest, value| largest.max(value.abs()));
        if spec.name.contains("lora_B") {
            assert_eq!(largest, 0.0);
        } else {
            let mean_square =
                values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
            assert!(largest < bound && largest > 0.9 * bound, "{largest}");
            assert!(
                (mean_square / (bound * bound / 3.0) - 1.0).abs() < 0.3,
                "{mean_square}"
            );
        }
    }
}

fn run(pass: &PassPlan, student: Student, dir: &Path) -> Student {
    let rows = random_rows(16, &[16, 16, 16, 16, 16, 7], 6);
    let stop = AtomicBool::new(false);
    let context = PassContext {
        seed: 2,
        ..context(dir, &rows, &stop)
    };
    apply(pass, student, &context).unwrap()
}

fn distill(adapter: AdapterPlan) -> PassPlan {
    PassPlan::Distill(Box::new(FitPlan {
        adapter: Some(adapter),
        ..fit_plan()
    }))
}

/// Weights of two decoders that differ.
fn differing(a: &Decoder, b: &Decoder) -> Vec<String> {
    let pairs = a.parameters().into_iter().zip(b.parameters());
    pairs
        .filter(|((_, a), (_, b))| to_vec(a) != to_vec(b))
        .map(|((spec, _), _)| spec.name)
        .collect()
}

#[test]
fn a_pass_moves_its_targets_alone_and_leaves_an_adapter_that_gives_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let before = Student::new(random_decoder(config(), 5));
    let pass = distill(adapter_plan(2, &[Part::Query, Part::Down]));
    let after = run(&pass, before.clone(), dir.path());
    assert!(after.adapter.is_none());
    let (q_proj, down_proj) = (
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
    );
    assert_eq!(
        differing(&before.decoder, &after.decoder),
        [q_proj, down_proj]
    );

    let adapter = dir.path().join("adapter");
    let text = fs::read(adapter.join("adapter_config.json")).unwrap();
    let json: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&json["r"], &json["lora_alpha"]), (&2.into(), &4.0.into()));
    assert_eq!(
        json["target_modules"],
        serde_json::json!(["q_proj", "down_proj"])
    );
    let (matrices, ()) =
        tensors::load(&adapter.join("adapter_model.safetensors"), &device()).unwrap();
    assert_eq!(matrices.len(), 4);
    let again = before.decoder.map(|spec, weight| {
        let part = |part: &str| {
            let name = spec.name.replace(".weight", part);
            matrices.get(&format!("base_model.model.{name}")).cloned()
        };
        match (part(".lora_A.weight"), part(".lora_B.weight")) {
            (Some(a), Some(b)) => weight + b.matmul(a).mul_scalar(2.0), // alpha / rank
            _ => weight,
        }
    });
    assert!(differing(&again, &after.decoder).is_empty());
}

#[test]
fn masks_hold_and_what_no_longer_fits_them_is_not_left() {
    let dir = tempfile::tempdir().unwrap();
    let prune = PassPlan::Prune(PrunePlan {
        method: PruneMethod::Magnitude,
        zeros: Zeros::of_rows(0.5),
        calibration_tokens: 16,
    });
    let student = Student::new(random_decoder(config(), 5));
    let pruned = run(&prune, student, dir.path());
    let pass = distill(adapter_plan(2, &[Part::Key, Part::Gate]));
    let after = run(&pass, pruned.clone(), dir.path());
    assert_eq!(differing(&pruned.decoder, &after.decoder).len(), 2);
    for (spec, weight) in after.decoder.parameters() {
        let Some(mask) = after.masks.get(&spec.id) else {
            continue;
        };
        let pairs = to_vec(&weight).into_iter().zip(to_vec(mask));
        let revived = pairs.filter(|&(weight, kept)| kept == 0.0 && weight != 0.0);
        assert_eq!(revived.count(), 0, "{}", spec.name);
    }
    assert!(!dir.path().join("adapter").exists());
}

#[test]
fn a_pass_goes_on_to_the_same_bits_from_any_state_which_holds_the_adapter_alone() {
    let student = || Student::new(random_decoder(config(), 5));
    let pass = PassPlan::Distill(Box::new(FitPlan {
        adapter: Some(adapter_plan(3, &[Part::Output, Part::Up])),
        ema: Some(0.5),
        save_every: 1,
        keep_states: 5,
        ..fit_plan()
    }));
    let dir = tempfile::tempdir().unwrap();
    let path = |num_updates: usize| {
        dir.path()
            .join(format!("state-{num_updates:010}.safetensors"))
    };
    let whole = run(&pass, student(), dir.path());
    for num_updates in (1..5).rev() {
        let (matrices, _): (BTreeMap<String, Tensor<2>>, Value) =
            tensors::load(&path(num_updates), &device()).unwrap();
        assert_eq!(
            matrices.len(),
            4 * 4,
            "A and B of two weights, two moments and an average of each"
        );
        assert!(matrices.keys().all(|name| name.contains("lora_")));
        let resumed = run(&pass, student(), dir.path());
        assert!(
            differing(&whole.decoder, &resumed.decoder).is_empty(),
            "from {num_updates}"
        );
        fs::remove_file(path(num_updates)).unwrap();
    }
}

/// Numbers that are not alike in all that is trained.
fn with_numbers(student: &Student) -> Student {
    let shapes = student.trained().into_iter().enumerate();
    let matrices = shapes.map(|(place, (spec, _))| {
        let [rows, columns] = spec.shape;
        let numbers = (0..rows * columns).map(|idx| ((idx * 37 + place * 11) % 19) as f32 - 9.0);
        tensor(numbers.collect(), spec.shape)
    });
    student.with_trained(matrices.collect())
}

/// What an adapter adds to each weight.
fn moves(student: Student) -> BTreeMap<WeightId, Vec<f32>> {
    let zeros = student.decoder.map(|_, weight| weight.zeros_like());
    let moved = Student {
        adapter: student.adapter,
        ..Student::new(zeros)
    };
    let parameters = moved.merged().decoder.parameters().into_iter();
    parameters
        .map(|(spec, moved)| (spec.id, to_vec(&moved)))
        .collect()
}

#[test]
fn an_adapter_of_parts_of_a_fused_matrix_is_one_module_with_a_block_for_each() {
    let config = DecoderConfig {
        architecture: Architecture::Phi3,
        ..config()
    };
    let (rank, alpha) = (3, 7.5);
    let plan = AdapterPlan {
        rank,
        alpha,
        targets: vec![Part::Value, Part::Query, Part::Up, Part::Down],
    };
    let student = with_adapter(random_decoder(config.clone(), 5), &plan);
    let student = with_numbers(&student);
    let dir = tempfile::tempdir().unwrap();
    student
        .adapter
        .as_ref()
        .unwrap()
        .save(dir.path(), 2)
        .unwrap();

    let text = fs::read(dir.path().join("adapter_config.json")).unwrap();
    let json: Value = serde_json::from_slice(&text).unwrap();
    let modules = serde_json::json!(["qkv_proj", "gate_up_proj", "down_proj"]);
    assert_eq!(json["target_modules"], modules);
    assert_eq!(json["rank_pattern"], serde_json::json!({ "qkv_proj": 6 }));
    assert_eq!(
        json["alpha_pattern"],
        serde_json::json!({ "qkv_proj": 15.0 })
    );
    assert_eq!((&json["r"], &json["lora_alpha"]), (&3.into(), &7.5.into()));

    let path = dir.path().join("adapter_model.safetensors");
    let (matrices, ()): (BTreeMap<String, Tensor<2>>, ()) =
        tensors::load(&path, &device()).unwrap();
    assert_eq!(
        matrices.len(),
        2 * 2 * 3,
        "A and B of three modules, which run twice"
    );
    let moves = moves(student);
    let adapted = tensor_specs(&config.with_layers(&[0, 0]));
    let adapted = adapted.iter().filter(|tensor| {
        let module = tensor.module_in_layer().rsplit('.').next();
        modules
            .as_array()
            .unwrap()
            .iter()
            .any(|name| name.as_str() == module)
    });
    for tensor in adapted {
        let [a, b] = ["lora_A", "lora_B"].map(|part| {
            let name = format!("base_model.model.{}.{part}.weight", tensor.module());
            matrices[&name].clone()
        });
        let scale = alpha / rank as f64; // 15 / 6 alike
        let got = to_vec(&b.matmul(a).mul_scalar(scale));
        let want = tensor.joined(|part| moves[&part.id.in_layer(|_| 0)].clone());
        assert_eq!(got, want, "{}", tensor.name);
    }
}
