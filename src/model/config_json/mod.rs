//! `config.json`: read strictly, written in the styles of transformers 4 and 5.

mod defaults;
mod fields;
mod generation;
mod layers;
mod multimodal;
mod rope;
mod write;

use serde_json::Value;

use self::defaults::Defaults;
use self::fields::{
    eos_token_ids, field, flag, head_dim, positive, required_size, size, size_or, token_id,
};
use self::layers::{layer_types, sliding_window};
pub use self::multimodal::has_images;
use self::multimodal::text_part;
use self::rope::ropes;
use super::{Activation, Architecture, DecoderConfig, Rope};

/// Why a `config.json` is refused.
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
    /// The value found at `key`, or `null`, is not what is expected there.
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

impl DecoderConfig {
    /// What a parsed `config.json` says that is not read, where a reader might count on it.
    pub fn note_on(json: &Value) -> Option<String> {
        let json = &*text_part(json).ok()?;
        rope::note(json, architecture(json).ok()?)
    }

    /// Architecture from a parsed `config.json` of transformers 4 or 5.
    ///
    /// What is left out has the default of the family's config class in transformers, except the sizes that no model
    /// leaves out. Of a model that reads images as well, the decoder is read. Every size is bounded far above any published model, so that no product of two sizes overflows and
    /// a hostile file cannot ask for more memory than its weights take.
    pub fn from_json(json: &Value) -> Result<Self, ConfigError> {
        let json = &*text_part(json)?;
        let architecture = architecture(json)?;
        check_parts(json, architecture)?;
        let defaults = Defaults::of(architecture);
        let hidden_size = required_size(json, "hidden_size", 1 << 17)?;
        let num_attention_heads = required_size(json, "num_attention_heads", 1 << 12)?;
        let num_key_value_heads = num_key_value_heads(json, num_attention_heads, &defaults)?;
        let num_hidden_layers = required_size(json, "num_hidden_layers", 1 << 12)?;
        let head_dim = head_dim(json, defaults.head_dim, hidden_size, num_attention_heads)?;
        let sliding_window = sliding_window(json, architecture)?;
        let (rope, local_rope) = ropes(json, architecture)?;
        let tied = flag(json, "tie_word_embeddings")?;
        Ok(Self {
            architecture,
            vocab_size: required_size(json, "vocab_size", 1 << 24)?,
            hidden_size,
            intermediate_size: required_size(json, "intermediate_size", 1 << 20)?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            query_pre_attn_scalar: query_pre_attn_scalar(json, architecture)?.unwrap_or(head_dim),
            attn_logit_softcapping: soft_cap(json, "attn_logit_softcapping", architecture, 50.0)?,
            final_logit_softcapping: soft_cap(json, "final_logit_softcapping", architecture, 30.0)?,
            sliding_window,
            layer_types: layer_types(json, architecture, num_hidden_layers, sliding_window)?,
            rms_norm_eps: positive(json, "rms_norm_eps")?.unwrap_or(1e-6),
            rope,
            local_rope,
            max_position_embeddings: size(json, "max_position_embeddings", 1 << 30)?
                .unwrap_or(defaults.max_position_embeddings),
            tie_word_embeddings: tied.unwrap_or(defaults.tie_word_embeddings),
            bos_token_id: token_id(json, "bos_token_id", defaults.bos_token_id)?,
            eos_token_ids: eos_token_ids(json, defaults.eos_token_id)?,
            pad_token_id: token_id(json, "pad_token_id", defaults.pad_token_id)?,
        })
    }
}

fn known_architectures() -> String {
    let names = Architecture::ALL.map(|known| format!("`{}`", known.class_name()));
    names.join(", ")
}

/// The family, by class name; a `model_type`, if there is one, must be of the same, and stands alone in some files.
fn architecture(json: &Value) -> Result<Architecture, ConfigError> {
    let key = "architectures";
    let Some(found) = field(json, key) else {
        let found = field(json, "model_type").and_then(Value::as_str);
        let found = found.ok_or(ConfigError::Missing { key })?;
        let known = Architecture::ALL
            .into_iter()
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
        .into_iter()
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

/// The file asks for no part that the decoder lacks.
fn check_parts(json: &Value, architecture: Architecture) -> Result<(), ConfigError> {
    use Architecture::{Gemma3, Qwen2};
    let absent = |key| match flag(json, key)? {
        Some(true) => Err(ConfigError::unexpected(key, "`false`", field(json, key))),
        _ => Ok(()),
    };
    if architecture != Qwen2 {
        absent("attention_bias")?; // Qwen 2 has its biases whatever is written
    }
    absent("mlp_bias")?;
    absent("use_bidirectional_attention")?;
    if architecture == Gemma3 {
        let key = "attn_logit_softcapping";
        if let Some(cap) = field(json, key) {
            return Err(ConfigError::unexpected(key, "`null`", Some(cap)));
        }
    }
    check_activation(json, architecture)
}

/// The activation is the family's.
fn check_activation(json: &Value, architecture: Architecture) -> Result<(), ConfigError> {
    use Architecture::{Gemma, Gemma2, Gemma3};
    let (newer, older) = ("hidden_activation", "hidden_act");
    let key = match architecture {
        Gemma2 | Gemma3 => newer,
        Gemma if field(json, newer).is_some() => newer, // which overrules the older key
        _ => older,
    };
    let expected = architecture.activation().json_name();
    match field(json, key) {
        // The first release of Gemma says `gelu` and was trained with the tanh form, which transformers 4 takes, too.
        Some(found) if architecture == Gemma && key == older && found == "gelu" => Ok(()),
        Some(found) if found != expected => Err(ConfigError::unexpected(
            key,
            format!("`{expected}`"),
            Some(found),
        )),
        _ => Ok(()),
    }
}

impl Activation {
    fn json_name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::GeluTanh => "gelu_pytorch_tanh",
        }
    }
}

/// Key/value heads; `null` is one for each query head.
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

/// What scores are divided by the root of, if the family does not take `head_dim`.
fn query_pre_attn_scalar(
    json: &Value,
    architecture: Architecture,
) -> Result<Option<usize>, ConfigError> {
    if !architecture.has_output_norms() {
        return Ok(None);
    }
    let scalar = size(json, "query_pre_attn_scalar", 1 << 17)?;
    Ok(Some(scalar.unwrap_or(256)))
}

/// A soft-cap: of Gemma 2 with its default, of Gemma 3 if it is written, of others none.
fn soft_cap(
    json: &Value,
    key: &'static str,
    architecture: Architecture,
    default: f64,
) -> Result<Option<f64>, ConfigError> {
    match architecture {
        Architecture::Gemma2 if json.get(key).is_none() => Ok(Some(default)),
        Architecture::Gemma2 | Architecture::Gemma3 => positive(json, key),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod family_tests;
#[cfg(test)]
mod rope_tests;
#[cfg(test)]
mod tests;
