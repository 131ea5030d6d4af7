//! Schemes: the quantisation of each projection's weight and input.

use std::collections::BTreeMap;
use std::fmt;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{DecoderConfig, ParameterKind, ParameterSpec, Site, WeightId, parameter_specs};
use crate::kernels::grid::{Grid, Levels};

/// Quantisation of a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Scheme {
    /// Grid of its weight.
    pub weight: Grid,
    /// Levels of its input, which is rounded position by position while the model runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Levels>,
}

/// Examples: `int4, groups of 32`, and `int8, one scale per row, activations int8`.
impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.input {
            None => self.weight.fmt(f),
            Some(levels) => write!(f, "{}, activations {levels}", self.weight),
        }
    }
}

/// The schemes of a model; a weight without an entry is not quantised.
pub type Schemes = BTreeMap<WeightId, Scheme>;

/// The one grid of all weights of a kind, such as projections, if there is one; a tied head counts as embedding.
pub fn only_grid(
    kind: ParameterKind,
    config: &DecoderConfig,
    grid_of: impl Fn(WeightId) -> Option<Grid>,
) -> Option<Grid> {
    let kind = match kind {
        ParameterKind::Head if config.tie_word_embeddings => ParameterKind::Embedding,
        kind => kind,
    };
    let specs = parameter_specs(config);
    let alike = specs.iter().filter(|spec| spec.kind() == kind);
    let mut grids = alike.map(|spec| grid_of(spec.id));
    let first = grids.next()?;
    first.filter(|_| grids.all(|grid| grid == first))
}

/// Two weights with different values, although engines join them into one matrix because they share their input.
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

/// The first weight whose rows do not divide into whole groups, with the group size.
pub fn uneven_groups(schemes: &Schemes, config: &DecoderConfig) -> Option<(ParameterSpec, usize)> {
    parameter_specs(config).into_iter().find_map(|spec| {
        let grid = schemes.get(&spec.id)?.weight;
        let group_size = grid.group_size.filter(|_| !grid.divides(spec.shape[1]))?;
        Some((spec, group_size))
    })
}

/// Levels that the inputs of one layer's projections are rounded to; an input without levels is not rounded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputLevels(BTreeMap<Site, Levels>);

impl InputLevels {
    /// Input levels of every layer, from the schemes of its projections; projections that share their input share its
    /// levels ([`unlike_parts`]).
    pub fn of_layers(schemes: &Schemes, config: &DecoderConfig) -> Vec<Self> {
        let mut layers = vec![Self::default(); config.num_hidden_layers];
        for (id, scheme) in schemes {
            if let (Some(levels), Some((layer, site))) = (scheme.input, id.input()) {
                layers[layer].0.insert(site, levels);
            }
        }
        layers
    }

    /// Rounds the input of the projections at a site, if it has levels.
    ///
    /// # Shapes
    ///
    /// `x` is `[B, T, D]`, as is the result.
    pub(super) fn round(&self, site: Site, x: Tensor<3>) -> Tensor<3> {
        match self.0.get(&site) {
            Some(levels) => levels.round_positions(x),
            None => x,
        }
    }
}
