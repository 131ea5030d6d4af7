//! The distance of a student's hidden states to its teacher's.

use burn::tensor::Tensor;

use super::counted::{at_their_places, counted_rows};

/// A squared distance and its gradients.
pub struct HiddenGradients {
    /// Squared distance of each counted position, `[P, 1]`; one 0 if there is none.
    pub distances: Tensor<2>,
    /// d sum / d hidden states of the student, `[P, D]`; zeros where a position does not count.
    pub student: Tensor<2>,
    /// d sum / d projection, shaped like it.
    pub projection: Option<Tensor<2>>,
}

impl HiddenGradients {
    /// Sum over the counted positions, read from the device.
    pub fn sum(&self) -> f64 {
        let distances = self.distances.try_to_vec_as::<f32>();
        let distances = distances.expect("hidden states are f32");
        distances.into_iter().map(f64::from).sum()
    }
}

/// The mean over the teacher's `D'` dimensions of the squared difference, summed over the counted positions:
///
/// ```text
/// Σₚ ‖W sₚ − tₚ‖² / D'        W: the projection; the identity if there is none
/// ```
///
/// This is the loss of hidden states of TinyBERT (Jiao et al. 2020, <https://arxiv.org/abs/1909.10351>, section 3.1).
/// The caller takes the mean: it divides by the number counted in the whole step. Checked against PyTorch:
/// `tests/golden/hidden_mse.json`.
///
/// # Shapes
///
/// - `student`: `[P, D]`, `teacher`: `[P, D']`, both without autodiff
/// - `projection`: `[D', D]`; none if `D = D'`
/// - `is_counted`: `P` entries
pub fn hidden_gradients(
    student: &Tensor<2>,
    teacher: &Tensor<2>,
    projection: Option<&Tensor<2>>,
    is_counted: &[bool],
) -> HiddenGradients {
    if !is_counted.contains(&true) {
        return HiddenGradients {
            distances: Tensor::zeros([1, 1], &student.device()),
            student: student.zeros_like(),
            projection: projection.map(Tensor::zeros_like),
        };
    }
    let [_, width] = teacher.dims();
    let own = counted_rows(student, is_counted);
    let seen = match projection {
        Some(projection) => own.clone().matmul(projection.clone().transpose()),
        None => own.clone(),
    };
    let difference = seen - counted_rows(teacher, is_counted); // [P, D']
    let distances = difference.clone().square().mean_dim(1); // [P, 1]
    let slope = difference.mul_scalar(2.0 / width as f64);
    let (student, projection) = match projection {
        Some(projection) => (
            slope.clone().matmul(projection.clone()),
            Some(slope.transpose().matmul(own)),
        ),
        None => (slope, None),
    };
    HiddenGradients {
        distances,
        student: at_their_places(student, is_counted),
        projection,
    }
}
