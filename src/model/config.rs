//! Architecture of a decoder, as `config.json` states it.

use serde::{Deserialize, Serialize};

use super::{Architecture, Family};

/// Architecture of a decoder; field names are those of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of config.json")]
pub struct DecoderConfig {
    /// Family.
    pub architecture: Architecture,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// Attention scores are divided by its root; `head_dim` unless the family names another number.
    pub query_pre_attn_scalar: usize,
    /// Attention scores stay within this of 0.
    pub attn_logit_softcapping: Option<f64>,
    /// Logits stay within this of 0.
    pub final_logit_softcapping: Option<f64>,
    /// Positions that a sliding layer sees, the current one among them.
    pub sliding_window: Option<usize>,
    /// One entry per layer; if any slides, there is a `sliding_window`.
    pub layer_types: Vec<LayerType>,
    pub rms_norm_eps: f64,
    /// Rotary positions of layers with full attention.
    pub rope: Rope,
    /// Rotary positions of sliding layers; those of the others if none.
    pub local_rope: Option<Rope>,
    /// Layers, counted from 0 and ascending, whose queries and keys do not turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers_without_rope: Vec<usize>,
    pub max_position_embeddings: usize,
    pub tie_word_embeddings: bool,
    pub bos_token_id: Option<u32>,
    /// All end-of-text ids; empty if the file names none.
    pub eos_token_ids: Vec<u32>,
    pub pad_token_id: Option<u32>,
}

impl DecoderConfig {
    /// What its family has.
    pub fn family(&self) -> &'static Family {
        self.architecture.family()
    }

    /// The same decoder with chosen layers alone, in the order given.
    ///
    /// # Panics
    ///
    /// If a layer does not exist.
    #[must_use]
    pub fn with_layers(&self, layers: &[usize]) -> Self {
        Self {
            num_hidden_layers: layers.len(),
            layer_types: layers.iter().map(|&idx| self.layer_types[idx]).collect(),
            layers_without_rope: (0..layers.len())
                .filter(|&place| self.layers_without_rope.contains(&layers[place]))
                .collect(),
            ..self.clone()
        }
    }

    /// What attention in a layer goes by.
    pub(super) fn layer_kind(&self, layer: usize) -> LayerKind {
        LayerKind {
            layer_type: self.layer_types[layer],
            turns: !self.layers_without_rope.contains(&layer),
        }
    }

    /// Positions that a layer of this type sees; `None` is all.
    pub fn window(&self, layer_type: LayerType) -> Option<usize> {
        self.sliding_window
            .filter(|_| layer_type == LayerType::Sliding)
    }

    /// Rotary positions of layers of this type.
    pub fn rope_of(&self, layer_type: LayerType) -> &Rope {
        match layer_type {
            LayerType::Full => &self.rope,
            LayerType::Sliding => self.local_rope.as_ref().unwrap_or(&self.rope),
        }
    }
}

/// What layers share whose attention does the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LayerKind {
    pub(super) layer_type: LayerType,
    /// Queries and keys turn by their positions.
    pub(super) turns: bool,
}

/// How far back a layer sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayerType {
    /// All positions.
    #[serde(rename = "full_attention")]
    Full,
    /// The last `sliding_window` positions.
    #[serde(rename = "sliding_attention")]
    Sliding,
}

impl LayerType {
    /// Sliding or not.
    pub fn sliding_if(slides: bool) -> Self {
        if slides { Self::Sliding } else { Self::Full }
    }

    /// Its name in `config.json`.
    pub fn json_name(self) -> &'static str {
        match self {
            Self::Full => "full_attention",
            Self::Sliding => "sliding_attention",
        }
    }
}

/// Rotary positions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// Change of the series for long contexts.
    pub scaling: RopeScaling,
    /// Dimensions of a head that turn, which are its first and an even number; `None` is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotary_dims: Option<usize>,
}

impl Rope {
    /// Waves of this base, as they are, for all dimensions of a head.
    pub fn plain(theta: f64) -> Self {
        Self {
            theta,
            scaling: RopeScaling::Default,
            rotary_dims: None,
        }
    }

    /// Dimensions that turn of a head of so many.
    pub fn dims(&self, head_dim: usize) -> usize {
        self.rotary_dims.unwrap_or(head_dim)
    }

    /// Tells whether positions turn otherwise in a pass over so many than over all.
    pub fn differs_between(&self, num_positions: usize, all: usize) -> bool {
        match self.scaling {
            RopeScaling::LongRope {
                original_max_position_embeddings: context,
                ..
            } => (num_positions <= context) != (all <= context),
            _ => false,
        }
    }

    /// Share of a head's dimensions that `config.json` says so many by, which its readers multiply and round down.
    pub fn partial_rotary_factor(dims: u64, head_dim: u64) -> f64 {
        let factor = dims as f64 / head_dim as f64;
        if factor * head_dim as f64 >= dims as f64 {
            factor
        } else {
            factor.next_up()
        }
    }
}

/// Change of the wavelengths for long contexts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of config.json")]
pub enum RopeScaling {
    Default,
    /// All waves stretched by `factor` (Chen et al. 2023, arXiv 2306.15595).
    Linear {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// Waves that turn less than `beta_slow` times in the trained context are stretched by `factor`, those that turn
    /// more than `beta_fast` times are left, with a ramp between; queries and keys grow by `attention_factor`
    /// (Peng et al. 2023, arXiv 2309.00071).
    Yarn {
        factor: f64,
        attention_factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        original_max_position_embeddings: usize,
        /// Whether the ramp's ends are rounded outwards to whole pairs of dimensions.
        truncate: bool,
    },
    /// The wave of each pair of dimensions is stretched by a factor of its own: by those of one list in passes of at most
    /// `original_max_position_embeddings` positions, of another in longer ones, where all positions turn anew. Queries and
    /// keys grow by `attention_factor` (Ding et al. 2024, arXiv 2402.13753).
    LongRope {
        short_factor: Vec<f32>,
        long_factor: Vec<f32>,
        attention_factor: f64,
        original_max_position_embeddings: usize,
    },
}

impl RopeScaling {
    /// Growth of queries and keys that a stretch by `factor` asks for (Peng et al. 2023), its logarithm times
    /// `mscale`.
    pub fn yarn_growth(factor: f64, mscale: f64) -> f64 {
        0.1 * mscale * factor.max(1.0).ln() + 1.0
    }

    /// Growth of queries and keys that a context stretched by `factor` asks for in [`RopeScaling::LongRope`].
    pub fn longrope_growth(factor: f64, context: u64) -> f64 {
        (1.0 + factor.max(1.0).ln() / (context as f64).ln()).sqrt()
    }

    /// What sines and cosines are multiplied by.
    pub fn attention_factor(&self) -> f64 {
        match *self {
            Self::Yarn {
                attention_factor, ..
            }
            | Self::LongRope {
                attention_factor, ..
            } => attention_factor,
            _ => 1.0,
        }
    }
}
