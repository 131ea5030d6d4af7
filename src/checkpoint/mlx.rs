//! MLX: codes of projections, embedding and output matrix, each group with a scale and a bias.
//!
//! Layout: `docs/formats-export.md`.
#![warn(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use ::safetensors::Dtype;
use serde_json::Value;

use super::compressed_tensors::unpack;
use super::quantized::{expect, num_groups, num_words, number, part};
use super::{CheckpointError, TensorFiles};
use crate::model::grid::Grid;
use crate::model::{ConfigError, DecoderConfig, Scheme, TensorSpec, tensor_specs};

/// Width and group of each weight that is not plain, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quantization(BTreeMap<String, Grid>);

impl Quantization {
    /// Of the key `quantization`: one width and group for all, and those of modules that have their own, or `false`.
    pub(super) fn from_config(json: &Value, config: &DecoderConfig) -> Result<Self, ConfigError> {
        let all = grid(json, "")?;
        let mut weights = BTreeMap::new();
        for spec in tensor_specs(config) {
            if spec.kind().is_vector() {
                continue;
            }
            let module = spec.module();
            match json.get(module) {
                Some(Value::Bool(false)) => {}
                None | Some(Value::Bool(true)) => {
                    weights.insert(spec.name, all);
                }
                Some(_) => {
                    let own = grid(json, &format!("/{module}"))?;
                    weights.insert(spec.name, own);
                }
            }
        }
        Ok(Self(weights))
    }

    /// Only what has scales in the files, as MLX decides it. If none has, none stays plain, so that the first is missed.
    pub(super) fn keep_stored(&mut self, files: &TensorFiles) {
        let is_stored = |name: &String| {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            files.info(&format!("{module}.scales")).is_some()
        };
        if self.0.keys().any(is_stored) {
            self.0.retain(|name, _| is_stored(name));
        }
    }

    /// A bias stands where the zero of other containers stands, so these are asymmetric whatever they hold.
    pub(super) fn scheme(&self, spec: &TensorSpec) -> Option<Scheme> {
        let weight = *self.0.get(&spec.name)?;
        let input = None;
        Some(Scheme { weight, input })
    }

    pub(super) fn covers(&self, spec: &TensorSpec) -> bool {
        self.0.contains_key(&spec.name)
    }

    pub(super) fn check(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<Vec<String>, CheckpointError> {
        let Some(grid) = self.0.get(&spec.name) else {
            return Ok(Vec::new());
        };
        codes(files, spec, *grid)?;
        let shape = [spec.shape[0], num_groups(spec, grid.group_size)?];
        let parts = ["scales", "biases"].map(|name| part(spec, name));
        for name in &parts {
            files.check_floats(name, &shape)?;
        }
        Ok([vec![spec.name.clone()], parts.into()].concat())
    }

    /// `code · scale + bias` in f32, where the codes are unsigned; `None` if the weight is plain.
    pub(super) fn weight(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<Option<Vec<f32>>, CheckpointError> {
        let Some(grid) = self.0.get(&spec.name) else {
            return Ok(None);
        };
        let [rows, cols] = spec.shape;
        let bits = grid.levels.bits();
        let codes = unpack(codes(files, spec, *grid)?, spec.shape, bits);
        let num_groups = num_groups(spec, grid.group_size)?;
        let scales = files.f32s(&part(spec, "scales"), &[rows, num_groups])?;
        let biases = files.f32s(&part(spec, "biases"), &[rows, num_groups])?;
        let unsigned = |code: i8| f32::from(i16::from(code) + (1 << (bits - 1)));
        let groups = codes
            .chunks(cols / num_groups)
            .zip(scales.into_iter().zip(biases));
        let mut values = Vec::with_capacity(codes.len());
        for (codes, (scale, bias)) in groups {
            values.extend(codes.iter().map(|&code| unsigned(code) * scale + bias));
        }
        Ok(Some(values))
    }
}

fn codes<'a>(
    files: &'a TensorFiles,
    spec: &TensorSpec,
    grid: Grid,
) -> Result<&'a [u8], CheckpointError> {
    let [rows, cols] = spec.shape;
    let num_words = num_words(spec, cols, grid.levels.bits())?;
    files.raw(&spec.name, Dtype::U32, &[rows, num_words])
}

fn grid(json: &Value, path: &str) -> Result<Grid, ConfigError> {
    let at = |key: &str| format!("{path}/{key}");
    expect(json, &at("mode"), &["affine".into(), Value::Null])?;
    let bits = number(json, &at("bits"), &[2, 3, 4, 5, 6, 8])?;
    let group_size = number(json, &at("group_size"), &[32, 64, 128])?;
    Ok(Grid::asymmetric(bits, Some(group_size as usize)))
}
