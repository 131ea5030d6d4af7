//! Folders of safetensors files: plain weights, and codes and scales where a format has them.

mod codes;

use ::safetensors::Dtype;
use half::{bf16, f16};
use serde_json::{Value, json};

pub(super) use self::codes::{fp8_bytes, integers, pack};
use super::huggingface::write_config;
use super::safetensors::{EncodedTensor, Shards, check_length, encode_weight};
use super::{ExportDtype, Files, Refusal, WriteError};
use crate::model::{
    DecoderConfig, OnGrid, ParameterSpec, Scheme, Schemes, TensorSpec, tensor_specs,
};

/// Way in which a format writes weights.
pub enum Writer {
    /// A folder with plain weights only.
    Plain,
    /// A folder; weights on grids are codes and scales.
    Codes(Codes),
    /// One file, in blocks of ggml: [`gguf::write_model`](super::gguf::write_model).
    Blocks,
}

/// Codes and scales as a format stores them.
pub struct Codes {
    /// Refusal of the first weight that the format cannot hold, or that its engines would refuse.
    pub(super) limits: fn(&Schemes, ExportDtype, &DecoderConfig) -> Option<Refusal>,
    /// Tensors that store a weight.
    pub(super) encode: fn(&TensorSpec, Scheme, &OnGrid, ExportDtype) -> Encoded,
    /// Keys and values of `config.json` that name the schemes.
    pub(super) describe: fn(&Schemes, &DecoderConfig) -> Result<ConfigEntries, WriteError>,
}

/// Tensors that store a weight.
pub(super) type Encoded = Result<Vec<EncodedTensor>, WriteError>;

/// Keys of a `config.json`, and their values.
pub(super) type ConfigEntries = Vec<(&'static str, Value)>;

/// Writes `model.safetensors` and `config.json` into an existing folder.
///
/// With `codes`, `quantized` is called for every weight that has a scheme. `weight` gives all others in f32, row-major,
/// masks applied; they are stored plain as `dtype`. Each is called once per weight, in the order of [`tensor_specs`].
/// Memory holds one weight at a time, beside the contents of one file.
///
/// # Errors
///
/// If the format cannot hold the weights, among others.
pub fn write_folder<'a>(
    files: impl Into<Files<'a>>,
    config: &DecoderConfig,
    codes: Option<(&Codes, &Schemes)>,
    dtype: ExportDtype,
    mut weight: impl FnMut(&ParameterSpec) -> Vec<f32>,
    mut quantized: impl FnMut(&ParameterSpec, Scheme) -> OnGrid,
) -> Result<(), WriteError> {
    let refusal = codes.and_then(|(codes, schemes)| (codes.limits)(schemes, dtype, config));
    if let Some(refusal) = refusal {
        return Err(refusal.into());
    }
    let files = files.into();
    let mut shards = Shards::new(files);
    for spec in tensor_specs(config) {
        let on_grid = codes.and_then(|(codes, schemes)| Some((codes, *schemes.get(&spec.id())?)));
        let Some((codes, scheme)) = on_grid else {
            shards.push(encode_weight(&spec, &spec.joined(&mut weight), dtype)?)?;
            continue;
        };
        let parts = spec.parts.iter().map(|part| quantized(part, scheme));
        let weight = OnGrid::stacked(parts).expect("a tensor holds a weight");
        for tensor in (codes.encode)(&spec, scheme, &weight, dtype)? {
            shards.push(tensor)?;
        }
    }
    let mut json = config.to_json(dtype.name());
    if let Some((codes, schemes)) = codes {
        for (key, value) in (codes.describe)(schemes, config)? {
            json[key] = value;
        }
    }
    shards.finish()?;
    write_config(files.dir, &json)
}

