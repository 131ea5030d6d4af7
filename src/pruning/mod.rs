//! Choice of the weights of a student to prune: scores, and the selection of the lowest.

mod plan;
mod score;
mod select;

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

pub(crate) use self::plan::{GRADUAL, SPARSITY, check};
pub use self::plan::{GradualMethod, GradualPlan, Pattern, Within, Zeros};
pub(crate) use self::score::{PRUNED, scale_by_inputs};
pub use self::score::{SiteSums, input_squares};
pub(crate) use self::select::{lowest, select, share_of};
use crate::model::WeightId;
use crate::student::Student;
use crate::tensors;

/// Result of pruning one matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrunedMatrix {
    /// Name of the matrix.
    #[serde(flatten)]
    pub weight: WeightId,
    /// Share of its weights that are zero now.
    pub sparsity: f64,
    /// Square of the change of its outputs over the square of the outputs before, on the calibration text; `None` where
    /// it was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_error: Option<f64>,
}

/// Masks the weights with the lowest scores: their sizes, times the norms of their inputs if `squares` are given.
pub fn mask_lowest(
    student: Student,
    squares: Option<&SiteSums>,
    zeros: Zeros,
) -> (Student, Vec<PrunedMatrix>) {
    let mut student = student;
    let mut pruned = Vec::new();
    for (spec, weight) in student.effective_weights().parameters() {
        let Some(input) = spec.id.input() else {
            continue;
        };
        let mut scores: Vec<f32> = tensors::to_vec(&weight).into_iter().map(f32::abs).collect();
        if let Some(squares) = squares {
            scale_by_inputs(&mut scores, &squares[&input]);
        }
        if let Some(mask) = student.masks.get(&spec.id) {
            keep_masked(&mut scores, &tensors::to_vec(mask));
        }
        let mask = select(&scores, spec.shape[1], zeros);
        let num_zeros = mask.iter().filter(|kept| **kept == 0.0).count();
        let mask = Tensor::from_data(TensorData::new(mask, spec.shape), &weight.device());
        student.masks.insert(spec.id, mask);
        pruned.push(PrunedMatrix {
            sparsity: num_zeros as f64 / spec.num_elements() as f64,
            output_error: None,
            weight: spec.id,
        });
    }
    (student.zeroed(), pruned)
}

/// Scores masked weights below all others.
fn keep_masked(scores: &mut [f32], mask: &[f32]) {
    for (score, kept) in scores.iter_mut().zip(mask) {
        if *kept == 0.0 {
            *score = PRUNED;
        }
    }
}
