#![expect(clippy::float_cmp, reason = "codes and scales are exact or wrong")]

use burn::tensor::{Device, TensorData};
use half::{bf16, f16};

use super::*;

fn tensor(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn noise(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 2_654_435_761) % 100_003) as f32 / 50_001.0 - 1.0)
        .collect()
}

#[test]
fn a_row_worked_by_hand_lands_on_its_codes() {
    let grid = Grid::symmetric(4, Some(4));
    // max 7.5, scale 1: ties go to even, and both ends lose half a step at most.
    let quantized = grid.quantize(tensor(
        vec![7.5, -7.5, 0.5, 1.5, 0.0, 0.0, 0.0, 0.0],
        [1, 8],
    ));
    let codes: Vec<f32> = quantized.codes.to_data().try_into_vec().unwrap();
    let scales: Vec<f32> = quantized.scaling.scales.to_data().try_into_vec().unwrap();
    assert_eq!(codes, [7.0, -8.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(scales, [1.0, 1.0], "a group of zeros has scale 1");
}

#[test]
fn every_weight_is_within_half_a_step_and_scales_are_exact_in_bf16() {
    for grid in [Grid::symmetric(4, Some(32)), Grid::symmetric(8, None)] {
        let weight = noise(64 * 96);
        let quantized = grid.quantize(tensor(weight.clone(), [64, 96]));
        let scales: Vec<f32> = quantized.scaling.scales.to_data().try_into_vec().unwrap();
        for scale in &scales {
            assert_eq!(bf16::from_f32(*scale).to_f32().to_bits(), scale.to_bits());
        }
        let group_size = grid.group_size.unwrap_or(96);
        let fake: Vec<f32> = grid
            .fake_quantize(tensor(weight.clone(), [64, 96]))
            .to_data()
            .try_into_vec()
            .unwrap();
        for (i, (got, want)) in fake.iter().zip(&weight).enumerate() {
            // A scale rounded down by 2^-9 moves the largest code by up to 2^-9 of the range.
            let step = scales[i / group_size];
            let slack = want.abs() / 256.0;
            assert!(
                (got - want).abs() <= step / 2.0 + slack,
                "weight {i}: {got} for {want}, step {step}"
            );
        }
    }
}

#[test]
fn scales_of_any_size_are_exact_in_both_halves() {
    let grid = Grid::symmetric(4, Some(32));
    for exponent in -30..15 {
        let weight: Vec<f32> = noise(32 * 8)
            .iter()
            .map(|x| x * 2_f32.powi(exponent))
            .collect();
        let quantized = grid.quantize(tensor(weight, [8, 32]));
        let scales: Vec<f32> = quantized.scaling.scales.to_data().try_into_vec().unwrap();
        for scale in scales {
            assert_eq!(bf16::from_f32(scale).to_f32().to_bits(), scale.to_bits());
            assert_eq!(
                f16::from_f32(scale).to_f32().to_bits(),
                scale.to_bits(),
                "{scale}"
            );
        }
    }
}

#[test]
fn zeros_stay_zeros_so_a_mask_survives_the_grid() {
    let mut weight = noise(32 * 32);
    weight
        .iter_mut()
        .step_by(2)
        .for_each(|weight| *weight = 0.0);
    let grid = Grid::symmetric(4, Some(32));
    let fake: Vec<f32> = grid
        .fake_quantize(tensor(weight, [32, 32]))
        .to_data()
        .try_into_vec()
        .unwrap();
    assert!(fake.iter().step_by(2).all(|weight| *weight == 0.0));
}

#[test]
fn an_asymmetric_row_worked_by_hand_uses_both_ends_of_its_range() {
    let grid = Grid::asymmetric(4, Some(4));
    // From -1 to 14: scale 1, and code -7 means 0. From 2 to 15, 0 is covered, too. Zeros alone have scale 1.
    let quantized = grid.quantize(tensor(
        vec![
            -1.0, 14.0, 0.0, 6.5, 2.0, 15.0, 3.4, 3.6, 0.0, 0.0, 0.0, 0.0,
        ],
        [1, 12],
    ));
    let read = |tensor: &Tensor<3>| tensor.try_to_vec_as::<f32>().unwrap();
    assert_eq!(read(&quantized.scaling.scales), [1.0, 1.0, 1.0]);
    assert_eq!(
        read(quantized.scaling.zeros.as_ref().unwrap()),
        [-7.0, -8.0, -8.0]
    );
    assert_eq!(
        read(&quantized.codes),
        [
            -8.0, 7.0, -7.0, 0.0, -6.0, 7.0, -5.0, -4.0, -8.0, -8.0, -8.0, -8.0
        ]
    );
    let values = quantized.scaling.values(quantized.codes);
    assert_eq!(read(&values)[..4], [-1.0, 14.0, 0.0, 7.0]);
}

/// Grids of every kind of level.
const GRIDS: [Grid; 9] = [
    Grid::symmetric(2, Some(32)),
    Grid::symmetric(3, Some(96)),
    Grid::symmetric(8, None),
    Grid::asymmetric(2, Some(32)),
    Grid::asymmetric(3, None),
    Grid::asymmetric(4, Some(32)),
    Grid::asymmetric(8, Some(48)),
    Grid::fp8(Some(32)),
    Grid {
        levels: Levels::Ternary,
        group_size: Some(32),
    },
];

#[test]
fn stretched_levels_are_the_middles_of_equal_parts_of_the_range() {
    let row = [4.0, -4.0, 2.1, 1.9, 0.1, -0.1, -1.9, -2.1, 0.0, 3.999];
    let rounded = |levels| -> Vec<f32> {
        let grid = Grid {
            levels,
            group_size: None,
        };
        let rounded = grid.fake_quantize(tensor(row.to_vec(), [1, 10]));
        rounded.try_into_vec_as().unwrap()
    };
    let of_two_bits = [3.0, -3.0, 3.0, 1.0, 1.0, -1.0, -1.0, -3.0, 1.0, 3.0];
    assert_eq!(rounded(Levels::Stretched), of_two_bits);
    // The scale is 4 / 1.5, rounded to the 8 bits of bf16.
    let third = 2.671_875;
    let of_three = [1.0, -1.0, 1.0, 1.0, 0.0, 0.0, -1.0, -1.0, 0.0, 1.0];
    assert_eq!(rounded(Levels::Ternary), of_three.map(|code| code * third));
}

#[test]
fn levels_are_kept_zeros_stay_and_rounding_again_changes_nothing() {
    for grid in GRIDS {
        let mut weight: Vec<f32> = noise(64 * 96).iter().map(|x| x * 0.07 + 0.02).collect();
        weight.iter_mut().step_by(5).for_each(|x| *x = 0.0);
        let weight = tensor(weight, [64, 96]);
        let quantized = grid.quantize(weight.clone());
        let [lowest, highest] = grid.levels.limits();
        let codes: Vec<f32> = quantized.codes.try_to_vec_as().unwrap();
        assert!(
            codes
                .iter()
                .all(|&code| (lowest..=highest).contains(&f64::from(code))),
            "{grid}"
        );
        let once: Vec<f32> = grid.fake_quantize(weight).try_to_vec_as().unwrap();
        assert!(once.iter().step_by(5).all(|x| *x == 0.0), "{grid}");
        let again = grid.round(tensor(once.clone(), [64, 96]), quantized.scaling);
        let again: Vec<f32> = again.scaling.values(again.codes).try_to_vec_as().unwrap();
        assert_eq!(again, once, "{grid}");
    }
}

#[test]
fn a_finer_grid_is_nearer_and_a_zero_of_its_own_helps_what_is_not_centred() {
    let weight: Vec<f32> = noise(64 * 96).iter().map(|x| x * 0.1 + 0.06).collect();
    let error = |grid: Grid| {
        let fake: Vec<f32> = grid
            .fake_quantize(tensor(weight.clone(), [64, 96]))
            .try_to_vec_as()
            .unwrap();
        let squares = fake
            .iter()
            .zip(&weight)
            .map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>()
    };
    let errors = [2, 3, 4, 8].map(|bits| {
        let (symmetric, asymmetric) = (
            error(Grid::symmetric(bits, Some(32))),
            error(Grid::asymmetric(bits, Some(32))),
        );
        assert!(asymmetric < 0.6 * symmetric, "{bits} bits");
        symmetric
    });
    assert!(errors.is_sorted_by(|a, b| *a > 3.0 * b), "{errors:?}");
}

#[test]
fn one_column_is_rounded_as_in_the_whole() {
    for grid in GRIDS.map(|grid| Grid {
        group_size: Some(32),
        ..grid
    }) {
        let weight = tensor(noise(16 * 64), [16, 64]);
        let whole = grid.quantize(weight.clone());
        let codes = whole.codes.clone().reshape([16, 64]);
        for column in [0, 31, 32, 63] {
            let of_group = |of: Tensor<3>| of.narrow(1, column / 32, 1).reshape([16, 1]);
            let scaling = Scaling {
                scales: of_group(whole.scaling.scales.clone()),
                zeros: whole.scaling.zeros.clone().map(of_group),
            };
            let got = grid
                .levels
                .round(weight.clone().narrow(1, column, 1), &scaling);
            let want = codes.clone().narrow(1, column, 1);
            let read = |tensor: Tensor<2>| tensor.try_into_vec_as::<f32>().unwrap();
            assert_eq!(read(got), read(want), "{grid}: column {column}");
        }
    }
}

/// All numbers of fp8 from 0 up, by the formula of the format.
fn fp8_numbers() -> Vec<f32> {
    let small = (0..8).map(|eighths| eighths as f32 * 2_f32.powi(-9));
    let normal = (1..16).flat_map(|exponent| {
        (0..8).map(move |eighths| (1.0 + eighths as f32 / 8.0) * 2_f32.powi(exponent - 7))
    });
    let mut numbers: Vec<f32> = small.chain(normal).collect();
    assert_eq!(numbers.pop(), Some(480.0), "what would be 480 is NaN");
    numbers
}

#[test]
fn fp8_rounds_to_the_nearest_and_ties_to_even() {
    let numbers = fp8_numbers();
    let round = |x: Vec<f32>| -> Vec<f32> {
        let shape = [1, x.len()];
        round_to_fp8(tensor(x, shape)).try_into_vec_as().unwrap()
    };
    assert_eq!(round(numbers.clone()), numbers);
    for (idx, pair) in numbers.windows(2).enumerate() {
        let (low, high) = (pair[0], pair[1]);
        let middle = f32::midpoint(low, high);
        let even = if idx % 2 == 0 { low } else { high };
        assert_eq!(
            round(vec![middle.next_down(), middle, middle.next_up(), -middle]),
            [low, even, high, -even],
            "between {low} and {high}"
        );
    }
}

#[test]
fn what_enters_a_projection_is_rounded_position_by_position_and_its_slope_passes() {
    let x: Vec<f32> = noise(2 * 3 * 40).iter().map(|x| x * 3.7).collect();
    for levels in [Levels::Symmetric { bits: 8 }, Levels::Fp8] {
        let steps = match levels {
            Levels::Fp8 => 448.0,
            _ => 127.5,
        };
        let given = Tensor::<3>::from_data(
            TensorData::new(x.clone(), [2, 3, 40]),
            &Device::flex().autodiff(),
        )
        .require_grad();
        let rounded = levels.round_positions(given.clone());
        let got: Vec<f32> = rounded.clone().inner().try_into_vec_as().unwrap();
        for (row, (got, x)) in got.chunks(40).zip(x.chunks(40)).enumerate() {
            let largest = x.iter().copied().map(f32::abs).fold(0.0, f32::max);
            let scale = largest / steps;
            for (got, x) in got.iter().zip(x) {
                let want = match levels {
                    Levels::Fp8 => {
                        let near = |a: &&f32, b: &&f32| {
                            let far = |of: f32| (of - (x / scale).abs()).abs();
                            far(**a).total_cmp(&far(**b))
                        };
                        fp8_numbers().iter().min_by(near).unwrap().copysign(*x) * scale
                    }
                    _ => (x / scale).round_ties_even().clamp(-128.0, 127.0) * scale,
                };
                assert_eq!(*got, want, "{levels}: row {row}, {x}");
            }
        }
        let slope = rounded.mul_scalar(3.0).sum().backward();
        let slope: Vec<f32> = given.grad(&slope).unwrap().try_into_vec_as().unwrap();
        assert_eq!(slope, vec![3.0; x.len()], "{levels}");
    }
    let zeros = Tensor::<3>::zeros([1, 2, 8], &Device::flex());
    let rounded = Levels::Fp8.round_positions(zeros);
    assert_eq!(rounded.try_into_vec_as::<f32>().unwrap(), [0.0; 16]);
}
