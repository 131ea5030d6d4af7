//! compressed-tensors `pack-quantized`: integer codes in 32-bit words, one scale per row or group of columns.
//!
//! Layout: `docs/formats-export.md`. This reader is written apart from the writer in `export`, so that one checks
//! the other: it walks the bytes of the stream, where the writer folds codes into words.
#![warn(clippy::indexing_slicing)]

use std::collections::BTreeSet;

use ::safetensors::Dtype;
use serde_json::Value;

use super::{CheckpointError, TensorFiles};
use crate::model::{ConfigError, ParameterKind, ParameterSpec};

/// What `quantization_config` says: symmetric integers, weights only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedScheme {
    /// 4 or 8.
    pub bits: u32,
    /// Weights that share a scale, along the input; `None` is one scale per output row.
    pub group_size: Option<usize>,
    /// Modules that are stored plain, by full name.
    pub ignore: BTreeSet<String>,
}

impl PackedScheme {
    /// The scheme of a parsed `config.json`; `None` if it has no `quantization_config`.
    ///
    /// Strict: whatever would change a weight or an activation and is not implemented is refused by its key.
    pub fn from_config(config: &Value) -> Result<Option<Self>, ConfigError> {
        let Some(json) = config
            .get("quantization_config")
            .filter(|json| !json.is_null())
        else {
            return Ok(None);
        };
        expect(json, "/quant_method", &["compressed-tensors".into()])?;
        expect(json, "/format", &["pack-quantized".into()])?;
        expect(
            json,
            "/quantization_status",
            &["compressed".into(), Value::Null],
        )?;
        let empty = || Value::Object(serde_json::Map::new());
        for key in ["/kv_cache_scheme", "/sparsity_config", "/transform_config"] {
            expect(json, key, &[Value::Null, empty()])?;
        }
        let groups = json.get("config_groups");
        let (name, group) = match groups.and_then(Value::as_object).map(|map| map.iter()) {
            Some(mut groups) if groups.len() == 1 => groups.next(),
            _ => None,
        }
        .ok_or_else(|| unexpected("/config_groups", "one group", groups))?;
        let ignore = ignored_modules(json)?;
        let at = |key| format!("/config_groups/{name}/{key}");
        for key in ["input_activations", "output_activations"] {
            expect(json, &at(key), &[Value::Null])?;
        }
        expect(json, &at("targets"), &[vec!["Linear"].into()])?;
        expect(json, &at("format"), &["pack-quantized".into(), Value::Null])?;
        let weights = at("weights");
        let at = |key| format!("{weights}/{key}");
        expect(json, &at("type"), &["int".into(), Value::Null])?;
        expect(json, &at("symmetric"), &[true.into(), Value::Null])?;
        expect(json, &at("dynamic"), &[false.into(), Value::Null])?;
        expect(json, &at("actorder"), &[Value::Null])?;
        let bits = expect(json, &at("num_bits"), &[4.into(), 8.into()])?;
        Ok(Some(Self {
            bits: if bits == Some(&Value::from(4)) { 4 } else { 8 },
            group_size: group_size(group.get("weights"), &weights)?,
            ignore,
        }))
    }

    /// Whether this weight is packed.
    pub(super) fn covers(&self, spec: &ParameterSpec) -> bool {
        matches!(spec.kind, ParameterKind::Linear | ParameterKind::Head)
            && !self.ignore.contains(spec.module())
    }

    /// Names of the tensors that stand for a packed weight: codes, scales, shape.
    pub(super) fn tensor_names(spec: &ParameterSpec) -> [String; 3] {
        ["packed", "scale", "shape"].map(|part| format!("{}_{part}", spec.name))
    }

    /// The tensors are there with their dtypes and shapes; `weight_shape`, two numbers, is read too.
    pub(super) fn check(
        &self,
        files: &TensorFiles,
        spec: &ParameterSpec,
    ) -> Result<(), CheckpointError> {
        let [packed, scale, shape] = Self::tensor_names(spec);
        files.raw(&packed, Dtype::I32, &self.packed_shape(spec))?;
        files.check_floats(&scale, &self.scale_shape(spec)?)?;
        let got = files.i64s(&shape, &[2])?;
        let want = spec.shape;
        if want
            .map(i64::try_from)
            .into_iter()
            .flatten()
            .eq(got.iter().copied())
        {
            Ok(())
        } else {
            let tensor = shape;
            Err(CheckpointError::WrongPackedShape { tensor, want, got })
        }
    }

