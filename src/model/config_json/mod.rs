//! `config.json`: read strictly, written in the styles of transformers 4 and 5.

pub(super) mod fields;
mod generation;
pub(super) mod layers;
mod multimodal;
mod rope;
mod write;

use std::ops::RangeInclusive;

use serde_json::Value;

use self::fields::{
    eos_token_ids, field, flag, head_dim, required_size, size, size_or, token_id, within,
};
pub use self::multimodal::has_images;
use self::multimodal::text_part;
use self::rope::ropes;
use super::families::{Defaults, Family};
use super::{Architecture, DecoderConfig, LayerType, Rope};

/// Reason why a `config.json` is refused.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ConfigError {
    #[error("unknown architecture `{found}`; known: {}", known_architectures())]
    UnknownArchitecture { found: String },
    #[error("`{key}` is missing")]
    Missing { key: &'static str },
    #[error("`{key}` must be {expected}, but is `{found}`")]
    Unexpected {
        key: String,
        expected: String,
        found: String,
    },
    #[error("`{divisor}` does not divide `{key}`: {value} / {by} leaves {} over", value % by)]
    Uneven {
        key: &'static str,
        value: usize,
        divisor: &'static str,
        by: usize,
    },
    #[error("`rope_parameters` and the older `{old_keys}` disagree: {new} and {old}")]
    RopeDisagrees {
        old_keys: &'static str,
        new: String,
        old: String,
    },
}

impl ConfigError {
    /// Error for the value at `key`, `null` if it is missing, which is not the expected one.
    pub(crate) fn unexpected(
        key: impl Into<String>,
        expected: impl Into<String>,
        found: Option<&Value>,
    ) -> Self {
        Self::Unexpected {
            key: key.into(),
            expected: expected.into(),
            found: found.unwrap_or(&Value::Null).to_string(),
        }
    }
}

/// Numbers added to the mean square of a state. Models have 1e-6 or 1e-5; below the range f32 drops it, and above it
/// exceeds the mean square of an ordinary state, so that norms norm nothing.
const EPSILONS: RangeInclusive<f64> = 1e-30..=1.0;

impl DecoderConfig {
    /// Note on a setting in a parsed `config.json` that is not read, although a reader might count on it.
    pub fn note_on(json: &Value) -> Option<String> {
        let json = &*text_part(json).ok()?;
        rope::note(json, architecture(json).ok()?.family())
    }

    /// Architecture from a parsed `config.json` of transformers 4 or 5.
    ///
    /// A missing key has the default of the family's config class in transformers, except sizes that no model leaves
    /// out. In a model that also reads images, only the decoder is read. Every size is bounded far above any published
    /// model, so no product of two sizes overflows and a hostile file cannot ask for more memory than its weights take.
    pub fn from_json(json: &Value) -> Result<Self, ConfigError> {
        let json = &*text_part(json)?;
        let architecture = architecture(json)?;
        let family = architecture.family();
        let defaults = &family.defaults;
        check_parts(json, family)?;
        let hidden_size = required_size(json, "hidden_size", 1 << 17)?;
        let num_attention_heads = required_size(json, "num_attention_heads", 1 << 12)?;
        let num_key_value_heads = num_key_value_heads(json, num_attention_heads, defaults)?;
        let num_hidden_layers = required_size(json, "num_hidden_layers", Self::MAX_LAYERS)?;
        let head_dim = head_dim(json, defaults.head_dim, hidden_size, num_attention_heads)?;
        let max_position_embeddings = size(json, "max_position_embeddings", 1 << 30)?
            .unwrap_or(defaults.max_position_embeddings);
        let (rope, local_rope) = ropes(json, family, head_dim, max_position_embeddings)?;
        let tied = flag(json, "tie_word_embeddings")?;
        let mut config = Self {
            architecture,
            vocab_size: required_size(json, "vocab_size", 1 << 24)?,
            hidden_size,
            intermediate_size: required_size(json, "intermediate_size", 1 << 20)?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            query_pre_attn_scalar: head_dim,
            attn_logit_softcapping: None,
            final_logit_softcapping: None,
            sliding_window: None,
            layer_types: vec![LayerType::Full; num_hidden_layers],
            rms_norm_eps: within(json, "rms_norm_eps", EPSILONS)?.unwrap_or(defaults.rms_norm_eps),
            rope,
            local_rope,
            layers_without_rope: Vec::new(),
            max_position_embeddings,
            tie_word_embeddings: tied.unwrap_or(defaults.tie_word_embeddings),
            bos_token_id: token_id(json, "bos_token_id", defaults.bos_token_id)?,
            eos_token_ids: eos_token_ids(json, defaults.eos_token_id)?,
            pad_token_id: token_id(json, "pad_token_id", defaults.pad_token_id)?,
        };
        (family.read)(json, &mut config)?;
        Ok(config)
    }
}

