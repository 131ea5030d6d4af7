//! Quantisation grids: the only place where a number is rounded.
//!
//! Training against a grid and packing for export both use [`Grid::quantize`], so the exported weights are the trained
//! ones, bit for bit.

mod halves;
mod scalar;

use std::fmt;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

pub use self::halves::round_to_bf16;
use self::halves::{SMALLEST_SCALE, round_to_fp8, round_to_halves};

/// Numbers that a code may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Levels {
    /// Whole numbers from −2^(bits−1) to 2^(bits−1) − 1; code 0 means 0.
    Symmetric {
        /// 2 to 8.
        bits: u32,
    },
    /// The same numbers; the code of 0 is chosen with the scale, so that both ends of the range are used.
    Asymmetric {
        /// 2 to 8.
        bits: u32,
    },
    /// The same numbers; the lowest of them means a bias of the group, which need not be a multiple of the scale. Files
    /// have such grids, no pass makes them.
    Affine {
        /// 2 to 8.
        bits: u32,
    },
    /// Floats of 8 bits, 4 of them exponent and 3 mantissa: from −448 to 448 without infinities (E4M3; Micikevicius et
    /// al. 2022, <https://arxiv.org/abs/2209.05433>).
    Fp8,
    /// −1, 0 and 1, spread over the range like [`Levels::Stretched`].
    Ternary,
    /// −3, −1, 1 and 3: two bits whose levels are the middles of four equal parts of the range, none of them 0 (the
    /// stretched elastic quantisation of ParetoQ; Liu et al. 2025, <https://arxiv.org/abs/2502.02631>, section 3.2).
    Stretched,
}

/// Share of the range within which stretched levels follow a weight.
const FOLLOWED: f64 = 0.99;

/// The values that a weight may take: levels, times one scale for neighbouring weights of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grid {
    /// Levels, before scaling.
    pub levels: Levels,
    /// Neighbouring weights of a row that share a scale; `None` means one scale per row.
    pub group_size: Option<usize>,
}

/// Numbers that turn codes into values: `(code − zero) · scale`.
///
/// # Shapes
///
/// The same as the codes, but 1 along the last dimension.
#[derive(Debug, Clone)]
pub struct Scaling<const D: usize> {
    /// Positive.
    pub scales: Tensor<D>,
    /// Codes of the value 0; `None` if all are 0.
    pub zeros: Option<Tensor<D>>,
}

/// A weight on a grid.
///
/// # Shapes
///
/// `codes` is `[R, G, C/G]`, scales and zeros are `[R, G, 1]`, for a weight of R rows and C columns in G groups.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// Levels.
    pub codes: Tensor<3>,
    /// Scale and zero of each group.
    pub scaling: Scaling<3>,
}

impl Levels {
    /// Bits of a code in a file, where whole numbers are in two's complement.
    pub fn bits(self) -> u32 {
        match self {
            Self::Symmetric { bits } | Self::Asymmetric { bits } | Self::Affine { bits } => bits,
            Self::Fp8 => 8,
            Self::Ternary => 2,
            Self::Stretched => 3,
        }
    }

    /// True if a group has a zero beside its scale.
    pub fn has_zeros(self) -> bool {
        matches!(self, Self::Asymmetric { .. })
    }

    /// The lowest and the highest code.
    pub fn limits(self) -> [f64; 2] {
        match self {
            Self::Symmetric { bits } | Self::Asymmetric { bits } | Self::Affine { bits } => {
                let limit = f64::from(1_u32 << (bits - 1));
                [-limit, limit - 1.0]
            }
            Self::Fp8 => [-448.0, 448.0],
            Self::Ternary => [-1.0, 1.0],
            Self::Stretched => [-3.0, 3.0],
        }
    }

    /// Limits of the quotient of number and scale between which a level follows the number; beyond, it stays constant.
    pub fn followed(self) -> [f64; 2] {
        match self {
            Self::Symmetric { .. } | Self::Asymmetric { .. } | Self::Affine { .. } | Self::Fp8 => {
                self.limits()
            }
            Self::Ternary | Self::Stretched => {
                let end = FOLLOWED * self.reach();
                [-end, end]
            }
        }
    }

    /// Quotient of the largest magnitude if the scale fits: both ends of the range lose at most half a step. For whole
    /// numbers it is the rule of the reference quantiser of compressed-tensors.
    fn reach(self) -> f64 {
        match self {
            Self::Symmetric { .. } | Self::Asymmetric { .. } | Self::Affine { .. } | Self::Fp8 => {
                let [lowest, highest] = self.limits();
                (highest - lowest) / 2.0
            }
            Self::Ternary => 1.5,
            Self::Stretched => 4.0,
        }
    }