    /// `code * scale` in f32, which is exact up to the one rounding of the product.
    pub(super) fn weight(
        &self,
        files: &TensorFiles,
        spec: &ParameterSpec,
    ) -> Result<Vec<f32>, CheckpointError> {
        let [packed, scale, _] = Self::tensor_names(spec);
        let packed = files.raw(&packed, Dtype::I32, &self.packed_shape(spec))?;
        let scales = files.f32s(&scale, &self.scale_shape(spec)?)?;
        let codes = unpack(packed, spec.shape, self.bits);
        let group_size = self.group_size.unwrap_or(spec.shape[1]);
        let scaled = |(codes, &scale): (&[i8], &f32)| {
            let codes = codes.iter();
            codes
                .map(|&code| f32::from(code) * scale)
                .collect::<Vec<_>>()
        };
        Ok(codes
            .chunks(group_size)
            .zip(&scales)
            .flat_map(scaled)
            .collect())
    }

    /// Rows of whole 32-bit words.
    fn packed_shape(&self, spec: &ParameterSpec) -> [usize; 2] {
        let [rows, cols] = spec.shape;
        [rows, cols.div_ceil(32 / self.bits as usize)]
    }

    fn scale_shape(&self, spec: &ParameterSpec) -> Result<[usize; 2], CheckpointError> {
        let [rows, cols] = spec.shape;
        let group_size = self.group_size.unwrap_or(cols);
        if cols.is_multiple_of(group_size) {
            return Ok([rows, cols / group_size]);
        }
        Err(CheckpointError::UnevenGroups {
            tensor: spec.name.clone(),
            cols,
            group_size,
        })
    }
}

/// Codes of a packed weight, row-major: each row is a little-endian bit stream, padded to whole 32-bit words.
///
/// A stored code is unsigned; 2^(bits − 1) is zero.
pub(crate) fn unpack(packed: &[u8], [rows, cols]: [usize; 2], bits: u32) -> Vec<i8> {
    let per_byte = 8 / bits as usize;
    let row_bytes = 4 * cols.div_ceil(4 * per_byte);
    let unused = 8 - bits;
    let mut codes = Vec::with_capacity(rows * cols);
    for row in packed.chunks_exact(row_bytes) {
        let fields = row
            .iter()
            .flat_map(|byte| (0..8).step_by(bits as usize).map(move |low| byte >> low));
        // The field moves to the top of the byte, where flipping its highest bit subtracts 2^(bits − 1) and the
        // arithmetic shift back extends the sign.
        let signed = |field: u8| ((field << unused) ^ 0x80).cast_signed() >> unused;
        codes.extend(fields.take(cols).map(signed));
    }
    codes
}

/// `ignore`: full module names; patterns and class names are not implemented.
fn ignored_modules(json: &Value) -> Result<BTreeSet<String>, ConfigError> {
    let ignore = match json.get("ignore") {
        None | Some(Value::Null) => return Ok(BTreeSet::new()),
        Some(ignore) => ignore,
    };
    let names: Option<BTreeSet<String>> = ignore.as_array().and_then(|names| {
        names
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect()
    });
    names
        .filter(|names| !names.iter().any(|name| name.starts_with("re:")))
        .ok_or_else(|| unexpected("/ignore", "a list of module names", Some(ignore)))
}

/// Group size from `strategy` and `group_size`; a strategy left out follows from the size (−1 is a whole row).
fn group_size(weights: Option<&Value>, path: &str) -> Result<Option<usize>, ConfigError> {
    let field = |key| {
        weights
            .and_then(|weights| weights.get(key))
            .filter(|value| !value.is_null())
    };
    let size = field("group_size");
    let group_size = match size.map(Value::as_i64) {
        None | Some(Some(-1)) => None,
        Some(size) => size.and_then(|size| usize::try_from(size).ok()),
    };
    let positive = group_size.filter(|&size| size > 0);
    if positive != group_size || (group_size.is_none() && size.is_some_and(|size| size != -1)) {
        let key = format!("{path}/group_size");
        return Err(unexpected(&key, "a positive number or -1", size));
    }
    match (field("strategy").map(Value::as_str), group_size) {
        (Some(Some("group")) | None, Some(size)) => Ok(Some(size)),
        (Some(Some("channel")), None) => Ok(None),
        (None, None) if size.is_some() => Ok(None),
        _ => {
            let expected = "`group` with a `group_size`, or `channel` without";
            let key = format!("{path}/strategy");
            Err(unexpected(&key, expected, field("strategy")))
        }
    }
}

/// The value at a JSON pointer is one of these; `null` stands for absent.
fn expect<'a>(
    json: &'a Value,
    pointer: &str,
    allowed: &[Value],
) -> Result<Option<&'a Value>, ConfigError> {
    let found = json.pointer(pointer);
    if allowed.contains(found.unwrap_or(&Value::Null)) {
        return Ok(found);
    }
    let allowed: Vec<_> = allowed.iter().map(|value| format!("`{value}`")).collect();
    Err(unexpected(pointer, &allowed.join(" or "), found))
}

fn unexpected(pointer: &str, expected: &str, found: Option<&Value>) -> ConfigError {
    let key = format!("quantization_config{}", pointer.replace('/', "."));
    ConfigError::unexpected(key, expected, found)
}
