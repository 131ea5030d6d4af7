//! Scores of weights: how useful each one is.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use crate::calibration::{Calibration, Interrupted};
use crate::model::Site;
use crate::student::Student;

/// Score of a weight that is already masked, below any other.
pub(crate) const PRUNED: f32 = -1.0;

/// Sums over positions by layer and site, with one entry per input feature.
pub type SiteSums = BTreeMap<(usize, Site), Vec<f64>>;

/// Sum of squares of every input feature over the calibration text, by the student's own layers, over all their runs.
pub fn input_squares(
    student: &Student,
    calibration: &Calibration<'_>,
) -> Result<SiteSums, Interrupted> {
    let mut sums = SiteSums::new();
    let mut observer = |layer: usize, site: Site, activations: &Tensor<3>| {
        if !site.enters_block_layers() {
            return;
        }
        let squares = activations
            .clone()
            .square()
            .sum_dims_squeeze::<1, usize>(&[0, 1]); // [inputs]
        let squares = squares
            .try_into_vec_as::<f32>()
            .expect("activations are f32");
        let totals = sums
            .entry((layer / student.layer_repeats, site))
            .or_insert_with(|| vec![0.0; squares.len()]);
        totals
            .iter_mut()
            .zip(squares)
            .for_each(|(total, square)| *total += f64::from(square));
    };
    calibration.run(&student.effective(), &mut observer)?;
    Ok(sums)
}

/// Wanda: |w_ij| · ‖x_j‖₂, the norm over calibration positions (Sun, Liu, Bair & Kolter 2023,
/// <https://arxiv.org/abs/2306.11695>, equation 1).
#[expect(clippy::cast_possible_truncation, reason = "scores are only compared")]
pub(crate) fn scale_by_inputs(scores: &mut [f32], squares: &[f64]) {
    let norms: Vec<f32> = squares.iter().map(|square| square.sqrt() as f32).collect();
    for row in scores.chunks_mut(norms.len()) {
        row.iter_mut()
            .zip(&norms)
            .for_each(|(score, norm)| *score *= norm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanda_weighs_a_weight_by_the_norm_of_its_input() {
        let mut scores = vec![1.0, 1.0, 7.0, 2.0, 0.5, 1.0];
        scale_by_inputs(&mut scores, &[4.0, 9.0, 0.0]);
        assert_eq!(scores, [2.0, 3.0, 0.0, 4.0, 1.5, 0.0]);
    }
}