/// `bits` and `group_size` of the only scheme; a whole row is -1.
pub(super) fn bits_and_group(schemes: &Schemes) -> (Value, Value) {
    let grid = schemes.values().next().map(|scheme| scheme.weight);
    let bits = grid.map(|grid| grid.levels.bits());
    let group_size = grid.and_then(|grid| grid.group_size);
    (
        json!(bits),
        group_size.map_or(json!(-1), |size| json!(size)),
    )
}

/// One of the tensors that store a weight.
pub(super) fn part(
    spec: &TensorSpec,
    name: &str,
    dtype: Dtype,
    shape: &[usize],
    bytes: Vec<u8>,
) -> EncodedTensor {
    EncodedTensor {
        name: format!("{}.{name}", spec.module()),
        dtype,
        shape: shape.to_vec(),
        bytes,
    }
}

/// Little-endian bytes of words.
pub(super) fn bytes_of(words: &[i32]) -> Vec<u8> {
    words.iter().copied().flat_map(i32::to_le_bytes).collect()
}

/// Transpose of a row-major matrix with `columns` columns.
pub(super) fn transposed<T: Copy>(matrix: &[T], columns: usize) -> Vec<T> {
    let row = |start| matrix.iter().skip(start).step_by(columns.max(1)).copied();
    (0..columns).flat_map(row).collect()
}

/// Checks that a weight matches its scheme; returns the number of groups in a row.
pub(super) fn check(
    spec: &TensorSpec,
    scheme: Scheme,
    weight: &OnGrid,
) -> Result<usize, WriteError> {
    let [rows, cols] = spec.shape;
    let group_size = scheme.weight.group_size.unwrap_or(cols);
    if !scheme.weight.divides(cols) {
        return Err(WriteError::UnevenGroups {
            tensor: spec.name.clone(),
            cols,
            group_size,
        });
    }
    let num_groups = cols / group_size;
    let scale_name = format!("{}_scale", spec.name);
    check_length(&spec.name, rows * cols, weight.codes.len())?;
    check_length(&scale_name, rows * num_groups, weight.scaling.scales.len())?;
    let num_zeros = weight.scaling.zeros.as_ref().map_or(0, Vec::len);
    let want = if scheme.weight.levels.has_zeros() {
        rows * num_groups
    } else {
        0
    };
    check_length(&format!("{}_zero_point", spec.name), want, num_zeros)?;
    Ok(num_groups)
}

/// Dtype of scales: that of the other floats, or bf16 beside f32; bf16 holds the scales of alambic's own grids.
pub(super) fn scale_dtype(dtype: ExportDtype) -> Dtype {
    match dtype {
        ExportDtype::F16 => Dtype::F16,
        ExportDtype::Bf16 | ExportDtype::F32 => Dtype::BF16,
    }
}

/// Bytes of scales in a file; refuses a scale that the dtype does not hold exactly.
pub(super) fn exact_bytes(
    tensor: &str,
    scales: &[f32],
    dtype: Dtype,
) -> Result<Vec<u8>, WriteError> {
    let stored = |scale: f32| match dtype {
        Dtype::BF16 => bf16::from_f32(scale).to_f32(),
        Dtype::F16 => f16::from_f32(scale).to_f32(),
        _ => scale,
    };
    let is_exact = |scale: f32| scale.is_finite() && stored(scale).to_bits() == scale.to_bits();
    if let Some(scale_idx) = scales.iter().position(|&scale| !is_exact(scale)) {
        return Err(WriteError::InexactScale {
            tensor: tensor.to_owned(),
            scale_idx,
            value: scales[scale_idx],
            dtype: match dtype {
                Dtype::BF16 => "bfloat16",
                Dtype::F16 => "float16",
                _ => "float32",
            },
        });
    }
    let scales = scales.iter().copied();
    Ok(match dtype {
        Dtype::BF16 => scales
            .flat_map(|scale| bf16::from_f32(scale).to_le_bytes())
            .collect(),
        Dtype::F16 => scales
            .flat_map(|scale| f16::from_f32(scale).to_le_bytes())
            .collect(),
        _ => scales.flat_map(f32::to_le_bytes).collect(),
    })
}
