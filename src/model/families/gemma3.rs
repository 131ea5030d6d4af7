//! Gemma 3, text only: normed queries and keys in the place of soft-caps, and two rotary bases.

use serde_json::{Map, Value, json};

use super::{Defaults, Family, Gguf, GgufPairs, NotInGguf, QkNorm, gemma, gemma2};
use crate::gguf::{GgufError, GgufKeys, NewValue};
use crate::model::config_json::fields::{field, positive, size};
use crate::model::{ConfigError, DecoderConfig, LayerType, RopeScaling};

/// Layers of the model of 27 B parameters.
const LAYERS_OF_LARGEST: usize = 62;
/// Length of a period of layers, the last of which sees all positions.
const PERIOD: usize = 6;

pub(super) static FAMILY: Family = Family {
    class_name: "Gemma3ForCausalLM",
    model_type: "gemma3_text",
    qk_norm: QkNorm::PerHead,
    has_local_rope: true,
    defaults: Defaults {
        max_position_embeddings: 131_072,
        rope_theta: 1e6,
        ..gemma2::DEFAULTS
    },
    read,
    write: |config| {
        json!({
            "attention_bias": false,
            "attn_logit_softcapping": null,
            "final_logit_softcapping": config.final_logit_softcapping,
            "hidden_activation": config.family().activation.json_name(),
            "layer_types": config.layer_types,
            "query_pre_attn_scalar": config.query_pre_attn_scalar,
            "rope_local_base_freq": config.rope_of(LayerType::Sliding).theta,
            "sliding_window": config.sliding_window,
            "sliding_window_pattern": period_of(config),
            "use_bidirectional_attention": false,
        })
    },
    gguf: Gguf {
        name: "gemma3",
        read: read_gguf,
        write: write_gguf,
        ..gemma2::GGUF
    },
    ..gemma2::FAMILY
};

fn read(json: &Value, config: &mut DecoderConfig) -> Result<(), ConfigError> {
    let key = "attn_logit_softcapping";
    if let Some(cap) = field(json, key) {
        return Err(ConfigError::unexpected(key, "`null`", Some(cap)));
    }
    config.final_logit_softcapping = positive(json, "final_logit_softcapping")?;
    gemma2::read_query_scalar(json, config)?;
    let period = size(json, "sliding_window_pattern", 1 << 12)?;
    gemma2::read_layers(json, config, period.unwrap_or(PERIOD))
}

/// Period n, if exactly every n-th layer is full: the setting for readers that do not know `layer_types`.
///
/// `None` if there is no such period; transformers before 4.53 then fails instead of taking its default of 6.
fn period_of(config: &DecoderConfig) -> Option<usize> {
    (1..=config.num_hidden_layers + 1).find(|&period| {
        let mut layers = config.layer_types.iter().zip(1..);
        layers.all(|(&kind, nth)| (kind == LayerType::Full) == usize::is_multiple_of(nth, period))
    })
}

fn read_gguf(keys: &GgufKeys<'_>, json: &mut Map<String, Value>) -> Result<(), GgufError> {
    gemma::put_activation(json);
    gemma::read_query_scalar(json, LAYERS_OF_LARGEST);
    gemma::read_layers(keys, json, PERIOD as u64)?;
    let cap = keys.number("final_logit_softcapping")?;
    json.insert("final_logit_softcapping".to_owned(), json!(cap));
    let local = keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
    json.insert("rope_local_base_freq".to_owned(), json!(local));
    Ok(())
}

fn write_gguf(config: &DecoderConfig) -> Result<GgufPairs, NotInGguf> {
    gemma::check_query_scalar(config, LAYERS_OF_LARGEST)?;
    let mut keys = Vec::new();
    if let Some(local) = &config.local_rope {
        if local.scaling != RopeScaling::Default {
            let found = format!("{:?}", config.local_rope);
            return Err(NotInGguf::new("rope of sliding layers", found));
        }
        keys.push(("rope.freq_base_swa", NewValue::number(local.theta)));
    }
    keys.extend(gemma::write_layers(config));
    keys.extend(gemma2::cap(
        "final_logit_softcapping",
        config.final_logit_softcapping,
    ));
    Ok(keys)
}
