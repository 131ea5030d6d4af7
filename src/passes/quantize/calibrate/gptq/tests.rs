//! A matrix against the paper's equations in PyTorch (`tests/golden/gptq.json`), and laws.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;
use crate::random::Stream;

#[derive(Deserialize)]
struct Golden {
    inputs: Inputs,
    expected: Expected,
}

#[derive(Deserialize)]
struct Inputs {
    shape: [usize; 2],
    weight: Vec<f32>,
    x: Vec<f32>,
    mask: String,
    damping: f64,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    bits: u32,
    symmetric: bool,
    act_order: bool,
    group_size: Option<usize>,
}

#[derive(Deserialize)]
struct Expected {
    matrices: BTreeMap<String, Rounded>,
}

#[derive(Deserialize)]
struct Rounded {
    weight: Vec<f32>,
    scale: Vec<f32>,
    zero: Vec<f32>,
}

fn tensor(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    let device = crate::device::open("flex").unwrap();
    Tensor::from_data(TensorData::new(values, shape), &device)
}

fn normal(count: usize, seed: &str) -> Vec<f32> {
    let mut stream = Stream::new(3, seed);
    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
    let draws = (0..count).map(|_| stream.normal() as f32);
    draws.collect()
}

fn hessian(x: Vec<f32>, size: usize) -> Hessian {
    let rows = x.len() / size;
    let mut hessian = Hessian::new(size);
    hessian.add(&tensor(x, [rows, size]).unsqueeze());
    hessian
}

fn plan(act_order: bool, damping: f64) -> GptqPlan {
    GptqPlan { act_order, damping }
}

#[test]
fn weights_equal_those_of_the_equations() {
    let golden = include_str!("../../../../../tests/golden/gptq.json");
    let Golden { inputs, expected } = serde_json::from_str(golden).unwrap();
    let [_, columns] = inputs.shape;
    let hessian = hessian(inputs.x, columns);
    let mask: Vec<f32> = inputs
        .mask
        .chars()
        .map(|kept| f32::from(u8::from(kept == '1')))
        .collect();
    assert_eq!(inputs.cases.len(), 8);
    for (label, case) in &inputs.cases {
        let mask = label.starts_with("masked").then(|| mask.clone());
        let mut weight = inputs.weight.clone();
        for (weight, kept) in weight.iter_mut().zip(mask.iter().flatten()) {
            *weight *= kept;
        }
        let weight = tensor(weight, inputs.shape);
        let grid = if case.symmetric {
            Grid::symmetric(case.bits, case.group_size)
        } else {
            Grid::asymmetric(case.bits, case.group_size)
        };
        let scaling = grid.scaling(weight.clone());
        let want = &expected.matrices[label];
        let read = |tensor: &Tensor<3>| tensor.try_to_vec_as::<f32>().unwrap();
        assert_eq!(read(&scaling.scales), want.scale, "{label}: scales");
        if let Some(zeros) = &scaling.zeros {
            assert_eq!(read(zeros), want.zero, "{label}: zeros");
        }
        let step = Step::new(&plan(case.act_order, inputs.damping), &hessian).unwrap();
        let got = tensors::to_vec(&step.round(&weight, mask.clone(), grid, &scaling));
        for (idx, (got, want)) in got.iter().zip(&want.weight).enumerate() {
            let same = got.to_bits() == (want + 0.0).to_bits(); // no zero is negative
            assert!(same, "{label}[{idx}]: {got}, {want}");
            let is_kept = mask.as_ref().is_none_or(|mask| mask[idx] != 0.0);
            assert!(is_kept || *got == 0.0, "{label}[{idx}] came back");
        }
        // Values on the grid are rounded to themselves, although the weights reach less far than the scales.
        let again = grid.nearest(tensor(got.clone(), inputs.shape), scaling);
        assert_eq!(tensors::to_vec(&again), got, "{label}: rounded again");
    }
}

#[test]
fn inputs_that_do_not_go_together_leave_nothing_to_make_up_for() {
    let (rows, columns) = (5, 160); // more than one block
    let mut x = vec![0.0; columns * columns];
    for (position, size) in normal(columns, "sizes").into_iter().enumerate() {
        x[position * columns + position] = size;
    }
    let hessian = hessian(x, columns);
    let weight = tensor(normal(rows * columns, "weights"), [rows, columns]);
    for levels in [
        Levels::Symmetric { bits: 4 },
        Levels::Asymmetric { bits: 3 },
        Levels::Fp8,
        Levels::Ternary,
        Levels::Stretched,
    ] {
        for group_size in [None, Some(32)] {
            let grid = Grid { levels, group_size };
            for act_order in [false, true] {
                let step = Step::new(&plan(act_order, 0.01), &hessian).unwrap();
                let scaling = grid.scaling(weight.clone());
                let got = step.round(&weight, None, grid, &scaling);
                let want = grid.fake_quantize(weight.clone());
                assert_eq!(tensors::to_vec(&got), tensors::to_vec(&want), "{grid}");
            }
        }
    }
}

#[test]
fn outputs_are_nearer_than_those_of_weights_rounded_to_the_nearest() {
    let (rows, columns, positions) = (16, 160, 400);
    // Correlated inputs, some much larger than others.
    let mixing = normal(columns * columns, "mixing");
    let mixing = tensor(mixing, [columns, columns]).mul_scalar(0.2);
    let x = tensor(normal(positions * columns, "x"), [positions, columns]);
    let sizes = normal(columns, "sizes").into_iter().map(f32::exp).collect();
    let x = (x.clone() + x.matmul(mixing)) * tensor(sizes, [1, columns]);
    let hessian = hessian(tensors::to_vec(&x), columns);
    let weight = tensor(normal(rows * columns, "weights"), [rows, columns]);
    for grid in [
        Grid::symmetric(4, None),
        Grid::asymmetric(3, Some(32)),
        Grid::symmetric(2, Some(32)),
        Grid::fp8(None),
    ] {
        let scaling = grid.scaling(weight.clone());
        let lost = |rounded: Tensor<2>| hessian.output_square(&(weight.clone() - rounded));
        let nearest = lost(grid.nearest(weight.clone(), scaling.clone()));
        for act_order in [false, true] {
            let step = Step::new(&plan(act_order, 0.01), &hessian).unwrap();
            let got = lost(step.round(&weight, None, grid, &scaling));
            assert!(got < 0.75 * nearest, "{grid}: {got}, {nearest}");
        }
    }
}
