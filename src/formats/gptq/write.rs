//! GPTQ's first format, around 0, which vLLM and every older reader of GPTQ load.

use ::safetensors::Dtype;
use serde_json::json;

use crate::formats::write::{
    ConfigEntries, Encoded, bits_and_group, bytes_of, check, exact_bytes, integers, pack, part,
    transposed,
};
use crate::formats::{ExportDtype, WriteError};
use crate::model::{DecoderConfig, OnGrid, Scheme, Schemes, TensorSpec};

#[expect(
    clippy::unnecessary_wraps,
    reason = "the type of formats that may refuse"
)]
pub(super) fn describe(schemes: &Schemes, _: &DecoderConfig) -> Result<ConfigEntries, WriteError> {
    let (bits, group_size) = bits_and_group(schemes);
    let json = json!({
        "bits": bits,
        "checkpoint_format": "gptq",
        "desc_act": false,
        "group_size": group_size,
        "lm_head": false,
        "pack_dtype": "int32",
        "quant_method": "gptq",
        "sym": true,
    });
    Ok(vec![("quantization_config", json)])
}

/// Tensors that store a weight; all matrices are transposed, `[in, out]`.
pub(super) fn encode(
    spec: &TensorSpec,
    scheme: Scheme,
    weight: &OnGrid,
    _: ExportDtype,
) -> Encoded {
    let [rows, cols] = spec.shape;
    let bits = scheme.weight.levels.bits();
    let num_groups = check(spec, scheme, weight)?;
    let num_words = |codes: usize| codes * bits as usize / 32;
    // Codes of a row share words; then the matrix of words is transposed.
    let codes = integers(&spec.name, &weight.codes, bits)?;
    let words = transposed(&pack(&codes, spec.shape, bits), num_words(cols));
    // The stored zero is one less than the code of 0.
    let zeros = pack(&vec![-1; num_groups * rows], [num_groups, rows], bits);
    let scales = transposed(&weight.scaling.scales, num_groups);
    let scales = exact_bytes(&spec.name, &scales, Dtype::F16)?;
    let groups = (0..num_groups).flat_map(|group| {
        let group = i32::try_from(group).expect("fewer groups than columns, which a file holds");
        vec![group; cols / num_groups]
    });
    let groups: Vec<i32> = groups.collect();
    let of_zeros = [num_groups, num_words(rows)];
    Ok(vec![
        part(
            spec,
            "qweight",
            Dtype::I32,
            &[num_words(cols), rows],
            bytes_of(&words),
        ),
        part(spec, "qzeros", Dtype::I32, &of_zeros, bytes_of(&zeros)),
        part(spec, "scales", Dtype::F16, &[num_groups, rows], scales),
        part(spec, "g_idx", Dtype::I32, &[cols], bytes_of(&groups)),
    ])
}
