//! Rotary positions against transformers: which dimensions turn, and by how much.

use std::collections::BTreeMap;

use alambic::model::rope::RopeTable;
use alambic::model::{Rope, RopeScaling};
use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;

use super::golden::{self, Golden, assert_close};
use super::tiny::device;

#[derive(Deserialize)]
struct Inputs {
    x: Vec<f32>,
    slope: Vec<f32>,
    shape: [usize; 4],
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    first: usize,
}

#[derive(Deserialize)]
struct Expected {
    turned: Vec<f64>,
    slope: Vec<f64>,
}

/// The settings of a case, which `config.json` says in its family's way.
fn rope(case: &str) -> Rope {
    let plain = Rope::plain(100.0);
    match case {
        "whole" => plain,
        "part" => Rope {
            rotary_dims: Some(6),
            ..plain
        },
        "short" | "long" => {
            let context: u8 = if case == "short" { 15 } else { 14 };
            Rope {
                scaling: RopeScaling::LongRope {
                    short_factor: vec![1.0, 1.05, 1.1, 1.3],
                    long_factor: vec![1.1, 1.7, 2.9, 4.0],
                    attention_factor: RopeScaling::longrope_growth(
                        60.0 / f64::from(context),
                        u64::from(context),
                    ),
                    original_max_position_embeddings: usize::from(context),
                },
                ..plain
            }
        }
        "long part" => Rope {
            scaling: RopeScaling::LongRope {
                short_factor: vec![1.0, 2.0],
                long_factor: vec![1.5, 3.7],
                attention_factor: 1.3,
                original_max_position_embeddings: 5,
            },
            rotary_dims: Some(4),
            ..plain
        },
        _ => panic!("no case {case}"),
    }
}

#[test]
fn a_pass_beyond_the_trained_context_turns_all_positions_otherwise() {
    let rope = rope("short");
    assert!(rope.differs_between(15, 16) && rope.differs_between(0, 16));
    assert!(!rope.differs_between(0, 15) && !rope.differs_between(16, 17));
    assert!(!Rope::plain(100.0).differs_between(0, 100));
}

#[test]
fn the_first_dimensions_of_a_head_turn_as_in_transformers() {
    let file = golden::read::<Inputs, BTreeMap<String, Expected>>("rotary.json");
    let Golden {
        tolerance,
        inputs,
        expected,
    } = file;
    let [_, _, seq, head_dim] = inputs.shape;
    let device: Device = device().autodiff();
    let to_vec = |x: Tensor<4>| x.try_into_vec_as::<f32>().unwrap();
    let tensor = |values: &[f32]| {
        Tensor::<4>::from_data(TensorData::new(values.to_vec(), inputs.shape), &device)
    };
    assert_eq!(inputs.cases.len(), 5);
    for (name, case) in &inputs.cases {
        let positions = case.first..case.first + seq;
        let table = RopeTable::new(&rope(name), head_dim, positions, &device);
        let x = tensor(&inputs.x).require_grad();
        let turned = table.rotate(x.clone());
        let want = &expected[name];
        assert_close(name, &to_vec(turned.clone()), &want.turned, tolerance);
        let gradients = (turned * tensor(&inputs.slope)).sum().backward();
        let slope = x.grad(&gradients).unwrap();
        assert_close(name, &to_vec(slope), &want.slope, tolerance);
    }
}
