//! GPTQ, AWQ and MLX: codes and scales of a grid in the tensors that these engines load.
//!
//! Layout: `docs/formats-export.md`.

mod awq;
mod gptq;
mod mlx;
mod refusal;

use ::safetensors::Dtype;
use serde_json::{Value, json};

pub use self::refusal::{Refusal, refusal, refusal_by};
use super::ExportError;
use super::huggingface::write_config;
use super::safetensors::{EncodedTensor, dtype_name, encode_weight};
use super::shards::{Files, Shards};
use crate::export::{ExportDtype, ExportFormat};
use crate::model::{
    DecoderConfig, OnGrid, ParameterSpec, Scheme, Schemes, TensorSpec, tensor_specs,
};

/// A container of quantised weights other than compressed-tensors and GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// The first version of GPTQ's format.
    Gptq,
    /// AWQ's `gemm` version.
    Awq,
    /// MLX's affine mode.
    Mlx,
}

impl Container {
    /// That of a format, if it is one of these.
    pub fn of(format: ExportFormat) -> Option<Self> {
        match format {
            ExportFormat::Gptq => Some(Self::Gptq),
            ExportFormat::Awq => Some(Self::Awq),
            ExportFormat::Mlx => Some(Self::Mlx),
            ExportFormat::HuggingFace | ExportFormat::CompressedTensors | ExportFormat::Gguf => {
                None
            }
        }
    }

    /// Its name, in recipes and as a folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gptq => "gptq",
            Self::Awq => "awq",
            Self::Mlx => "mlx",
        }
    }
}

/// Writes `model.safetensors` and `config.json` into an existing folder.
///
/// `quantized` is asked for every weight that has a scheme, `weight` for all else, which is stored plain as `dtype`.
/// Each is asked once per weight, in the order of [`tensor_specs`].
///
/// # Errors
///
/// If the container does not hold what is asked of it ([`refusal()`]), among others.
pub fn write_model<'a>(
    files: impl Into<Files<'a>>,
    config: &DecoderConfig,
    (container, schemes): (Container, &Schemes),
    dtype: ExportDtype,
    mut weight: impl FnMut(&ParameterSpec) -> Vec<f32>,
    mut quantized: impl FnMut(&ParameterSpec, Scheme) -> OnGrid,
) -> Result<(), ExportError> {
    if let Some(refusal) = refusal(container, schemes, dtype, config) {
        return Err(refusal.into());
    }
    let files = files.into();
    let mut shards = Shards::new(files);
    for spec in tensor_specs(config) {
        let Some(&scheme) = schemes.get(&spec.id()) else {
            shards.push(encode_weight(&spec, &spec.joined(&mut weight), dtype)?)?;
            continue;
        };
        let parts = spec.parts.iter().map(|part| quantized(part, scheme));
        let codes = OnGrid::stacked(parts).expect("a tensor holds a weight");
        let tensors = match container {
            Container::Gptq => gptq::encode(&spec, scheme, &codes)?,
            Container::Awq => awq::encode(&spec, scheme, &codes, dtype)?,
            Container::Mlx => mlx::encode(&spec, scheme, &codes, dtype)?,
        };
        for tensor in tensors {
            shards.push(tensor)?;
        }
    }
    let mut json = config.to_json(dtype_name(dtype));
    let said = match container {
        Container::Gptq => gptq::quantization_config(schemes),
        Container::Awq => awq::quantization_config(schemes),
        Container::Mlx => mlx::quantization(schemes, config),
    };
    if container == Container::Mlx {
        json["quantization"] = said.clone();
    }
    json["quantization_config"] = said;
    shards.finish()?;
    write_config(files.dir, &json)
}

/// `bits` and `group_size` of the one scheme that there is; a whole row is -1.
fn bits_and_group(schemes: &Schemes) -> (Value, Value) {
    let grid = schemes.values().next().map(|scheme| scheme.weight);
    let bits = grid.map(|grid| grid.levels.bits());
    let group_size = grid.and_then(|grid| grid.group_size);
    (
        json!(bits),
        group_size.map_or(json!(-1), |size| json!(size)),
    )
}

/// One of the tensors that stand for a weight.
fn part(
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
fn bytes_of(words: &[i32]) -> Vec<u8> {
    words.iter().copied().flat_map(i32::to_le_bytes).collect()
}

#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod tests;
