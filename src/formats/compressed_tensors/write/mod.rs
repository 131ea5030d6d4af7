//! compressed-tensors: codes and scales, for vLLM, SGLang and transformers.
//!
//! Layout: `docs/formats-export.md`.

mod config;

use ::safetensors::Dtype;

pub(super) use self::config::quantization_config;
use crate::formats::safetensors::EncodedTensor;
use crate::formats::write::{
    ConfigEntries, Encoded, check, exact_bytes, fp8_bytes, integers, pack, scale_dtype, transposed,
};
use crate::formats::{ExportDtype, WriteError};
use crate::kernels::grid::Levels;
use crate::model::{DecoderConfig, OnGrid, Scheme, Schemes, TensorSpec};

/// Layout of the codes of a weight in the file; named as `format` in `quantization_config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Whole numbers in 32-bit words; weights only.
    Pack,
    /// Whole numbers in bytes, with rounded activations.
    Int,
    /// Floats in bytes, with rounded activations.
    Float,
    /// Floats in bytes; weights only.
    Naive,
}

impl Layout {
    /// The format that the reference writer gives a scheme; an error if there is none.
    fn of(name: &str, scheme: Scheme) -> Result<Self, WriteError> {
        match (scheme.weight.levels, scheme.input) {
            (Levels::Fp8, None) => Ok(Self::Naive),
            (Levels::Fp8, Some(Levels::Fp8)) => Ok(Self::Float),
            (_, None) => Ok(Self::Pack),
            (
                Levels::Symmetric { .. } | Levels::Ternary | Levels::Stretched,
                Some(Levels::Symmetric { bits: 8 }),
            ) => Ok(Self::Int),
            (levels, Some(input)) => Err(WriteError::NoFormat {
                tensor: name.to_owned(),
                found: format!("weights of {levels} and activations of {input}"),
            }),
        }
    }

    /// Its name in `config.json`.
    fn name(self) -> &'static str {
        match self {
            Self::Pack => "pack-quantized",
            Self::Int => "int-quantized",
            Self::Float => "float-quantized",
            Self::Naive => "naive-quantized",
        }
    }
}

/// `quantization_config`, which names the scheme of each module.
pub(super) fn describe(
    schemes: &Schemes,
    config: &DecoderConfig,
) -> Result<ConfigEntries, WriteError> {
    let json = quantization_config(schemes, config)?;
    Ok(vec![("quantization_config", json)])
}

/// Tensors that store a weight.
pub(super) fn encode(
    spec: &TensorSpec,
    scheme: Scheme,
    weight: &OnGrid,
    dtype: ExportDtype,
) -> Encoded {
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
    let scale_dtype = scale_dtype(dtype);
    let scales = exact_bytes(&spec.name, &weight.scaling.scales, scale_dtype)?;
    let scales = tensor("_scale", scale_dtype, [rows, num_groups], scales);
    Ok(match Layout::of(&spec.name, scheme)? {
        Layout::Pack => {
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
        Layout::Int => {
            let codes = integers(&spec.name, &weight.codes, bits)?.into_iter();
            let bytes = codes.map(i8::cast_unsigned).collect();
            vec![tensor("", Dtype::I8, spec.shape, bytes), scales]
        }
        Layout::Float | Layout::Naive => {
            let bytes = fp8_bytes(&spec.name, &weight.codes)?;
            vec![tensor("", Dtype::F8_E4M3, spec.shape, bytes), scales]
        }
    })
}
