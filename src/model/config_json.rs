//! `config.json`: read strictly, written in the styles of transformers 4 and 5.

use serde_json::{Value, json};

use super::{DecoderConfig, Rope, RopeScaling};

/// Architectures that [`DecoderConfig::from_json`] reads, by their `config.json` name.
pub const KNOWN_ARCHITECTURES: [&str; 1] = ["LlamaForCausalLM"];

/// Why a `config.json` is refused.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ConfigError {
    #[error("unknown architecture `{found}`; known: `{}`", KNOWN_ARCHITECTURES.join("`, `"))]
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
    #[error(
        "`rope_parameters` and the older `rope_theta`, `rope_scaling` disagree: {new:?} and {old:?}"
    )]
    RopeDisagrees { new: Rope, old: Rope },
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
    /// Architecture from a parsed `config.json` of transformers 4 or 5.
    ///
    /// What is left out has the default of transformers' `LlamaConfig`, except the sizes that no model leaves out.
    /// Every size is bounded far above any published model, so that no product of two sizes overflows and a
    /// hostile file cannot ask for more memory than its weights take.
    pub fn from_json(json: &Value) -> Result<Self, ConfigError> {
        check_architecture(json)?;
        let hidden_size = required_size(json, "hidden_size", 1 << 17)?;
        let num_attention_heads = required_size(json, "num_attention_heads", 1 << 12)?;
        let num_key_value_heads =
            size(json, "num_key_value_heads", 1 << 12)?.unwrap_or(num_attention_heads);
        check_divides(
            ("num_attention_heads", num_attention_heads),
            ("num_key_value_heads", num_key_value_heads),
        )?;
        Ok(Self {
            vocab_size: required_size(json, "vocab_size", 1 << 24)?,
            hidden_size,
            intermediate_size: required_size(json, "intermediate_size", 1 << 20)?,
            num_hidden_layers: required_size(json, "num_hidden_layers", 1 << 12)?,
            num_attention_heads,
            num_key_value_heads,
            head_dim: head_dim(json, hidden_size, num_attention_heads)?,
            rms_norm_eps: positive(json, "rms_norm_eps")?.unwrap_or(1e-6),
            rope: rope(json)?,
            max_position_embeddings: size(json, "max_position_embeddings", 1 << 30)?
                .unwrap_or(2048),
            tie_word_embeddings: flag(json, "tie_word_embeddings")?,
            bos_token_id: token_id("bos_token_id", field(json, "bos_token_id"))?,
            eos_token_ids: eos_token_ids(json)?,
            pad_token_id: token_id("pad_token_id", field(json, "pad_token_id"))?,
        })
    }

    /// `config.json` of a Llama whose weights are stored as `dtype` (`bfloat16`, `float32`).
    ///
    /// Rope settings and dtype stand twice, in the style of transformers 4 and of 5: with the newer alone, mlx-lm and
    /// candle silently fall back to a base of 10,000 and give other logits, and mistral.rs refuses.
    pub fn to_json(&self, dtype: &str) -> Value {
        let (rope_parameters, rope_scaling) = self.rope.to_json();
        json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "dtype": dtype,
            "eos_token_id": self.eos_to_json(),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": self.pad_token_id,
            "pretraining_tp": 1,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_parameters": rope_parameters,
            "rope_scaling": rope_scaling,
            "rope_theta": self.rope.theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        })
    }

    /// `generation_config.json`: the special ids, which engines stop at.
    pub fn generation_json(&self) -> Value {
        json!({
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_to_json(),
            "pad_token_id": self.pad_token_id,
        })
    }

    /// One id stands alone and several in a list, as readers of both styles expect.
    fn eos_to_json(&self) -> Value {
        match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [id] => json!(id),
            ids => json!(ids),
        }
    }
}

impl Rope {
    /// `rope_parameters` of transformers 5 and `rope_scaling` of transformers 4.
    fn to_json(&self) -> (Value, Value) {
        match self.scaling {
            RopeScaling::Default => (
                json!({ "rope_theta": self.theta, "rope_type": "default" }),
                Value::Null,
            ),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let scaling = json!({
                    "factor": factor,
                    "high_freq_factor": high_freq_factor,
                    "low_freq_factor": low_freq_factor,
                    "original_max_position_embeddings": original_max_position_embeddings,
                    "rope_type": "llama3",
                });
                let mut parameters = scaling.clone();
                parameters["rope_theta"] = json!(self.theta);
                (parameters, scaling)
            }
        }
    }
}

/// The value of a key; `null` counts as absent.
fn field<'a>(json: &'a Value, key: &str) -> Option<&'a Value> {
    json.get(key).filter(|value| !value.is_null())
}

fn size(json: &Value, key: &'static str, max: usize) -> Result<Option<usize>, ConfigError> {
    let Some(value) = field(json, key) else {
        return Ok(None);
    };
    let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
    if let Some(size) = size.filter(|size| (1..=max).contains(size)) {
        return Ok(Some(size));
    }
    let expected = format!("a whole number in 1 ..= {max}");
    Err(ConfigError::unexpected(key, expected, Some(value)))
}

fn required_size(json: &Value, key: &'static str, max: usize) -> Result<usize, ConfigError> {
    size(json, key, max)?.ok_or(ConfigError::Missing { key })
}

fn positive(json: &Value, key: &'static str) -> Result<Option<f64>, ConfigError> {
    let Some(value) = field(json, key) else {
        return Ok(None);
    };
    match value.as_f64().filter(|&number| number > 0.0) {
        Some(number) => Ok(Some(number)),
        None => Err(ConfigError::unexpected(
            key,
            "a positive number",
            Some(value),
        )),
    }
}

