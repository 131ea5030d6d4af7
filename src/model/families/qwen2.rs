//! Qwen 2 and 2.5: biases on queries, keys and values; the last layers may slide.

use serde_json::{Value, json};

use super::{Defaults, Family, Gguf, llama};
use crate::model::config_json::fields::{flag, whole_number};
use crate::model::config_json::layers::{DEFAULT_WINDOW, check_window, listed, window};
use crate::model::{ConfigError, DecoderConfig, LayerType};

pub(super) const DEFAULTS: Defaults = Defaults {
    num_key_value_heads: Some(32),
    max_position_embeddings: 32_768,
    bos_token_id: None,
    eos_token_id: None,
    ..llama::DEFAULTS
};

pub(super) const GGUF: Gguf = Gguf {
    name: "qwen2",
    turns_neighbours: false,
    ..llama::GGUF
};

pub(super) const FAMILY: Family = Family {
    class_name: "Qwen2ForCausalLM",
    model_type: "qwen2",
    qkv_bias: true, // whatever `attention_bias` says
    defaults: DEFAULTS,
    read,
    write,
    gguf: GGUF,
    ..llama::FAMILY
};

pub(super) fn read(json: &Value, config: &mut DecoderConfig) -> Result<(), ConfigError> {
    if flag(json, "use_sliding_window")?.unwrap_or(false) {
        config.sliding_window = window(json, Some(DEFAULT_WINDOW))?;
    }
    let is_on = config.sliding_window.is_some();
    let first_sliding = whole_number(json, "max_window_layers", 0..=1 << 30)?.unwrap_or(28);
    let rule = |layer_idx| LayerType::sliding_if(is_on && layer_idx >= first_sliding);
    let by_rule = || (0..config.num_hidden_layers).map(rule).collect();
    config.layer_types = listed(json, config.num_hidden_layers)?.unwrap_or_else(by_rule);
    let expected = "a number beside `use_sliding_window: true`, since layers slide";
    check_window(json, config, expected)
}

pub(super) fn write(config: &DecoderConfig) -> Value {
    // Layers before the first that slides: the setting for readers that do not know `layer_types`.
    let types = &config.layer_types;
    let first_sliding = types.iter().position(|&kind| kind == LayerType::Sliding);
    json!({
        "hidden_act": config.family().activation.json_name(),
        "layer_types": types,
        "max_window_layers": first_sliding.unwrap_or(config.num_hidden_layers),
        "sliding_window": config.sliding_window,
        "use_sliding_window": config.sliding_window.is_some(),
    })
}
