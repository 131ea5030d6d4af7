//! A student on the grids of its checkpoint: code for code and scale for scale, whatever the container was.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::Student;
use crate::kernels::grid::Levels;
use crate::model::{GroupScaling, OnGrid, ParameterSpec, Scheme, Schemes, WeightId, unlike_parts};
use crate::tensors;

impl Student {
    /// Puts weights whose values are on grids on these grids: the `scalings` that turned codes into values in the
    /// checkpoint that it was read from, and the `schemes` there.
    ///
    /// Nothing is rounded: the model that runs has the same weights as before. Weights that engines join stay free
    /// together if one of them does.
    #[must_use]
    pub fn on_loaded_grids(
        mut self,
        schemes: &Schemes,
        mut scalings: BTreeMap<WeightId, GroupScaling>,
    ) -> Self {
        for (spec, weight) in self.decoder.parameters() {
            let (Some(scheme), Some(scaling)) = (schemes.get(&spec.id), scalings.remove(&spec.id))
            else {
                continue;
            };
            let mut scheme = *scheme;
            if scaling.biases.is_some() {
                let bits = scheme.weight.levels.bits();
                scheme.weight.levels = Levels::Affine { bits };
            }
            if codes(&scaling, &spec, scheme, &weight).is_some() {
                self.loaded_grids.insert(spec.id, scaling);
                self.schemes.insert(spec.id, scheme);
            }
        }
        while let Some(unlike) = unlike_parts(&self.schemes, &self.decoder.config) {
            for spec in unlike {
                self.schemes.remove(&spec.id);
                self.loaded_grids.remove(&spec.id);
            }
        }
        self
    }

    /// True if weights are on grids as a checkpoint had them, and all others are unchanged, too.
    pub fn is_on_loaded_grids(&self) -> bool {
        !self.loaded_grids.is_empty()
    }

    /// A weight as the checkpoint had it, if it was on a grid there.
    pub fn loaded_on_grid(
        &self,
        spec: &ParameterSpec,
        scheme: Scheme,
        weight: &Tensor<2>,
    ) -> Option<OnGrid> {
        codes(self.loaded_grids.get(&spec.id)?, spec, scheme, weight)
    }
}

fn codes(
    scaling: &GroupScaling,
    spec: &ParameterSpec,
    scheme: Scheme,
    weight: &Tensor<2>,
) -> Option<OnGrid> {
    let group_len = scheme.weight.group_size.unwrap_or(spec.shape[1]);
    scaling.codes_of(tensors::to_vec(weight), scheme.weight, group_len)
}
