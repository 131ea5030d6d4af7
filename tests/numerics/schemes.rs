//! Every projection has its own scheme, whatever becomes of the student.

use std::fs;

use alambic::kernels::grid::{Grid, Levels};
use alambic::model::{
    DecoderConfig, LayerType, ParameterKind, Part, Scheme, Schemes, TokenBatch, parameter_specs,
};
use alambic::passes::quantize::schemes;
use alambic::passes::{
    Activations, NumberType, OverridePlan, QuantizeMethod, QuantizePlan, SchemePlan,
};
use alambic::student::{STUDENT_FILE, Student};
use alambic::tensors::{self, to_vec};
use serde_json::{Value, json};

use super::checkpointing::assert_same_bits;
use super::tiny::{config, device, random_decoder, random_rows};

const INT8: Levels = Levels::Symmetric { bits: 8 };

fn two_layers() -> DecoderConfig {
    DecoderConfig {
        num_hidden_layers: 2,
        layer_types: vec![LayerType::Full; 2],
        ..config()
    }
}

/// Layer 0 is on 4 bits, layer 1 on 8 with rounded activations, but for its `o_proj`, which is as it was.
fn plan() -> QuantizePlan {
    let scheme = SchemePlan {
        bits: 4,
        group_size: Some(8),
        number: NumberType::Int,
        symmetric: false,
        activations: Activations::None,
    };
    let eight = SchemePlan {
        bits: 8,
        group_size: None,
        symmetric: true,
        activations: Activations::PerToken,
        ..scheme
    };
    let one = |modules: &[Part], layers: Option<Vec<usize>>, scheme| OverridePlan {
        modules: modules.to_vec(),
        layers,
        scheme,
    };
    QuantizePlan {
        method: QuantizeMethod::RoundToNearest,
        scheme,
        overrides: vec![
            one(&Part::PROJECTIONS, Some(vec![1]), Some(eight)),
            one(&[Part::Output], Some(vec![1]), None),
        ],
        embedding: None,
        output: None,
        sensitivity: None,
        learn_scales: false,
    }
}

fn student(layer_repeats: usize) -> Student {
    Student {
        layer_repeats,
        schemes: schemes(&plan(), &two_layers()),
        ..Student::new(random_decoder(two_layers(), 5))
    }
}

#[test]
fn the_last_override_that_names_a_projection_holds() {
    let schemes = schemes(&plan(), &two_layers());
    let four = Scheme {
        weight: Grid::asymmetric(4, Some(8)),
        input: None,
    };
    let eight = Scheme {
        weight: Grid::symmetric(8, None),
        input: Some(INT8),
    };
    for spec in parameter_specs(&two_layers()) {
        let want = match (spec.kind(), spec.name.as_str()) {
            (ParameterKind::Linear, "model.layers.1.self_attn.o_proj.weight") => None,
            (ParameterKind::Linear, name) if name.contains("layers.1.") => Some(eight),
            (ParameterKind::Linear, _) => Some(four),
            _ => None,
        };
        assert_eq!(schemes.get(&spec.id).copied(), want, "{}", spec.name);
    }
}

#[test]
fn the_effective_weights_are_those_of_the_schemes_and_bf16_elsewhere() {
    let student = student(1);
    let effective = student.effective_weights().parameters();
    for ((spec, free), (_, got)) in student.decoder.parameters().into_iter().zip(effective) {
        let want = match student.schemes.get(&spec.id) {
            Some(scheme) => to_vec(&scheme.weight.fake_quantize(free)),
            None => to_vec(&free)
                .into_iter()
                .map(|x| half::bf16::from_f32(x).to_f32())
                .collect(),
        };
        assert_eq!(to_vec(&got), want, "{}", spec.name);
    }
    assert_eq!(
        student.only_grid(ParameterKind::Linear),
        None,
        "there are two"
    );
}

fn hidden(student: &Student) -> Vec<f32> {
    let tokens = TokenBatch::document(&[5, 6, 7, 8, 300, 2], &device());
    let hidden = student.effective().hidden(&tokens);
    hidden.try_into_vec_as::<f32>().unwrap()
}

#[test]
fn schemes_are_saved_and_shared_by_the_runs_of_a_layer() {
    for layer_repeats in [1, 2] {
        let student = student(layer_repeats);
        let dir = tempfile::tempdir().unwrap();
        student.save(dir.path()).unwrap();
        let loaded = Student::load(dir.path(), &device()).unwrap();
        assert_eq!(loaded.schemes, student.schemes);
        let unrolled = loaded.unrolled();
        assert_eq!(unrolled.schemes.len(), 13 * layer_repeats);
        assert_eq!(unrolled.size_bytes(), student.size_bytes());
        let want = hidden(&student);
        assert_eq!(hidden(&loaded), want);
        assert_eq!(hidden(&unrolled), want);

        let mut free = student.clone();
        for scheme in free.schemes.values_mut() {
            scheme.input = None;
        }
        assert_ne!(hidden(&free), want, "activations are rounded");
    }
}

#[test]
fn a_student_of_the_time_of_one_grid_is_on_that_grid() {
    let student = student(1);
    let dir = tempfile::tempdir().unwrap();
    student.save(dir.path()).unwrap();
    let path = dir.path().join(STUDENT_FILE);
    let (matrices, mut facts): (_, Value) = tensors::load(&path, &device()).unwrap();
    let facts_map = facts.as_object_mut().unwrap();
    facts_map.remove("schemes").unwrap();
    facts_map.insert("grid".to_owned(), json!({ "bits": 4, "group_size": 16 }));
    let matrices: Vec<_> = matrices.into_iter().collect();
    tensors::save(&path, &matrices, &facts).unwrap();

    let loaded = Student::load(dir.path(), &device()).unwrap();
    assert_eq!(loaded.schemes.len(), 14);
    assert_eq!(
        loaded.only_grid(ParameterKind::Linear),
        Some(Grid::symmetric(4, Some(16)))
    );

    facts["grid"] = Value::Null;
    tensors::save(&path, &matrices, &facts).unwrap();
    let loaded = Student::load(dir.path(), &device()).unwrap();
    assert_eq!(loaded.schemes, Schemes::new());
    assert!(fs::metadata(&path).unwrap().len() > 0);
}

#[test]
fn a_layer_that_runs_again_rounds_its_inputs_to_the_same_bits() {
    let rows = random_rows(16, &[16, 9], 3);
    assert_same_bits("rounded inputs", &student(1).effective(), &rows);
}
