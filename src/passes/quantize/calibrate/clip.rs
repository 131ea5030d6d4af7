//! Scales that clip the largest weights of a group where its outputs gain by it.

use burn::tensor::Tensor;

use crate::kernels::grid::{Grid, Scaling};

/// Number of shares of the range that are tried, in steps of 1/20 down to 11/20, as in AWQ (Lin et al. 2023).
const NUM_SHARES: u8 = 10;
const STEP: f64 = 1.0 / 20.0;

/// Scale and zero of each group, fitted to the share of its range that costs the outputs of the group least: the error of
/// its weights, weighted by their inputs.
///
/// The plain error of the weights misleads: it clips exactly the weights that see the large inputs of a massive activation.
///
/// # Shapes
///
/// `weight` is `[R, C]`, `inputs` the mean of x xᵀ, `[C, C]`; returns `[R, G, 1]`.
pub(super) fn scaling(grid: Grid, weight: &Tensor<2>, inputs: &Tensor<2>) -> Scaling<3> {
    let [_, columns] = weight.dims();
    let group_size = grid.group_size.unwrap_or(columns);
    let blocks = blocks(inputs, group_size);
    let lost = |scaling: &Scaling<3>| {
        let rounded = grid.nearest(weight.clone(), scaling.clone());
        group_squares(weight.clone() - rounded, &blocks)
    };
    let mut best = grid.scaling(weight.clone());
    let mut least = lost(&best);
    for step in 1..NUM_SHARES {
        let share = 1.0 - f64::from(step) * STEP;
        let tried = grid.scaling(weight.clone().mul_scalar(share));
        let squares = lost(&tried);
        let is_better = squares.clone().lower(least.clone()); // [R, G, 1]
        best.scales = best.scales.mask_where(is_better.clone(), tried.scales);
        if let (Some(zeros), Some(tried)) = (best.zeros.take(), tried.zeros) {
            best.zeros = Some(zeros.mask_where(is_better.clone(), tried));
        }
        least = least.mask_where(is_better, squares);
    }
    best
}

/// Second moments within each group of inputs.
///
/// # Shapes
///
/// `[C, C]` to `[G, C/G, C/G]`.
fn blocks(inputs: &Tensor<2>, group_size: usize) -> Tensor<3> {
    let [columns, _] = inputs.dims();
    let block = |start: usize| {
        let rows = inputs.clone().narrow(0, start, group_size);
        rows.narrow(1, start, group_size).unsqueeze::<3>()
    };
    Tensor::cat((0..columns).step_by(group_size).map(block).collect(), 0)
}

/// `e H eᵀ` of each group of a row.
///
/// # Shapes
///
/// `errors` is `[R, C]`, `blocks` `[G, C/G, C/G]`; returns `[R, G, 1]`.
fn group_squares(errors: Tensor<2>, blocks: &Tensor<3>) -> Tensor<3> {
    let [rows, _] = errors.dims();
    let [num_groups, group_size, _] = blocks.dims();
    let errors = errors
        .reshape([rows, num_groups, group_size])
        .swap_dims(0, 1); // [G, R, C/G]
    let squares = errors.clone().matmul(blocks.clone()) * errors;
    squares.sum_dim(2).swap_dims(0, 1) // [R, G, 1]
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::tensors;

    fn tensor(values: &[f32], shape: [usize; 2]) -> Tensor<2> {
        let device = crate::device::open("flex").unwrap();
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &device)
    }

    #[test]
    fn a_large_weight_is_clipped_if_it_sees_little_and_kept_if_it_sees_much() {
        // With int2 and its quotients −2 to 1, the group reaches 1.5 scales: a weight of 1 would be rounded to 0 or 2/3.
        let weight = tensor(&[1.0, 0.4, 0.4, 0.4, 1.0, 0.4, 0.4, 0.4], [1, 8]);
        let grid = Grid::symmetric(2, Some(4));
        let mut inputs = [0.0; 64];
        for (column, size) in [0.01, 1.0, 1.0, 1.0, 9.0, 0.01, 0.01, 0.01]
            .into_iter()
            .enumerate()
        {
            inputs[column * 9] = size;
        }
        let got = scaling(grid, &weight, &tensor(&inputs, [8, 8]));
        let scales = got.scales.try_into_vec_as::<f32>().unwrap();
        let largest = grid.scaling(weight).scales;
        let largest = largest.try_into_vec_as::<f32>().unwrap();
        assert!(scales[0] < 0.7 * largest[0], "{scales:?}, {largest:?}");
        assert_eq!(scales[1].to_bits(), largest[1].to_bits());
    }

    #[test]
    fn no_group_loses_more_than_without_a_search() {
        let mut stream = crate::random::Stream::new(4, "clip");
        #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
        let mut draw = |count: usize| -> Vec<f32> {
            (0..count).map(|_| stream.normal().powi(3) as f32).collect()
        };
        let (weight, x) = (
            tensor(&draw(6 * 32), [6, 32]),
            tensor(&draw(96 * 32), [96, 32]),
        );
        let inputs = x.clone().transpose().matmul(x);
        for grid in [
            Grid::symmetric(3, None),
            Grid::symmetric(4, Some(8)),
            Grid::asymmetric(2, Some(16)),
            Grid::fp8(None),
        ] {
            let blocks = blocks(&inputs, grid.group_size.unwrap_or(32));
            let lost = |scaling: Scaling<3>| {
                let errors = weight.clone() - grid.nearest(weight.clone(), scaling);
                let squares = group_squares(errors, &blocks);
                squares.try_into_vec_as::<f32>().unwrap()
            };
            let searched = lost(scaling(grid, &weight, &inputs));
            let plain = lost(grid.scaling(weight.clone()));
            let pairs = || searched.iter().zip(&plain);
            assert!(pairs().all(|(got, plain)| got <= plain), "{grid}");
            if grid != Grid::fp8(None) {
                assert!(pairs().any(|(got, plain)| *got < 0.9 * plain), "{grid}");
            }
        }
    }

    #[test]
    fn squares_of_a_group_worked_by_hand() {
        let inputs = tensor(
            &[
                1.0, 2.0, 9.0, 9.0, 2.0, 5.0, 9.0, 9.0, 9.0, 9.0, 3.0, 0.0, 9.0, 9.0, 0.0, 1.0,
            ],
            [4, 4],
        );
        let errors = tensor(&[1.0, -1.0, 2.0, 0.0], [1, 4]);
        let squares = group_squares(errors, &blocks(&inputs, 2));
        // 1 - 2·2 + 5, and 4·3
        assert_eq!(tensors::to_vec(&squares.reshape([1, 2])), [2.0, 12.0]);
    }
}
