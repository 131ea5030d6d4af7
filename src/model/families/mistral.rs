//! Mistral: a Llama whose layers may all slide.

use serde_json::{Value, json};

use super::{Defaults, Family, Gguf, llama};
use crate::model::config_json::layers::{DEFAULT_WINDOW, alike};
use crate::model::{ConfigError, DecoderConfig};

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
    gguf: Gguf { ..llama::GGUF }, // `llama` in GGUF files
    ..llama::FAMILY
};

fn read(json: &Value, config: &mut DecoderConfig) -> Result<(), ConfigError> {
    alike(json, config, Some(DEFAULT_WINDOW))
}
