//! Layers that share weights: each layer of the student runs several times in a row.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::{PartSelection, Student};
use crate::model::{Decoder, DecoderConfig, ParameterSpec, Schemes, WeightId, parameter_specs};

impl Student {
    /// Architecture of the model that runs: one layer for each run of the student's own.
    pub fn effective_config(&self) -> DecoderConfig {
        self.decoder.config.with_layers(&self.runs())
    }

    /// The same student without sharing: a layer for each run, with its masks, schemes and scales.
    ///
    /// # Panics
    ///
    /// If it has an adapter: a pass merges it before it hands its student on.
    #[must_use]
    pub fn unrolled(&self) -> Self {
        assert!(self.adapter.is_none(), "an adapter is merged before");
        let decoder = self.unroll(&self.decoder);
        let mut student = Self {
            masks: BTreeMap::new(),
            schemes: Schemes::new(),
            scales: BTreeMap::new(),
            layer_repeats: 1,
            ..self.clone()
        };
        for ParameterSpec { id, .. } in parameter_specs(&decoder.config) {
            let own = self.own(id);
            student
                .schemes
                .extend(self.schemes.get(&own).map(|scheme| (id, *scheme)));
            student
                .scales
                .extend(self.scales.get(&own).map(|kept| (id, kept.clone())));
            student
                .masks
                .extend(self.masks.get(&own).map(|mask| (id, mask.clone())));
        }
        Self { decoder, ..student }
    }

    /// Decoder with a layer for each run of the student's own layers; their tensors are shared.
    pub fn unroll(&self, own: &Decoder) -> Decoder {
        if self.layer_repeats == 1 {
            own.clone()
        } else {
            PartSelection::layers(&self.runs()).cut(own)
        }
    }

    /// Gradients of the student's own weights, from those of the model that runs: sums over the runs of a layer.
    pub(super) fn fold(&self, gradients: Vec<Tensor<2>>) -> Vec<Tensor<2>> {
        if self.layer_repeats == 1 {
            return gradients;
        }
        let mut sums: BTreeMap<WeightId, Tensor<2>> = BTreeMap::new();
        let specs = parameter_specs(&self.effective_config());
        for (spec, gradient) in specs.into_iter().zip(gradients) {
            let own = self.own(spec.id);
            let sum = match sums.remove(&own) {
                Some(sum) => sum + gradient,
                None => gradient,
            };
            sums.insert(own, sum);
        }
        sums.into_values().collect()
    }

    /// The student's own weight behind a weight of the model that runs.
    pub(super) fn own(&self, id: WeightId) -> WeightId {
        id.in_layer(|run| run / self.layer_repeats)
    }

    /// The student's own layers, in the order in which they run.
    pub(super) fn runs(&self) -> Vec<usize> {
        let num_runs = self.decoder.config.num_hidden_layers * self.layer_repeats;
        (0..num_runs).map(|run| run / self.layer_repeats).collect()
    }
}
