//! Layers that slide, as `config.json` says them.

use serde_json::Value;

use super::fields::{field, size_or};
use super::{ConfigError, DecoderConfig};
use crate::model::LayerType;

/// Window of every family that has one and leaves its size out.
pub(in crate::model) const DEFAULT_WINDOW: usize = 4096;

/// Positions that a sliding layer sees; `null` is none.
pub(in crate::model) fn window(json: &Value, default: usize) -> Result<Option<usize>, ConfigError> {
    size_or(json, "sliding_window", 1 << 30, Some(default))
}

/// The type of every layer, if the file lists them.
pub(in crate::model) fn listed(
    json: &Value,
    num_layers: usize,
) -> Result<Option<Vec<LayerType>>, ConfigError> {
    let key = "layer_types";
    let Some(listed) = field(json, key) else {
        return Ok(None);
    };
    let known = [LayerType::Full, LayerType::Sliding];
    let types: Option<Vec<LayerType>> = listed.as_array().and_then(|names| {
        let of_name = |name: &Value| known.into_iter().find(|kind| name == kind.json_name());
        names.iter().map(of_name).collect()
    });
    let whole = types.filter(|types| types.len() == num_layers);
    let expected =
        || format!("a list of {num_layers} names, each `full_attention` or `sliding_attention`");
    let refused = || ConfigError::unexpected(key, expected(), Some(listed));
    whole.map(Some).ok_or_else(refused)
}

/// Refuses layers that slide without a window.
pub(in crate::model) fn check_window(
    json: &Value,
    config: &DecoderConfig,
    expected: &str,
) -> Result<(), ConfigError> {
    let slides = config.layer_types.contains(&LayerType::Sliding);
    if slides && config.sliding_window.is_none() {
        let found = field(json, "sliding_window");
        return Err(ConfigError::unexpected("sliding_window", expected, found));
    }
    Ok(())
}
