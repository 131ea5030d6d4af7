//! What flows into the linear layers, measured over training text.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::PassError;
use crate::calibration::Calibration;
use crate::model::Site;
use crate::student::Student;
use crate::train::fit::FitContext;

/// Sums over positions, by layer and site; one entry per input feature.
pub type SiteSums = BTreeMap<(usize, Site), Vec<f64>>;

/// Sum of squares of every input feature over the first `num_tokens` training positions (at least one row), by the
/// student's own layers: over all runs of one.
///
/// Padded rows are left out, unless there is no other.
pub fn input_squares(
    student: &Student,
    num_tokens: usize,
    context: &FitContext<'_>,
) -> Result<SiteSums, PassError> {
    let calibration = Calibration {
        rows: context.rows,
        num_tokens,
        label: context.label,
        stop: context.stop,
    };
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