fn required_positive(json: &Value, key: &'static str) -> Result<f64, ConfigError> {
    positive(json, key)?.ok_or(ConfigError::Missing { key })
}

/// `true` or `false`; absent is `false`.
fn flag(json: &Value, key: &'static str) -> Result<bool, ConfigError> {
    match field(json, key) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        other => Err(ConfigError::unexpected(key, "`true` or `false`", other)),
    }
}

/// The architecture is known and has no part that the decoder lacks.
fn check_architecture(json: &Value) -> Result<(), ConfigError> {
    let key = "architectures";
    let found = field(json, key).ok_or(ConfigError::Missing { key })?;
    let names: Option<Vec<&str>> = found
        .as_array()
        .and_then(|names| names.iter().map(Value::as_str).collect());
    match names.as_deref() {
        Some([name]) if KNOWN_ARCHITECTURES.contains(name) => {}
        Some(names) => {
            let found = names.join("`, `");
            return Err(ConfigError::UnknownArchitecture { found });
        }
        None => return Err(ConfigError::unexpected(key, "a list of names", Some(found))),
    }
    for key in ["attention_bias", "mlp_bias"] {
        if flag(json, key)? {
            return Err(ConfigError::unexpected(key, "`false`", field(json, key)));
        }
    }
    match field(json, "hidden_act") {
        None => Ok(()),
        Some(Value::String(name)) if name == "silu" => Ok(()),
        other => Err(ConfigError::unexpected("hidden_act", "`silu`", other)),
    }
}

fn check_divides(
    (key, value): (&'static str, usize),
    (divisor, by): (&'static str, usize),
) -> Result<(), ConfigError> {
    if value.is_multiple_of(by) {
        return Ok(());
    }
    Err(ConfigError::Uneven {
        key,
        value,
        divisor,
        by,
    })
}

/// Size of one head; even, since rotary positions turn pairs.
fn head_dim(json: &Value, hidden_size: usize, num_heads: usize) -> Result<usize, ConfigError> {
    let key = "head_dim";
    let head_dim = if let Some(head_dim) = size(json, key, 1 << 13)? {
        head_dim
    } else {
        check_divides(
            ("hidden_size", hidden_size),
            ("num_attention_heads", num_heads),
        )?;
        hidden_size / num_heads
    };
    if head_dim.is_multiple_of(2) {
        Ok(head_dim)
    } else {
        let found = Value::from(head_dim);
        Err(ConfigError::unexpected(key, "even", Some(&found)))
    }
}

/// Rope settings of either style; a file that holds both must say the same twice.
fn rope(json: &Value) -> Result<Rope, ConfigError> {
    let old_theta = positive(json, "rope_theta")?;
    let old_scaling = rope_scaling(field(json, "rope_scaling"))?;
    let Some(parameters) = field(json, "rope_parameters") else {
        let theta = old_theta.unwrap_or(10_000.0);
        return Ok(Rope {
            theta,
            scaling: old_scaling,
        });
    };
    let new = Rope {
        theta: positive(parameters, "rope_theta")?
            .or(old_theta)
            .unwrap_or(10_000.0),
        scaling: rope_scaling(Some(parameters))?,
    };
    let old = Rope {
        theta: old_theta.unwrap_or(new.theta),
        scaling: match json.get("rope_scaling") {
            Some(_) => old_scaling,
            None => new.scaling.clone(),
        },
    };
    if new == old {
        Ok(new)
    } else {
        Err(ConfigError::RopeDisagrees { new, old })
    }
}

fn rope_scaling(json: Option<&Value>) -> Result<RopeScaling, ConfigError> {
    let Some(json) = json else {
        return Ok(RopeScaling::Default);
    };
    let rope_type = field(json, "rope_type").or(field(json, "type")); // `type` before transformers 4.43
    match rope_type.map_or(Some("default"), Value::as_str) {
        Some("default") => Ok(RopeScaling::Default),
        Some("llama3") => {
            let key = "original_max_position_embeddings";
            Ok(RopeScaling::Llama3 {
                factor: required_positive(json, "factor")?,
                low_freq_factor: required_positive(json, "low_freq_factor")?,
                high_freq_factor: required_positive(json, "high_freq_factor")?,
                original_max_position_embeddings: required_size(json, key, 1 << 30)?,
            })
        }
        _ => Err(ConfigError::unexpected(
            "rope_type",
            "`default` or `llama3`",
            rope_type,
        )),
    }
}

fn eos_token_ids(json: &Value) -> Result<Vec<u32>, ConfigError> {
    let key = "eos_token_id";
    match field(json, key) {
        Some(Value::Array(ids)) => ids
            .iter()
            .map(|id| {
                token_id(key, Some(id))?
                    .ok_or_else(|| ConfigError::unexpected(key, "a token id", Some(id)))
            })
            .collect(),
        id => Ok(token_id(key, id)?.into_iter().collect()),
    }
}

/// A token id; −1, which early Llama conversions write for "none", is none.
///
/// Ids are compared with tokens and never index a weight, so one beyond the vocabulary does no harm.
fn token_id(key: &'static str, value: Option<&Value>) -> Result<Option<u32>, ConfigError> {
    let Some(value) = value.filter(|value| value.as_i64() != Some(-1)) else {
        return Ok(None);
    };
    match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok(Some(id)),
        None => Err(ConfigError::unexpected(key, "a token id", Some(value))),
    }
}

#[cfg(test)]
#[path = "config_json_tests.rs"]
mod tests;
