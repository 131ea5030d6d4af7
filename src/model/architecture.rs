//! The model families that the one decoder covers, and what each has or has not.

use serde::{Deserialize, Serialize};

/// A family of decoders, by the class of transformers that runs it.
///
/// Numbers stand in [`DecoderConfig`](super::DecoderConfig); what cannot be told by a number stands here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    /// Llama 1 to 3 and SmolLM 1 and 2 (Touvron et al. 2023, arXiv 2302.13971).
    Llama,
    /// Mistral: a Llama with a sliding window (Jiang et al. 2023, arXiv 2310.06825).
    Mistral,
    /// Qwen 2 and 2.5: biases on queries, keys and values (Yang et al. 2024, arXiv 2407.10671).
    Qwen2,
    /// Qwen 3: queries and keys are normed per head (Yang et al. 2025, arXiv 2505.09388).
    Qwen3,
    /// Gemma 1 (Gemma Team 2024, arXiv 2403.08295).
    Gemma,
    /// Gemma 2: four norms a layer, soft-caps, every other layer local (Gemma Team 2024, arXiv 2408.00118).
    Gemma2,
    /// Gemma 3, text only: normed queries and keys instead of soft-caps, two rope bases (arXiv 2503.19786).
    Gemma3,
}

/// Function between the two halves of the feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Gemma,
        Self::Gemma2,
        Self::Gemma3,
    ];

    /// Name of the class in `architectures` of `config.json`.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Gemma => "GemmaForCausalLM",
            Self::Gemma2 => "Gemma2ForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
        }
    }

    /// `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma => "gemma",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
        }
    }

    /// Queries, keys and values have a bias.
    pub fn has_qkv_bias(self) -> bool {
        self == Self::Qwen2
    }

    /// Queries and keys are normed, head by head, before they are turned.
    pub fn has_qk_norm(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Gemma3)
    }

    /// What attention and feed-forward layer give is normed, too, before it is added to the residual stream.
    pub fn has_output_norms(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    /// Whether it is one of Google's, which store the gain of a norm as its distance from 1, multiply the embedding
    /// by √`hidden_size` and tie the output to it.
    pub fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma | Self::Gemma2 | Self::Gemma3)
    }

    /// What a norm multiplies by where its stored weight is 0.
    pub fn gain_offset(self) -> f64 {
        if self.is_gemma() { 1.0 } else { 0.0 }
    }

    /// Factor of the embedding, if it has one. In transformers it is rounded to the dtype of the weights: here f32.
    pub fn embedding_scale(self, hidden_size: usize) -> Option<f64> {
        self.is_gemma().then(|| (hidden_size as f64).sqrt())
    }

    /// Function between the two halves of the feed-forward layer.
    pub fn activation(self) -> Activation {
        if self.is_gemma() {
            Activation::GeluTanh
        } else {
            Activation::Silu
        }
    }
}
