//! GPTQ: the weights rounded after a weight compensate for its rounding error.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use crate::calibration::{Hessian, InverseFactor, NotPositiveDefinite};
use crate::kernels::grid::{Grid, Levels, Scaling};
use crate::passes::GptqPlan;
use crate::tensors;
use crate::vector::vectorized;

/// Columns of all rows that are rounded before the next ones, so that their rows of the factor stay in a cache.
const BLOCK: usize = 128;

/// Data shared by all weights that see the same inputs (Frantar et al. 2022, GPTQ, <https://arxiv.org/abs/2210.17323>,
/// algorithm 1).
///
/// Columns are visited by the size of their inputs, largest first ("act-order"): they are rounded while all others can
/// still compensate. Groups and their scales stay in place, so a file needs no order of columns. Checked against PyTorch:
/// `tests/golden/gptq.json`.
pub(super) struct Step {
    order: Vec<usize>,
    factor: InverseFactor,
}

/// A weight and its grid, on the host.
struct Matrix {
    /// Row by row, in the order of visits.
    weights: Vec<f32>,
    mask: Option<Vec<f32>>,
    levels: Levels,
    group_size: usize,
    scales: Vec<f32>,
    zeros: Option<Vec<f32>>,
}

impl Step {
    pub(super) fn new(plan: &GptqPlan, hessian: &Hessian) -> Result<Self, NotPositiveDefinite> {
        let order = if plan.act_order {
            hessian.descending()
        } else {
            hessian.natural()
        };
        Ok(Self {
            factor: hessian.inverse_factor_in(&order, plan.damping)?,
            order,
        })
    }

    /// A weight on its grid; masked weights are 0.
    ///
    /// # Shapes
    ///
    /// `weight` is `[R, C]`, and so is the result; `mask` is as long, `scaling` is `[R, G, 1]`.
    pub(super) fn round(
        &self,
        weight: &Tensor<2>,
        mask: Option<Vec<f32>>,
        grid: Grid,
        scaling: &Scaling<3>,
    ) -> Tensor<2> {
        let [_, columns] = weight.dims();
        let read = |tensor: &Tensor<3>| {
            let values = tensor.try_to_vec_as::<f32>();
            values.expect("scales and zeros are f32")
        };
        let mut matrix = Matrix {
            weights: gathered(&tensors::to_vec(weight), &self.order),
            mask,
            levels: grid.levels,
            group_size: grid.group_size.unwrap_or(columns),
            scales: read(&scaling.scales),
            zeros: scaling.zeros.as_ref().map(read),
        };
        for start in (0..columns).step_by(BLOCK) {
            matrix.round_columns(start..(start + BLOCK).min(columns), self);
        }
        let values = scattered(&matrix.weights, &self.order);
        Tensor::from_data(TensorData::new(values, weight.dims()), &weight.device())
    }
}

impl Matrix {
    /// Rounds some columns, given by their places in the order, and moves all after them.
    fn round_columns(&mut self, places: std::ops::Range<usize>, step: &Step) {
        let columns = step.order.len();
        let num_groups = columns / self.group_size;
        let (levels, mask) = (self.levels, self.mask.as_deref());
        let (scales, zeros) = (&self.scales, self.zeros.as_deref());
        let round_row = |(row_idx, row): (usize, &mut [f32])| {
            vectorized(|| {
                for place in places.clone() {
                    let column = step.order[place];
                    let group = row_idx * num_groups + column / self.group_size;
                    let is_kept = mask.is_none_or(|mask| mask[row_idx * columns + column] != 0.0);
                    let value = if is_kept {
                        let zero = zeros.map_or(0.0, |zeros| zeros[group]);
                        levels.nearest(row[place], scales[group], zero)
                    } else {
                        0.0
                    };
                    step.factor.settle(place, &mut row[place..], value);
                }
            });
        };
        self.weights
            .par_chunks_mut(columns)
            .enumerate()
            .for_each(round_row);
    }
}

/// Rows with their columns in the order of visits.
fn gathered(weights: &[f32], order: &[usize]) -> Vec<f32> {
    let rows = weights.chunks(order.len());
    rows.flat_map(|row| order.iter().map(|&column| row[column]))
        .collect()
}

/// Inverse of [`gathered`].
fn scattered(weights: &[f32], order: &[usize]) -> Vec<f32> {
    let mut scattered = vec![0.0; weights.len()];
    let rows = scattered.chunks_mut(order.len());
    for (row, visited) in rows.zip(weights.chunks(order.len())) {
        for (&column, &weight) in order.iter().zip(visited) {
            row[column] = weight;
        }
    }
    scattered
}

#[cfg(test)]
mod tests;
