//! A student in a file.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{FixedScales, STUDENT_FILE, Student, StudentError};
use crate::kernels::grid::Grid;
use crate::model::{
    Decoder, DecoderConfig, ParameterKind, ParameterSpec, Scheme, Schemes, parameter_specs,
};
use crate::tensors::{self, NotFinite, TensorsError};

#[derive(Serialize, Deserialize)]
struct StudentFacts {
    config: DecoderConfig,
    /// Schemes by the name of the weight.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    schemes: BTreeMap<String, Scheme>,
    #[serde(default, skip_serializing)]
    grid: Option<OnlyGrid>,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    layer_repeats: usize,
}

/// Format of versions that knew one grid for all projections.
#[derive(Deserialize)]
struct OnlyGrid {
    bits: u32,
    group_size: Option<usize>,
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_one(count: &usize) -> bool {
    *count == 1
}

/// Header of the file of a student: what is known of it before a weight is read.
#[derive(Debug, Clone)]
pub struct StudentHeader {
    /// Architecture of the model that runs.
    pub config: DecoderConfig,
    /// Number of times that each of its own layers runs in a row.
    pub layer_repeats: usize,
    /// Schemes of the weights of the model that runs.
    pub schemes: Schemes,
    /// Weights of the model that runs that have a mask.
    pub num_masked: usize,
}

impl StudentHeader {
    /// Reads the header of the file of [`Student::save`].
    pub fn read(dir: &Path) -> Result<Self, TensorsError> {
        let path = dir.join(STUDENT_FILE);
        let (shapes, facts): (_, StudentFacts) = tensors::facts(&path)?;
        let StudentFacts {
            config: own,
            layer_repeats,
            ..
        } = &facts;
        let layers = own.num_hidden_layers.checked_mul(*layer_repeats);
        let is_known = |&runs: &usize| {
            (1..=DecoderConfig::MAX_LAYERS).contains(&runs)
                && own.layer_types.len() == own.num_hidden_layers
        };
        let runs = layers.filter(is_known).ok_or_else(|| {
            let layers = own.num_hidden_layers;
            let fact = format!("{layer_repeats} runs of each of {layers} layers");
            TensorsError::damaged(&path, fact)
        })?;
        let runs: Vec<usize> = (0..runs).map(|run| run / layer_repeats).collect();
        let mut header = Self {
            config: own.with_layers(&runs),
            layer_repeats: *layer_repeats,
            schemes: Schemes::new(),
            num_masked: 0,
        };
        let names: BTreeMap<_, _> = parameter_specs(own)
            .into_iter()
            .map(|spec| (spec.id, spec))
            .collect();
        for spec in parameter_specs(&header.config) {
            let Some(own) = names.get(&spec.id.in_layer(|run| run / layer_repeats)) else {
                continue;
            };
            header
                .schemes
                .extend(facts.scheme(own).map(|scheme| (spec.id, scheme)));
            header.num_masked += usize::from(shapes.contains_key(&mask_name(&own.name)));
        }
        Ok(header)
    }
}

impl StudentFacts {
    /// The reason why there is no such student.
    fn fault(&self) -> Option<String> {
        if let Some(fault) = self.config.fault() {
            return Some(format!("no decoder has this config: {fault}"));
        }
        let num_runs = self
            .config
            .num_hidden_layers
            .saturating_mul(self.layer_repeats);
        let is_possible = (1..=DecoderConfig::MAX_LAYERS).contains(&num_runs);
        (!is_possible).then(|| format!("{num_runs} layers would run"))
    }

    fn scheme(&self, spec: &ParameterSpec) -> Option<Scheme> {
        let only = self.grid.as_ref().map(|grid| Scheme {
            weight: Grid::symmetric(grid.bits, grid.group_size),
            input: None,
        });
        let only = only.filter(|_| spec.kind() == ParameterKind::Linear);
        only.or(self.schemes.get(&spec.name).copied())
    }
}

impl Student {
    /// Writes `student.safetensors` into a folder: free weights, masks, fixed scales and zeros, config and schemes.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        let (mut matrices, mut schemes) = (Vec::new(), BTreeMap::new());
        for (spec, weight) in self.decoder.parameters() {
            let mask = self.masks.get(&spec.id).cloned();
            matrices.extend(mask.map(|mask| (mask_name(&spec.name), mask)));
            let kept = self.scales.get(&spec.id);
            matrices.extend(kept.into_iter().flat_map(|kept| kept.named(&spec.name)));
            let scheme = self.schemes.get(&spec.id).copied();
            schemes.extend(scheme.map(|scheme| (spec.name.clone(), scheme)));
            matrices.push((spec.name, weight));
        }
        let facts = StudentFacts {
            config: self.decoder.config.clone(),
            schemes,
            grid: None,
            layer_repeats: self.layer_repeats,
        };
        tensors::save(&dir.join(STUDENT_FILE), &matrices, &facts)
    }

