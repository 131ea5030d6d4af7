//! The text part of a model that also reads images.

use std::borrow::Cow;

use serde_json::Value;

use super::fields::field;
use super::{Architecture, ConfigError};

/// The class of Gemma 3 from 4 B parameters on: a decoder like [`Architecture::Gemma3`] behind a vision tower.
const GEMMA3: (&str, &str) = ("Gemma3ForConditionalGeneration", "gemma3");

/// True if a parsed `config.json` belongs to a model with a vision tower, of which only the decoder is read.
pub fn has_images(json: &Value) -> bool {
    let (class_name, model_type) = GEMMA3;
    match field(json, "architectures").and_then(Value::as_array) {
        Some(names) => names.as_slice() == [class_name],
        None => field(json, "model_type").is_some_and(|found| found == model_type),
    }
}

/// The `config.json` that the decoder would have alone.
///
/// Keys that the text part lacks are taken from the whole config, and then from the class of transformers.
pub(super) fn text_part(json: &Value) -> Result<Cow<'_, Value>, ConfigError> {
    if !has_images(json) {
        return Ok(Cow::Borrowed(json));
    }
    let key = "text_config";
    let part = field(json, key).ok_or(ConfigError::Missing { key })?;
    let Value::Object(part) = part else {
        return Err(ConfigError::unexpected(key, "a table", Some(part)));
    };
    let mut text = part.clone();
    let mut fill = |key: &str, value: Option<&Value>| {
        if let Some(value) = value {
            text.entry(key).or_insert_with(|| value.clone());
        }
    };
    for key in ["eos_token_id", "tie_word_embeddings"] {
        fill(key, json.get(key));
    }
    fill("num_attention_heads", Some(&8.into()));
    fill("vocab_size", Some(&262_208.into()));
    let name = Architecture::Gemma3.class_name();
    text.insert("architectures".to_owned(), [name].as_slice().into());
    Ok(Cow::Owned(Value::Object(text)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{DecoderConfig, LayerType, RopeScaling};

    #[test]
    fn of_gemma_3_with_images_the_decoder_is_read() {
        // Text settings of google/gemma-3-4b-it, and the ones that its class of transformers adds.
        let json = json!({
            "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "eos_token_id": [1, 106],
            "text_config": {
                "hidden_size": 2560, "intermediate_size": 10_240, "model_type": "gemma3_text", "num_hidden_layers": 34,
                "rope_scaling": { "factor": 8.0, "rope_type": "linear" }, "sliding_window": 1024,
            },
            "vision_config": { "hidden_size": 1152 },
        });
        let config = DecoderConfig::from_json(&json).unwrap();
        assert_eq!(config.architecture, Architecture::Gemma3);
        assert_eq!((config.hidden_size, config.vocab_size), (2560, 262_208));
        let heads = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        );
        assert_eq!(heads, (8, 4, 256));
        assert_eq!(config.eos_token_ids, [1, 106]);
        assert!(config.tie_word_embeddings);
        assert_eq!(config.rope.scaling, RopeScaling::Linear { factor: 8.0 });
        assert_eq!(
            config.layer_types[4..6],
            [LayerType::Sliding, LayerType::Full]
        );

        let lacking =
            json!({ "architectures": ["Gemma3ForConditionalGeneration"], "text_config": null });
        let message = DecoderConfig::from_json(&lacking).unwrap_err().to_string();
        assert_eq!(message, "`text_config` is missing");
        let strange = json!({ "model_type": "gemma3", "text_config": 3 });
        let message = DecoderConfig::from_json(&strange).unwrap_err().to_string();
        assert_eq!(message, "`text_config` must be a table, but is `3`");
    }
}
