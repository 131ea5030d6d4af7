//! A student that is on grids already, as a checkpoint has it: bit for bit, whatever its container was.

use burn::tensor::{Tensor, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;

use super::Student;
use crate::model::grid::{Grid, Levels, Scaling};
use crate::model::{Schemes, unlike_parts};
use crate::tensors;

/// Scale and zero of a group of weights.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Group {
    scale: f32,
    zero: f32,
}

impl Student {
    /// The student with those of its weights on grids whose values are on them as they stand. What scales their codes is
    /// found again from the values, since containers say it in many ways; a weight of which that fails stays free, and with
    /// it those that engines join it with.
    ///
    /// Nothing is rounded: the model that runs has the weights that this one had.
    #[must_use]
    pub fn carried(mut self, schemes: Schemes) -> Self {
        for (spec, weight) in self.decoder.parameters() {
            let Some(scheme) = schemes.get(&spec.id) else {
                continue;
            };
            if let Some(scaling) = scaling_of(scheme.weight, &weight) {
                self.carried.insert(spec.id, scaling);
                self.schemes.insert(spec.id, *scheme);
            }
        }
        while let Some(unlike) = unlike_parts(&self.schemes, &self.decoder.config) {
            for spec in unlike {
                self.schemes.remove(&spec.id);
                self.carried.remove(&spec.id);
            }
        }
        self
    }

    /// Whether weights are on grids as a checkpoint had them, and all others as they were there.
    pub fn is_carried(&self) -> bool {
        !self.carried.is_empty()
    }
}

/// Scales and zeros with which every value of a weight is one of its grid, bit for bit; `None` if there are none.
fn scaling_of(grid: Grid, weight: &Tensor<2>) -> Option<Scaling<3>> {
    let [rows, columns] = weight.dims();
    if !grid.divides(columns) {
        return None;
    }
    let group_size = grid.group_size.unwrap_or(columns);
    let values = tensors::to_vec(weight);
    let groups: Option<Vec<Group>> = values
        .par_chunks(group_size)
        .map(|values| group_of(grid.levels, values))
        .collect();
    let groups = groups?;
    let shape = [rows, columns / group_size, 1];
    let device = weight.device();
    let tensor = |values: Vec<f32>| Tensor::from_data(TensorData::new(values, shape), &device);
    let zeros = grid.levels.has_zeros();
    Some(Scaling {
        scales: tensor(groups.iter().map(|group| group.scale).collect()),
        zeros: zeros.then(|| tensor(groups.iter().map(|group| group.zero).collect())),
    })
}

