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
    /// Soft cap: attention scores stay within this distance of 0.
    pub attn_logit_softcapping: Option<f64>,
    /// Soft cap: logits stay within this distance of 0.
    pub final_logit_softcapping: Option<f64>,
    /// Positions that a sliding layer sees, including the current one.
    pub sliding_window: Option<usize>,
    /// One entry per layer; if any slides, there is a `sliding_window`.
    pub layer_types: Vec<LayerType>,
    pub rms_norm_eps: f64,
    /// Rotary positions of layers with full attention.
    pub rope: Rope,
    /// Rotary positions of sliding layers; `None` if they are the same as in full ones.
    pub local_rope: Option<Rope>,
    /// Layers whose queries and keys are not rotated, counted from 0, ascending.
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
    /// Largest size that is read back: far above any published model, and no product of two overflows.
    pub const MAX_SIZE: usize = 1 << 24;

    /// Most layers that run, in a file or in a recipe.
    pub const MAX_LAYERS: usize = 1 << 10;

    /// Facts of its family.
    pub fn family(&self) -> &'static Family {
        self.architecture.family()
    }

    /// The same decoder with only these layers, in the given order.
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

    /// What no decoder can have, for a config that does not come from [`DecoderConfig::from_json`]: a size of 0 or
    /// beyond [`DecoderConfig::MAX_SIZE`], heads that do not divide, lists of another length.
    pub fn fault(&self) -> Option<String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("query_pre_attn_scalar", self.query_pre_attn_scalar),
        ];
        let is_size = |size: usize| (1..=Self::MAX_SIZE).contains(&size);
        if let Some((key, size)) = sizes.into_iter().find(|&(_, size)| !is_size(size)) {
            return Some(format!("`{key}` is {size}"));
        }
        let (heads, groups) = (self.num_attention_heads, self.num_key_value_heads);
        let layers = self.num_hidden_layers;
        let num_types = self.layer_types.len();
        let ropes = [Some(&self.rope), self.local_rope.as_ref()];
        let rope = ropes.into_iter().flatten();
        let faults = [
            (!heads.is_multiple_of(groups)).then(|| format!("{heads} heads share {groups}")),
            (!self.head_dim.is_multiple_of(2)).then(|| format!("`head_dim` is {}", self.head_dim)),
            (num_types != layers).then(|| format!("{num_types} `layer_types` for {layers} layers")),
        ];
        if layers > Self::MAX_LAYERS {
            return Some(format!("`num_hidden_layers` is {layers}"));
        }
        let mut faults = faults.into_iter().flatten();
        faults.next().or_else(|| {
            let mut faults = rope.filter_map(|rope| rope.fault(self.head_dim));
            faults.next()
        })
    }

    /// Settings of attention in a layer.
    pub(super) fn layer_kind(&self, layer: usize) -> LayerKind {
        LayerKind {
            layer_type: self.layer_types[layer],
            turns: !self.layers_without_rope.contains(&layer),
        }
    }

    /// Positions that a layer of this type sees; `None` means all.
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

/// Settings shared by layers whose attention does the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LayerKind {
    pub(super) layer_type: LayerType,
    /// True if queries and keys are rotated by their positions.
    pub(super) turns: bool,
}

/// Range of positions that a layer sees.
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
    /// `Sliding` if `slides` is true, else `Full`.
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
    /// Rotary dimensions of a head: its first ones, an even number; `None` means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotary_dims: Option<usize>,
}

impl Rope {
    /// Unscaled waves of this base, for all dimensions of a head.
    pub fn plain(theta: f64) -> Self {
        Self {
            theta,
            scaling: RopeScaling::Default,
            rotary_dims: None,
        }
    }

    /// What rotary positions of a head of `head_dim` dimensions cannot have.
    fn fault(&self, head_dim: usize) -> Option<String> {
        let dims = self.dims(head_dim);
        if !(2..=head_dim).contains(&dims) || !dims.is_multiple_of(2) {
            return Some(format!("{dims} of {head_dim} dimensions are rotated"));
        }
        let pairs = dims / 2;
        match &self.scaling {
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                ..
            } => [short_factor, long_factor]
                .into_iter()
                .find(|factors| factors.len() != pairs)
                .map(|factors| format!("{} factors for {pairs} pairs", factors.len())),
            _ => None,
        }
    }

    /// Rotary dimensions of a head of `head_dim` dimensions.
    pub fn dims(&self, head_dim: usize) -> usize {
        self.rotary_dims.unwrap_or(head_dim)
    }

    /// True if positions are rotated differently in a pass over `num_positions` than in one over `all`.
    pub fn differs_between(&self, num_positions: usize, all: usize) -> bool {
        match self.scaling {
            RopeScaling::LongRope {
                original_max_position_embeddings: context,
                ..
            } => (num_positions <= context) != (all <= context),
            _ => false,
        }
    }

    /// Share of a head's dimensions for `config.json`: readers multiply it by `head_dim`, round down, and get `dims`.
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
    /// Waves that turn less than `beta_slow` times in the trained context are stretched by `factor`. The ones that turn
    /// more than `beta_fast` times are left unchanged, with a ramp between. Queries and keys grow by `attention_factor`
    /// (Peng et al. 2023, arXiv 2309.00071).
    Yarn {
        factor: f64,
        attention_factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        original_max_position_embeddings: usize,
        /// True if the ramp's ends are rounded outwards to whole pairs of dimensions.
        truncate: bool,
    },
    /// Each pair of dimensions has its own stretch factor: from one list in passes of at most
    /// `original_max_position_embeddings` positions, from another for all positions of longer passes. Queries and keys
    /// grow by `attention_factor` (Ding et al. 2024, arXiv 2402.13753).
    LongRope {
        short_factor: Vec<f32>,
        long_factor: Vec<f32>,
        attention_factor: f64,
        original_max_position_embeddings: usize,
    },
}

impl RopeScaling {
    /// Growth of queries and keys for a stretch by `factor` (Peng et al. 2023); its logarithm is multiplied by
    /// `mscale`.
    pub fn yarn_growth(factor: f64, mscale: f64) -> f64 {
        0.1 * mscale * factor.max(1.0).ln() + 1.0
    }

    /// Growth of queries and keys in [`RopeScaling::LongRope`] for a context stretched by `factor`.
    pub fn longrope_growth(factor: f64, context: u64) -> f64 {
        (1.0 + factor.max(1.0).ln() / (context as f64).ln()).sqrt()
    }

    /// True if the waves depend on how many positions a pass has.
    pub fn depends_on_length(&self) -> bool {
        matches!(self, Self::LongRope { .. })
    }

    /// Factor of sines and cosines.
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
