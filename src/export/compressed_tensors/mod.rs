//! compressed-tensors: codes and what scales them, for vLLM, SGLang and transformers.
//!
//! Layout: `docs/formats-export.md`.

mod config;
mod pack;

use ::safetensors::Dtype;
use half::{bf16, f16};

use self::config::quantization_config;
pub use self::pack::pack;
use super::ExportError;
use super::huggingface::write_config;
use super::safetensors::{EncodedTensor, check_length, dtype_name, encode_weight};
use super::shards::{Files, Shards};
use crate::export::ExportDtype;
use crate::kernels::grid::Levels;
use crate::model::{
    DecoderConfig, OnGrid, ParameterSpec, Scheme, Schemes, TensorSpec, tensor_specs,
};

/// How the codes of a weight lie in the file; the names are those of `format` in `quantization_config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Whole numbers in 32-bit words; weights only.
    Pack,
    /// Whole numbers in bytes, beside rounded activations.
    Int,
    /// Floats in bytes, beside rounded activations.
    Float,
    /// Floats in bytes; weights only.
    Naive,
}

impl Format {
    /// The format that the reference writer gives a scheme; an error if there is none.
    pub(super) fn of(name: &str, scheme: Scheme) -> Result<Self, ExportError> {
        match (scheme.weight.levels, scheme.input) {
            (Levels::Fp8, None) => Ok(Self::Naive),
            (Levels::Fp8, Some(Levels::Fp8)) => Ok(Self::Float),
            (_, None) => Ok(Self::Pack),
            (
                Levels::Symmetric { .. } | Levels::Ternary | Levels::Stretched,
                Some(Levels::Symmetric { bits: 8 }),
            ) => Ok(Self::Int),
            (levels, Some(input)) => Err(ExportError::NoFormat {
                tensor: name.to_owned(),
                found: format!("weights of {levels} and activations of {input}"),
            }),
        }
    }

    /// Its name in `config.json`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pack => "pack-quantized",
            Self::Int => "int-quantized",
            Self::Float => "float-quantized",
            Self::Naive => "naive-quantized",
        }
    }
}

/// Writes `model.safetensors` and `config.json` into an existing folder.
///
/// `quantized` is asked for every weight that has a scheme, `weight` for all else, which is stored plain as `dtype`.
/// Each is asked once per weight, in the order of [`tensor_specs`].
pub fn write_model<'a>(
    files: impl Into<Files<'a>>,
    config: &DecoderConfig,
    schemes: &Schemes,
    dtype: ExportDtype,
    mut weight: impl FnMut(&ParameterSpec) -> Vec<f32>,
    mut quantized: impl FnMut(&ParameterSpec, Scheme) -> OnGrid,
) -> Result<(), ExportError> {
    let files = files.into();
    let mut shards = Shards::new(files);
    for spec in tensor_specs(config) {
        let Some(&scheme) = schemes.get(&spec.id()) else {
            shards.push(encode_weight(&spec, &spec.joined(&mut weight), dtype)?)?;
            continue;
        };
        let parts = spec.parts.iter().map(|part| quantized(part, scheme));
        let codes = OnGrid::stacked(parts).expect("a tensor holds a weight");
        for tensor in encode(&spec, scheme, dtype, &codes)? {
            shards.push(tensor)?;
        }
    }
    let mut json = config.to_json(dtype_name(dtype));
    json["quantization_config"] = quantization_config(schemes, config)?;
    shards.finish()?;
    write_config(files.dir, &json)
}

/// Codes as bytes; one that no whole number of this width is, is refused.
pub(super) fn integers(tensor: &str, codes: &[f32], bits: u32) -> Result<Vec<i8>, ExportError> {
    let limit = f32::from(1_u8 << (bits - 1));
    let one = |(code_idx, &code): (usize, &f32)| {
        if code.fract() == 0.0 && (-limit..limit).contains(&code) {
            #[expect(clippy::cast_possible_truncation, reason = "a whole number of 8 bits")]
            return Ok(code as i8);
        }
        Err(ExportError::CodeOutOfRange {
            tensor: tensor.to_owned(),
            code_idx,
            code,
            bits,
        })
    };
    codes.iter().enumerate().map(one).collect()
}

