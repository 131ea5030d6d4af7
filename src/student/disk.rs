//! A student in a file.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::quantized::OnlyGrid;
use super::{KeptScaling, STUDENT_FILE, Student, StudentError};
use crate::model::{Decoder, DecoderConfig, Schemes};
use crate::tensors::{self, NotFinite};

#[derive(Serialize, Deserialize)]
struct Facts {
    config: DecoderConfig,
    #[serde(default, skip_serializing_if = "Schemes::is_empty")]
    schemes: Schemes,
    #[serde(default, skip_serializing)]
    grid: Option<OnlyGrid>,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    layer_repeats: usize,
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_one(count: &usize) -> bool {
    *count == 1
}

impl Student {
    /// Writes `student.safetensors` into a folder: free weights, masks, scales and zeros that are kept, config and schemes.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        let mut matrices: Vec<_> = self
            .decoder
            .parameters()
            .into_iter()
            .map(|(spec, weight)| (spec.name, weight))
            .collect();
        matrices.extend(
            self.masks
                .iter()
                .map(|(name, mask)| (mask_name(name), mask.clone())),
        );
        matrices.extend(self.scales.iter().flat_map(|(name, kept)| kept.named(name)));
        let facts = Facts {
            config: self.decoder.config.clone(),
            schemes: self.schemes.clone(),
            grid: None,
            layer_repeats: self.layer_repeats,
        };
        tensors::save(&dir.join(STUDENT_FILE), &matrices, &facts)
    }

    /// Reads what [`Student::save`] wrote; every number of it is finite.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, StudentError> {
        let path = dir.join(STUDENT_FILE);
        let (mut matrices, facts): (_, Facts) = tensors::load(&path, device)?;
        for (name, matrix) in &matrices {
            NotFinite::check(name, &tensors::to_vec(matrix)).map_err(|source| {
                let path = path.display().to_string();
                StudentError::NotFinite { path, source }
            })?;
        }
        let schemes = match &facts.grid {
            Some(grid) => grid.schemes(&facts.config),
            None => facts.schemes,
        };
        let (mut masks, mut scales) = (BTreeMap::new(), BTreeMap::new());
        let decoder = Decoder::from_parameters(facts.config, |spec| {
            if let Some(mask) = matrices.remove(&mask_name(&spec.name)) {
                masks.insert(spec.name.clone(), mask);
            }
            if let Some(kept) = KeptScaling::take(&spec.name, &mut matrices) {
                scales.insert(spec.name.clone(), kept);
            }
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
            carried: BTreeMap::new(),
            layer_repeats: facts.layer_repeats,
            adapter: None,
            projections: Vec::new(),
        })
    }
}

fn mask_name(name: &str) -> String {
    format!("mask.{name}")
}
