//! A student whose weights are quantised.

use super::Student;
use crate::kernels::grid::Grid;
use crate::model::{InputLevels, ParameterKind, ParameterSpec, Scheme, only_grid};

impl Student {
    /// Scheme of a weight of the model that runs, if it is quantised.
    pub fn scheme_of(&self, spec: &ParameterSpec) -> Option<Scheme> {
        self.schemes.get(&self.own(spec.id)).copied()
    }

    /// Grid of a weight of the model that runs, if it is on one.
    pub fn grid_of(&self, spec: &ParameterSpec) -> Option<Grid> {
        self.scheme_of(spec).map(|scheme| scheme.weight)
    }

    /// The one grid of all weights of a kind, such as projections, if there is one; a tied head counts as embedding.
    pub fn only_grid(&self, kind: ParameterKind) -> Option<Grid> {
        only_grid(kind, &self.decoder.config, |id| {
            Some(self.schemes.get(&self.own(id))?.weight)
        })
    }

    /// Levels to which the inputs of the projections are rounded, for each layer of the model that runs.
    pub(super) fn inputs(&self) -> Vec<InputLevels> {
        let own = InputLevels::of_layers(&self.schemes, &self.decoder.config);
        let runs = self.runs().into_iter();
        runs.map(|layer| own[layer].clone()).collect()
    }
}
