//! GPTQ's `quantization_config`: width, zeros, and the version of the format.

use serde_json::Value;

use crate::formats::read::{PackedReading, Transposed, Version, WordLayout, expect, number};
use crate::kernels::grid::Levels;
use crate::model::DecoderConfig;

/// Makes a reader from a `quantization_config`.
pub(super) fn open(json: &Value, config: &DecoderConfig) -> PackedReading {
    let null = Value::Null;
    for key in ["/checkpoint_format", "/format"] {
        expect(json, key, &["gptq".into(), "gptq_v2".into(), null.clone()])?;
    }
    expect(json, "/pack_dtype", &["int32".into(), null.clone()])?;
    let empty = Value::Object(serde_json::Map::new());
    expect(json, "/dynamic", &[null.clone(), empty])?;
    expect(json, "/is_marlin_format", &[false.into(), null])?;
    let named = ["checkpoint_format", "format"].map(|key| json.get(key));
    let version = if named.contains(&Some(&Version::Second.name().into())) {
        Version::Second
    } else {
        Version::First
    };
    let bits = number(json, "/bits", &[2, 4, 8])?;
    let is_symmetric = expect(json, "/sym", &[true.into(), false.into()])? == Some(&true.into());
    let levels = if is_symmetric {
        Levels::Symmetric { bits }
    } else {
        Levels::Asymmetric { bits }
    };
    let found = Transposed::of(json, config, WordLayout::Gptq(version), levels)?;
    Ok(Box::new(found))
}
