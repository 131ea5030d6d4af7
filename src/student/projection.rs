//! Pairs of hidden states of student and teacher that a pass compares, and projections to the teacher's width.

use burn::tensor::{Device, Tensor};
use thiserror::Error;

use super::TrainedSpec;
use super::adapter::kaiming_uniform;
use crate::loss::LossWeights;
use crate::model::ParameterKind;
use crate::random::Stream;

/// A matrix that is trained beside the student and discarded after the pass.
#[derive(Debug, Clone)]
pub struct Projection {
    /// Layers of student and teacher whose outputs are compared.
    pub pair: [usize; 2],
    /// The projection, `[D of the teacher, D of the student]`.
    pub matrix: Tensor<2>,
}

/// A layer that a plan compares and a model does not have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("pair {place} of `layers` names layer {layer} of the {whose}, which has {there}")]
pub struct NoSuchLayer {
    /// Place of its pair, counted from 1.
    pub place: usize,
    /// The layer, counted from 0.
    pub layer: usize,
    /// `student` or `teacher`.
    pub whose: &'static str,
    /// Number of layers of that model.
    pub there: usize,
}

/// Pairs of layers that a plan compares in models of these depths, counted from 0.
///
/// If the plan names none, the shallower model's layers are spread evenly over the deeper one, last on last: pair k of
/// `K` compares the first `k/K` of each. This is the uniform map of TinyBERT (Jiao et al. 2020, arXiv 1909.10351).
pub fn layer_pairs(
    losses: &LossWeights,
    student: usize,
    teacher: usize,
) -> Result<Vec<[usize; 2]>, NoSuchLayer> {
    let Some(pairs) = &losses.hidden_layers else {
        let count = student.min(teacher);
        let even = (1..=count).map(|k| [student, teacher].map(|depth| k * depth / count - 1));
        return Ok(even.collect());
    };
    for (place, pair) in (1..).zip(pairs) {
        let sides = [("student", student), ("teacher", teacher)];
        for ((whose, there), &layer) in sides.into_iter().zip(pair) {
            if layer >= there {
                return Err(NoSuchLayer {
                    place,
                    layer,
                    whose,
                    there,
                });
            }
        }
    }
    Ok(pairs.clone())
}

impl Projection {
    /// A projection for each pair, drawn as PyTorch draws a linear layer; none if both models have one width.
    pub fn init(
        pairs: &[[usize; 2]],
        student_size: usize,
        teacher_size: usize,
        seed: u64,
        device: &Device,
    ) -> Vec<Self> {
        if student_size == teacher_size {
            return Vec::new();
        }
        let shape = [teacher_size, student_size];
        let of_pair = |&pair: &[usize; 2]| Self {
            pair,
            matrix: kaiming_uniform(shape, Stream::new(seed, &name(pair)), device),
        };
        pairs.iter().map(of_pair).collect()
    }

    /// The projection as one of the trained matrices.
    pub(super) fn parameter(&self) -> (TrainedSpec, Tensor<2>) {
        let spec = TrainedSpec {
            name: name(self.pair),
            shape: self.matrix.dims(),
            kind: ParameterKind::Linear,
            weight: None,
        };
        (spec, self.matrix.clone())
    }
}

fn name([student, teacher]: [usize; 2]) -> String {
    format!("projection.{student}-{teacher}.weight")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(layers: Option<&[[usize; 2]]>, student: usize, teacher: usize) -> Vec<[usize; 2]> {
        let losses = LossWeights {
            hidden_layers: layers.map(<[_]>::to_vec),
            ..LossWeights::default()
        };
        layer_pairs(&losses, student, teacher).unwrap()
    }

    #[test]
    fn layers_are_spread_evenly_and_the_last_is_on_the_last() {
        assert_eq!(pairs(None, 4, 12), [[0, 2], [1, 5], [2, 8], [3, 11]]);
        assert_eq!(pairs(None, 3, 3), [[0, 0], [1, 1], [2, 2]]);
        assert_eq!(pairs(None, 4, 6), [[0, 0], [1, 2], [2, 3], [3, 5]]);
        assert_eq!(pairs(None, 5, 2), [[1, 0], [4, 1]]);
        assert_eq!(pairs(None, 1, 7), [[0, 6]]);
    }

    #[test]
    fn layers_that_are_named_are_taken_if_they_are_there() {
        let named = [[3, 0], [0, 5]];
        assert_eq!(pairs(Some(&named), 4, 6), named);
        let losses = LossWeights {
            hidden_layers: Some(named.to_vec()),
            ..LossWeights::default()
        };
        let told = |student, teacher| {
            let error = layer_pairs(&losses, student, teacher).unwrap_err();
            error.to_string()
        };
        let student = "pair 1 of `layers` names layer 3 of the student, which has 3";
        assert_eq!(told(3, 6), student);
        let teacher = "pair 2 of `layers` names layer 5 of the teacher, which has 5";
        assert_eq!(told(4, 5), teacher);
    }

    #[test]
    fn a_projection_has_the_shape_of_its_widths_and_the_draws_of_its_seed() {
        let device = Device::flex();
        let init = |pairs, seed| Projection::init(pairs, 4, 6, seed, &device);
        assert!(Projection::init(&[[0, 0]], 4, 4, 1, &device).is_empty());
        let both = init(&[[0, 0], [1, 2]], 1);
        let (spec, matrix) = both[1].parameter();
        assert_eq!(spec.name, "projection.1-2.weight");
        assert_eq!((spec.shape, matrix.dims()), ([6, 4], [6, 4]));
        let values = |projection: &Projection| crate::tensors::to_vec(&projection.matrix);
        assert!(values(&both[0]).iter().all(|value| value.abs() <= 0.5));
        assert_ne!(values(&both[0]), values(&both[1]));
        assert_eq!(values(&both[1]), values(&init(&[[1, 2]], 1)[0]));
        assert_ne!(values(&both[1]), values(&init(&[[1, 2]], 2)[0]));
    }
}
