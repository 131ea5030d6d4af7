//! AWQ's `gemm` version: four bits, with zeros.

use ::safetensors::Dtype;
use serde_json::json;

use crate::formats::write::{
    ConfigEntries, Encoded, bits_and_group, bytes_of, check, exact_bytes, integers, pack, part,
    scale_dtype, transposed,
};
use crate::formats::{ExportDtype, WriteError};
use crate::model::{DecoderConfig, OnGrid, Scheme, Schemes, TensorSpec};

/// Columns of a word of eight codes, the lowest bits first: the order in which AWQ's kernels unpack nibbles.
const COLUMN_OF_NIBBLE: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

#[expect(
    clippy::unnecessary_wraps,
    reason = "the type of formats that may refuse"
)]
pub(super) fn describe(schemes: &Schemes, _: &DecoderConfig) -> Result<ConfigEntries, WriteError> {
    let (bits, group_size) = bits_and_group(schemes);
    let json = json!({
        "bits": bits,
        "group_size": group_size,
        "modules_to_not_convert": null,
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": true,
    });
    Ok(vec![("quantization_config", json)])
}

/// Tensors that store a weight; all matrices are transposed, `[in, out]`.
pub(super) fn encode(
    spec: &TensorSpec,
    scheme: Scheme,
    weight: &OnGrid,
    dtype: ExportDtype,
) -> Encoded {
    let [rows, cols] = spec.shape;
    let num_groups = check(spec, scheme, weight)?;
    let words = |name: &str, codes: &[f32], columns: usize| -> Result<Vec<u8>, WriteError> {
        let codes = transposed(&integers(name, codes, 4)?, columns);
        let words = pack(&interleaved(&codes), [columns, rows], 4);
        Ok(bytes_of(&words))
    };
    let around_0 = vec![0.0; num_groups * rows];
    let zeros = weight.scaling.zeros.as_ref().unwrap_or(&around_0);
    let scales = transposed(&weight.scaling.scales, num_groups);
    let stored = scale_dtype(dtype);
    let scales = exact_bytes(&spec.name, &scales, stored)?;
    let zeros = words(&format!("{}_zero_point", spec.name), zeros, num_groups)?;
    let codes = words(&spec.name, &weight.codes, cols)?;
    Ok(vec![
        part(spec, "qweight", Dtype::I32, &[cols, rows / 8], codes),
        part(spec, "qzeros", Dtype::I32, &[num_groups, rows / 8], zeros),
        part(spec, "scales", stored, &[num_groups, rows], scales),
    ])
}

fn interleaved(codes: &[i8]) -> Vec<i8> {
    let (eights, _) = codes.as_chunks::<8>();
    let eights = eights.iter();
    eights
        .flat_map(|eight| COLUMN_OF_NIBBLE.map(|column| eight[column]))
        .collect()
}
