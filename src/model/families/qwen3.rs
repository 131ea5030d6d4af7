//! Qwen 3: a Qwen 2 whose queries and keys are normed, head by head, and have no bias.

use super::{Defaults, Family, Gguf, QkNorm, qwen2};

pub(super) static FAMILY: Family = Family {
    class_name: "Qwen3ForCausalLM",
    model_type: "qwen3",
    qkv_bias: false,
    qk_norm: QkNorm::PerHead,
    defaults: Defaults {
        head_dim: Some(128),
        ..qwen2::DEFAULTS
    },
    write: |config| {
        let mut keys = qwen2::write(config);
        keys["attention_bias"] = false.into();
        keys
    },
    gguf: Gguf {
        name: "qwen3",
        ..qwen2::GGUF
    },
    ..qwen2::FAMILY
};
