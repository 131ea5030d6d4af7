//! Scales and zeros that do not follow the weights: trained with them (learned step sizes), or chosen before they were moved.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::{Student, TrainedSpec};
use crate::kernels::grid::{Grid, Levels, Quantized, Scaling};
use crate::model::{ParameterKind, ParameterSpec, Scheme, WeightId};

/// What scales the groups of one weight, whatever the weight becomes: the scales that it began with, what they have been
/// multiplied by since, and the zeros.
///
/// The factor is what is trained, if anything is: AdamW moves every number by about the learning rate, which of a scale of
/// a hundredth would be far too much.
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
    /// Scales from which training begins, or at which it has ended, and the zeros of a grid that has them.
    pub fn new(scales: Tensor<2>, zeros: Option<Tensor<2>>) -> Self {
        Self {
            factor: scales.ones_like(),
            first: scales,
            zeros,
        }
    }

    /// The scales as they are now, before they are rounded to what files hold.
    pub fn scales(&self) -> Tensor<2> {
        self.first.clone() * self.factor.clone()
    }

    /// The codes that stand for 0; `None` if all are 0.
    pub fn zeros(&self) -> Option<&Tensor<2>> {
        self.zeros.as_ref()
    }

    /// As named matrices: what a file holds of it.
    pub fn named(&self, weight: &str) -> Vec<(String, Tensor<2>)> {
        let mut named = vec![(scale_name(weight), self.scales())];
        named.extend(self.zeros.clone().map(|zeros| (zero_name(weight), zeros)));
        named
    }

    /// Takes what [`FixedScales::named`] gave out of the matrices of a file, if it is there.
    pub fn take(weight: &str, matrices: &mut BTreeMap<String, Tensor<2>>) -> Option<Self> {
        let zeros = matrices.remove(&zero_name(weight));
        let scales = matrices.remove(&scale_name(weight))?;
        Some(Self::new(scales, zeros))
    }

    /// The scales from which training began.
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
    /// From here on, scales are trained beside the weights, where grids are around 0 and made of whole numbers; they begin
    /// with those that fit the weights.
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

    /// Learned scales that began with these, whatever they were multiplied by since; others stay as they are.
    pub fn begin_scales(&mut self, first: &BTreeMap<WeightId, Tensor<2>>) {
        for (id, learned) in &mut self.scales {
            if let Some(first) = first.get(id) {
                learned.first = first.clone();
            }
        }
    }

    /// A masked weight on the grid of its scheme: what training uses and exports store.
    pub fn quantize(&self, spec: &ParameterSpec, scheme: Scheme, weight: Tensor<2>) -> Quantized {
        match self.scales.get(&spec.id) {
            Some(kept) => scheme.weight.round(weight, kept.scaling()),
            None => scheme.weight.quantize(weight),
        }
    }

    /// The factors of learned scales, which are trained.
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

    /// Takes other factors, in the order of [`Student::factors`].
    pub(super) fn take_factors(&mut self, mut next: impl FnMut() -> Tensor<2>) {
        for learned in self.scales.values_mut() {
            *learned = learned.with_factor(next());
        }
    }

    /// The gradients of factors, from those of the weights on their grids; these become those of the free weights.
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
            // The slope of all weights of a group together would drown that of any one of them.
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

/// Name of the zeros of a weight, as [`scale_name`].
fn zero_name(name: &str) -> String {
    format!("{name}_zero")
}