/// The tensors that stand for a weight.
///
/// Scales are stored as the other floats are; beside f32 as bf16, which holds those of alambic's own grids.
fn encode(
    spec: &TensorSpec,
    scheme: Scheme,
    dtype: ExportDtype,
    weight: &OnGrid,
) -> Result<Vec<EncodedTensor>, ExportError> {
    let [rows, cols] = spec.shape;
    let num_groups = check(spec, scheme, weight)?;
    let tensor = |suffix: &str, dtype, shape: [usize; 2], bytes| EncodedTensor {
        name: format!("{}{suffix}", spec.name),
        dtype,
        shape: shape.to_vec(),
        bytes,
    };
    let bits = scheme.weight.levels.bits();
    let words = |codes: &[i8], shape| -> Vec<u8> {
        let words = pack(codes, shape, bits).into_iter();
        words.flat_map(i32::to_le_bytes).collect()
    };
    let num_words = |codes: usize| (codes * bits as usize).div_ceil(32);
    let scale_dtype = match dtype {
        ExportDtype::F16 => Dtype::F16,
        ExportDtype::Bf16 | ExportDtype::F32 => Dtype::BF16,
    };
    let scales = exact_bytes(&spec.name, &weight.scaling.scales, scale_dtype)?;
    let scales = tensor("_scale", scale_dtype, [rows, num_groups], scales);
    Ok(match Format::of(&spec.name, scheme)? {
        Format::Pack => {
            let codes = integers(&spec.name, &weight.codes, bits)?;
            let packed = words(&codes, spec.shape);
            let shape = [rows as u64, cols as u64];
            let mut tensors = vec![
                tensor("_packed", Dtype::I32, [rows, num_words(cols)], packed),
                scales,
                EncodedTensor {
                    name: format!("{}_shape", spec.name),
                    dtype: Dtype::I64,
                    shape: vec![2],
                    bytes: shape.into_iter().flat_map(u64::to_le_bytes).collect(),
                },
            ];
            if let Some(zeros) = &weight.scaling.zeros {
                let name = format!("{}_zero_point", spec.name);
                let zeros = integers(&name, zeros, bits)?;
                // Zeros of a group are a stream down the rows.
                let streams = transposed(&zeros, num_groups);
                let words = pack(&streams, [num_groups, rows], bits);
                let words = transposed(&words, num_words(rows)).into_iter();
                let bytes = words.flat_map(i32::to_le_bytes).collect();
                let shape = [num_words(rows), num_groups];
                tensors.push(tensor("_zero_point", Dtype::I32, shape, bytes));
            }
            tensors
        }
        Format::Int => {
            let codes = integers(&spec.name, &weight.codes, bits)?.into_iter();
            let bytes = codes.map(i8::cast_unsigned).collect();
            vec![tensor("", Dtype::I8, spec.shape, bytes), scales]
        }
        Format::Float | Format::Naive => {
            let bytes = pack::fp8_bytes(&spec.name, &weight.codes)?;
            vec![tensor("", Dtype::F8_E4M3, spec.shape, bytes), scales]
        }
    })
}

/// A matrix of rows of `columns`, with its rows as columns.
pub(super) fn transposed<T: Copy>(matrix: &[T], columns: usize) -> Vec<T> {
    let row = |start| matrix.iter().skip(start).step_by(columns.max(1)).copied();
    (0..columns).flat_map(row).collect()
}

/// The weight has what its scheme says; returns the number of groups in a row.
pub(super) fn check(
    spec: &TensorSpec,
    scheme: Scheme,
    weight: &OnGrid,
) -> Result<usize, ExportError> {
    let [rows, cols] = spec.shape;
    let group_size = scheme.weight.group_size.unwrap_or(cols);
    if !scheme.weight.divides(cols) {
        return Err(ExportError::UnevenGroups {
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

/// Scales as a file holds them; one that the dtype does not hold exactly is refused.
pub(super) fn exact_bytes(
    tensor: &str,
    scales: &[f32],
    dtype: Dtype,
) -> Result<Vec<u8>, ExportError> {
    let stored = |scale: f32| match dtype {
        Dtype::BF16 => bf16::from_f32(scale).to_f32(),
        Dtype::F16 => f16::from_f32(scale).to_f32(),
        _ => scale,
    };
    let is_exact = |scale: f32| scale.is_finite() && stored(scale).to_bits() == scale.to_bits();
    if let Some(scale_idx) = scales.iter().position(|&scale| !is_exact(scale)) {
        return Err(ExportError::InexactScale {
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

#[cfg(test)]
mod reference;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod tests;
