//! What is quantised of each projection, and how.

use std::collections::BTreeMap;
use std::fmt;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::grid::{Grid, Levels};
use super::{DecoderConfig, ParameterSpec, Site, WeightId, parameter_specs};

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

/// The schemes of a model; a weight that is not there stays as it is.
pub type Schemes = BTreeMap<WeightId, Scheme>;

/// Two weights that engines join into one matrix, since one input enters both, but of which something differs.
pub fn unlike_parts<T: PartialEq>(
    of_weights: &BTreeMap<WeightId, T>,
    config: &DecoderConfig,
) -> Option<[ParameterSpec; 2]> {
    let mut first: Option<ParameterSpec> = None;
    for spec in parameter_specs(config) {
        let Some(input) = spec.id.input() else {
            continue;
        };
        match &first {
            Some(first) if first.id.input() == Some(input) => {
                if of_weights.get(&first.id) != of_weights.get(&spec.id) {
                    return Some([first.clone(), spec]);
                }
            }
            _ => first = Some(spec),
        }
    }
    None
}

/// The first weight whose rows do not fall into whole groups, with the size of the groups.
pub fn uneven_groups(schemes: &Schemes, config: &DecoderConfig) -> Option<(ParameterSpec, usize)> {
    parameter_specs(config).into_iter().find_map(|spec| {
        let grid = schemes.get(&spec.id)?.weight;
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
        for (id, scheme) in schemes {
            if let (Some(levels), Some((layer, site))) = (scheme.input, id.input()) {
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