    /// Reads the file of [`Student::save`]. Every number is finite, and all that is beside the weights fits them: what
    /// has the right checksum need not come from [`Student::save`].
    pub fn load(dir: &Path, device: &Device) -> Result<Self, StudentError> {
        let path = dir.join(STUDENT_FILE);
        let (mut matrices, facts): (_, StudentFacts) = tensors::load(&path, device)?;
        for (name, matrix) in &matrices {
            NotFinite::check(name, &tensors::to_vec(matrix)).map_err(|source| {
                let path = path.display().to_string();
                StudentError::NotFinite { path, source }
            })?;
        }
        let damaged = |fact: String| StudentError::from(TensorsError::damaged(&path, fact));
        if let Some(fault) = facts.fault() {
            return Err(damaged(fault));
        }
        let (mut masks, mut scales) = (BTreeMap::new(), BTreeMap::new());
        let mut schemes = Schemes::new();
        let decoder = Decoder::from_parameters(facts.config.clone(), |spec| {
            if let Some(mask) = matrices.remove(&mask_name(&spec.name)) {
                masks.insert(spec.id, mask);
            }
            if let Some(kept) = FixedScales::take(&spec.name, &mut matrices) {
                scales.insert(spec.id, kept);
            }
            schemes.extend(facts.scheme(spec).map(|scheme| (spec.id, scheme)));
            matrices
                .remove(&spec.name)
                .filter(|weight| weight.dims() == spec.shape)
                .ok_or_else(|| {
                    let path = path.display().to_string();
                    StudentError::Parameter {
                        path,
                        name: spec.name.clone(),
                        shape: spec.shape,
                    }
                })
        })?;
        let specs = parameter_specs(&facts.config);
        let is_known = |name: &String| specs.iter().any(|spec| spec.name == *name);
        let unknown = facts.schemes.into_keys().filter(|name| !is_known(name));
        let left = matrices.into_keys().chain(unknown).next();
        if let Some(name) = left {
            return Err(damaged(format!("`{name}` belongs to no weight of it")));
        }
        let student = Self {
            decoder,
            masks,
            schemes,
            scales,
            loaded_grids: BTreeMap::new(),
            layer_repeats: facts.layer_repeats,
            adapter: None,
            projections: Vec::new(),
        };
        match student.misfit() {
            Some(fact) => Err(damaged(fact)),
            None => Ok(student),
        }
    }

    /// The first mask, scheme or scale that its weight cannot have.
    fn misfit(&self) -> Option<String> {
        let specs = parameter_specs(&self.decoder.config);
        specs.into_iter().find_map(|spec| {
            let ParameterSpec { id, name, shape } = spec;
            if let Some(fault) = self.masks.get(&id).and_then(|mask| mask_fault(mask, shape)) {
                return Some(format!("the mask of `{name}` {fault}"));
            }
            let kept = self.scales.get(&id);
            let Some(scheme) = self.schemes.get(&id) else {
                return kept.map(|_| format!("`{name}` has scales, and no grid"));
            };
            let levels = [Some(scheme.weight.levels), scheme.input];
            if levels
                .into_iter()
                .flatten()
                .any(|levels| !(2..=8).contains(&levels.bits()))
            {
                return Some(format!("`{name}` is on a grid of {scheme}"));
            }
            if !scheme.weight.divides(shape[1]) {
                return Some(format!(
                    "`{name}` of shape {shape:?} is on a grid of {scheme}"
                ));
            }
            let is_unfit = kept.is_some_and(|kept| !kept.fits(&scheme.weight, shape));
            is_unfit.then(|| format!("the scales or zeros of `{name}` are not those of {scheme}"))
        })
    }
}

/// What a mask of a weight of this shape cannot be; the rest of the sentence.
pub(crate) fn mask_fault(mask: &Tensor<2>, shape: [usize; 2]) -> Option<String> {
    if mask.dims() != shape {
        return Some(format!(
            "has shape {:?}, and the weight {shape:?}",
            mask.dims()
        ));
    }
    let values = tensors::to_vec(mask);
    let is_of_a_mask = |value: f32| value == 0.0 || value.to_bits() == 1.0_f32.to_bits();
    let other = values.into_iter().find(|&value| !is_of_a_mask(value));
    other.map(|value| format!("holds {value}, which is neither 0 nor 1"))
}

fn mask_name(name: &str) -> String {
    format!("mask.{name}")
}