/// The scale of a group: the largest magnitude divided by the code that it may have, for each such code. Of those that do,
/// the first that most 16-bit floats hold, so that as many containers as can be have it.
fn group_of(levels: Levels, values: &[f32]) -> Option<Group> {
    if matches!(levels, Levels::Fp8 | Levels::Stretched) {
        return None; // neither is made of neighbouring whole numbers
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole numbers of 8 bits")]
    let limits = levels.limits().map(|limit| limit as f32);
    let [lowest, highest] = limits;
    let largest = values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    if largest == 0.0 {
        let (scale, zero) = (1.0, 0.0);
        return Some(Group { scale, zero });
    }
    let most = if levels.has_zeros() {
        highest - lowest
    } else {
        highest.max(-lowest)
    };
    let mut best: Option<(usize, Group)> = None;
    let mut code = most;
    while code >= 1.0 {
        // With a negative scale, as ggml has them, the lowest code is the largest value.
        for scale in [largest / code, -largest / code] {
            let held = goodness(scale);
            if best.is_some_and(|(most, _)| held <= most) {
                continue;
            }
            if let Some(zero) = zero_of(values, scale, limits, levels.has_zeros()) {
                best = Some((held, Group { scale, zero }));
            }
        }
        code -= 1.0;
    }
    best.map(|(_, group)| group)
}

/// How good a scale is for files: 3 if f16 and bf16 hold it, 2 if f16 does, 1 if bf16 does.
fn goodness(scale: f32) -> usize {
    let is_exact = |stored: f32| usize::from(stored.to_bits() == scale.to_bits());
    2 * is_exact(f16::from_f32(scale).to_f32()) + is_exact(bf16::from_f32(scale).to_f32())
}

/// The code that stands for 0 if all values are whole multiples of a scale, and their codes within limits.
#[expect(clippy::float_cmp, reason = "a value is on the grid, or it is not")]
fn zero_of(
    values: &[f32],
    scale: f32,
    [lowest, highest]: [f32; 2],
    has_zeros: bool,
) -> Option<f32> {
    let (mut least, mut most) = (0.0_f32, 0.0_f32);
    for &value in values {
        let multiple = (value / scale).round();
        (least, most) = (least.min(multiple), most.max(multiple));
        let spread_is_held = if has_zeros {
            most - least <= highest - lowest
        } else {
            least >= lowest && most <= highest
        };
        if multiple * scale != value || !spread_is_held {
            return None;
        }
    }
    Some(if has_zeros {
        (lowest - least).min(highest)
    } else {
        0.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT4: Levels = Levels::Symmetric { bits: 4 };

    fn scaled(codes: &[f32], scale: f32) -> Vec<f32> {
        codes.iter().map(|code| code * scale).collect()
    }

    #[test]
    fn the_scale_of_a_group_is_found_again_whatever_its_codes() {
        let scale = 0.012_329_102; // 101 / 8192: 7 significant bits
        for codes in [
            &[-8.0, 3.0, 7.0, 0.0][..],
            &[1.0, 2.0, -5.0],
            &[-3.0, 0.0],
            &[7.0, -8.0, 1.0],
        ] {
            let values = scaled(codes, scale);
            let group = group_of(INT4, &values).unwrap();
            let back: Vec<f32> = values
                .iter()
                .map(|value| (value / group.scale).round() * group.scale)
                .collect();
            assert_eq!(back, values, "{group:?}");
            assert_eq!(goodness(group.scale), 3, "{group:?}");
        }
        let full = group_of(INT4, &scaled(&[-8.0, 3.0, 7.0], scale)).unwrap();
        assert_eq!(full.scale.to_bits(), scale.to_bits());
    }

    #[test]
    fn a_negative_scale_of_ggml_is_found() {
        // The largest value is positive and has the code -8.
        let values = scaled(&[-8.0, 3.0, 5.0], -0.25);
        let group = group_of(INT4, &values).unwrap();
        assert_eq!((group.scale, group.zero), (-0.25, 0.0));
    }

    #[test]
    fn a_scale_that_f16_alone_holds_is_preferred_to_one_that_neither_does() {
        let scale = 0.012_817_383; // 105 / 8192 + 2^-18: 11 significant bits
        let scale = f16::from_f32(scale * 1.0009).to_f32();
        assert_eq!(goodness(scale), 2);
        for codes in [&[3.0, 0.0, 3.0][..], &[-8.0, 7.0], &[5.0, -5.0]] {
            let group = group_of(INT4, &scaled(codes, scale)).unwrap();
            assert!(goodness(group.scale) >= 2, "{codes:?}: {group:?}");
        }
    }

    #[test]
    fn zeros_are_found_with_the_scale() {
        let levels = Levels::Asymmetric { bits: 4 };
        let values = scaled(&[-2.0, 0.0, 13.0, 5.0], 0.5);
        let group = group_of(levels, &values).unwrap();
        assert_eq!(group.scale.to_bits(), 0.5_f32.to_bits());
        let codes: Vec<f32> = values
            .iter()
            .map(|v| v / group.scale + group.zero)
            .collect();
        assert!(
            codes.iter().all(|code| (-8.0..=7.0).contains(code)),
            "{codes:?}"
        );
        let apart = scaled(&[-8.0, 8.0, 1.0], 0.5);
        assert_eq!(group_of(levels, &apart), None, "17 levels");
    }

    #[test]
    fn what_is_on_no_grid_has_no_scale() {
        assert_eq!(group_of(INT4, &[0.1, 0.234, -0.777]), None);
        assert_eq!(group_of(INT4, &[f32::NAN, 1.0]), None);
        assert_eq!(group_of(INT4, &[f32::INFINITY, 1.0]), None);
        let zeros = group_of(INT4, &[0.0, -0.0]).unwrap();
        assert_eq!((zeros.scale, zeros.zero), (1.0, 0.0));
    }
}
