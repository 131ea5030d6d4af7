//! Which layers see how far back.

use serde_json::Value;

use super::fields::{field, flag, size, size_or, whole_number};
use super::{Architecture, ConfigError};
use crate::model::LayerType;

/// Positions that a sliding layer sees; `None` if no layer slides.
pub(super) fn sliding_window(
    json: &Value,
    architecture: Architecture,
) -> Result<Option<usize>, ConfigError> {
    let is_on = match architecture {
        Architecture::Llama | Architecture::Gemma => false,
        Architecture::Qwen2 | Architecture::Qwen3 => {
            flag(json, "use_sliding_window")?.unwrap_or(false)
        }
        Architecture::Mistral | Architecture::Gemma2 | Architecture::Gemma3 => true,
    };
    if !is_on {
        return Ok(None);
    }
    size_or(json, "sliding_window", 1 << 30, Some(4096))
}

/// The type of every layer: as listed, or by the rule that the family had before there was a list.
pub(super) fn layer_types(
    json: &Value,
    architecture: Architecture,
    num_layers: usize,
    window: Option<usize>,
) -> Result<Vec<LayerType>, ConfigError> {
    use Architecture::{Gemma, Gemma2, Gemma3, Llama, Mistral, Qwen2, Qwen3};
    let key = "layer_types";
    let listed = match architecture {
        Llama | Gemma => None, // these know no such list
        _ => field(json, key),
    };
    let first_sliding = whole_number(json, "max_window_layers", 0..=1 << 30)?.unwrap_or(28);
    let period = match architecture {
        Gemma3 => size(json, "sliding_window_pattern", 1 << 12)?.unwrap_or(6),
        _ => 2,
    };
    let rule = |layer_idx: usize| {
        let slides = match architecture {
            Llama | Gemma => false,
            Mistral => window.is_some(),
            Qwen2 | Qwen3 => window.is_some() && layer_idx >= first_sliding,
            Gemma2 | Gemma3 => !(layer_idx + 1).is_multiple_of(period),
        };
        if slides {
            LayerType::Sliding
        } else {
            LayerType::Full
        }
    };
    let by_rule: Vec<LayerType> = (0..num_layers).map(rule).collect();
    let types = match listed {
        None => by_rule.clone(),
        Some(listed) => parse(key, listed, num_layers)?,
    };
    if architecture == Mistral && types != by_rule {
        // Its class in transformers has no list and treats all layers alike.
        let expected = "the same for all layers, sliding if there is a `sliding_window`";
        return Err(ConfigError::unexpected(key, expected, listed));
    }
    if window.is_none() && types.contains(&LayerType::Sliding) {
        let expected = match architecture {
            Qwen2 | Qwen3 => "a number beside `use_sliding_window: true`, since layers slide",
            _ => "a number, since layers slide",
        };
        let found = field(json, "sliding_window");
        return Err(ConfigError::unexpected("sliding_window", expected, found));
    }
    Ok(types)
}

fn parse(
    key: &'static str,
    listed: &Value,
    num_layers: usize,
) -> Result<Vec<LayerType>, ConfigError> {
    let types: Option<Vec<LayerType>> = listed.as_array().and_then(|names| {
        let types = names.iter().map(|name| match name.as_str()? {
            "full_attention" => Some(LayerType::Full),
            "sliding_attention" => Some(LayerType::Sliding),
            _ => None,
        });
        types.collect()
    });
    types
        .filter(|types| types.len() == num_layers)
        .ok_or_else(|| {
            let expected = format!(
                "a list of {num_layers} names, each `full_attention` or `sliding_attention`"
            );
            ConfigError::unexpected(key, expected, Some(listed))
        })
}
