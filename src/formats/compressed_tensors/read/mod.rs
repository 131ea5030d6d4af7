//! compressed-tensors: codes and scales in the place of a weight.
//!
//! Layout: `docs/formats-export.md`. This reader shares no code with the writer, so that one checks the other: it looks
//! up each code in the bytes of the stream; the writer shifts codes into words.
#![warn(clippy::indexing_slicing)]

mod config;

use std::collections::BTreeMap;

use ::safetensors::Dtype;
use serde_json::Value;

use crate::formats::read::{
    Packed, PackedReading, StoredWeight, are_in_order, fp8, listed_groups, transposed, unpack,
};
use crate::formats::{CheckpointError, TensorFiles};
use crate::model::{DecoderConfig, GroupScaling, OnGrid, Scheme, TensorSpec};

/// Schemes of all quantised weights in `quantization_config`, by name.
#[derive(Debug)]
struct CompressedTensors(BTreeMap<String, StoredScheme>);

/// Scheme of a weight, and layout of its codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StoredScheme {
    scheme: Scheme,
    layout: Layout,
    /// True if a tensor lists the group of each column.
    has_order: bool,
}

/// Layout of codes in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Whole numbers, in words of 32 bits.
    Words,
    /// Whole numbers, one to a byte.
    Bytes,
    /// Floats of 8 bits.
    Floats,
}

/// Makes a reader from a `quantization_config`.
///
/// Strict: a key that would change a weight or an activation, and is not implemented, is refused.
pub(super) fn open(json: &Value, config: &DecoderConfig) -> PackedReading {
    let schemes = config::stored_schemes(json, config)?;
    Ok(Box::new(CompressedTensors(schemes)))
}

impl Packed for CompressedTensors {
    fn scheme(&self, spec: &TensorSpec) -> Option<Scheme> {
        Some(self.0.get(&spec.name)?.scheme)
    }

