//! compressed-tensors `pack-quantized`: integer codes in 32-bit words, for vLLM, SGLang and transformers.
//!
//! Layout: `docs/formats-export.md`.

use std::path::Path;

use ::safetensors::Dtype;
use serde_json::{Value, json};

use super::ExportError;
use super::huggingface::write_configs;
use super::safetensors::{
    EncodedTensor, check_length, dtype_name, encode_bf16, encode_weight, write_file,
};
use crate::model::{DecoderConfig, ParameterKind, ParameterSpec, parameter_specs};
use crate::recipe::ExportDtype;

/// Grid of the packed weights: symmetric integers times one scale per row or group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackScheme {
    /// 4 or 8.
    pub bits: u32,
    /// Weights that share a scale, along the input; `None` is one scale per output row.
    pub group_size: Option<usize>,
}

/// A weight on its grid: `code * scale`.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedWeight {
    /// Row-major `[out, in]`, each in −2^(bits − 1) ..= 2^(bits − 1) − 1.
    pub codes: Vec<i8>,
    /// Row-major `[out, G]`; each exact in bfloat16, in which it is stored.
    pub scales: Vec<f32>,
}

/// Writes `model.safetensors`, `config.json` and `generation_config.json` into an existing folder.
///
/// `quantized` is asked for every projection inside a block, `weight` for all else (embedding, norms, head), which is
/// stored plain as `dtype`. Both are asked once per weight, in the order of [`parameter_specs`].
pub fn write_model(
    dir: &Path,
    config: &DecoderConfig,
    scheme: PackScheme,
    dtype: ExportDtype,
    mut weight: impl FnMut(&ParameterSpec) -> Vec<f32>,
    mut quantized: impl FnMut(&ParameterSpec) -> QuantizedWeight,
) -> Result<(), ExportError> {
    if !matches!(scheme.bits, 4 | 8) {
        return Err(ExportError::Bits { bits: scheme.bits });
    }
    let mut tensors = Vec::new();
    for spec in parameter_specs(config) {
        match spec.kind {
            ParameterKind::Linear => tensors.extend(encode(&spec, &quantized(&spec), scheme)?),
            _ => tensors.push(encode_weight(&spec, &weight(&spec), dtype)?),
        }
    }
    write_file(&dir.join("model.safetensors"), tensors)?;
    let mut json = config.to_json(dtype_name(dtype));
    json["quantization_config"] = quantization_config(scheme);
    write_configs(dir, config, &json)
}

/// Codes as rows of little-endian 32-bit words, the code of the lowest column in the lowest bits.
///
/// A stored code is unsigned: 2^(bits − 1) is zero. A row ends on a whole word, padded with zero bits.
///
/// # Panics
///
/// If there are not `rows * cols` codes, or `bits` is neither 4 nor 8.
pub fn pack(codes: &[i8], [rows, cols]: [usize; 2], bits: u32) -> Vec<i32> {
    assert_eq!(codes.len(), rows * cols, "codes of [{rows}, {cols}]");
    assert!(matches!(bits, 4 | 8), "{bits} bits");
    let zero = 1_u32 << (bits - 1);
    let mask = (1 << bits) - 1;
    let fold =
        |word: u32, &code: &i8| (word << bits) | (zero.wrapping_add_signed(i32::from(code)) & mask);
    codes
        .chunks(cols.max(1))
        .flat_map(|row| row.chunks(32 / bits as usize))
        .map(|word| word.iter().rev().fold(0, fold).cast_signed())
        .collect()
}

fn encode(
    spec: &ParameterSpec,
    weight: &QuantizedWeight,
    scheme: PackScheme,
) -> Result<[EncodedTensor; 3], ExportError> {
    let [rows, cols] = spec.shape;
    let num_groups = check(spec, weight, scheme)?;
    let words = pack(&weight.codes, spec.shape, scheme.bits);
    let tensor = |part, dtype, shape, bytes| EncodedTensor {
        name: format!("{}_{part}", spec.name),
        dtype,
        shape,
        bytes,
    };
    let shape = [rows as u64, cols as u64];
    Ok([
        tensor(
            "packed",
            Dtype::I32,
            vec![rows, cols.div_ceil(32 / scheme.bits as usize)],
            words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        ),
        tensor(
            "scale",
            Dtype::BF16,
            vec![rows, num_groups],
            encode_bf16(&weight.scales),
        ),
        tensor(
            "shape",
            Dtype::I64,
            vec![2],
            shape.iter().flat_map(|size| size.to_le_bytes()).collect(),
        ),
    ])
}

/// The weight is exactly what the file can say; returns the number of groups in a row.
fn check(
    spec: &ParameterSpec,
    weight: &QuantizedWeight,
    scheme: PackScheme,
) -> Result<usize, ExportError> {
    let tensor = || spec.name.clone();
    let [rows, cols] = spec.shape;
    let group_size = scheme.group_size.unwrap_or(cols);
    if group_size == 0 || !cols.is_multiple_of(group_size) {
        return Err(ExportError::UnevenGroups {
            tensor: tensor(),
            cols,
            group_size,
        });
    }
    let num_groups = cols / group_size;
    check_length(&spec.name, rows * cols, weight.codes.len())?;
    check_length(
        &format!("{}_scale", spec.name),
        rows * num_groups,
        weight.scales.len(),
    )?;
    let unused = 8 - scheme.bits;
    let fits = |code: i8| code << unused >> unused == code;
    if let Some(code_idx) = weight.codes.iter().position(|&code| !fits(code)) {
        return Err(ExportError::CodeOutOfRange {
            tensor: tensor(),
            code_idx,
            code: weight.codes[code_idx],
            bits: scheme.bits,
        });
    }
    let is_exact = |scale: f32| {
        scale.is_finite() && half::bf16::from_f32(scale).to_f32().to_bits() == scale.to_bits()
    };
    if let Some(scale_idx) = weight.scales.iter().position(|&scale| !is_exact(scale)) {
        return Err(ExportError::InexactScale {
            tensor: tensor(),
            scale_idx,
            value: weight.scales[scale_idx],
            dtype: "bfloat16",
        });
    }
    Ok(num_groups)
}

/// `quantization_config`, with every key that old readers need and none that they do not know.
///
/// `lm_head` stands in `ignore` even if it is tied, as llm-compressor writes it.
fn quantization_config(scheme: PackScheme) -> Value {
    let strategy = match scheme.group_size {
        Some(_) => "group",
        None => "channel",
    };
    json!({
        "config_groups": {
            "group_0": {
                "input_activations": null,
                "output_activations": null,
                "targets": ["Linear"],
                "weights": {
                    "actorder": null,
                    "block_structure": null,
                    "dynamic": false,
                    "group_size": scheme.group_size,
                    "num_bits": scheme.bits,
                    "strategy": strategy,
                    "symmetric": true,
                    "type": "int",
                },
            },
        },
        "format": "pack-quantized",
        "global_compression_ratio": null,
        "ignore": ["lm_head"],
        "kv_cache_scheme": null,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    })
}

#[cfg(test)]
#[path = "compressed_tensors_tests.rs"]
mod tests;
