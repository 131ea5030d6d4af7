//! `config.json` as it is written.

use serde_json::{Map, Value, json};

use super::{Architecture, DecoderConfig, Rope};
use crate::model::{LayerType, RopeScaling};

impl DecoderConfig {
    /// `config.json` of a model whose weights are stored as `dtype` (`bfloat16`, `float32`).
    ///
    /// Rope settings, dtype and the order of sliding layers stand in the style of transformers 4 and of 5: with the
    /// newer alone, mlx-lm and candle silently fall back to a base of 10,000 and give other logits, and mistral.rs
    /// refuses.
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
        for (key, value) in self.own_keys() {
            json[key] = value;
        }
        json
    }

    /// The keys of the family's own.
    fn own_keys(&self) -> Map<String, Value> {
        let activation = self.architecture.activation().json_name();
        let mut keys = match self.architecture {
            Architecture::Llama => json!({
                "attention_bias": false,
                "hidden_act": activation,
                "mlp_bias": false,
                "pretraining_tp": 1,
            }),
            Architecture::Mistral => json!({
                "hidden_act": activation,
                "sliding_window": self.sliding_window,
            }),
            Architecture::Qwen2 | Architecture::Qwen3 => json!({
                "hidden_act": activation,
                "layer_types": self.layer_types,
                "max_window_layers": self.num_leading_full_layers(),
                "sliding_window": self.sliding_window,
                "use_sliding_window": self.sliding_window.is_some(),
            }),
            Architecture::Gemma => json!({
                "attention_bias": false,
                "hidden_act": activation,
                "use_bidirectional_attention": null,
            }),
            Architecture::Gemma2 => json!({
                "attention_bias": false,
                "attn_logit_softcapping": self.attn_logit_softcapping,
                "final_logit_softcapping": self.final_logit_softcapping,
                "hidden_activation": activation,
                "layer_types": self.layer_types,
                "query_pre_attn_scalar": self.query_pre_attn_scalar,
                "sliding_window": self.sliding_window,
                "use_bidirectional_attention": null,
            }),
            Architecture::Gemma3 => json!({
                "attention_bias": false,
                "attn_logit_softcapping": null,
                "final_logit_softcapping": self.final_logit_softcapping,
                "hidden_activation": activation,
                "layer_types": self.layer_types,
                "query_pre_attn_scalar": self.query_pre_attn_scalar,
                "rope_local_base_freq": self.rope_of(LayerType::Sliding).theta,
                "sliding_window": self.sliding_window,
                "sliding_window_pattern": self.sliding_window_pattern(),
                "use_bidirectional_attention": false,
            }),
        };
        if self.architecture == Architecture::Qwen3 {
            keys["attention_bias"] = false.into(); // a key that Qwen 2 does not have
        }
        match keys {
            Value::Object(keys) => keys,
            _ => unreachable!("a table is written above"),
        }
    }

    /// `rope_parameters` of transformers 5 and `rope_scaling` of transformers 4.
    fn ropes_to_json(&self) -> (Value, Value) {
        let (full, scaling) = self.rope.to_json();
        match &self.local_rope {
            None => (full, scaling),
            Some(local) => {
                let (sliding, _) = local.to_json();
                let both = json!({ "full_attention": full, "sliding_attention": sliding });
                (both, scaling)
            }
        }
    }

    /// Layers before the first that slides: how Qwen says which do where `layer_types` is not known.
    fn num_leading_full_layers(&self) -> usize {
        let first = self
            .layer_types
            .iter()
            .position(|&layer_type| layer_type == LayerType::Sliding);
        first.unwrap_or(self.num_hidden_layers)
    }

    /// The period by which every n-th layer is full: how Gemma 3 says which slide where `layer_types` is not known.
    ///
    /// Layers without such a period give none, at which transformers before 4.53 fails instead of taking its default
    /// of 6.
    fn sliding_window_pattern(&self) -> Option<usize> {
        (1..=self.num_hidden_layers + 1).find(|&period| {
            let mut layers = self.layer_types.iter().zip(1..);
            layers.all(|(&layer_type, nth)| {
                (layer_type == LayerType::Full) == usize::is_multiple_of(nth, period)
            })
        })
    }

    /// One id stands alone and several in a list, as readers of both styles expect.
    pub(super) fn eos_to_json(&self) -> Value {
        match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [id] => json!(id),
            ids => json!(ids),
        }
    }
}

impl Rope {
    /// As transformers 5 writes it, and without the base as transformers 4 does.
    fn to_json(&self) -> (Value, Value) {
        let scaling = match self.scaling {
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
        };
        let mut parameters = scaling.clone();
        parameters["rope_theta"] = json!(self.theta);
        (parameters, scaling)
    }
}
