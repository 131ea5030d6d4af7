//! A student in a file.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{FixedScales, STUDENT_FILE, Student, StudentError};
use crate::kernels::grid::Grid;
use crate::model::{Decoder, DecoderConfig, ParameterKind, Scheme, Schemes};
use crate::tensors::{self, NotFinite};

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

    /// Reads the file of [`Student::save`] and checks that every number is finite.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, StudentError> {
        let path = dir.join(STUDENT_FILE);
        let (mut matrices, mut facts): (_, StudentFacts) = tensors::load(&path, device)?;
        for (name, matrix) in &matrices {
            NotFinite::check(name, &tensors::to_vec(matrix)).map_err(|source| {
                let path = path.display().to_string();
                StudentError::NotFinite { path, source }
            })?;
        }
        let (mut masks, mut scales) = (BTreeMap::new(), BTreeMap::new());
        let mut schemes = Schemes::new();
        let decoder = Decoder::from_parameters(facts.config, |spec| {
            if let Some(mask) = matrices.remove(&mask_name(&spec.name)) {
                masks.insert(spec.id, mask);
            }
            if let Some(kept) = FixedScales::take(&spec.name, &mut matrices) {
                scales.insert(spec.id, kept);
            }
            let only = facts.grid.as_ref().map(|grid| Scheme {
                weight: Grid::symmetric(grid.bits, grid.group_size),
                input: None,
            });
            let only = only.filter(|_| spec.kind() == ParameterKind::Linear);
            let scheme = only.or(facts.schemes.remove(&spec.name));
            schemes.extend(scheme.map(|scheme| (spec.id, scheme)));
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
        Ok(Self {
            decoder,
            masks,
            schemes,
            scales,
            loaded_grids: BTreeMap::new(),
            layer_repeats: facts.layer_repeats,
            adapter: None,
            projections: Vec::new(),
        })
    }
}

fn mask_name(name: &str) -> String {
    format!("mask.{name}")
}
