//! SmolLM 3: a Llama with some layers without rotary positions.

use serde_json::{Value, json};

use super::{Defaults, Family, Gguf, NotInGguf, llama};
use crate::model::config_json::fields::{field, flag, size};
use crate::model::config_json::layers::{check_window, listed, window};
use crate::model::{ConfigError, DecoderConfig, LayerType};

/// Length of a period of layers whose last has no rotary positions, unless a file says otherwise; fixed in llama.cpp.
const INTERVAL: usize = 4;

pub(super) static FAMILY: Family = Family {
    class_name: "SmolLM3ForCausalLM",
    model_type: "smollm3",
    defaults: Defaults {
        num_key_value_heads: Some(4),
        max_position_embeddings: 32_768,
        rope_theta: 2e6,
        tie_word_embeddings: true,
        bos_token_id: Some(128_000),
        eos_token_id: Some(128_001),
        pad_token_id: Some(128_004),
        ..llama::DEFAULTS
    },
    read,
    write,
    gguf: Gguf {
        name: "smollm3",
        write: |config| {
            let by_heart = (0..config.num_hidden_layers).filter(|&layer| !turns(layer, INTERVAL));
            if config.layers_without_rope.iter().copied().eq(by_heart) {
                Ok(Vec::new())
            } else {
                let found = format!("{:?}", flags(config));
                Err(NotInGguf::new("no_rope_layers", found))
            }
        },
        ..llama::GGUF
    },
    ..llama::FAMILY
};

fn turns(layer: usize, interval: usize) -> bool {
    !(layer + 1).is_multiple_of(interval)
}

/// Contents of `no_rope_layers`, in spite of its name: 1 for each layer whose queries and keys are rotated, else 0.
fn flags(config: &DecoderConfig) -> Vec<u8> {
    let turns = |layer| !config.layers_without_rope.contains(&layer);
    (0..config.num_hidden_layers)
        .map(|layer| u8::from(turns(layer)))
        .collect()
}

fn read(json: &Value, config: &mut DecoderConfig) -> Result<(), ConfigError> {
    let num_layers = config.num_hidden_layers;
    let interval = size(json, "no_rope_layer_interval", 1 << 12)?.unwrap_or(INTERVAL);
    let listed_turns = listed_turns(json, num_layers)?;
    let turns = |layer: usize| match &listed_turns {
        Some(listed) => listed[layer],
        None => turns(layer, interval),
    };
    config.layers_without_rope = (0..num_layers).filter(|&layer| !turns(layer)).collect();
    if flag(json, "use_sliding_window")?.unwrap_or(false) {
        config.sliding_window = window(json, None)?;
    }
    let is_on = config.sliding_window.is_some();
    let by_rule = |layer| LayerType::sliding_if(is_on && !turns(layer));
    let listed = listed(json, num_layers)?;
    config.layer_types = listed.unwrap_or_else(|| (0..num_layers).map(by_rule).collect());
    let expected = "a number beside `use_sliding_window: true`, since layers slide";
    check_window(json, config, expected)
}

/// Flags of layers, true if queries and keys are rotated, if the file lists them; it may list more than there are.
fn listed_turns(json: &Value, num_layers: usize) -> Result<Option<Vec<bool>>, ConfigError> {
    let key = "no_rope_layers";
    let Some(listed) = field(json, key) else {
        return Ok(None);
    };
    let turns = |value: &Value| match value.as_u64() {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => None,
    };
    let found: Option<Vec<bool>> = listed
        .as_array()
        .and_then(|list| list.iter().map(turns).collect());
    let whole = found.filter(|found| found.len() >= num_layers);
    let expected = || format!("a list of {num_layers} numbers, each 0 or 1");
    let refused = || ConfigError::unexpected(key, expected(), Some(listed));
    whole.map(Some).ok_or_else(refused)
}

fn write(config: &DecoderConfig) -> Value {
    json!({
        "attention_bias": false,
        "hidden_act": config.family().activation.json_name(),
        "layer_types": config.layer_types,
        "mlp_bias": false,
        "no_rope_layer_interval": INTERVAL, // the list below decides where it is read
        "no_rope_layers": flags(config),
        "sliding_window": config.sliding_window,
        "use_sliding_window": config.sliding_window.is_some(),
    })
}
