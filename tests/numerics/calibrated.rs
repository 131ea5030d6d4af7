//! Grids reached by what weights see of a text: against PyTorch, through disk and export, stopped and gone on with.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use alambic::data::TokenRows;
use alambic::formats::Format;
use alambic::model::{DecoderConfig, LayerType, ParameterKind};
use alambic::passes::{
    CalibratedPlan, GptqPlan, NumberType, PassError, PassPlan, PruneMethod, PrunePlan,
    QuantizeError, QuantizeMethod, QuantizePlan, SchemePlan, apply,
};
use alambic::pruning::Zeros;
use alambic::student::{STUDENT_FILE, Student};
use alambic::tensors::to_vec;
use serde::Deserialize;
use serde_json::Value;

use super::exporting::{self, exported};
use super::golden;
use super::passes::{assert_reads_back, int, run, schemes};
use super::tiny::{bits, config, context, decoder_of, device, random_decoder, random_rows, tensor};

const GPTQ: CalibratedPlan = CalibratedPlan {
    awq: false,
    clip: false,
    gptq: Some(GptqPlan {
        act_order: true,
        damping: 0.01,
    }),
    calibration_tokens: 96,
};

fn pass(method: CalibratedPlan, scheme: SchemePlan) -> PassPlan {
    PassPlan::Quantize(QuantizePlan {
        method: QuantizeMethod::Calibrated(method),
        scheme,
        overrides: vec![],
        embedding: None,
        output: None,
        sensitivity: None,
        learn_scales: false,
    })
}

fn three_layers() -> Student {
    let config = DecoderConfig {
        num_hidden_layers: 3,
        layer_types: vec![LayerType::Full; 3],
        ..config()
    };
    Student::new(random_decoder(config, 5))
}

fn rows() -> TokenRows {
    random_rows(16, &[16, 16, 16, 16, 16, 7], 6)
}

fn pruned(student: Student) -> Student {
    let plan = PrunePlan {
        method: PruneMethod::Magnitude,
        zeros: Zeros::of_rows(0.5),
        calibration_tokens: 64,
    };
    run(&PassPlan::Prune(plan), student, &rows())
}

#[derive(Deserialize)]
struct Model {
    config: Value,
    weights: BTreeMap<String, Vec<f32>>,
    tokens: Vec<u32>,
    sequence_length: usize,
}

#[derive(Deserialize)]
struct Inputs {
    model_damping: f64,
}

#[derive(Deserialize)]
struct Expected {
    models: BTreeMap<String, BTreeMap<String, Vec<f32>>>,
}

#[test]
fn each_projection_makes_up_for_its_rounding_on_what_the_rounded_ones_before_it_give() {
    let model = golden::read::<Model, Value>("prune.json").inputs;
    let golden = golden::read::<Inputs, Expected>("gptq.json");
    let config = DecoderConfig::from_json(&model.config).unwrap();
    let student = Student::new(decoder_of(config, &model.weights));
    let num_rows = model.tokens.len() / (model.sequence_length + 1);
    let counted = vec![u32::try_from(model.sequence_length).unwrap(); num_rows];
    let rows = TokenRows::new(model.sequence_length, model.tokens, counted, 1);
    assert_eq!(golden.expected.models.len(), 2);
    for (label, want) in &golden.expected.models {
        let (scheme, act_order) = if label == "in_order" {
            (int(4, None), true)
        } else {
            let scheme = SchemePlan {
                symmetric: false,
                ..int(3, Some(8))
            };
            (scheme, false)
        };
        let plan = CalibratedPlan {
            awq: false,
            clip: false,
            gptq: Some(GptqPlan {
                act_order,
                damping: golden.inputs.model_damping,
            }),
            calibration_tokens: num_rows * model.sequence_length,
        };
        let rounded = run(&pass(plan, scheme), student.clone(), &rows);
        assert_eq!(want.len(), 14, "{label}");
        for (spec, weight) in rounded.effective().parameters() {
            if let Some(want) = want.get(&spec.name) {
                assert_eq!(&to_vec(&weight), want, "{label}, {}", spec.name);
            }
        }
    }
}

