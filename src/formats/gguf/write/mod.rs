//! GGUF files, which llama.cpp and the engines built on it load.

mod metadata;
mod tokenizer;

use std::path::{Path, PathBuf};

use half::f16;
use serde_json::{Map, Value};

pub use self::tokenizer::check_tokenizer;
use super::types::BlockTypes;
use crate::data::Tokenizer;
use crate::files;
use crate::formats::WriteError;
use crate::formats::write::integers;
use crate::gguf::{NewTensor, TensorType, WrittenType, sampling, write};
use crate::license::License;
use crate::model::{
    DecoderConfig, OnGrid, ParameterKind, ParameterSpec, Part, TensorSpec, tensor_specs,
};

/// A model to be written.
pub struct GgufModel<'a> {
    /// Its name, in the metadata and in the file's name.
    pub name: &'a str,
    /// Architecture.
    pub config: &'a DecoderConfig,
    /// Storage types of the weights.
    pub types: BlockTypes,
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Folder of the tokenizer's files, which may hold chat templates.
    pub template_dir: Option<&'a Path>,
    /// Sampling defaults, as in `generation_config.json`.
    pub generation: &'a Map<String, Value>,
    /// Licence of the models that it is made from, if known.
    pub license: Option<&'a License>,
}

impl GgufModel<'_> {
    /// Name of the file, as llama.cpp names files: the model's name, then the type of most of its weights.
    pub fn file_name(&self) -> String {
        let kind = self.types.of_most(self.config);
        format!("{}-{}.gguf", self.name, kind.name())
    }
}

/// Writes the file into an existing folder and returns its path.
///
/// `quantized` is called first for each weight: if it gives codes and scales in groups of 32, the blocks hold exactly
/// these. For the others, `weight` gives the values in f32, row-major.
pub fn write_model(
    dir: &Path,
    model: &GgufModel<'_>,
    mut weight: impl FnMut(&ParameterSpec) -> Vec<f32>,
    mut quantized: impl FnMut(&ParameterSpec) -> Option<OnGrid>,
) -> Result<PathBuf, WriteError> {
    let config = model.config;
    let specs = tensor_specs(config);
    let mut tensors = Vec::with_capacity(specs.len() + 1);
    for spec in &specs {
        tensors.push(NewTensor {
            name: spec.gguf_name.clone(),
            shape: spec.stored_shape(),
            kind: model.types.kind(spec.kind(), spec.shape[1]).into(),
        });
    }
    let divisors = metadata::rope_divisors(config);
    tensors.extend(divisors.iter().map(|(name, divisors)| NewTensor {
        name: (*name).to_owned(),
        shape: vec![divisors.len()],
        kind: TensorType::F32,
    }));
    let mut keys = metadata::metadata(config, model.name, model.types.of_most(config))?;
    keys.extend(model.license.map(metadata::license).unwrap_or_default());
    keys.extend(sampling::write(model.generation));
    keys.extend(tokenizer::keys(model)?);
    let mut data = Vec::with_capacity(tensors.len());
    for spec in &specs {
        let kind = model.types.kind(spec.kind(), spec.shape[1]);
        let codes: Option<Vec<_>> = spec.parts.iter().map(&mut quantized).collect();
        data.push(match codes.and_then(OnGrid::stacked) {
            Some(codes) => blocks(spec, &codes, kind, config)?,
            None => encode(spec, spec.joined(&mut weight), kind, config)?,
        });
    }
    let divisors = divisors.iter();
    data.extend(divisors.map(|(_, divisors)| WrittenType::F32.encode(divisors)));
    let path = dir.join(model.file_name());
    files::write_atomically(&path, |out| write(out, &keys, &tensors, |idx| &data[idx]))?;
    Ok(path)
}

/// Values of a weight as read back from the file, in f32.
pub fn stored(
    spec: &ParameterSpec,
    mut weight: Vec<f32>,
    types: BlockTypes,
    config: &DecoderConfig,
) -> Vec<f32> {
    if let Some(offset) = added_to_gains(spec.kind(), config) {
        for value in &mut weight {
            *value = (*value + offset) - offset;
        }
    }
    let kind = types.kind(spec.kind(), spec.shape[1]);
    TensorType::from(kind).decode(&kind.encode(&weight))
}

/// Offset added to the weights of norms: llama.cpp multiplies by the stored weight, Gemma by that weight plus one.
fn added_to_gains(kind: ParameterKind, config: &DecoderConfig) -> Option<f32> {
    #[expect(clippy::cast_possible_truncation, reason = "0 or 1")]
    let offset = config.family().gain_offset as f32;
    (offset != 0.0 && kind == ParameterKind::Norm).then_some(offset)
}

