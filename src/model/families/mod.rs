//! Families of decoders, and their differences. A family is a file of this folder and a line in the list below.
//!
//! Numbers are in [`DecoderConfig`]; settings that are not numbers are here.

mod gemma;
mod gemma2;
mod gemma3;
mod llama;
mod mistral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod smollm3;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::parts::LAYERS;
use super::{Axis, ConfigError, DecoderConfig, Part, WeightId};
use crate::gguf::{GgufError, GgufKeys, NewValue};

macro_rules! families {
    ($($(#[$about:meta])* $Family:ident = $file:ident,)+) => {
        /// A family of decoders, by the class of transformers that runs it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Architecture {
            $($(#[$about])* $Family,)+
        }

        impl Architecture {
            /// All families.
            pub const ALL: &'static [Self] = &[$(Self::$Family),+];

            /// Facts of the family.
            pub fn family(self) -> &'static Family {
                match self {
                    $(Self::$Family => &$file::FAMILY,)+
                }
            }
        }
    };
}

families! {
    /// Llama 1 to 3 and SmolLM 1 and 2 (Touvron et al. 2023, arXiv 2302.13971).
    Llama = llama,
    /// Mistral: a Llama with a sliding window (Jiang et al. 2023, arXiv 2310.06825).
    Mistral = mistral,
    /// Qwen 2 and 2.5: biases on queries, keys and values (Yang et al. 2024, arXiv 2407.10671).
    Qwen2 = qwen2,
    /// Qwen 3: queries and keys are normed per head (Yang et al. 2025, arXiv 2505.09388).
    Qwen3 = qwen3,
    /// Gemma 1 (Gemma Team 2024, arXiv 2403.08295).
    Gemma = gemma,
    /// Gemma 2: four norms a layer, soft-caps, every other layer local (Gemma Team 2024, arXiv 2408.00118).
    Gemma2 = gemma2,
    /// Gemma 3, text only: normed queries and keys instead of soft-caps, two rope bases (arXiv 2503.19786).
    Gemma3 = gemma3,
    /// Phi 3 and 4: fused matrices, partly rotated heads, `longrope` (Abdin et al. 2024, arXiv 2404.14219 and 2503.01743).
    Phi3 = phi3,
    /// OLMo 2: norms after sub-layers, queries and keys normed over all heads (OLMo Team 2025, arXiv 2501.00656).
    Olmo2 = olmo2,
    /// SmolLM 3: every fourth layer without rotary positions (Hugging Face 2025).
    SmolLm3 = smollm3,
}

impl Architecture {
    /// Name of the class in `architectures` of `config.json`.
    pub fn class_name(self) -> &'static str {
        self.family().class_name
    }

    /// `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        self.family().model_type
    }
}

/// Norms of the residual stream in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// Before attention and feed-forward layer.
    Before,
    /// Before both, and on the results of both before they are added.
    Around,
    /// On the results of both only.
    After,
}

/// Norms of queries and keys, before rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Norm of each head by itself, with one gain for all.
    PerHead,
    /// Norm of all heads together.
    Whole,
}

/// Function between the two halves of the feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
}

impl Activation {
    /// Its name in `config.json`.
    pub fn json_name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::GeluTanh => "gelu_pytorch_tanh",
        }
    }
}

/// Facts of a family and of its files.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Family {
    /// Name of the class in `architectures` of `config.json`.
    pub class_name: &'static str,
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Norms of the residual stream.
    pub norms: Norms,
    /// True if queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// Function between the two halves of the feed-forward layer.
    pub activation: Activation,
    /// Gain of a norm whose stored weight is 0: Google's models store the distance of a gain from 1.
    pub gain_offset: f64,
    /// True if the embedding is multiplied by √`hidden_size`.
    pub scales_embedding: bool,
    /// True if sliding layers have their own rotary positions.
    pub has_local_rope: bool,
    /// True if only a part of a head's dimensions may be rotated: transformers has `partial_rotary_factor` for it.
    pub turns_partly: bool,
    /// True if transformers counts the factors of `longrope` by `hidden_size / num_attention_heads`, not `head_dim`.
    pub counts_factors_by_width: bool,
    /// Names of parts inside a layer of a Hugging Face checkpoint, where they differ from those of other families.
    pub names: &'static [(Part, &'static str)],
    /// Matrices of a layer that its files hold as one.
    pub fused: &'static [Fused],
    /// Keys of `config.json` for the activation; the first present one counts. Each has other names that mean the same.
    pub activation_keys: &'static [(&'static str, &'static [&'static str])],
    /// Values of keys that are left out.
    pub defaults: Defaults,
    /// Reads the family's own keys into the shared config.
    pub read: fn(&Value, &mut DecoderConfig) -> Result<(), ConfigError>,
    /// Writes these keys, and all keys for which the class of transformers has another default.
    pub write: fn(&DecoderConfig) -> Value,
    /// Form of the family in llama.cpp.
    pub gguf: Gguf,
}

