//! A student whose weights are quantised.

use super::Student;
use crate::kernels::grid::Grid;
use crate::model::{InputLevels, ParameterKind, ParameterSpec, Scheme, parameter_specs};

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
        let config = &self.decoder.config;
        let kind = match kind {
            ParameterKind::Head if config.tie_word_embeddings => ParameterKind::Embedding,
            kind => kind,
        };
        let specs = parameter_specs(config);
        let alike = specs.iter().filter(|spec| spec.kind() == kind);
        let mut grids = alike.map(|spec| self.grid_of(spec));
        let first = grids.next()?;
        first.filter(|_| grids.all(|grid| grid == first))
    }

    /// Levels to which the inputs of the projections are rounded, for each layer of the model that runs.
    pub(super) fn inputs(&self) -> Vec<InputLevels> {
        let own = InputLevels::of_layers(&self.schemes, &self.decoder.config);
        let runs = self.runs().into_iter();
        runs.map(|layer| own[layer].clone()).collect()
    }
}