#[test]
fn free_weights_are_on_their_grids_in_memory_on_disk_and_in_exports() {
    let rows = rows();
    let schemes = schemes();
    assert_eq!(schemes.len(), 16);
    for (scheme, dtype) in schemes {
        let student = match scheme.number {
            NumberType::Stretched => three_layers(), // has no 0, and is refused where weights were pruned
            _ => pruned(three_layers()),
        };
        let student = run(&pass(GPTQ, scheme), student, &rows);
        let dir = tempfile::tempdir().unwrap();
        student.save(dir.path()).unwrap();
        let loaded = Student::load(dir.path(), &device()).unwrap();
        assert_eq!(loaded.scales.len(), 21, "{scheme:?}");
        let free = bits(&student.decoder);
        assert!(bits(&student.effective()) == free, "{scheme:?}: effective");
        assert!(bits(&loaded.effective()) == free, "{scheme:?}: loaded");
        assert!(bits(&loaded.unrolled().effective()) == free, "{scheme:?}");

        let plan = exporting::plan(Format::CompressedTensors, dtype);
        let verified = exported(&plan, &student, &rows, dir.path()).unwrap();
        assert_eq!(verified.max_logit_difference, 0.0, "{scheme:?}");
        assert_reads_back(&dir.path().join("compressed-tensors"), &student);
    }
}

#[test]
fn masked_weights_stay_zero_and_what_has_no_scheme_is_bf16() {
    let scheme = SchemePlan {
        symmetric: false,
        ..int(3, Some(16))
    };
    let student = pruned(three_layers());
    let rounded = run(&pass(GPTQ, scheme), student.clone(), &rows());
    let mut num_masked = 0;
    for (spec, weight) in rounded.decoder.parameters() {
        let weight = to_vec(&weight);
        let Some(mask) = rounded.masks.get(&spec.id).map(to_vec) else {
            assert_ne!(spec.kind(), ParameterKind::Linear);
            let is_bf16 = |x: &f32| half::bf16::from_f32(*x).to_f32() == *x;
            assert!(weight.iter().all(is_bf16), "{}", spec.name);
            continue;
        };
        for (weight, _) in weight.iter().zip(mask).filter(|(_, kept)| *kept == 0.0) {
            assert_eq!(weight.to_bits(), 0, "{}", spec.name);
            num_masked += 1;
        }
    }
    assert_eq!(num_masked, 3 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 32 * 16) / 2);
    assert_eq!(rounded.masks.len(), student.masks.len());
}

/// The layers that an interrupted pass has finished.
fn copy_layers(from: &Path, to: &Path, count: usize) {
    let to = to.join("layers");
    fs::create_dir_all(&to).unwrap();
    for layer in 0..count {
        let name = format!("{layer:04}.safetensors");
        fs::copy(from.join("layers").join(&name), to.join(name)).unwrap();
    }
}

