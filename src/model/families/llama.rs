//! Llama, and the many models with the same architecture.

use serde_json::json;

use super::{Activation, Defaults, Family, Gguf, Norms, QkNorm};

pub(super) const DEFAULTS: Defaults = Defaults {
    num_key_value_heads: None,
    head_dim: None,
    max_position_embeddings: 2048,
    original_max_position_embeddings: None,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000.0,
    tie_word_embeddings: false,
    bos_token_id: Some(1),
    eos_token_id: Some(2),
    pad_token_id: None,
};

pub(super) const GGUF: Gguf = Gguf {
    name: "llama",
    turns_neighbours: true,
    slides: false,
    read: |_, _| Ok(()),
    write: |_| Ok(Vec::new()),
};

pub(super) const FAMILY: Family = Family {
    class_name: "LlamaForCausalLM",
    model_type: "llama",
    norms: Norms::Before,
    qkv_bias: false,
    qk_norm: QkNorm::None,
    activation: Activation::Silu,
    gain_offset: 0.0,
    scales_embedding: false,
    has_local_rope: false,
    turns_partly: false,
    counts_factors_by_width: false,
    names: &[],
    fused: &[],
    activation_keys: &[("hidden_act", &[])],
    defaults: DEFAULTS,
    read: |_, _| Ok(()),
    write: |config| {
        json!({
            "attention_bias": false,
            "hidden_act": config.family().activation.json_name(),
            "mlp_bias": false,
            "pretraining_tp": 1,
        })
    },
    gguf: GGUF,
};
