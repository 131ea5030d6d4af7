//! GPTQ's first format, around 0: what vLLM takes, and every older reader of GPTQ.

use ::safetensors::Dtype;
use serde_json::{Value, json};

use super::super::ExportError;
use super::super::compressed_tensors::{check, exact_bytes, integers, pack, transposed};
use super::super::safetensors::EncodedTensor;
use super::{bits_and_group, bytes_of, part};
use crate::model::{OnGrid, Scheme, Schemes, TensorSpec};

pub(super) fn quantization_config(schemes: &Schemes) -> Value {
    let (bits, group_size) = bits_and_group(schemes);
    json!({
        "bits": bits,
        "checkpoint_format": "gptq",
        "desc_act": false,
        "group_size": group_size,
        "lm_head": false,
        "pack_dtype": "int32",
        "quant_method": "gptq",
        "sym": true,
    })
}

/// The tensors that stand for a weight; all matrices are transposed, `[in, out]`.
pub(super) fn encode(
    spec: &TensorSpec,
    scheme: Scheme,
    weight: &OnGrid,
) -> Result<Vec<EncodedTensor>, ExportError> {
    let [rows, cols] = spec.shape;
    let bits = scheme.weight.levels.bits();
    let num_groups = check(spec, scheme, weight)?;
    let num_words = |codes: usize| codes * bits as usize / 32;
    // Codes of a row share words; then the matrix of words is turned.
    let codes = integers(&spec.name, &weight.codes, bits)?;
    let words = transposed(&pack(&codes, spec.shape, bits), num_words(cols));
    // What is stored is one less than the code that stands for 0.
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
