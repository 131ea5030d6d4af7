//! What the config classes of transformers 4 and 5 take for keys that are left out.

use super::Architecture;

/// Defaults of one family, where families differ.
pub(super) struct Defaults {
    /// `None` is one for each query head.
    pub(super) num_key_value_heads: Option<usize>,
    /// `None` is `hidden_size / num_attention_heads`.
    pub(super) head_dim: Option<usize>,
    pub(super) max_position_embeddings: usize,
    pub(super) tie_word_embeddings: bool,
    pub(super) bos_token_id: Option<u32>,
    pub(super) eos_token_id: Option<u32>,
    pub(super) pad_token_id: Option<u32>,
}

impl Defaults {
    pub(super) fn of(architecture: Architecture) -> Self {
        let llama = Self {
            num_key_value_heads: None,
            head_dim: None,
            max_position_embeddings: 2048,
            tie_word_embeddings: false,
            bos_token_id: Some(1),
            eos_token_id: Some(2),
            pad_token_id: None,
        };
        let gemma = Self {
            num_key_value_heads: Some(4),
            head_dim: Some(256),
            max_position_embeddings: 8192,
            tie_word_embeddings: true,
            bos_token_id: Some(2),
            eos_token_id: Some(1),
            pad_token_id: Some(0),
        };
        let qwen = Self {
            num_key_value_heads: Some(32),
            max_position_embeddings: 32_768,
            bos_token_id: None,
            eos_token_id: None,
            ..llama
        };
        match architecture {
            Architecture::Llama => llama,
            Architecture::Mistral => Self {
                num_key_value_heads: Some(8),
                max_position_embeddings: 131_072,
                ..llama
            },
            Architecture::Qwen2 => qwen,
            Architecture::Qwen3 => Self {
                head_dim: Some(128),
                ..qwen
            },
            Architecture::Gemma => Self {
                num_key_value_heads: Some(16),
                ..gemma
            },
            Architecture::Gemma2 => gemma,
            Architecture::Gemma3 => Self {
                max_position_embeddings: 131_072,
                ..gemma
            },
        }
    }
}
