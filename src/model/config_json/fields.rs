//! Values of `config.json`, checked one by one.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::ConfigError;

/// The value of a key; `null` counts as absent.
pub(in crate::model) fn field<'a>(json: &'a Value, key: &str) -> Option<&'a Value> {
    json.get(key).filter(|value| !value.is_null())
}

pub(in crate::model) fn size(
    json: &Value,
    key: &'static str,
    max: usize,
) -> Result<Option<usize>, ConfigError> {
    whole_number(json, key, 1..=max)
}

/// A whole number in a range, if the key is there.
pub(in crate::model) fn whole_number(
    json: &Value,
    key: &'static str,
    range: RangeInclusive<usize>,
) -> Result<Option<usize>, ConfigError> {
    let Some(value) = field(json, key) else {
        return Ok(None);
    };
    let number = value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok());
    if let Some(number) = number.filter(|number| range.contains(number)) {
        return Ok(Some(number));
    }
    let mut expected = format!("a whole number in {} ..= {}", range.start(), range.end());
    if let Some(whole) = written_as_float(value, &range) {
        expected = format!("a whole number (write `{whole}`, as transformers 5 wants it, too)");
    }
    Err(ConfigError::unexpected(key, expected, Some(value)))
}

/// The whole number that a float such as `320.0` stands for.
fn written_as_float(value: &Value, range: &RangeInclusive<usize>) -> Option<usize> {
    let text = value.as_f64().filter(|_| value.is_f64())?.to_string();
    text.parse().ok().filter(|number| range.contains(number))
}

/// A size: `default` if the key is missing, none if it is `null`.
pub(in crate::model) fn size_or(
    json: &Value,
    key: &'static str,
    max: usize,
    default: Option<usize>,
) -> Result<Option<usize>, ConfigError> {
    match json.get(key) {
        None => Ok(default),
        Some(_) => size(json, key, max),
    }
}

pub(in crate::model) fn required_size(
    json: &Value,
    key: &'static str,
    max: usize,
) -> Result<usize, ConfigError> {
    size(json, key, max)?.ok_or(ConfigError::Missing { key })
}

/// A factor, a cap or the like: no published model comes near either end of this range, and beyond it products of such
/// numbers leave f32 or make all positions alike, so that a model computes nonsense without an error.
const FACTORS: RangeInclusive<f64> = 1e-6..=1e6;

pub(in crate::model) fn positive(
    json: &Value,
    key: &'static str,
) -> Result<Option<f64>, ConfigError> {
    within(json, key, FACTORS)
}

/// A positive number in a range, if the key is there.
pub(in crate::model) fn within(
    json: &Value,
    key: &'static str,
    range: RangeInclusive<f64>,
) -> Result<Option<f64>, ConfigError> {
    let Some(value) = field(json, key) else {
        return Ok(None);
    };
    let expected = match value.as_f64() {
        Some(number) if range.contains(&number) => return Ok(Some(number)),
        Some(number) if number > 0.0 => {
            format!("a number from {:e} to {:e}", range.start(), range.end())
        }
        _ => "a positive number".to_owned(),
    };
    Err(ConfigError::unexpected(key, expected, Some(value)))
}

pub(in crate::model) fn required_positive(
    json: &Value,
    key: &'static str,
) -> Result<f64, ConfigError> {
    positive(json, key)?.ok_or(ConfigError::Missing { key })
}

/// `true` or `false`, if it is there.
pub(in crate::model) fn flag(json: &Value, key: &'static str) -> Result<Option<bool>, ConfigError> {
    match field(json, key) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        other => Err(ConfigError::unexpected(key, "`true` or `false`", other)),
    }
}

pub(in crate::model) fn check_divides(
    (key, value): (&'static str, usize),
    (divisor, by): (&'static str, usize),
) -> Result<(), ConfigError> {
    if value.is_multiple_of(by) {
        return Ok(());
    }
    Err(ConfigError::Uneven {
        key,
        value,
        divisor,
        by,
    })
}

/// Size of one head; even, because rotary positions rotate pairs. Without a value and a default, the heads share
/// `hidden_size`.
pub(in crate::model) fn head_dim(
    json: &Value,
    default: Option<usize>,
    hidden_size: usize,
    num_heads: usize,
) -> Result<usize, ConfigError> {
    let key = "head_dim";
    let head_dim = if let Some(head_dim) = size_or(json, key, 1 << 13, default)? {
        head_dim
    } else {
        check_divides(
            ("hidden_size", hidden_size),
            ("num_attention_heads", num_heads),
        )?;
        hidden_size / num_heads
    };
    if head_dim.is_multiple_of(2) {
        Ok(head_dim)
    } else {
        let found = Value::from(head_dim);
        Err(ConfigError::unexpected(key, "even", Some(&found)))
    }
}

/// End-of-text ids: one id or a list.
pub(in crate::model) fn eos_token_ids(
    json: &Value,
    default: Option<u32>,
) -> Result<Vec<u32>, ConfigError> {
    let key = "eos_token_id";
    match json.get(key) {
        Some(Value::Array(ids)) => ids
            .iter()
            .map(|id| {
                parse_id(key, id)?
                    .ok_or_else(|| ConfigError::unexpected(key, "a token id", Some(id)))
            })
            .collect(),
        _ => Ok(token_id(json, key, default)?.into_iter().collect()),
    }
}

/// A token id: `default` if the key is missing, none if it is `null`.
pub(in crate::model) fn token_id(
    json: &Value,
    key: &'static str,
    default: Option<u32>,
) -> Result<Option<u32>, ConfigError> {
    match json.get(key) {
        None => Ok(default),
        Some(value) => parse_id(key, value),
    }
}

/// A token id. `null` gives none, and so does −1, which early Llama conversions write for "none".
///
/// Ids are compared with tokens and never index a weight, so one beyond the vocabulary does no harm.
fn parse_id(key: &'static str, value: &Value) -> Result<Option<u32>, ConfigError> {
    if value.is_null() || value.as_i64() == Some(-1) {
        return Ok(None);
    }
    match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok(Some(id)),
        None => Err(ConfigError::unexpected(key, "a token id", Some(value))),
    }
}
