//! SparseGPT: the weights after a pruned one compensate for it.

use std::time::Instant;

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::{CORRECTS, PruneError};
use crate::calibration::{Calibration, Hessian, InverseFactor, LayerSweep};
use crate::cost;
use crate::model::{ParameterSpec, Site};
use crate::pruning::{PRUNED, PrunedMatrix, Within, Zeros, lowest, share_of};
use crate::rates;
use crate::student::Student;
use crate::tensors;
use crate::vector::vectorized;

/// Number of columns whose weights compete with one another, as in the paper.
const BLOCK: usize = 128;

/// Masks the projections of all blocks and corrects the remaining weights (Frantar & Alistarh 2023, SparseGPT,
/// <https://arxiv.org/abs/2301.00774>).
///
/// Goes layer by layer, and within a layer place by place: each is measured on the outputs of the pruned ones before it.
/// Memory holds the student, the residual stream of the calibration text, and the second moments of one place.
///
/// Weights that were masked before stay masked.
pub(super) fn compensate(
    student: Student,
    damping: f64,
    zeros: Zeros,
    calibration: &Calibration<'_>,
) -> Result<(Student, Vec<PrunedMatrix>), PruneError> {
    let mut student = student;
    let mut pruned = Vec::new();
    let since = Instant::now();
    let mut sweep = LayerSweep::begin(
        calibration,
        student.effective_weights(),
        student.layer_repeats,
    );
    while let Some(layer) = sweep.layer() {
        let first = pruned.len();
        for site in Site::OF_LAYER {
            let hessian = sweep.hessian(site)?;
            let factor = hessian.inverse_factor(damping);
            let factor = factor.map_err(|source| PruneError::Inputs {
                layer,
                site,
                source,
            })?;
            sweep.replace(|spec, weight| {
                if spec.id.input() != Some((layer, site)) {
                    return weight;
                }
                let before = student.masks.get(&spec.id).map(tensors::to_vec);
                let dense = tensors::to_vec(&weight);
                let got = prune_matrix(dense, before.as_deref(), &factor, zeros, BLOCK);
                let tensor = |values| {
                    let data = TensorData::new(values, spec.shape);
                    Tensor::<2>::from_data(data, &weight.device())
                };
                let (sparse, mask) = (tensor(got.weights), tensor(got.mask));
                pruned.push(outcome(spec, &hessian, &weight, &sparse, &mask));
                student.masks.insert(spec.id, mask);
                sparse
            });
        }
        let errors = pruned[first..].iter().filter_map(|one| one.output_error);
        let largest = errors.fold(0.0, f64::max);
        sweep.advance(&format!("layer {layer} error {:.1} %", 100.0 * largest))?;
    }
    student.decoder = sweep.finish();
    let config = student.unrolled().decoder.config;
    let work = cost::calibrate(&config, calibration.text(), CORRECTS);
    rates::note(work, since.elapsed());
    Ok((student, pruned))
}

/// Result of pruning a matrix that sees these inputs.
fn outcome(
    spec: &ParameterSpec,
    hessian: &Hessian,
    dense: &Tensor<2>,
    sparse: &Tensor<2>,
    mask: &Tensor<2>,
) -> PrunedMatrix {
    let lost = hessian.output_square(&(dense.clone() - sparse.clone()));
    let given = hessian.output_square(dense).max(f64::MIN_POSITIVE);
    let num_kept = f64::from(mask.clone().sum().into_scalar::<f32>());
    PrunedMatrix {
        weight: spec.id,
        sparsity: 1.0 - num_kept / spec.num_elements() as f64,
        output_error: Some(lost / given),
    }
}

/// A matrix without its pruned weights.
struct Compensated {
    weights: Vec<f32>,
    mask: Vec<f32>,
}

/// Prunes a matrix whose rows are as long as the factor, `block` columns at a time.
///
/// In every block the weights with the lowest `w² / U_ii²` are pruned (for a share of zeros, in the whole block or in each
/// row). Then, column by column, each pruned weight is subtracted from all after it, in the proportion of its row of U.
fn prune_matrix(
    weights: Vec<f32>,
    before: Option<&[f32]>,
    factor: &InverseFactor,
    zeros: Zeros,
    block: usize,
) -> Compensated {
    let mut weights = weights;
    let columns = factor.size();
    let mut mask = match before {
        Some(mask) => mask.to_vec(),
        None => vec![1.0; weights.len()],
    };
    for start in (0..columns).step_by(block) {
        let end = (start + block).min(columns);
        if let Zeros::Share { sparsity, within } = zeros {
            let quota =
                |num: usize| share_of(num * end, sparsity) - share_of(num * start, sparsity);
            mask_block(&mut mask, &weights, factor, start..end, within, quota);
        }
        let pattern = zeros.pattern();
        weights
            .par_chunks_mut(columns)
            .zip(mask.par_chunks_mut(columns))
            .for_each(|(row, mask)| {
                vectorized(|| {
                    for column in start..end {
                        if let Some(pattern) = pattern
                            && column % pattern.width() == 0
                        {
                            let group = column..column + pattern.width();
                            let scores = scores(row, mask, factor, group.clone());
                            for idx in lowest(&scores, pattern.num_zeros()) {
                                mask[column + idx] = 0.0;
                            }
                        }
                        if mask[column] == 0.0 {
                            factor.settle(column, &mut row[column..], 0.0);
                        }
                    }
                });
            });
    }
    Compensated { weights, mask }
}

/// Masks the lowest scores in some columns: in each row, or in all rows together.
fn mask_block(
    mask: &mut [f32],
    weights: &[f32],
    factor: &InverseFactor,
    block: std::ops::Range<usize>,
    within: Within,
    quota: impl Fn(usize) -> usize + Sync,
) {
    let columns = factor.size();
    let scores: Vec<Vec<f32>> = weights
        .par_chunks(columns)
        .zip(mask.par_chunks(columns))
        .map(|(row, mask)| scores(row, mask, factor, block.clone()))
        .collect();
    match within {
        Within::Row => mask
            .par_chunks_mut(columns)
            .zip(&scores)
            .for_each(|(mask, scores)| {
                for idx in lowest(scores, quota(1)) {
                    mask[block.start + idx] = 0.0;
                }
            }),
        Within::Matrix => {
            for idx in lowest(&scores.concat(), quota(scores.len())) {
                let (row, ahead) = (idx / block.len(), idx % block.len());
                mask[row * columns + block.start + ahead] = 0.0;
            }
        }
    }
}

/// Cost of each weight in some columns of a row; below all others if it is masked already.
fn scores(
    row: &[f32],
    mask: &[f32],
    factor: &InverseFactor,
    columns: std::ops::Range<usize>,
) -> Vec<f32> {
    let score = |column: usize| {
        if mask[column] == 0.0 {
            return PRUNED;
        }
        let [diagonal, ..] = factor.row(column) else {
            unreachable!("a row of the factor begins with its diagonal")
        };
        (row[column] / diagonal).powi(2)
    };
    columns.map(score).collect()
}

#[cfg(test)]
mod tests;