    /// The levels nearest to the numbers, for a given scaling; of two equally near ones, the even one.
    ///
    /// A single column, `[R, 1]`, can also be rounded with the scaling of its group.
    pub fn round<const D: usize>(self, numbers: Tensor<D>, scaling: &Scaling<D>) -> Tensor<D> {
        let [lowest, highest] = self.limits();
        let [least, most] = self.followed();
        let quotients = numbers / scaling.scales.clone();
        match (self, &scaling.zeros) {
            (Self::Fp8, _) => round_to_fp8(quotients.clamp(lowest, highest)),
            (Self::Stretched, _) => {
                let halves = quotients.clamp(least, most).div_scalar(2.0);
                let pairs = halves.sub_scalar(0.5).round(); // -2 to 1
                pairs.mul_scalar(2.0).add_scalar(1.0)
            }
            (_, Some(zeros)) => (quotients + zeros.clone()).round().clamp(lowest, highest),
            (_, None) => quotients.round().clamp(lowest, highest),
        }
    }

    /// Rounds the input of a projection, each position with its own scale, as engines do while a model runs ("dynamic,
    /// per token"). The scale is not rounded, and the slope passes straight through.
    ///
    /// # Shapes
    ///
    /// `x` is `[B, T, D]`, as is the result.
    pub fn round_positions(self, x: Tensor<3>) -> Tensor<3> {
        let free = x.clone().detach();
        let scaling = self.fit(&free, |scales| scales);
        let rounded = scaling.values(self.round(free.clone(), &scaling));
        // The error is at most half of a level other than 0, so both differences are exact (Sterbenz): the result is
        // `rounded`, bit for bit, with and without a tape.
        x - (free - rounded)
    }

    /// Scale and zero with which the levels cover all numbers of the last dimension; `kept` changes a scale before it
    /// is used.
    fn fit<const D: usize>(
        self,
        numbers: &Tensor<D>,
        kept: impl Fn(Tensor<D>) -> Tensor<D>,
    ) -> Scaling<D> {
        let scale_of = |steps: Tensor<D>| {
            let scales = kept(steps);
            let is_zero = scales.clone().equal_scalar(0.0);
            scales.mask_fill(is_zero, 1.0)
        };
        if !self.has_zeros() {
            let largest = numbers.clone().abs().max_dim(D - 1);
            let scales = scale_of(largest.div_scalar(self.reach()));
            return Scaling {
                scales,
                zeros: None,
            };
        }
        let [lowest, highest] = self.limits();
        // 0 is among the levels for any numbers, so masks hold.
        let least = numbers.clone().min_dim(D - 1).clamp_max(0.0);
        let most = numbers.clone().max_dim(D - 1).clamp_min(0.0);
        let scales = scale_of((most - least.clone()).div_scalar(highest - lowest));
        let zeros = (least / scales.clone()).neg().add_scalar(lowest);
        Scaling {
            scales,
            zeros: Some(zeros.round().clamp(lowest, highest)),
        }
    }
}

impl Grid {
    /// Whole numbers of this width around 0.
    pub const fn symmetric(bits: u32, group_size: Option<usize>) -> Self {
        Self {
            levels: Levels::Symmetric { bits },
            group_size,
        }
    }

    /// Whole numbers of this width around a zero of each group.
    pub const fn asymmetric(bits: u32, group_size: Option<usize>) -> Self {
        Self {
            levels: Levels::Asymmetric { bits },
            group_size,
        }
    }

    /// Whole numbers of this width, the lowest of which is a bias of each group.
    pub const fn affine(bits: u32, group_size: Option<usize>) -> Self {
        Self {
            levels: Levels::Affine { bits },
            group_size,
        }
    }

    /// Floats of 8 bits.
    pub const fn fp8(group_size: Option<usize>) -> Self {
        Self {
            levels: Levels::Fp8,
            group_size,
        }
    }

    /// True if rows of this many columns divide into whole groups.
    pub fn divides(&self, columns: usize) -> bool {
        self.group_size
            .is_none_or(|group_size| group_size > 0 && columns.is_multiple_of(group_size))
    }

    /// Scale and zero of each group of a weight, for [`Grid::round`].
    ///
    /// Before it is used, a scale is rounded to a number that both bf16 and f16 hold, because files hold such numbers:
    /// one grid then fits every container. It is positive, and 1 if all weights of the group are zero, or too small for
    /// a scale.
    ///
    /// # Shapes
    ///
    /// `weight` is `[R, C]`.
    ///
    /// # Panics
    ///
    /// If the groups do not divide the columns ([`Grid::divides`]).
    pub fn scaling(&self, weight: Tensor<2>) -> Scaling<3> {
        self.levels.fit(&self.grouped(weight), round_to_halves)
    }

    /// Scaling around 0 with these scales, rounded before they are used, as in [`Grid::scaling`].
    ///
    /// # Shapes
    ///
    /// `scales` is `[R, G]`; the returned scales are `[R, G, 1]`.
    pub fn kept(scales: Tensor<2>) -> Scaling<3> {
        let scales = round_to_halves(scales.clamp_min(SMALLEST_SCALE));
        Scaling {
            scales: scales.unsqueeze_dim(2),
            zeros: None,
        }
    }

    /// Rounds a weight, given scale and zero of each group.
    ///
    /// # Shapes
    ///
    /// `weight` is `[R, C]`, `scaling` is `[R, G, 1]`.
    ///
    /// # Panics
    ///
    /// If the groups do not divide the columns ([`Grid::divides`]).
    pub fn round(&self, weight: Tensor<2>, scaling: Scaling<3>) -> Quantized {
        Quantized {
            codes: self.levels.round(self.grouped(weight), &scaling),
            scaling,
        }
    }

