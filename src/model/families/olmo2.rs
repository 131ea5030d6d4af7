//! OLMo 2: norms after attention and feed-forward layer, not before; queries and keys normed over all heads together.

use serde_json::json;

use super::{Defaults, Family, Gguf, Norms, QkNorm, llama};

pub(super) static FAMILY: Family = Family {
    class_name: "Olmo2ForCausalLM",
    model_type: "olmo2",
    norms: Norms::After,
    qk_norm: QkNorm::Whole,
    defaults: Defaults {
        rms_norm_eps: 1e-5,
        bos_token_id: None,
        eos_token_id: Some(50_279),
        pad_token_id: Some(1),
        ..llama::DEFAULTS
    },
    write: |config| {
        json!({
            "attention_bias": false,
            "hidden_act": config.family().activation.json_name(),
        })
    },
    gguf: Gguf {
        name: "olmo2",
        turns_neighbours: false,
        ..llama::GGUF
    },
    ..llama::FAMILY
};
