//! Mistral: a Llama whose layers may all slide.

use serde_json::{Value, json};

use super::{Defaults, Family, Gguf, llama};
use crate::model::config_json::layers::{DEFAULT_WINDOW, listed, window};
use crate::model::{ConfigError, DecoderConfig, LayerType};

pub(super) static FAMILY: Family = Family {
    class_name: "MistralForCausalLM",
    model_type: "mistral",
    defaults: Defaults {
        num_key_value_heads: Some(8),
        max_position_embeddings: 131_072,
        ..llama::DEFAULTS
    },
    read,
    write: |config| {
        json!({
            "hidden_act": config.family().activation.json_name(),
            "sliding_window": config.sliding_window,
        })
    },
    gguf: Gguf { ..llama::GGUF }, // a Llama there
    ..llama::FAMILY
};

fn read(json: &Value, config: &mut DecoderConfig) -> Result<(), ConfigError> {
    config.sliding_window = window(json, DEFAULT_WINDOW)?;
    let layer_type = match config.sliding_window {
        Some(_) => LayerType::Sliding,
        None => LayerType::Full,
    };
    let by_rule = vec![layer_type; config.num_hidden_layers];
    let found = listed(json, config.num_hidden_layers)?;
    if found.is_some_and(|types| types != by_rule) {
        // Its class in transformers has no list and treats all layers alike.
        let expected = "the same for all layers, sliding if there is a `sliding_window`";
        let found = json.get("layer_types");
        return Err(ConfigError::unexpected("layer_types", expected, found));
    }
    config.layer_types = by_rule;
    Ok(())
}
