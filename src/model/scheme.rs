//! What is quantised of each projection, and how.

use std::collections::BTreeMap;
use std::fmt;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{DecoderConfig, ParameterSpec, Site, parameter_specs};
use crate::kernels::grid::{Grid, Levels};

/// How a projection is quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Scheme {
    /// What its weight is rounded to.
    pub weight: Grid,
    /// What enters it is rounded to these levels, position by position, while the model runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Levels>,
}

/// As in `int4, groups of 32` or `int8, one scale per row, activations int8`.
impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.input {
            None => self.weight.fmt(f),
            Some(levels) => write!(f, "{}, activations {levels}", self.weight),
        }
    }
}

/// The schemes of a model, by the name of the weight; one that is not there stays as it is.
pub type Schemes = BTreeMap<String, Scheme>;

/// Modules that engines join into one matrix, which has one scheme.
const FUSED: [&[&str]; 2] = [
    &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    &["mlp.gate_proj", "mlp.up_proj"],
];

/// Two weights that engines join into one matrix, but of which something differs: the names of both.
pub fn unlike_parts<T: PartialEq>(
    of_weights: &BTreeMap<String, T>,
    config: &DecoderConfig,
) -> Option<[String; 2]> {
    (0..config.num_hidden_layers)
        .flat_map(|layer| FUSED.map(|modules| (layer, modules)))
        .find_map(|(layer, modules)| {
            let mut names = modules
                .iter()
                .map(|module| format!("model.layers.{layer}.{module}.weight"));
            let first = names.next()?;
            let other = names.find(|name| of_weights.get(name) != of_weights.get(&first))?;
            Some([first, other])
        })
}

/// The first weight whose rows do not fall into whole groups, with the size of the groups.
pub fn uneven_groups(schemes: &Schemes, config: &DecoderConfig) -> Option<(ParameterSpec, usize)> {
    parameter_specs(config).into_iter().find_map(|spec| {
        let grid = schemes.get(&spec.name)?.weight;
        let group_size = grid.group_size.filter(|_| !grid.divides(spec.shape[1]))?;
        Some((spec, group_size))
    })
}

/// What enters the projections of one layer is rounded to these levels; where there are none, to nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputLevels(BTreeMap<Site, Levels>);

impl InputLevels {
    /// Of every layer, from the schemes of its projections; those that share their input share its levels
    /// ([`unlike_parts`]).
    pub fn of_layers(schemes: &Schemes, config: &DecoderConfig) -> Vec<Self> {
        let mut layers = vec![Self::default(); config.num_hidden_layers];
        for spec in parameter_specs(config) {
            let input = schemes.get(&spec.name).and_then(|scheme| scheme.input);
            if let (Some(levels), Some((layer, site))) = (input, spec.input()) {
                layers[layer].0.insert(site, levels);
            }
        }
        layers
    }

    /// What enters the projections at a site.
    ///
    /// # Shapes
    ///
    /// `x` is `[B, T, D]`, returned alike.
    pub(super) fn round(&self, site: Site, x: Tensor<3>) -> Tensor<3> {
        match self.0.get(&site) {
            Some(levels) => levels.round_positions(x),
            None => x,
        }
    }
}
