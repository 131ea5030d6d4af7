//! A quantised weight as files store it: codes, and the scaling that turns them into values.

use burn::tensor::Tensor;

use crate::kernels::grid::{Grid, Quantized};

/// A weight on its grid: `(code − zero) · scale`, or `(code + 2^(bits−1)) · scale + bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct OnGrid {
    /// Row-major `[out, in]`; levels of the grid.
    pub codes: Vec<f32>,
    /// Scaling that turns them into values.
    pub scaling: GroupScaling,
}

/// Numbers that turn the codes of each group into values.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupScaling {
    /// Row-major `[out, G]`.
    pub scales: Vec<f32>,
    /// Codes of the value 0, row-major `[out, G]`, if the grid has zeros; levels of the grid.
    pub zeros: Option<Vec<f32>>,
    /// Values of the lowest codes, row-major `[out, G]`, if the grid has biases.
    pub biases: Option<Vec<f32>>,
}

impl From<&Quantized> for OnGrid {
    fn from(weight: &Quantized) -> Self {
        let read = |tensor: &Tensor<3>| {
            tensor
                .try_to_vec_as::<f32>()
                .expect("codes and scales are f32")
        };
        Self::new(
            read(&weight.codes),
            read(&weight.scaling.scales),
            weight.scaling.zeros.as_ref().map(read),
        )
    }
}

impl OnGrid {
    /// Codes of a grid without biases.
    pub fn new(codes: Vec<f32>, scales: Vec<f32>, zeros: Option<Vec<f32>>) -> Self {
        let scaling = GroupScaling {
            zeros,
            ..GroupScaling::around_0(scales)
        };
        Self { codes, scaling }
    }

    /// Its values, row-major `[out, in]`. The only rounding is that of the product, and with a bias that of the sum.
    ///
    /// `group_len` codes of a row share a scale.
    pub fn into_values(self, grid: Grid, group_len: usize) -> Vec<f32> {
        let Self { mut codes, scaling } = self;
        let lowest = lowest_code(grid);
        for (group_idx, codes) in codes.chunks_mut(group_len).enumerate() {
            let group = scaling.group(group_idx);
            for code in codes {
                *code = group.value(*code, lowest);
            }
        }
        codes
    }

    /// Its values, row-major `[out, in]`, if the columns of a group are not neighbours: `groups` has the group of each
    /// column, and the groups have no biases.
    pub fn into_values_of_groups(self, groups: &[usize]) -> Vec<f32> {
        let Self { mut codes, scaling } = self;
        let num_rows = codes.len() / groups.len().max(1);
        let num_groups = scaling.scales.len() / num_rows.max(1);
        for (row_idx, row) in codes.chunks_mut(groups.len().max(1)).enumerate() {
            for (code, group) in row.iter_mut().zip(groups) {
                *code = scaling
                    .group(row_idx * num_groups + group)
                    .value(*code, 0.0);
            }
        }
        codes
    }

    /// Some rows of a weight of shape `[num_rows, columns]`.
    #[must_use]
    pub fn rows(self, rows: std::ops::Range<usize>, [num_rows, columns]: [usize; 2]) -> Self {
        let part = |numbers: Vec<f32>, row_len: usize| {
            let start = rows.start * row_len;
            let end = rows.end * row_len;
            numbers.into_iter().take(end).skip(start).collect()
        };
        let GroupScaling {
            scales,
            zeros,
            biases,
        } = self.scaling;
        let num_groups = scales.len() / num_rows.max(1);
        Self {
            codes: part(self.codes, columns),
            scaling: GroupScaling {
                scales: part(scales, num_groups),
                zeros: zeros.map(|zeros| part(zeros, num_groups)),
                biases: biases.map(|biases| part(biases, num_groups)),
            },
        }
    }

    /// Weights of one scheme, stacked row under row as one matrix; `None` without weights.
    pub fn stacked(parts: impl IntoIterator<Item = Self>) -> Option<Self> {
        let extend = |all: &mut Option<Vec<f32>>, next: Option<Vec<f32>>| {
            if let (Some(all), Some(next)) = (all, next) {
                all.extend(next);
            }
        };
        parts.into_iter().reduce(|mut stacked, next| {
            stacked.codes.extend(next.codes);
            stacked.scaling.scales.extend(next.scaling.scales);
            extend(&mut stacked.scaling.zeros, next.scaling.zeros);
            extend(&mut stacked.scaling.biases, next.scaling.biases);
            stacked
        })
    }
}

impl GroupScaling {
    /// Scales of a grid around 0.
    pub fn around_0(scales: Vec<f32>) -> Self {
        Self {
            scales,
            zeros: None,
            biases: None,
        }
    }