    fn check(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<Option<Vec<String>>, CheckpointError> {
        let stored = self.0.get(&spec.name);
        stored.map(|stored| stored.check(files, spec)).transpose()
    }

    fn weight(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<Option<StoredWeight>, CheckpointError> {
        let stored = self.0.get(&spec.name);
        let weight = stored
            .map(|stored| stored.weight(files, spec))
            .transpose()?;
        Ok(weight)
    }
}

impl StoredScheme {
    fn check(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<Vec<String>, CheckpointError> {
        let [rows, cols] = spec.shape;
        let scale_shape = self.scale_shape(spec)?;
        let scale = part(spec, "scale");
        self.codes_of(files, spec)?;
        files.check_floats(&scale, &scale_shape)?;
        let mut names = vec![self.codes_name(spec), scale];
        if self.has_order {
            self.order_of(files, spec, scale_shape)?;
            names.push(part(spec, "g_idx"));
        }
        if self.layout != Layout::Words {
            return Ok(names);
        }
        let shape = part(spec, "shape");
        let got = files.i64s(&shape, &[2])?;
        let want = [rows, cols];
        if !want
            .map(i64::try_from)
            .into_iter()
            .flatten()
            .eq(got.iter().copied())
        {
            let tensor = shape;
            return Err(CheckpointError::WrongPackedShape { tensor, want, got });
        }
        names.push(shape);
        if self.scheme.weight.levels.has_zeros() {
            self.zeros_of(files, spec, scale_shape)?;
            names.push(part(spec, "zero_point"));
        }
        Ok(names)
    }

    /// A weight, on its grid if groups are neighbouring columns.
    fn weight(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<StoredWeight, CheckpointError> {
        let scale_shape = self.scale_shape(spec)?;
        let bits = self.scheme.weight.levels.bits();
        let bytes = self.codes_of(files, spec)?;
        let codes: Vec<f32> = match self.layout {
            Layout::Words => {
                let codes = unpack(bytes, spec.shape, bits).into_iter();
                codes.map(f32::from).collect()
            }
            Layout::Bytes => {
                let limit = 1_i16 << (bits - 1);
                let codes = bytes.iter().map(|byte| i16::from(byte.cast_signed()));
                if let Some(code) = codes.clone().find(|code| !(-limit..limit).contains(code)) {
                    let tensor = spec.name.clone();
                    return Err(CheckpointError::CodeOutOfRange { tensor, code, bits });
                }
                codes.map(f32::from).collect()
            }
            Layout::Floats => bytes.iter().map(|&byte| fp8(byte)).collect(),
        };
        let scales = files.f32s(&part(spec, "scale"), &scale_shape)?;
        let zeros = if self.scheme.weight.levels.has_zeros() {
            let zeros = self.zeros_of(files, spec, scale_shape)?;
            Some(zeros.into_iter().map(f32::from).collect())
        } else {
            None
        };
        let scaling = GroupScaling {
            zeros,
            ..GroupScaling::around_0(scales)
        };
        let weight = OnGrid { codes, scaling };
        Ok(match self.order_of(files, spec, scale_shape)? {
            None => StoredWeight::OnGrid(weight),
            Some(groups) => StoredWeight::Plain(weight.into_values_of_groups(&groups)),
        })
    }

    /// Group of each column, if the groups are not neighbouring columns. −1 throughout is what the tensor holds before
    /// GPTQ has chosen an order.
    fn order_of(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
        [_, num_groups]: [usize; 2],
    ) -> Result<Option<Vec<usize>>, CheckpointError> {
        if !self.has_order {
            return Ok(None);
        }
        let [_, cols] = spec.shape;
        let tensor = part(spec, "g_idx");
        let is_unset = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0xFF);
        if is_unset(files.raw(&tensor, Dtype::I32, &[cols])?) {
            return Ok(None);
        }
        let groups = listed_groups(files, &tensor, cols, num_groups)?;
        Ok((!are_in_order(&groups, cols / num_groups)).then_some(groups))
    }

    fn codes_name(&self, spec: &TensorSpec) -> String {
        match self.layout {
            Layout::Words => part(spec, "packed"),
            Layout::Bytes | Layout::Floats => spec.name.clone(),
        }
    }

    fn codes_of<'a>(
        &self,
        files: &'a TensorFiles,
        spec: &TensorSpec,
    ) -> Result<&'a [u8], CheckpointError> {
        let [rows, cols] = spec.shape;
        let name = self.codes_name(spec);
        match self.layout {
            Layout::Words => files.raw(&name, Dtype::I32, &[rows, self.num_words(cols)]),
            Layout::Bytes => files.raw(&name, Dtype::I8, &spec.shape),
            Layout::Floats => files.raw(&name, Dtype::F8_E4M3, &spec.shape),
        }
    }

    /// Zeros, one for each row and group. The zeros of a group are a stream of one code per row; its words are a column
    /// in the file.
    fn zeros_of(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
        [rows, num_groups]: [usize; 2],
    ) -> Result<Vec<i8>, CheckpointError> {
        let shape = [self.num_words(rows), num_groups];
        let bytes = files.raw(&part(spec, "zero_point"), Dtype::I32, &shape)?;
        let (words, _) = bytes.as_chunks::<4>();
        let streams = transposed(words, num_groups);
        let bits = self.scheme.weight.levels.bits();
        let zeros = unpack(streams.as_flattened(), [num_groups, rows], bits);
        Ok(transposed(&zeros, rows))
    }

    /// Number of words that these codes take.
    fn num_words(&self, codes: usize) -> usize {
        (codes * self.scheme.weight.levels.bits() as usize).div_ceil(32)
    }

    fn scale_shape(&self, spec: &TensorSpec) -> Result<[usize; 2], CheckpointError> {
        let [rows, cols] = spec.shape;
        let grid = self.scheme.weight;
        let group_size = grid.group_size.unwrap_or(cols);
        if grid.divides(cols) {
            return Ok([rows, cols / group_size]);
        }
        Err(CheckpointError::UnevenGroups {
            tensor: spec.name.clone(),
            cols,
            group_size,
        })
    }
}

/// Name of one of the tensors that store a weight.
fn part(spec: &TensorSpec, part: &str) -> String {
    format!("{}_{part}", spec.name)
}
