//! MLX: codes of projections, embedding and output matrix, each group with a scale and a bias.
//!
//! Layout: `docs/formats-export.md`.
#![warn(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use ::safetensors::Dtype;
use serde_json::Value;

use crate::formats::read::{
    Packed, PackedReading, Settled, StoredWeight, expect, num_groups, num_words, number, part,
    unpack,
};
use crate::formats::{CheckpointError, TensorFiles};
use crate::kernels::grid::{Grid, Levels};
use crate::model::{
    ConfigError, DecoderConfig, GroupScaling, OnGrid, Scheme, TensorSpec, tensor_specs,
};

/// Group sizes of MLX's kernels.
const GROUP_SIZES: [u32; 3] = [32, 64, 128];
const DEFAULT_GROUP_SIZE: usize = 64;

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
                let own = grid_of_module(json, &format!("/{module}"))?;
                weights.insert(spec.name, own);
            }
        }
    }
    Ok(Box::new(Mlx(weights)))
}

impl Packed for Mlx {
    /// Keeps weights that have scales in the files, as MLX does. If none has, keeps all: the first is reported missing.
    /// Completes group sizes that the config leaves out.
    fn keep_stored(&mut self, files: &TensorFiles) {
        let is_stored = |name: &String| {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            files.info(&format!("{module}.scales")).is_some()
        };
        if self.0.keys().any(is_stored) {
            self.0.retain(|name, _| is_stored(name));
        }
        for (name, grid) in &mut self.0 {
            let bits = grid.levels.bits();
            let stored = || stored_group_size(files, name, bits);
            grid.group_size = Some(grid.group_size.unwrap_or_else(stored));
        }
    }

    /// MLX stores a bias where other containers store a zero. A weight whose biases are all those of a grid around 0 has
    /// the values of that grid, bit for bit, and no biases.
    fn settle(&mut self, files: &TensorFiles) -> Result<Option<Settled>, CheckpointError> {
        for (name, grid) in &mut self.0 {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            let of_groups = |part: &str| {
                let name = format!("{module}.{part}");
                let (_, shape) = files.info(&name)?;
                files.f32s(&name, shape).ok() // a number that is not finite is reported where weights are read
            };
            let Some((scales, biases)) = of_groups("scales").zip(of_groups("biases")) else {
                continue;
            };
            let bits = grid.levels.bits();
            let mut groups = scales.into_iter().zip(biases);
            if groups.all(|(scale, bias)| is_around_0(scale, bias, bits)) {
                grid.levels = Levels::Symmetric { bits };
            }
        }
        Ok(None)
    }

    /// Schemes are asymmetric unless [`Mlx::settle`] found otherwise.
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
        if !grid.levels.has_zeros() {
            let scaling = GroupScaling::around_0(scales);
            return Ok(Some(StoredWeight::OnGrid(OnGrid { codes, scaling })));
        }
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

/// True if a group has the values of a grid around 0, bit for bit: its bias is that of the middle of the codes, and all
/// products of the scale with codes are exact in f32, which has 24 bits.
fn is_around_0(scale: f32, bias: f32, bits: u32) -> bool {
    let middle = f32::from(1_u8 << (bits - 1));
    let is_short = scale.to_bits().trailing_zeros() >= bits; // 24 bits less those of a code
    let largest = scale * (2.0 * middle);
    scale > 0.0 && is_short && largest.is_finite() && (-middle * scale).to_bits() == bias.to_bits()
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
    let bits = bits(json, path)?;
    let group_size = number(json, &format!("{path}/group_size"), &GROUP_SIZES)?;
    Ok(Grid::asymmetric(bits, Some(group_size as usize)))
}

/// Grid of one module. mlx-lm's mixed recipes write `"group_size": null`: no group size here, until the files show it.
fn grid_of_module(json: &Value, path: &str) -> Result<Grid, ConfigError> {
    if json.pointer(&format!("{path}/group_size")) == Some(&Value::Null) {
        return Ok(Grid::asymmetric(bits(json, path)?, None));
    }
    grid(json, path)
}

fn bits(json: &Value, path: &str) -> Result<u32, ConfigError> {
    let mode = ["affine".into(), Value::Null];
    expect(json, &format!("{path}/mode"), &mode)?;
    number(json, &format!("{path}/bits"), &[2, 3, 4, 5, 6, 8])
}

/// Group size of a module whose config has none: the one that its tensors show, else MLX's default, which the shapes then
/// contradict. A writer's `null` stands for that default, or for the group size of the whole, which may differ.
fn stored_group_size(files: &TensorFiles, name: &str, bits: u32) -> usize {
    let columns = |name: &str| files.info(name)?.1.get(1).copied();
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let found = columns(name).zip(columns(&format!("{module}.scales")));
    let mut sizes = GROUP_SIZES.into_iter().map(|size| size as usize);
    let fits = |size: &usize| {
        let num_bits = found.map(|(words, groups)| {
            [
                words.checked_mul(32),
                groups.checked_mul(size * bits as usize),
            ]
        });
        matches!(num_bits, Some([Some(stored), Some(of_groups)]) if stored == of_groups)
    };
    sizes.find(fits).unwrap_or(DEFAULT_GROUP_SIZE)
}
