//! Layers that share weights: each of the student's own runs several times in a row.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::{Kept, Student};
use crate::model::{Decoder, DecoderConfig, Schemes, parameter_specs};

impl Student {
    /// Architecture of the model that runs: one layer for each run of the student's own.
    pub fn effective_config(&self) -> DecoderConfig {
        self.decoder.config.with_layers(&self.runs())
    }

    /// The same student without sharing: a layer for each run, masks, schemes and scales alike.
    ///
    /// # Panics
    ///
    /// If it has an adapter, which a pass merges before it hands its student on.
    #[must_use]
    pub fn unrolled(&self) -> Self {
        assert!(self.adapter.is_none(), "an adapter is merged before");
        let decoder = self.unroll(&self.decoder);
        let specs = parameter_specs(&decoder.config).into_iter();
        let names = specs.map(|spec| (self.own_name(&spec.name), spec.name));
        let mut student = Self {
            masks: BTreeMap::new(),
            schemes: Schemes::new(),
            scales: BTreeMap::new(),
            decoder,
            layer_repeats: 1,
            ..self.clone()
        };
        for (own, name) in names {
            if let Some(scheme) = self.schemes.get(&own) {
                student.schemes.insert(name.clone(), *scheme);
            }
            if let Some(kept) = self.scales.get(&own) {
                student.scales.insert(name.clone(), kept.clone());
            }
            if let Some(mask) = self.masks.get(&own) {
                student.masks.insert(name, mask.clone());
            }
        }
        student
    }

    /// A decoder of the student's own layers as one with a layer for each run; their tensors are shared.
    pub fn unroll(&self, own: &Decoder) -> Decoder {
        if self.layer_repeats == 1 {
            own.clone()
        } else {
            Kept::layers(&self.runs()).cut(own)
        }
    }

    /// The gradient of the student's own weights, from that of the model that runs: the sum over the runs of a layer.
    pub(super) fn fold(&self, gradients: Vec<Tensor<2>>) -> Vec<Tensor<2>> {
        if self.layer_repeats == 1 {
            return gradients;
        }
        let mut sums: BTreeMap<String, Tensor<2>> = BTreeMap::new();
        let specs = parameter_specs(&self.effective_config());
        for (spec, gradient) in specs.into_iter().zip(gradients) {
            let name = self.own_name(&spec.name);
            let sum = match sums.remove(&name) {
                Some(sum) => sum + gradient,
                None => gradient,
            };
            sums.insert(name, sum);
        }
        parameter_specs(&self.decoder.config)
            .iter()
            .map(|spec| sums.remove(&spec.name).expect("each weight runs"))
            .collect()
    }

    /// Name of the student's own weight that a weight of the model that runs is.
    pub(super) fn own_name(&self, name: &str) -> String {
        let of_layer = name
            .strip_prefix("model.layers.")
            .and_then(|rest| rest.split_once('.'));
        match of_layer {
            Some((run, part)) => {
                let run: usize = run.parse().expect("the table numbers its layers");
                format!("model.layers.{}.{part}", run / self.layer_repeats)
            }
            None => name.to_owned(),
        }
    }

    /// The student's own layers, in the order in which they run.
    pub(super) fn runs(&self) -> Vec<usize> {
        let num_runs = self.decoder.config.num_hidden_layers * self.layer_repeats;
        (0..num_runs).map(|run| run / self.layer_repeats).collect()
    }
}