    /// Rounds a weight to the grid, each group with the scale and zero that fit it.
    ///
    /// # Shapes
    ///
    /// `weight` is `[R, C]`.
    ///
    /// # Panics
    ///
    /// If the groups do not divide the columns ([`Grid::divides`]).
    pub fn quantize(&self, weight: Tensor<2>) -> Quantized {
        self.round(weight.clone(), self.scaling(weight))
    }

    /// The nearest weight on the grid, given scale and zero of each group.
    ///
    /// # Shapes
    ///
    /// `weight` is `[R, C]`, as is the result; `scaling` is `[R, G, 1]`.
    pub fn nearest(&self, weight: Tensor<2>, scaling: Scaling<3>) -> Tensor<2> {
        let shape = weight.dims();
        let Quantized { codes, scaling } = self.round(weight, scaling);
        scaling.values(codes).reshape(shape)
    }

    /// The nearest weight on the grid: the values that the exported file decodes to.
    ///
    /// # Shapes
    ///
    /// `[R, C]`, as is the result.
    pub fn fake_quantize(&self, weight: Tensor<2>) -> Tensor<2> {
        self.nearest(weight.clone(), self.scaling(weight))
    }

    /// Slopes of a weight and of the scales of its groups, given the slope of the weight on the grid (learned step
    /// sizes; Esser et al. 2020, <https://arxiv.org/abs/1902.08153>, equations 1 to 3):
    ///
    /// ```text
    /// ŵ = code · s         dŵ/dw = [followed]         dŵ/ds = code − w/s · [followed]
    /// ```
    ///
    /// where `[followed]` is 1 for quotients inside [`Levels::followed`], else 0. Checked against PyTorch:
    /// `tests/golden/learned_scales.json`.
    ///
    /// # Shapes
    ///
    /// `weight` and `slope` are `[R, C]`, `scaling` is `[R, G, 1]`; returns `[R, C]` and `[R, G]`.
    pub fn slopes(
        &self,
        weight: Tensor<2>,
        scaling: &Scaling<3>,
        slope: Tensor<2>,
    ) -> (Tensor<2>, Tensor<2>) {
        let shape = weight.dims();
        let (weight, slope) = (self.grouped(weight), self.grouped(slope)); // [R, G, C/G]
        let codes = self.levels.round(weight.clone(), scaling);
        let quotients = weight / scaling.scales.clone();
        let [least, most] = self.levels.followed();
        let beyond = quotients
            .clone()
            .lower_scalar(least)
            .bool_or(quotients.clone().greater_scalar(most));
        let of_weight = slope.clone().mask_fill(beyond.clone(), 0.0);
        let of_scale = slope * (codes - quotients.mask_fill(beyond, 0.0));
        (
            of_weight.reshape(shape),
            of_scale.sum_dim(2).squeeze_dim(2), // [R, G]
        )
    }

    /// Bits stored for a weight of this shape: codes, 16-bit scales, and zeros as wide as a code.
    pub fn stored_bits(&self, [rows, columns]: [usize; 2]) -> u64 {
        let groups = self.group_size.map_or(1, |group_size| columns / group_size);
        let bits = u64::from(self.levels.bits());
        let zero_bits = match self.levels {
            Levels::Asymmetric { bits } => u64::from(bits),
            Levels::Affine { .. } => 16,
            _ => 0,
        };
        (rows * columns) as u64 * bits + (rows * groups) as u64 * (16 + zero_bits)
    }

    fn grouped(&self, weight: Tensor<2>) -> Tensor<3> {
        let [rows, columns] = weight.dims();
        assert!(
            self.divides(columns),
            "groups of {:?} in {columns} columns",
            self.group_size
        );
        let group_size = self.group_size.unwrap_or(columns);
        weight.reshape([rows, columns / group_size, group_size]) // [R, G, C/G]
    }
}

impl<const D: usize> Scaling<D> {
    /// Values of codes.
    pub fn values(&self, codes: Tensor<D>) -> Tensor<D> {
        let codes = match &self.zeros {
            Some(zeros) => codes - zeros.clone(),
            None => codes,
        };
        codes * self.scales.clone()
    }
}

/// Examples: `int4`, `int4 asymmetric`, `fp8`; other levels have alambic's own names.
impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symmetric { bits } => write!(f, "int{bits}"),
            Self::Asymmetric { bits } => write!(f, "int{bits} asymmetric"),
            Self::Affine { bits } => write!(f, "int{bits} with biases"),
            Self::Fp8 => f.write_str("fp8"),
            Self::Ternary => f.write_str("ternary"),
            Self::Stretched => f.write_str("stretched"),
        }
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group_size {
            None => write!(f, "{}, one scale per row", self.levels),
            Some(size) => write!(f, "{}, groups of {size}", self.levels),
        }
    }
}

#[cfg(test)]
mod tests;
