//! Sliding layers in `config.json`.

use serde_json::Value;

use super::fields::{field, size_or};
use super::{ConfigError, DecoderConfig};
use crate::model::LayerType;

/// Default window of every family that has one.
pub(in crate::model) const DEFAULT_WINDOW: usize = 4096;

/// Positions that a sliding layer sees; `null` means no window.
pub(in crate::model) fn window(
    json: &Value,
    default: Option<usize>,
) -> Result<Option<usize>, ConfigError> {
    size_or(json, "sliding_window", 1 << 30, default)
}

/// Reads the window of a family whose layers are all alike: all slide if there is a window.
pub(in crate::model) fn alike(
    json: &Value,
    config: &mut DecoderConfig,
    default_window: Option<usize>,
) -> Result<(), ConfigError> {
    config.sliding_window = window(json, default_window)?;
    let by_rule = LayerType::sliding_if(config.sliding_window.is_some());
    let by_rule = vec![by_rule; config.num_hidden_layers];
    let found = listed(json, config.num_hidden_layers)?;
    if found.is_some_and(|types| types != by_rule) {
        // Such a class of transformers has no list and treats all layers alike.
        let expected = "the same for all layers, sliding if there is a `sliding_window`";
        let found = json.get("layer_types");
        return Err(ConfigError::unexpected("layer_types", expected, found));
    }
    config.layer_types = by_rule;
    Ok(())
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
