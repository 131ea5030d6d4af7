//! AWQ's `quantization_config`: the `gemm` version, four bits with zeros.

use serde_json::Value;

use crate::formats::read::{PackedReading, Transposed, WordLayout, expect, number};
use crate::kernels::grid::Levels;
use crate::model::DecoderConfig;

/// Makes a reader from a `quantization_config`.
pub(super) fn open(json: &Value, config: &DecoderConfig) -> PackedReading {
    let versions = ["gemm", "GEMM"].map(Value::from);
    for key in ["/version", "/checkpoint_format", "/format"] {
        expect(json, key, &[&versions[..], &[Value::Null]].concat())?;
    }
    expect(json, "/pack_dtype", &["int32".into(), Value::Null])?;
    expect(json, "/zero_point", &[true.into()])?;
    let bits = number(json, "/bits", &[4])?;
    let levels = Levels::Asymmetric { bits };
    let found = Transposed::of(json, config, WordLayout::Awq, levels)?;
    Ok(Box::new(found))
}
