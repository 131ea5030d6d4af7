//! MLX: codes of projections, embedding and output matrix, each group with a scale and a bias.
//!
//! Layout: `docs/formats-export.md`.
#![warn(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use ::safetensors::Dtype;
use serde_json::Value;

use crate::formats::read::{
    Packed, PackedReading, StoredWeight, expect, num_groups, num_words, number, part, unpack,
};
use crate::formats::{CheckpointError, TensorFiles};
use crate::kernels::grid::Grid;
use crate::model::{
    ConfigError, DecoderConfig, GroupScaling, OnGrid, Scheme, TensorSpec, tensor_specs,
};

/// Width and group of each weight that is not plain, by name.
#[derive(Debug)]
struct Mlx(BTreeMap<String, Grid>);

/// Makes a reader from the key `quantization`: one width and group, except for modules with their own, or with `false`.
pub(super) fn open(json: &Value, config: &DecoderConfig) -> PackedReading {
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
    Ok(Box::new(Mlx(weights)))
}

impl Packed for Mlx {
    /// Keeps weights that have scales in the files, as MLX does. If none has, keeps all: the first is reported missing.
    fn keep_stored(&mut self, files: &TensorFiles) {
        let is_stored = |name: &String| {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            files.info(&format!("{module}.scales")).is_some()
        };
        if self.0.keys().any(is_stored) {
            self.0.retain(|name, _| is_stored(name));
        }
    }

    /// MLX stores a bias where other containers store a zero, so schemes are asymmetric for any values.
    fn scheme(&self, spec: &TensorSpec) -> Option<Scheme> {
        let weight = *self.0.get(&spec.name)?;
        let input = None;
        Some(Scheme { weight, input })
    }

    fn check(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<Option<Vec<String>>, CheckpointError> {
        let Some(grid) = self.0.get(&spec.name) else {
            return Ok(None);
        };
        codes(files, spec, *grid)?;
        let shape = [spec.shape[0], num_groups(spec, grid.group_size)?];
        let parts = ["scales", "biases"].map(|name| part(spec, name));
        for name in &parts {
            files.check_floats(name, &shape)?;
        }
        Ok(Some([vec![spec.name.clone()], parts.into()].concat()))
    }

    /// Groups get zeros instead of biases if both give the same values.
    fn weight(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<Option<StoredWeight>, CheckpointError> {
        let Some(grid) = self.0.get(&spec.name) else {
            return Ok(None);
        };
        let [rows, cols] = spec.shape;
        let codes = unpack(codes(files, spec, *grid)?, spec.shape, grid.levels.bits());
        let num_groups = num_groups(spec, grid.group_size)?;
        let scales = files.f32s(&part(spec, "scales"), &[rows, num_groups])?;
        let biases = files.f32s(&part(spec, "biases"), &[rows, num_groups])?;
        let codes: Vec<f32> = codes.into_iter().map(f32::from).collect();
        let groups = codes
            .chunks(cols / num_groups)
            .zip(scales.iter().zip(&biases));
        let zeros = groups.map(|(codes, (scale, bias))| zero_of(codes, *scale, *bias, *grid));
        let zeros: Option<Vec<f32>> = zeros.collect();
        let scaling = GroupScaling {
            biases: zeros.is_none().then_some(biases),
            zeros,
            scales,
        };
        Ok(Some(StoredWeight::OnGrid(OnGrid { codes, scaling })))
    }
}

/// The code of 0, if a group has the same values with this zero as with its bias.
#[expect(clippy::cast_possible_truncation, reason = "a level of 8 bits")]
fn zero_of(codes: &[f32], scale: f32, bias: f32, grid: Grid) -> Option<f32> {
    let limits = grid.levels.limits().map(|limit| limit as f32);
    let [lowest, highest] = limits;
    let zero = lowest + (-bias / scale).round(); // a scale of 0 gives none
    // Compared bit for bit, because 0 has a sign.
    let of_bias = |code: &f32| ((code - lowest) * scale + bias).to_bits();
    let is_same = |code: &f32| of_bias(code) == ((code - zero) * scale).to_bits();
    let holds = (lowest..=highest).contains(&zero) && codes.iter().all(is_same);
    holds.then_some(zero)
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
