//! Writes safetensors files, byte for byte as the reference writer does.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use ::safetensors::Dtype;
use ::safetensors::tensor::{Metadata, TensorInfo};
use half::{bf16, f16};

use crate::files::write_atomically;
use crate::formats::{ExportDtype, WriteError};
use crate::model::TensorSpec;

/// A tensor as the file will hold it.
#[derive(Debug)]
pub(crate) struct EncodedTensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// Row-major, little-endian.
    pub(crate) bytes: Vec<u8>,
}

/// Encodes a plain weight; 16-bit floats are rounded to nearest, ties to even, as torch does.
///
/// Refuses a value that is not finite, or becomes infinite when rounded: engines would load it and generate noise.
pub(in crate::formats) fn encode_weight(
    spec: &TensorSpec,
    weight: &[f32],
    dtype: ExportDtype,
) -> Result<EncodedTensor, WriteError> {
    check_length(&spec.name, spec.num_elements(), weight.len())?;
    let is_stored = |value: &f32| dtype.rounded(*value).is_finite();
    if let Some(element_idx) = weight.iter().position(|value| !is_stored(value)) {
        return Err(WriteError::NotFinite {
            tensor: spec.name.clone(),
            element_idx,
            value: weight[element_idx],
            dtype: dtype.name(),
        });
    }
    let (dtype, bytes) = match dtype {
        ExportDtype::F32 => (
            Dtype::F32,
            weight
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        ),
        ExportDtype::Bf16 => (Dtype::BF16, encode_bf16(weight)),
        ExportDtype::F16 => {
            let halves = weight.iter().map(|&value| f16::from_f32(value));
            (Dtype::F16, halves.flat_map(f16::to_le_bytes).collect())
        }
    };
    Ok(EncodedTensor {
        name: spec.name.clone(),
        dtype,
        shape: spec.stored_shape(),
        bytes,
    })
}

/// Little-endian bfloat16, rounded to nearest, ties to even.
fn encode_bf16(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
        .collect()
}

pub(in crate::formats) fn check_length(
    tensor: &str,
    want: usize,
    got: usize,
) -> Result<(), WriteError> {
    if want == got {
        return Ok(());
    }
    Err(WriteError::WrongLength {
        tensor: tensor.to_owned(),
        want,
        got,
    })
}

/// Writes the file whole or not at all.
///
/// Tensors are sorted by dtype, widest first, then by name, so every one is aligned without padding. transformers asks
/// for `format: pt` in the metadata.
pub(super) fn write_file(path: &Path, mut tensors: Vec<EncodedTensor>) -> io::Result<()> {
    tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    let mut end = 0;
    let place = |tensor: &EncodedTensor| {
        let start = end;
        end += tensor.bytes.len();
        let info = TensorInfo {
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            data_offsets: (start, end),
        };
        (tensor.name.clone(), info)
    };
    let infos = tensors.iter().map(place).collect();
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    write_atomically(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        tensors
            .iter()
            .try_for_each(|tensor| out.write_all(&tensor.bytes))
    })
}