/// Parts of a layer that are stored as one tensor, row under row. They are neighbours in the table and share their
/// input, so they have one scheme ([`unlike_parts`](super::unlike_parts)).
#[derive(Debug, Clone, Copy)]
pub struct Fused {
    /// The parts, in the table's order.
    pub parts: &'static [Part],
    /// Name of the tensor inside a layer of a Hugging Face checkpoint.
    pub name: &'static str,
    /// Name in a layer of a GGUF file.
    pub gguf_name: &'static str,
}

/// Values that the config classes of transformers 4 and 5 take for missing keys, where families differ.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// `None` means one for each query head.
    pub num_key_value_heads: Option<usize>,
    /// `None` means `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// Positions.
    pub max_position_embeddings: usize,
    /// Positions of the trained context before it was stretched, if the class has a default: this counts even if the
    /// scaling table has another number.
    pub original_max_position_embeddings: Option<usize>,
    /// Added to the mean square in norms.
    pub rms_norm_eps: f64,
    /// Base of rotary positions.
    pub rope_theta: f64,
    /// True if output layer and embedding are one.
    pub tie_word_embeddings: bool,
    /// Begin of text.
    pub bos_token_id: Option<u32>,
    /// End of text.
    pub eos_token_id: Option<u32>,
    /// Padding.
    pub pad_token_id: Option<u32>,
}

/// Keys of a GGUF file, without the name of the family, and their values.
pub type GgufPairs = Vec<(&'static str, NewValue)>;

/// A family in GGUF files.
#[derive(Debug, Clone, Copy)]
pub struct Gguf {
    /// Name in `general.architecture`; the family's keys begin with it.
    pub name: &'static str,
    /// True if llama.cpp rotates neighbouring dimensions of queries and keys; Hugging Face rotates halves of a head.
    pub turns_neighbours: bool,
    /// True if llama.cpp computes sliding layers.
    pub slides: bool,
    /// Adds the values of the family's own keys to `config.json`.
    pub read: fn(&GgufKeys<'_>, &mut Map<String, Value>) -> Result<(), GgufError>,
    /// The family's own keys, without its name; or the setting, with its value, for which llama.cpp hard-codes another
    /// value.
    pub write: fn(&DecoderConfig) -> Result<GgufPairs, NotInGguf>,
}

/// A setting that llama.cpp would compute differently, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotInGguf {
    /// Its key in `config.json`.
    pub key: &'static str,
    /// Its value.
    pub found: String,
}

impl NotInGguf {
    fn new(key: &'static str, found: impl ToString) -> Self {
        Self {
            key,
            found: found.to_string(),
        }
    }
}

/// Names of the tensor of a checkpoint that holds a weight.
pub(super) struct Stored {
    pub(super) name: String,
    pub(super) gguf_name: String,
}

impl Family {
    /// Factor of the embedding, if it has one. In transformers it is rounded to the dtype of the weights: here f32.
    pub fn embedding_scale(&self, hidden_size: usize) -> Option<f64> {
        self.scales_embedding.then(|| (hidden_size as f64).sqrt())
    }

    /// Parts of a layer, in order.
    pub fn parts_of_layer(&self) -> impl Iterator<Item = Part> {
        let parts = Part::ALL.iter().copied();
        parts.filter(|part| part.is_of_layer() && self.has(*part))
    }

    /// True if its layers have a part.
    pub fn has(&self, part: Part) -> bool {
        match part {
            Part::AttentionNorm | Part::MlpNorm => self.norms != Norms::After,
            Part::AttentionOutputNorm | Part::MlpOutputNorm => self.norms != Norms::Before,
            Part::QueryBias | Part::KeyBias | Part::ValueBias => self.qkv_bias,
            Part::QueryNorm | Part::KeyNorm => self.qk_norm != QkNorm::None,
            _ => true,
        }
    }

    /// Rows and columns of a part.
    pub fn axes(&self, part: Part) -> [Axis; 2] {
        match part {
            Part::QueryNorm if self.qk_norm == QkNorm::Whole => [Axis::One, Axis::Queries],
            Part::KeyNorm if self.qk_norm == QkNorm::Whole => [Axis::One, Axis::Keys],
            _ => part.axes(),
        }
    }

    /// Name of a weight, as [`ParameterSpec::name`](super::ParameterSpec::name).
    pub fn name_of(&self, id: WeightId) -> String {
        let own = self.names.iter().find(|(part, _)| *part == id.part);
        let name = own.map_or(id.part.name(), |(_, name)| *name);
        named(LAYERS, id, name)
    }

    /// The tensor that holds a weight.
    pub(super) fn stored(&self, id: WeightId) -> Stored {
        let mut fused = self.fused.iter();
        if let Some(fused) = fused.find(|fused| fused.parts.contains(&id.part)) {
            return Stored {
                name: named(LAYERS, id, fused.name),
                gguf_name: named("blk.", id, fused.gguf_name),
            };
        }
        Stored {
            name: self.name_of(id),
            gguf_name: named("blk.", id, id.part.gguf_name()),
        }
    }
}

/// A name after the number of its layer, if it has one.
fn named(layers: &str, id: WeightId, name: &str) -> String {
    match id.layer {
        Some(layer) => format!("{layers}{layer}.{name}"),
        None => name.to_owned(),
    }
}