    /// Codes from which [`OnGrid::into_values`] gives these values, bit for bit; `None` if a value is not on the grid.
    #[expect(clippy::float_cmp, reason = "a value is on the grid, or it is not")]
    pub fn codes_of(&self, mut values: Vec<f32>, grid: Grid, group_len: usize) -> Option<OnGrid> {
        let lowest = lowest_code(grid);
        for (group_idx, values) in values.chunks_mut(group_len).enumerate() {
            let group = self.group(group_idx);
            for value in values {
                let code = group.code(*value, grid, lowest);
                if group.value(code, lowest) != *value {
                    return None;
                }
                *value = code;
            }
        }
        Some(OnGrid {
            codes: values,
            scaling: self.clone(),
        })
    }

    fn group(&self, idx: usize) -> GroupNumbers {
        let at = |numbers: &Option<Vec<f32>>| numbers.as_ref()?.get(idx).copied();
        GroupNumbers {
            scale: self.scales.get(idx).copied().unwrap_or_default(), // shapes were checked
            zero: at(&self.zeros).unwrap_or_default(),
            bias: at(&self.biases),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a level of 8 bits")]
fn lowest_code(grid: Grid) -> f32 {
    let [lowest, _] = grid.levels.limits();
    lowest as f32
}

/// Numbers of one group.
#[derive(Debug, Clone, Copy)]
struct GroupNumbers {
    scale: f32,
    zero: f32,
    bias: Option<f32>,
}

impl GroupNumbers {
    fn value(self, code: f32, lowest: f32) -> f32 {
        match self.bias {
            None => (code - self.zero) * self.scale,
            Some(bias) => (code - lowest) * self.scale + bias,
        }
    }

    /// The code whose value is nearest.
    fn code(self, value: f32, grid: Grid, lowest: f32) -> f32 {
        if self.scale == 0.0 {
            return self.zero; // all codes have one value
        }
        let quotient = match self.bias {
            None => value / self.scale,
            Some(bias) => (value - bias) / self.scale + lowest,
        };
        let code = grid.levels.nearest_code(quotient, self.zero);
        if code == 0.0 {
            code.copysign(quotient) // floats of 8 bits have a 0 of either sign
        } else {
            code
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(scaling: &GroupScaling, grid: Grid, codes: &[f32]) {
        let weight = OnGrid {
            codes: codes.to_vec(),
            scaling: scaling.clone(),
        };
        let values = weight
            .clone()
            .into_values(grid, codes.len() / scaling.scales.len());
        let group_len = codes.len() / scaling.scales.len();
        assert_eq!(scaling.codes_of(values, grid, group_len), Some(weight));
    }

    #[test]
    fn codes_are_found_again_from_their_values() {
        let codes: Vec<f32> = (-8_i8..8).map(f32::from).collect();
        // ggml has negative scales.
        let scales = GroupScaling::around_0(vec![0.012_329_102, -0.25]);
        back(&scales, Grid::symmetric(4, Some(8)), &codes);
        let zeros = GroupScaling {
            zeros: Some(vec![-8.0, 3.0]),
            ..scales.clone()
        };
        back(&zeros, Grid::asymmetric(4, Some(8)), &codes);
        let biases = GroupScaling {
            biases: Some(vec![0.123_456_7, -3.0]),
            ..scales
        };
        back(&biases, Grid::affine(4, Some(8)), &codes);
        let floats = [-448.0, -0.0625, 0.0, 0.001_953_125, 1.125, 448.0];
        back(
            &GroupScaling::around_0(vec![0.003]),
            Grid::fp8(None),
            &floats,
        );
    }

    #[test]
    fn values_of_no_code_have_none() {
        let scales = GroupScaling::around_0(vec![0.5]);
        let grid = Grid::symmetric(4, None);
        assert_eq!(scales.codes_of(vec![0.25], grid, 1), None);
        assert_eq!(
            scales.codes_of(vec![4.0], grid, 1),
            None,
            "beyond the levels"
        );
        assert_eq!(scales.codes_of(vec![f32::NAN], grid, 1), None);
    }

    #[test]
    fn rows_and_stacks_are_each_others_undoing() {
        let whole = OnGrid {
            codes: (0_u8..12).map(f32::from).collect(),
            scaling: GroupScaling {
                scales: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
                zeros: Some(vec![6.0, 5.0, 4.0, 3.0, 2.0, 1.0]),
                biases: None,
            },
        };
        let parts = [0..1, 1..3].map(|rows| whole.clone().rows(rows, [3, 4]));
        assert_eq!(parts[1].scaling.scales, [3.0, 4.0, 5.0, 6.0]);
        assert_eq!(OnGrid::stacked(parts), Some(whole));
    }
}
