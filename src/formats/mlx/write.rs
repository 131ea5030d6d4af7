//! MLX's affine mode: unsigned codes, a scale and a bias.

use ::safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::formats::write::{
    ConfigEntries, Encoded, bytes_of, check, exact_bytes, integers, pack, part,
};
use crate::formats::{ExportDtype, WriteError};
use crate::kernels::grid::Grid;
use crate::model::{
    DecoderConfig, OnGrid, ParameterKind, Scheme, Schemes, TensorSpec, tensor_specs,
};

/// Keys for the scheme of the first quantised projection, or else weight, and for each module with another or none.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the type of formats that may refuse"
)]
pub(super) fn describe(
    schemes: &Schemes,
    config: &DecoderConfig,
) -> Result<ConfigEntries, WriteError> {
    let specs = tensor_specs(config);
    let grid = |spec: &TensorSpec| schemes.get(&spec.id()).map(|scheme| scheme.weight);
    let linear = |spec: &&TensorSpec| spec.kind() == ParameterKind::Linear;
    let first = specs.iter().filter(linear).find_map(grid);
    let most = first.or_else(|| specs.iter().find_map(grid));
    let entry = |grid: Grid| {
        let bits = grid.levels.bits();
        Map::from_iter([
            ("bits".to_owned(), json!(bits)),
            ("group_size".to_owned(), json!(grid.group_size)),
        ])
    };
    let mut json = most.map(entry).unwrap_or_default();
    json.insert("mode".to_owned(), json!("affine"));
    for spec in specs.iter().filter(|spec| !spec.kind().is_vector()) {
        let own = grid(spec);
        if own.map(entry) != most.map(entry) {
            let own = own.map_or(json!(false), |grid| Value::Object(entry(grid)));
            json.insert(spec.module().to_owned(), own);
        }
    }
    let json = Value::Object(json);
    Ok(vec![
        ("quantization", json.clone()), // the key that MLX reads
        ("quantization_config", json),
    ])
}

/// Tensors that store a weight: `w = u · scale + bias` with `u = q + 2^(bits − 1)`.
pub(super) fn encode(
    spec: &TensorSpec,
    scheme: Scheme,
    weight: &OnGrid,
    dtype: ExportDtype,
) -> Encoded {
    let [rows, cols] = spec.shape;
    let bits = scheme.weight.levels.bits();
    let num_groups = check(spec, scheme, weight)?;
    let dtype = match dtype {
        ExportDtype::Bf16 => Dtype::BF16,
        ExportDtype::F16 => Dtype::F16,
        ExportDtype::F32 => Dtype::F32,
    };
    let codes = integers(&spec.name, &weight.codes, bits)?;
    let words = pack(&codes, spec.shape, bits);
    let scaling = &weight.scaling;
    let middle = f32::from(1_u8 << (bits - 1));
    let around_0 = vec![0.0; scaling.scales.len()];
    let zeros = scaling.zeros.as_ref().unwrap_or(&around_0).iter();
    let of_zeros = zeros.zip(&scaling.scales);
    let of_zeros = of_zeros.map(|(zero, scale)| -(middle + zero) * scale);
    let biases = scaling.biases.clone();
    let biases = biases.unwrap_or_else(|| of_zeros.collect());
    let scales = exact_bytes(&spec.name, &weight.scaling.scales, dtype)?;
    let biases = exact_bytes(&format!("{}.biases", spec.module()), &biases, dtype)?;
    let num_words = cols * bits as usize / 32;
    Ok(vec![
        part(
            spec,
            "weight",
            Dtype::U32,
            &[rows, num_words],
            bytes_of(&words),
        ),
        part(spec, "scales", dtype, &[rows, num_groups], scales),
        part(spec, "biases", dtype, &[rows, num_groups], biases),
    ])
}
