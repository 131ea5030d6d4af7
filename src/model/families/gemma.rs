//! Gemma 1: gains stored as their distance from 1, an embedding that is multiplied by √`hidden_size` and tied to the output.

use serde_json::{Map, Value, json};

use super::{Activation, Defaults, Family, Gguf, GgufPairs, NotInGguf, llama};
use crate::gguf::{GgufError, GgufKeys, NewValue};
use crate::model::{DecoderConfig, LayerType};

pub(super) const DEFAULTS: Defaults = Defaults {
    num_key_value_heads: Some(16),
    head_dim: Some(256),
    max_position_embeddings: 8192,
    tie_word_embeddings: true,
    bos_token_id: Some(2),
    eos_token_id: Some(1),
    pad_token_id: Some(0),
    ..llama::DEFAULTS
};

pub(super) const GGUF: Gguf = Gguf {
    name: "gemma",
    turns_neighbours: false,
    read: |_, json| {
        put_activation(json);
        Ok(())
    },
    ..llama::GGUF
};

pub(super) const FAMILY: Family = Family {
    class_name: "GemmaForCausalLM",
    model_type: "gemma",
    activation: Activation::GeluTanh,
    gain_offset: 1.0,
    scales_embedding: true,
    // The first release says `gelu` under the older key; it was trained with the tanh form, as transformers 4 takes it.
    activation_keys: &[("hidden_activation", &[]), ("hidden_act", &["gelu"])],
    defaults: DEFAULTS,
    write: |config| {
        json!({
            "attention_bias": false,
            "hidden_act": config.family().activation.json_name(),
            "use_bidirectional_attention": null,
        })
    },
    gguf: GGUF,
    ..llama::FAMILY
};

/// Adds the activation, which llama.cpp hard-codes for all Gemmas.
pub(super) fn put_activation(json: &mut Map<String, Value>) {
    for key in ["hidden_act", "hidden_activation"] {
        json.insert(key.to_owned(), Activation::GeluTanh.json_name().into());
    }
}

/// Reads the keys of sliding layers in a GGUF file. Without a pattern in the file, every `default_period`-th layer sees
/// all positions, as llama.cpp assumes.
pub(super) fn read_layers(
    keys: &GgufKeys<'_>,
    json: &mut Map<String, Value>,
    default_period: u64,
) -> Result<(), GgufError> {
    let type_name = |slides| LayerType::sliding_if(slides).json_name();
    let window = keys.required_size("attention.sliding_window")?;
    json.insert("sliding_window".to_owned(), window.into());
    let name = "attention.sliding_window_pattern";
    let types: Value = if keys.is_array(name) {
        let slides = keys.flags(name)?.unwrap_or_default();
        slides.into_iter().map(type_name).collect()
    } else {
        let period = keys.size(name)?.unwrap_or(default_period);
        if period == 0 {
            return Err(keys.wrong_value(name, "above 0"));
        }
        // Sizes are bounded where `config.json` is read: no longer list than that is needed.
        let layers = 1..=keys.required_size("block_count")?.min(1 << 12);
        let slides = layers.map(|layer| !layer.is_multiple_of(period));
        slides.map(type_name).collect()
    };
    json.insert("layer_types".to_owned(), types);
    Ok(())
}

/// Keys of sliding layers.
pub(super) fn write_layers(config: &DecoderConfig) -> GgufPairs {
    let mut keys = Vec::new();
    if let Some(window) = config.sliding_window {
        keys.push(("attention.sliding_window", NewValue::size(window)));
    }
    let types = config.layer_types.iter();
    let slides = types.map(|kind| *kind == LayerType::Sliding).collect();
    keys.push(("attention.sliding_window_pattern", NewValue::Bools(slides)));
    keys
}

/// Adds the number whose root divides scores in llama.cpp, which reads no key for it.
pub(super) fn read_query_scalar(json: &mut Map<String, Value>, layers_of_largest: usize) {
    let size = |key: &str| {
        let size = json.get(key).and_then(Value::as_u64);
        size.and_then(|size| usize::try_from(size).ok())
            .unwrap_or(0)
    };
    let (hidden_size, num_heads) = (size("hidden_size"), size("num_attention_heads"));
    let sizes = (hidden_size, num_heads, size("head_dim"));
    let scalar = query_scalar(size("num_hidden_layers"), layers_of_largest, sizes);
    json.insert("query_pre_attn_scalar".to_owned(), scalar.into());
}

/// Refuses a model whose scores llama.cpp would divide by the root of another number.
pub(super) fn check_query_scalar(
    config: &DecoderConfig,
    layers_of_largest: usize,
) -> Result<(), NotInGguf> {
    let sizes = (
        config.hidden_size,
        config.num_attention_heads,
        config.head_dim,
    );
    let scalar = config.query_pre_attn_scalar;
    if scalar == query_scalar(config.num_hidden_layers, layers_of_largest, sizes) {
        Ok(())
    } else {
        Err(NotInGguf::new("query_pre_attn_scalar", scalar))
    }
}

/// Number whose root divides scores: the hidden size per head in the model of 27 B parameters, which llama.cpp
/// recognises by its layers; the size of a head in all others.
fn query_scalar(
    num_layers: usize,
    layers_of_largest: usize,
    (hidden_size, num_heads, head_dim): (usize, usize, usize),
) -> usize {
    if num_layers == layers_of_largest {
        hidden_size / num_heads.max(1)
    } else {
        head_dim
    }
}