/// Blocks of a weight in f32.
fn encode(
    spec: &TensorSpec,
    mut weight: Vec<f32>,
    kind: WrittenType,
    config: &DecoderConfig,
) -> Result<Vec<u8>, WriteError> {
    check_finite(spec, &weight, kind)?;
    if let Some(offset) = added_to_gains(spec.kind(), config) {
        for value in &mut weight {
            *value += offset;
        }
    }
    if let Some(num_heads) = interleaved_heads(spec, config) {
        weight = pairs_of_halves(&weight, num_heads, config.head_dim);
    }
    Ok(kind.encode(&weight))
}

/// Refuses a number that the type cannot hold: it would be read as infinity.
fn check_finite(spec: &TensorSpec, weight: &[f32], kind: WrittenType) -> Result<(), WriteError> {
    let most = match kind {
        WrittenType::F32 | WrittenType::Bf16 => f32::MAX,
        _ => f16::MAX.to_f32(), // in blocks the scale is f16, and this bound is stricter
    };
    match weight
        .iter()
        .position(|value| value.is_nan() || value.abs() > most)
    {
        None => Ok(()),
        Some(element_idx) => Err(WriteError::NotFinite {
            tensor: spec.name.clone(),
            element_idx,
            value: weight[element_idx],
            dtype: kind.name(),
        }),
    }
}

/// Blocks that hold exactly these codes and scales, without rounding again.
fn blocks(
    spec: &TensorSpec,
    weight: &OnGrid,
    kind: WrittenType,
    config: &DecoderConfig,
) -> Result<Vec<u8>, WriteError> {
    let is_exact = |scale: f32| f16::from_f32(scale).to_f32().to_bits() == scale.to_bits();
    if let Some(scale_idx) = weight
        .scaling
        .scales
        .iter()
        .position(|&scale| !is_exact(scale))
    {
        return Err(WriteError::InexactScale {
            tensor: spec.name.clone(),
            scale_idx,
            value: weight.scaling.scales[scale_idx],
            dtype: "float16",
        });
    }
    let bits = if kind == WrittenType::Q4_0 { 4 } else { 8 };
    let codes = integers(&spec.name, &weight.codes, bits)?;
    let (codes, _) = codes.as_chunks::<32>();
    let mut bytes: Vec<Vec<u8>> = Vec::with_capacity(codes.len());
    for (codes, scale) in codes.iter().zip(&weight.scaling.scales) {
        let mut block = f16::from_f32(*scale).to_le_bytes().to_vec();
        if kind == WrittenType::Q4_0 {
            let nibble = |code: i8| (code + 8).cast_unsigned() & 15;
            let (low, high) = codes.split_at(16);
            let pairs = low.iter().zip(high);
            block.extend(pairs.map(|(&low, &high)| nibble(low) | nibble(high) << 4));
        } else {
            block.extend(codes.iter().map(|code| code.cast_unsigned()));
        }
        bytes.push(block);
    }
    if let Some(num_heads) = interleaved_heads(spec, config) {
        let [rows, columns] = spec.shape;
        let rows_of_blocks: Vec<Vec<u8>> = bytes
            .chunks(columns / 32)
            .map(<[Vec<u8>]>::concat)
            .collect();
        debug_assert_eq!(rows_of_blocks.len(), rows);
        return Ok(pairs_of_halves(&rows_of_blocks, num_heads, config.head_dim).concat());
    }
    Ok(bytes.concat())
}

/// Number of heads of a projection whose rows llama.cpp wants in another order: queries and keys of some families.
fn interleaved_heads(spec: &TensorSpec, config: &DecoderConfig) -> Option<usize> {
    if !config.family().gguf.turns_neighbours {
        return None;
    }
    match spec.id().part {
        Part::Query => Some(config.num_attention_heads),
        Part::Key => Some(config.num_key_value_heads),
        _ => None,
    }
}

/// Rows of queries or keys in llama.cpp's order, which rotates neighbours together: row `j` of a head moves to `2j`,
/// row `j + H/2` to `2j + 1`. Elements of `rows` are whole rows, or equal parts of rows.
fn pairs_of_halves<T: Clone>(rows: &[T], num_heads: usize, head_dim: usize) -> Vec<T> {
    let row_len = rows.len() / (num_heads * head_dim);
    let mut ordered = Vec::with_capacity(rows.len());
    for head in rows.chunks(head_dim * row_len) {
        let (first, second) = head.split_at(head.len() / 2);
        for (first, second) in first.chunks(row_len).zip(second.chunks(row_len)) {
            ordered.extend_from_slice(first);
            ordered.extend_from_slice(second);
        }
    }
    ordered
}

#[cfg(test)]
mod tests;
