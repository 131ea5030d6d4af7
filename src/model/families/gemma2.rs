//! Gemma 2: norms around attention and feed-forward layer, soft-caps, every other layer local.

use serde_json::{Map, Value, json};

use super::{Defaults, Family, Gguf, GgufPairs, Norms, NotInGguf, gemma};
use crate::gguf::{GgufError, GgufKeys, NewValue};
use crate::model::config_json::fields::{positive, size};
use crate::model::config_json::layers::{DEFAULT_WINDOW, check_window, listed, window};
use crate::model::{ConfigError, DecoderConfig, LayerType, Part};

/// Layers of the model of 27 B parameters.
const LAYERS_OF_LARGEST: usize = 46;
/// Length of a period of layers, the last of which sees all positions.
const PERIOD: u64 = 2;
const ATTENTION_CAP: f64 = 50.0;
const FINAL_CAP: f64 = 30.0;

pub(super) const DEFAULTS: Defaults = Defaults {
    num_key_value_heads: Some(4),
    ..gemma::DEFAULTS
};

pub(super) const GGUF: Gguf = Gguf {
    name: "gemma2",
    slides: true,
    read: read_gguf,
    write: write_gguf,
    ..gemma::GGUF
};

pub(super) const FAMILY: Family = Family {
    class_name: "Gemma2ForCausalLM",
    model_type: "gemma2",
    norms: Norms::Around,
    // Other families' name for this norm is here the name of the norm after attention.
    names: &[(Part::MlpNorm, "pre_feedforward_layernorm.weight")],
    activation_keys: &[("hidden_activation", &[])],
    defaults: DEFAULTS,
    read,
    write: |config| {
        json!({
            "attention_bias": false,
            "attn_logit_softcapping": config.attn_logit_softcapping,
            "final_logit_softcapping": config.final_logit_softcapping,
            "hidden_activation": config.family().activation.json_name(),
            "layer_types": config.layer_types,
            "query_pre_attn_scalar": config.query_pre_attn_scalar,
            "sliding_window": config.sliding_window,
            "use_bidirectional_attention": null,
        })
    },
    gguf: GGUF,
    ..gemma::FAMILY
};

fn read(json: &Value, config: &mut DecoderConfig) -> Result<(), ConfigError> {
    let cap = |key, default| match json.get(key) {
        None => Ok(Some(default)),
        Some(_) => positive(json, key),
    };
    config.attn_logit_softcapping = cap("attn_logit_softcapping", ATTENTION_CAP)?;
    config.final_logit_softcapping = cap("final_logit_softcapping", FINAL_CAP)?;
    read_query_scalar(json, config)?;
    read_layers(json, config, 2)
}

/// Number whose root divides scores, which is not the size of a head.
pub(super) fn read_query_scalar(
    json: &Value,
    config: &mut DecoderConfig,
) -> Result<(), ConfigError> {
    let scalar = size(json, "query_pre_attn_scalar", 1 << 17)?;
    config.query_pre_attn_scalar = scalar.unwrap_or(256);
    Ok(())
}

/// Reads the types of layers: as listed, or all sliding but every `period`-th.
pub(super) fn read_layers(
    json: &Value,
    config: &mut DecoderConfig,
    period: usize,
) -> Result<(), ConfigError> {
    config.sliding_window = window(json, Some(DEFAULT_WINDOW))?;
    let rule = |nth: usize| LayerType::sliding_if(!nth.is_multiple_of(period));
    let by_rule = || (1..=config.num_hidden_layers).map(rule).collect();
    config.layer_types = listed(json, config.num_hidden_layers)?.unwrap_or_else(by_rule);
    check_window(json, config, "a number, since layers slide")
}

fn read_gguf(keys: &GgufKeys<'_>, json: &mut Map<String, Value>) -> Result<(), GgufError> {
    gemma::put_activation(json);
    gemma::read_query_scalar(json, LAYERS_OF_LARGEST);
    gemma::read_layers(keys, json, PERIOD)?;
    for (key, default) in [
        ("attn_logit_softcapping", ATTENTION_CAP),
        ("final_logit_softcapping", FINAL_CAP),
    ] {
        let cap = keys.number(key)?.unwrap_or(default);
        json.insert(key.to_owned(), json!(cap));
    }
    Ok(())
}

fn write_gguf(config: &DecoderConfig) -> Result<GgufPairs, NotInGguf> {
    gemma::check_query_scalar(config, LAYERS_OF_LARGEST)?;
    let alternating = [LayerType::Sliding, LayerType::Full].into_iter().cycle();
    let mut layers = config.layer_types.iter().zip(alternating);
    if !layers.all(|(kind, want)| *kind == want) {
        let found = format!("{:?}", config.layer_types);
        return Err(NotInGguf::new("layer_types", found));
    }
    let mut keys = gemma::write_layers(config);
    keys.extend(cap("attn_logit_softcapping", config.attn_logit_softcapping));
    keys.extend(cap(
        "final_logit_softcapping",
        config.final_logit_softcapping,
    ));
    Ok(keys)
}

/// Key of a soft-cap, if there is one.
pub(super) fn cap(key: &'static str, cap: Option<f64>) -> Option<(&'static str, NewValue)> {
    Some((key, NewValue::number(cap?)))
}
