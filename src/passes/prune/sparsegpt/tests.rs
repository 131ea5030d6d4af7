//! A matrix against the paper's formulas in PyTorch (`tests/golden/sparsegpt.json`), and a law.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;
use crate::pruning::{Pattern, scale_by_inputs, select};
use crate::random::Stream;

#[derive(Deserialize)]
struct Golden {
    atol: f64,
    rtol: f64,
    inputs: Inputs,
    expected: Expected,
}

#[derive(Deserialize)]
struct Inputs {
    shape: [usize; 2],
    weight: Vec<f32>,
    x: Vec<f32>,
    masked: String,
    damping: f64,
    block: usize,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    sparsity: Option<f64>,
    within: Option<String>,
    pattern: Option<String>,
    #[serde(default)]
    masked: bool,
}

#[derive(Deserialize)]
struct Expected {
    factor: Vec<Vec<f64>>,
    matrices: BTreeMap<String, Matrix>,
}

#[derive(Deserialize)]
struct Matrix {
    weight: Vec<f64>,
    mask: String,
}

fn zeros(case: &Case) -> Zeros {
    match (case.pattern.as_deref(), case.within.as_deref()) {
        (Some("2:4"), None) => Zeros::Pattern {
            pattern: Pattern::TwoOfFour,
        },
        (Some("4:8"), None) => Zeros::Pattern {
            pattern: Pattern::FourOfEight,
        },
        (None, Some(within)) => Zeros::Share {
            sparsity: case.sparsity.unwrap(),
            within: if within == "row" {
                Within::Row
            } else {
                Within::Matrix
            },
        },
        other => panic!("{other:?}"),
    }
}

fn hessian(x: Vec<f32>, size: usize) -> Hessian {
    let device = crate::device::open("flex").unwrap();
    let data = TensorData::new(x.clone(), [1, x.len() / size, size]);
    let mut hessian = Hessian::new(size);
    hessian.add(&Tensor::from_data(data, &device));
    hessian
}

fn digits(mask: &[f32]) -> String {
    let digit = |kept: &f32| if *kept == 0.0 { '0' } else { '1' };
    mask.iter().map(digit).collect()
}

#[test]
fn weights_and_masks_equal_those_of_the_formulas() {
    let golden = include_str!("../../../../tests/golden/sparsegpt.json");
    let Golden {
        atol,
        rtol,
        inputs,
        expected,
    } = serde_json::from_str(golden).unwrap();
    let [_, columns] = inputs.shape;
    let factor = hessian(inputs.x, columns).inverse_factor(inputs.damping);
    let factor = factor.unwrap();
    let assert_close = |what: &str, got: &[f32], want: &[f64]| {
        assert_eq!(got.len(), want.len(), "{what}");
        for (idx, (got, want)) in got.iter().zip(want).enumerate() {
            let gap = (f64::from(*got) - want).abs();
            assert!(
                gap <= atol + rtol * want.abs(),
                "{what}[{idx}]: {got}, want {want}"
            );
        }
    };
    for (row, want) in expected.factor.iter().enumerate() {
        assert_close(&format!("row {row} of the factor"), factor.row(row), want);
    }
    let masked = inputs.masked.chars();
    let masked: Vec<f32> = masked
        .map(|kept| f32::from(u8::from(kept == '1')))
        .collect();
    assert_eq!(inputs.cases.len(), 6);
    for (label, case) in &inputs.cases {
        let mut weights = inputs.weight.clone();
        let before = case.masked.then_some(masked.as_slice());
        if let Some(mask) = before {
            weights
                .iter_mut()
                .zip(mask)
                .for_each(|(weight, kept)| *weight *= kept);
        }
        let got = prune_matrix(weights, before, &factor, zeros(case), inputs.block);
        let want = &expected.matrices[label];
        assert_eq!(digits(&got.mask), want.mask, "{label}");
        assert_close(label, &got.weights, &want.weight);
    }
}

#[test]
fn inputs_that_do_not_go_together_are_pruned_as_by_wanda_and_nothing_is_made_up_for() {
    let (rows, columns) = (5, 12);
    let mut stream = Stream::new(3, "weights");
    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
    let mut draw =
        |count: usize| -> Vec<f32> { (0..count).map(|_| stream.normal() as f32).collect() };
    let (weights, sizes) = (draw(rows * columns), draw(columns));
    let mut x = vec![0.0; columns * columns];
    for (position, size) in sizes.iter().enumerate() {
        x[position * columns + position] = *size;
    }
    let hessian = hessian(x, columns);
    let factor = hessian.inverse_factor(1e-9).unwrap();
    let mut scores: Vec<f32> = weights.iter().map(|weight| weight.abs()).collect();
    scale_by_inputs(&mut scores, &hessian.diagonal());
    let pattern = Pattern::TwoOfFour;
    for zeros in [Zeros::of_rows(0.5), Zeros::Pattern { pattern }] {
        let mask = select(&scores, columns, zeros);
        let got = prune_matrix(weights.clone(), None, &factor, zeros, BLOCK);
        assert_eq!(digits(&got.mask), digits(&mask));
        for ((got, weight), kept) in got.weights.iter().zip(&weights).zip(&mask) {
            assert!(
                (got - weight * kept).abs() < 1e-6,
                "{got}, {weight}, {kept}"
            );
        }
    }
}
