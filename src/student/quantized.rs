//! A student whose weights are quantised.

use super::Student;
use crate::model::grid::Grid;
use crate::model::{InputLevels, ParameterKind, ParameterSpec, Scheme, parameter_specs};

impl Student {
    /// How a weight of the model that runs is quantised, if it is.
    pub fn scheme_of(&self, spec: &ParameterSpec) -> Option<Scheme> {
        self.schemes.get(&self.own(spec.id)).copied()
    }

    /// The grid of a weight of the model that runs, if it is on one.
    pub fn grid_of(&self, spec: &ParameterSpec) -> Option<Grid> {
        self.scheme_of(spec).map(|scheme| scheme.weight)
    }

    /// The one grid of all weights of a kind, such as projections, if there is such; a tied head is the embedding.
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

    /// What enters the projections of each layer of the model that runs is rounded to.
    pub(super) fn inputs(&self) -> Vec<InputLevels> {
        let own = InputLevels::of_layers(&self.schemes, &self.decoder.config);
        let runs = self.runs().into_iter();
        runs.map(|layer| own[layer].clone()).collect()
    }
}
