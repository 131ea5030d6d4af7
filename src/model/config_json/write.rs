//! `config.json` as it is written.

use serde_json::{Value, json};

use super::{DecoderConfig, Rope};
use crate::model::RopeScaling;

impl DecoderConfig {
    /// `config.json` of a model whose weights are stored as `dtype` (`bfloat16`, `float32`).
    ///
    /// Rope settings, dtype and the order of sliding layers are written in the styles of transformers 4 and 5: with the
    /// newer style alone, mlx-lm and candle silently fall back to a base of 10,000 and give other logits, and
    /// mistral.rs refuses the file.
    pub fn to_json(&self, dtype: &str) -> Value {
        let (rope_parameters, rope_scaling) = self.ropes_to_json();
        let mut json = json!({
            "architectures": [self.architecture.class_name()],
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "dtype": dtype,
            "eos_token_id": self.eos_to_json(),
            "head_dim": self.head_dim,
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "model_type": self.architecture.model_type(),
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": self.pad_token_id,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_parameters": rope_parameters,
            "rope_scaling": rope_scaling,
            "rope_theta": self.rope.theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        if let Value::Object(own) = (self.family().write)(self) {
            for (key, value) in own {
                json[key] = value;
            }
        }
        if let RopeScaling::LongRope {
            original_max_position_embeddings: context,
            ..
        } = self.rope.scaling
        {
            json["original_max_position_embeddings"] = json!(context); // transformers reads it there, too
        }
        if let Some(factor) = self.partial_rotary_factor() {
            json["partial_rotary_factor"] = json!(factor);
        }
        json
    }

    /// Share of a head's dimensions that is rotated; `None` if all are.
    fn partial_rotary_factor(&self) -> Option<f64> {
        let dims = self.rope.rotary_dims? as u64;
        Some(Rope::partial_rotary_factor(dims, self.head_dim as u64))
    }

    /// `rope_parameters` of transformers 5 and `rope_scaling` of transformers 4.
    fn ropes_to_json(&self) -> (Value, Value) {
        let (mut full, scaling) = self.rope.to_json(self.max_position_embeddings);
        if let Some(factor) = self.partial_rotary_factor() {
            full["partial_rotary_factor"] = json!(factor);
        }
        match &self.local_rope {
            None => (full, scaling),
            Some(local) => {
                let (sliding, _) = local.to_json(self.max_position_embeddings);
                let both = json!({ "full_attention": full, "sliding_attention": sliding });
                (both, scaling)
            }
        }
    }

    /// End-of-text ids: one as a number, several as a list, as readers of both styles expect.
    pub(super) fn eos_to_json(&self) -> Value {
        match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [id] => json!(id),
            ids => json!(ids),
        }
    }
}

impl Rope {
    /// Rope settings in the style of transformers 5, and in that of transformers 4 without the base.
    pub(in crate::model) fn to_json(&self, max_position_embeddings: usize) -> (Value, Value) {
        let scaling = match &self.scaling {
            RopeScaling::Default => {
                let parameters = json!({ "rope_theta": self.theta, "rope_type": "default" });
                return (parameters, Value::Null);
            }
            RopeScaling::Linear { factor } => json!({ "factor": factor, "rope_type": "linear" }),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "factor": factor,
                "high_freq_factor": high_freq_factor,
                "low_freq_factor": low_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
                "rope_type": "llama3",
            }),
            RopeScaling::Yarn {
                factor,
                attention_factor,
                beta_fast,
                beta_slow,
                original_max_position_embeddings,
                truncate,
            } => json!({
                "attention_factor": attention_factor,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "factor": factor,
                "original_max_position_embeddings": original_max_position_embeddings,
                "rope_type": "yarn",
                "truncate": truncate,
            }),
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                attention_factor,
                original_max_position_embeddings: context,
            } => {
                let mut table = json!({
                    "long_factor": decimals(long_factor),
                    "original_max_position_embeddings": context,
                    "rope_type": "longrope",
                    "short_factor": decimals(short_factor),
                });
                let stretch = max_position_embeddings as f64 / *context as f64;
                let derived = RopeScaling::longrope_growth(stretch, *context as u64);
                if attention_factor.to_bits() != derived.to_bits() {
                    table["attention_factor"] = json!(attention_factor);
                }
                table
            }
        };
        let mut parameters = scaling.clone();
        parameters["rope_theta"] = json!(self.theta);
        (parameters, scaling)
    }
}

/// The shortest decimals that read back as the same f32 numbers.
fn decimals(numbers: &[f32]) -> Vec<f64> {
    let numbers = numbers.iter();
    numbers
        .map(|number| number.to_string().parse().expect("a number"))
        .collect()
}