#[test]
fn a_pass_goes_on_behind_any_layer_and_ends_in_the_same_bytes() {
    let (rows, stop) = (rows(), AtomicBool::new(false));
    let scheme = SchemePlan {
        symmetric: false,
        ..int(4, Some(8))
    };
    let plan = pass(GPTQ, scheme);
    for layer_repeats in [1, 2] {
        let student = || Student {
            layer_repeats,
            ..pruned(three_layers())
        };
        let quantize = |dir: &Path| {
            let quantized = apply(&plan, student(), &context(dir, &rows, &stop)).unwrap();
            let saved = tempfile::tempdir().unwrap();
            quantized.save(saved.path()).unwrap();
            fs::read(saved.path().join(STUDENT_FILE)).unwrap()
        };
        let whole = tempfile::tempdir().unwrap();
        let want = quantize(whole.path());
        for num_finished in 0..=3 {
            let dir = tempfile::tempdir().unwrap();
            copy_layers(whole.path(), dir.path(), num_finished);
            assert!(quantize(dir.path()) == want, "from layer {num_finished}");
        }
        // A damaged layer is made anew, and so are all behind it.
        let path = whole.path().join("layers/0001.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        alambic::files::write_atomically(&path, |out| out.write_all(&bytes)).unwrap();
        assert!(quantize(whole.path()) == want, "with a damaged layer");
        bytes[last] ^= 1;
        assert!(
            fs::read(&path).unwrap() == bytes,
            "the layer is whole again"
        );
    }
}

#[test]
fn a_signal_stops_it_and_no_layer_is_half_there() {
    let (rows, stop) = (rows(), AtomicBool::new(true));
    let dir = tempfile::tempdir().unwrap();
    let plan = pass(GPTQ, int(4, None));
    let error = apply(&plan, three_layers(), &context(dir.path(), &rows, &stop)).unwrap_err();
    assert!(matches!(error, PassError::Interrupted(_)), "{error}");
    assert!(!dir.path().join("layers").exists());
}

#[test]
fn weights_and_texts_that_cannot_be_used_are_refused_by_name() {
    let stop = AtomicBool::new(false);
    let spoilt = |value: f32| {
        let name = "model.layers.1.mlp.up_proj.weight";
        Student::new(three_layers().decoder.map(|spec, weight| {
            if spec.name != name {
                return weight;
            }
            let mut values = to_vec(&weight);
            values[16 * 2 + 7] = value;
            tensor(values, spec.shape)
        }))
    };
    let refused = |plan: &PassPlan, student: Student, rows: &TokenRows| {
        let dir = tempfile::tempdir().unwrap();
        match apply(plan, student, &context(dir.path(), rows, &stop)) {
            Err(PassError::Quantize(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let nearest = PassPlan::Quantize(QuantizePlan {
        method: QuantizeMethod::RoundToNearest,
        scheme: int(4, None),
        overrides: vec![],
        embedding: None,
        output: None,
        sensitivity: None,
        learn_scales: false,
    });
    for plan in [&pass(GPTQ, int(4, None)), &nearest] {
        for (value, told) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
            let error = refused(plan, spoilt(value), &rows());
            let want = format!(
                "`model.layers.1.mlp.up_proj.weight` cannot be quantised: row 2 holds {told}"
            );
            assert_eq!(error.to_string(), want);
        }
    }
    let short = random_rows(16, &[7], 6);
    let error = refused(&pass(GPTQ, int(4, None)), three_layers(), &short);
    assert!(
        matches!(
            error,
            QuantizeError::NoRows {
                sequence_length: 16
            }
        ),
        "{error}"
    );
}

#[test]
fn weights_that_are_all_zero_and_inputs_that_are_stay_so() {
    let student = three_layers();
    let decoder = student.decoder.map(|spec, weight| {
        let is_silent = spec.name.contains("layers.1.mlp");
        if is_silent {
            weight.zeros_like()
        } else {
            weight
        }
    });
    let rounded = run(
        &pass(GPTQ, int(4, Some(16))),
        Student::new(decoder),
        &rows(),
    );
    let mut num_silent = 0;
    for (spec, weight) in rounded.decoder.parameters() {
        let weight = to_vec(&weight);
        assert!(weight.iter().all(|x| x.is_finite()), "{}", spec.name);
        if spec.name.contains("layers.1.mlp") {
            num_silent += 1;
            assert!(weight.iter().all(|x| x.to_bits() == 0), "{}", spec.name);
            let scales = to_vec(&rounded.scales[&spec.id].scales());
            assert!(scales.iter().all(|scale| *scale == 1.0), "{}", spec.name);
        }
    }
    assert_eq!(num_silent, 3);
}
