//! Quantised weights of a folder: the trait of all their readers, and the parsing of `config.json` that they share.

mod codes;
mod groups;
mod transposed;
mod zeros;

use std::fmt::Debug;

use serde_json::Value;

pub(super) use self::codes::{fp8, transposed, unpack};
pub(super) use self::groups::{are_in_order, listed_groups};
pub(super) use self::transposed::{Transposed, WordLayout};
pub(super) use self::zeros::Version;
use super::{CheckpointError, Format, TensorFiles};
use crate::model::{ConfigError, DecoderConfig, OnGrid, Scheme, TensorSpec};

/// A weight as a checkpoint stores it.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredWeight {
    /// Values in f32, row-major.
    Plain(Vec<f32>),
    /// Codes and scales.
    OnGrid(OnGrid),
}

/// Reader of the quantised weights of a folder.
pub(crate) trait Packed: Debug + Send + Sync {
    /// Drops the weights that are plain in the files, for configs that do not name the quantised ones.
    fn keep_stored(&mut self, _files: &TensorFiles) {}

    /// Decides by the files what the config leaves open or states wrongly; shapes have been checked.
    fn settle(&mut self, _files: &TensorFiles) -> Result<Option<Settled>, CheckpointError> {
        Ok(None)
    }

    /// The scheme of a weight; `None` if it is plain.
    fn scheme(&self, spec: &TensorSpec) -> Option<Scheme>;

    /// Checks that a weight's tensors are there with dtypes and shapes; returns their names, or `None` if it is plain.
    fn check(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<Option<Vec<String>>, CheckpointError>;

    /// A weight as it is stored; `None` if it is plain.
    fn weight(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<Option<StoredWeight>, CheckpointError>;
}

/// Decoding of a folder, where its config alone does not determine it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settled {
    /// The deciding fact, in words; part of the model's identity.
    pub(crate) decoded: &'static str,
    /// A note for the user.
    pub(crate) note: Option<String>,
}

/// Format of a quantised folder: how to find it in a `config.json`, and how to read it.
pub(super) struct FolderReader {
    /// Its `quant_method` in `quantization_config`; `None` for the format that has a key of its own, `quantization`.
    pub(super) method: Option<&'static str>,
    pub(super) open: fn(&Value, &DecoderConfig) -> PackedReading,
}

/// A reader, or the fault of a `config.json`.
pub(super) type PackedReading = Result<Box<dyn Packed>, ConfigError>;

/// Reader of the quantised weights, from a parsed `config.json`; `None` if that does not mention quantisation.
///
/// Strict: a key that would change a weight or an activation, and is not implemented, is refused.
pub(crate) fn packed(
    json: &Value,
    config: &DecoderConfig,
) -> Result<Option<Box<dyn Packed>>, ConfigError> {
    let readers = || {
        Format::ALL
            .iter()
            .filter_map(|format| format.spec().reader.as_ref())
    };
    let entry = |key| json.get(key).filter(|value: &&Value| !value.is_null());
    let open = |reader: &FolderReader, json| (reader.open)(json, config).map(Some);
    if let (Some(json), Some(reader)) = (
        entry("quantization"),
        readers().find(|reader| reader.method.is_none()),
    ) {
        return open(reader, json);
    }
    let Some(json) = entry("quantization_config") else {
        return Ok(None);
    };
    let methods = readers().filter_map(|reader| reader.method);
    let methods: Vec<Value> = methods.map(Value::from).collect();
    let method = expect(json, "/quant_method", &methods)?.and_then(Value::as_str);
    let reader = readers().find(|reader| reader.method.is_some() && reader.method == method);
    open(reader.expect("one of these methods"), json)
}

/// Returns the value at a JSON pointer, which must be one of these; `null` means absent.
pub(super) fn expect<'a>(
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

/// A whole number that must be one of these.
pub(super) fn number(json: &Value, pointer: &str, allowed: &[u32]) -> Result<u32, ConfigError> {
    let values: Vec<Value> = allowed.iter().copied().map(Value::from).collect();
    let found = expect(json, pointer, &values)?;
    let found = found
        .and_then(Value::as_u64)
        .and_then(|found| u32::try_from(found).ok());
    Ok(found.expect("one of these numbers"))
}

pub(super) fn unexpected(pointer: &str, expected: &str, found: Option<&Value>) -> ConfigError {
    let key = format!("quantization_config{}", pointer.replace('/', "."));
    ConfigError::unexpected(key, expected, found)
}

/// Name of a tensor of the module that owns a weight.
pub(super) fn part(spec: &TensorSpec, part: &str) -> String {
    format!("{}.{part}", spec.module())
}

/// Number of groups in a row of a weight.
pub(super) fn num_groups(
    spec: &TensorSpec,
    group_size: Option<usize>,
) -> Result<usize, CheckpointError> {
    let [_, cols] = spec.shape;
    let group_size = group_size.unwrap_or(cols);
    if group_size > 0 && cols.is_multiple_of(group_size) {
        return Ok(cols / group_size);
    }
    Err(CheckpointError::UnevenGroups {
        tensor: spec.name.clone(),
        cols,
        group_size,
    })
}

/// Number of 32-bit words that these codes fill.
pub(super) fn num_words(
    spec: &TensorSpec,
    codes: usize,
    bits: u32,
) -> Result<usize, CheckpointError> {
    let num_bits = codes * bits as usize;
    if num_bits.is_multiple_of(32) {
        return Ok(num_bits / 32);
    }
    Err(CheckpointError::PartialWord {
        tensor: spec.name.clone(),
        codes,
        bits,
    })
}