fn known_architectures() -> String {
    let names = Architecture::ALL.iter();
    let names: Vec<_> = names
        .map(|known| format!("`{}`", known.class_name()))
        .collect();
    names.join(", ")
}

/// Family, by class name. A `model_type` must be of the same family; some files have a `model_type` only.
fn architecture(json: &Value) -> Result<Architecture, ConfigError> {
    let key = "architectures";
    let Some(found) = field(json, key) else {
        let found = field(json, "model_type").and_then(Value::as_str);
        let found = found.ok_or(ConfigError::Missing { key })?;
        let known = Architecture::ALL
            .iter()
            .copied()
            .find(|known| known.model_type() == found);
        return known.ok_or_else(|| ConfigError::UnknownArchitecture {
            found: found.to_owned(),
        });
    };
    let names: Option<Vec<&str>> = found
        .as_array()
        .and_then(|names| names.iter().map(Value::as_str).collect());
    let Some(names) = names else {
        return Err(ConfigError::unexpected(key, "a list of names", Some(found)));
    };
    let known = Architecture::ALL
        .iter()
        .copied()
        .find(|known| names == [known.class_name()]);
    let Some(architecture) = known else {
        let found = names.join("`, `");
        return Err(ConfigError::UnknownArchitecture { found });
    };
    match field(json, "model_type") {
        Some(found) if found != architecture.model_type() => {
            let expected = format!(
                "`{}` beside `{}`",
                architecture.model_type(),
                architecture.class_name()
            );
            Err(ConfigError::unexpected("model_type", expected, Some(found)))
        }
        _ => Ok(architecture),
    }
}

/// Refuses a file with a part that the decoder lacks.
fn check_parts(json: &Value, family: &Family) -> Result<(), ConfigError> {
    let absent = |key| match flag(json, key)? {
        Some(true) => Err(ConfigError::unexpected(key, "`false`", field(json, key))),
        _ => Ok(()),
    };
    if !family.qkv_bias {
        absent("attention_bias")?;
    }
    absent("mlp_bias")?;
    absent("use_bidirectional_attention")?;
    let mut keys = family.activation_keys.iter();
    let first = keys.find_map(|(key, others)| Some((*key, *others, field(json, key)?)));
    let expected = family.activation.json_name();
    match first {
        Some((_, others, found)) if others.iter().any(|other| found == other) => Ok(()),
        Some((key, _, found)) if found != expected => Err(ConfigError::unexpected(
            key,
            format!("`{expected}`"),
            Some(found),
        )),
        _ => Ok(()),
    }
}

/// Number of key/value heads; `null` means one for each query head.
fn num_key_value_heads(
    json: &Value,
    num_attention_heads: usize,
    defaults: &Defaults,
) -> Result<usize, ConfigError> {
    let key = "num_key_value_heads";
    let heads = size_or(json, key, 1 << 12, defaults.num_key_value_heads)?;
    let heads = heads.unwrap_or(num_attention_heads);
    fields::check_divides(("num_attention_heads", num_attention_heads), (key, heads))?;
    Ok(heads)
}

#[cfg(test)]
mod family_tests;
#[cfg(test)]
mod rope_tests;
#[cfg(test)]
mod tests;
