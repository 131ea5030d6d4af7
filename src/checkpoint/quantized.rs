//! Which container holds the quantised weights of a folder, and what of its `config.json` its readers share.

use serde_json::Value;

use super::transposed::Transposed;
use super::zeros::Settled;
use super::{CheckpointError, StoredWeight, TensorFiles, compressed_tensors, mlx};
use crate::model::{ConfigError, DecoderConfig, Scheme, TensorSpec};

/// What `config.json` says of the weights that are not plain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Quantization {
    CompressedTensors(compressed_tensors::Quantization),
    Transposed(Transposed),
    Mlx(mlx::Quantization),
}

impl Quantization {
    /// Of a parsed `config.json`; `None` if it says nothing of quantisation.
    ///
    /// Strict: whatever would change a weight or an activation and is not implemented is refused by its key.
    pub(super) fn from_config(
        json: &Value,
        config: &DecoderConfig,
    ) -> Result<Option<Self>, ConfigError> {
        if let Some(quantization) = json.get("quantization").filter(|value| !value.is_null()) {
            return mlx::Quantization::from_config(quantization, config)
                .map(|found| Some(Self::Mlx(found)));
        }
        let json = match json.get("quantization_config") {
            None | Some(Value::Null) => return Ok(None),
            Some(json) => json,
        };
        let methods = ["compressed-tensors", "gptq", "awq"].map(Value::from);
        let method = expect(json, "/quant_method", &methods)?;
        Ok(Some(match method.and_then(Value::as_str) {
            Some("gptq") => Self::Transposed(Transposed::gptq(json, config)?),
            Some("awq") => Self::Transposed(Transposed::awq(json, config)?),
            _ => {
                let found = compressed_tensors::Quantization::from_config(json, config)?;
                Self::CompressedTensors(found)
            }
        }))
    }

    /// Leaves out what is plain in the files, where the config does not say which weights are.
    pub(super) fn keep_stored(&mut self, files: &TensorFiles) {
        match self {
            Self::CompressedTensors(_) => {}
            Self::Transposed(found) => found.keep_stored(files),
            Self::Mlx(found) => found.keep_stored(files),
        }
    }

    /// Settles what the config leaves to the files, or says otherwise than they do; shapes have been checked.
    pub(super) fn settle(
        &mut self,
        files: &TensorFiles,
    ) -> Result<Option<Settled>, CheckpointError> {
        match self {
            Self::Transposed(found) => found.settle(files),
            Self::CompressedTensors(_) | Self::Mlx(_) => Ok(None),
        }
    }

    /// The scheme of a weight that is not plain.
    pub(super) fn scheme(&self, spec: &TensorSpec) -> Option<Scheme> {
        match self {
            Self::CompressedTensors(found) => found.scheme(spec),
            Self::Transposed(found) => found.scheme(spec),
            Self::Mlx(found) => found.scheme(spec),
        }
    }

    /// Whether this weight is not plain.
    pub(super) fn covers(&self, spec: &TensorSpec) -> bool {
        match self {
            Self::CompressedTensors(found) => found.covers(spec),
            Self::Transposed(found) => found.covers(spec),
            Self::Mlx(found) => found.covers(spec),
        }
    }

    /// The tensors that stand for a weight are there with their dtypes and shapes; their names.
    pub(super) fn check(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<Vec<String>, CheckpointError> {
        match self {
            Self::CompressedTensors(found) => found.check(files, spec),
            Self::Transposed(found) => found.check(files, spec),
            Self::Mlx(found) => found.check(files, spec),
        }
    }

    /// A weight as it is stored; `None` if it is plain.
    pub(super) fn weight(
        &self,
        files: &TensorFiles,
        spec: &TensorSpec,
    ) -> Result<Option<StoredWeight>, CheckpointError> {
        if !self.covers(spec) {
            return Ok(None);
        }
        let on_grid = match self {
            Self::CompressedTensors(found) => found.weight(files, spec)?,
            Self::Transposed(found) => return found.weight(files, spec).map(Some),
            Self::Mlx(found) => found.weight(files, spec)?,
        };
        Ok(on_grid.map(StoredWeight::OnGrid))
    }
}

/// The value at a JSON pointer is one of these; `null` stands for absent.
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

/// Groups in a row of a weight.
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

/// Words of 32 bits that so many codes fill.
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
