//! Scales and zeros that do not follow the weights: trained with them (learned step sizes), or chosen before.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::{Student, TrainedSpec};
use crate::kernels::grid::{Grid, Levels, Quantized, Scaling};
use crate::model::{ParameterKind, ParameterSpec, Scheme, WeightId};

/// Scales of the groups of one weight, whatever the weight becomes: the first scales, their factor since then, and the
/// zeros.
///
/// If anything is trained, it is the factor: AdamW moves every number by about the learning rate, which would be far
/// too much for a scale of a hundredth.
///
/// # Shapes
///
/// `[R, G]` each.
#[derive(Debug, Clone)]
pub struct FixedScales {
    first: Tensor<2>,
    factor: Tensor<2>,
    zeros: Option<Tensor<2>>,
}

impl FixedScales {
    /// Scales at the start or at the end of training, and the zeros of a grid that has them.
    pub fn new(scales: Tensor<2>, zeros: Option<Tensor<2>>) -> Self {
        Self {
            factor: scales.ones_like(),
            first: scales,
            zeros,
        }
    }

    /// Current scales, before they are rounded to the precision of files.
    pub fn scales(&self) -> Tensor<2> {
        self.first.clone() * self.factor.clone()
    }

    /// Codes that mean 0; `None` if all are 0.
    pub fn zeros(&self) -> Option<&Tensor<2>> {
        self.zeros.as_ref()
    }

    /// Named matrices, as a file holds them.
    pub fn named(&self, weight: &str) -> Vec<(String, Tensor<2>)> {
        let mut named = vec![(scale_name(weight), self.scales())];
        named.extend(self.zeros.clone().map(|zeros| (zero_name(weight), zeros)));
        named
    }

    /// Takes the matrices of [`FixedScales::named`] out of those of a file, if they are there.
    pub fn take(weight: &str, matrices: &mut BTreeMap<String, Tensor<2>>) -> Option<Self> {
        let zeros = matrices.remove(&zero_name(weight));
        let scales = matrices.remove(&scale_name(weight))?;
        Some(Self::new(scales, zeros))
    }

    /// True if there is a scale for each group of a weight of this shape, and a zero where the grid has them.
    pub fn fits(&self, grid: &Grid, [rows, columns]: [usize; 2]) -> bool {
        let groups = grid.group_size.map_or(1, |size| columns / size.max(1));
        let is_whole = |matrix: &Tensor<2>| matrix.dims() == [rows, groups];
        let has_zeros = self.zeros.is_some();
        is_whole(&self.first)
            && self.zeros.as_ref().is_none_or(is_whole)
            && has_zeros == grid.levels.has_zeros()
    }

    /// Scales at the start of training.
    pub fn first(&self) -> Tensor<2> {
        self.first.clone()
    }

    fn scaling(&self) -> Scaling<3> {
        let zeros = self.zeros.clone().map(|zeros| zeros.unsqueeze_dim(2)); // [R, G, 1]
        Scaling {
            zeros,
            ..Grid::kept(self.scales())
        }
    }

    fn with_factor(&self, factor: Tensor<2>) -> Self {
        Self {
            factor,
            ..self.clone()
        }
    }
}

impl From<Scaling<3>> for FixedScales {
    fn from(scaling: Scaling<3>) -> Self {
        let zeros = scaling.zeros.map(|zeros| zeros.squeeze_dim(2)); // [R, G]
        Self::new(scaling.scales.squeeze_dim(2), zeros)
    }
}

impl Student {
    /// Starts to train scales beside the weights, on grids of whole numbers around 0. They begin with the scales that
    /// fit the weights.
    pub fn learn_scales(&mut self) {
        for (spec, weight) in self.decoder.parameters() {
            let Some(grid) = self.schemes.get(&spec.id).map(|scheme| scheme.weight) else {
                continue;
            };
            if matches!(grid.levels, Levels::Asymmetric { .. } | Levels::Fp8) {
                continue;
            }
            let fitted = grid.scaling(self.masked(spec.id, weight)).scales; // [R, G, 1]
            let learned = FixedScales::new(fitted.squeeze_dim(2), None);
            self.scales.insert(spec.id, learned);
        }
    }

    /// Replaces the first scales of learned ones, but not their factors; others stay as they are.
    pub fn begin_scales(&mut self, first: &BTreeMap<WeightId, Tensor<2>>) {
        for (id, learned) in &mut self.scales {
            if let Some(first) = first.get(id) {
                learned.first = first.clone();
            }
        }
    }

    /// Puts a masked weight on the grid of its scheme, as training uses it and exports store it.
    pub fn quantize(&self, spec: &ParameterSpec, scheme: Scheme, weight: Tensor<2>) -> Quantized {
        match self.scales.get(&spec.id) {
            Some(kept) => scheme.weight.round(weight, kept.scaling()),
            None => scheme.weight.quantize(weight),
        }
    }

    /// Factors of learned scales, which are trained.
    pub(super) fn factors(&self) -> impl Iterator<Item = (TrainedSpec, Tensor<2>)> {
        let family = self.decoder.config.family();
        self.scales.iter().map(|(&id, learned)| {
            let factor = learned.factor.clone();
            let spec = TrainedSpec {
                name: scale_name(&family.name_of(id)),
                shape: factor.dims(),
                kind: ParameterKind::Scale,
                weight: None,
            };
            (spec, factor)
        })
    }

    /// Replaces the factors, in the order of [`Student::factors`].
    pub(super) fn take_factors(&mut self, mut next: impl FnMut() -> Tensor<2>) {
        for learned in self.scales.values_mut() {
            *learned = learned.with_factor(next());
        }
    }

    /// Gradients of factors, from those of the weights on their grids, which become gradients of the free weights.
    pub(super) fn pull_back_scales(
        &self,
        gradients: &mut [(&ParameterSpec, Tensor<2>)],
    ) -> Vec<Tensor<2>> {
        if self.scales.is_empty() {
            return Vec::new();
        }
        let free = self.decoder.parameters();
        let mut of_factors = BTreeMap::new();
        for ((spec, weight), (_, gradient)) in free.into_iter().zip(gradients) {
            let Some(learned) = self.scales.get(&spec.id) else {
                continue;
            };
            let Some(scheme) = self.schemes.get(&spec.id) else {
                of_factors.insert(spec.id, learned.factor.zeros_like());
                continue; // its grid is not in force yet
            };
            let grid = scheme.weight;
            let weight = self.masked(spec.id, weight);
            let (of_weight, of_scale) = grid.slopes(weight, &learned.scaling(), gradient.clone());
            *gradient = of_weight;
            // The summed slope of all weights of a group would drown that of any one of them.
            let group_size = grid.group_size.unwrap_or(spec.shape[1]) as f64;
            let [_, highest] = grid.levels.limits();
            let gain = (group_size * highest).sqrt().recip();
            let of_factor = of_scale * learned.first.clone();
            of_factors.insert(spec.id, of_factor.mul_scalar(gain));
        }
        of_factors.into_values().collect()
    }
}

/// Name of the scales of a weight, in states and folders of students.
fn scale_name(name: &str) -> String {
    format!("{name}_scale")
}

/// Name of the zeros of a weight, like [`scale_name`].
fn zero_name(name: &str) -> String {
    format!("{name}_zero")
}
