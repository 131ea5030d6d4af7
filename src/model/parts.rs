//! Parts of a decoder and the weights that they hold: the purpose, axes, input and name of each.

use std::cmp::Ordering;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{DecoderConfig, Site};
use crate::recipe::{Fields, Item, Spelling, Value, Word, word_of};

/// Purpose of a weight. Pruning takes [`ParameterKind::Linear`] only; quantisation also takes embedding and head, each
/// with its own scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterKind {
    /// Token embedding, `[V, D]`; also the output layer if the two are tied.
    Embedding,
    /// Gain of an RMSNorm.
    Norm,
    /// Projection inside a block.
    Linear,
    /// Bias of a projection.
    Bias,
    /// Untied output layer, `[V, D]`.
    Head,
    /// Learned factors of the scales of a quantised weight; in no checkpoint, and so not in the table.
    Scale,
}

impl ParameterKind {
    /// True for one row of numbers, such as a norm's, stored with one dimension, and for factors of scales. Neither is
    /// decayed.
    pub fn is_vector(self) -> bool {
        matches!(self, Self::Norm | Self::Bias | Self::Scale)
    }
}

/// One side of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// The one row of a vector.
    One,
    /// Tokens of the vocabulary.
    Tokens,
    /// Dimensions of the residual stream.
    Hidden,
    /// Channels of the feed-forward layer.
    Channels,
    /// Dimensions of all query heads.
    Queries,
    /// Dimensions of all key and value heads.
    Keys,
    /// Dimensions of one head.
    Head,
}

impl Axis {
    /// Its length in a decoder.
    pub fn size(self, config: &DecoderConfig) -> usize {
        match self {
            Self::One => 1,
            Self::Tokens => config.vocab_size,
            Self::Hidden => config.hidden_size,
            Self::Channels => config.intermediate_size,
            Self::Queries => config.num_attention_heads * config.head_dim,
            Self::Keys => config.num_key_value_heads * config.head_dim,
            Self::Head => config.head_dim,
        }
    }
}

/// A row of the table of parts.
struct PartFacts {
    word: &'static str,
    name: &'static str,
    gguf: &'static str,
    kind: ParameterKind,
    axes: [Axis; 2],
    input: Option<Site>,
}

macro_rules! parts {
    ($($(#[$about:meta])* $Part:ident: $word:literal, $name:literal, $gguf:literal, $kind:ident, [$rows:ident, $columns:ident]
        $(, $input:ident)?;)+) => {
        /// A part of a decoder that holds a weight; the parts of a layer are in the layer's order.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Part {
            $($(#[$about])* #[serde(rename = $word)] $Part,)+
        }

        impl Part {
            /// All parts, in the order of [`parameter_specs`].
            pub const ALL: &'static [Self] = &[$(Self::$Part),+];

            const fn facts(self) -> PartFacts {
                match self {
                    $(Self::$Part => PartFacts {
                        word: $word,
                        name: $name,
                        gguf: $gguf,
                        kind: ParameterKind::$kind,
                        axes: [Axis::$rows, Axis::$columns],
                        input: parts!(@input $($input)?),
                    },)+
                }
            }
        }
    };
    (@input) => { None };
    (@input $input:ident) => { Some(Site::$input) };
}

// Word in files and tables, name in a layer of a Hugging Face checkpoint, name in llama.cpp's, kind, rows and columns,
// and input.
parts! {
    /// Token embedding; also the output layer if the two are tied.
    Embedding: "embed_tokens", "model.embed_tokens.weight", "token_embd.weight", Embedding, [Tokens, Hidden];
    /// Norm in front of attention.
    AttentionNorm: "attention_norm", "input_layernorm.weight", "attn_norm.weight", Norm, [One, Hidden];
    /// Makes queries.
    Query: "q_proj", "self_attn.q_proj.weight", "attn_q.weight", Linear, [Queries, Hidden], AttentionInput;
    /// Makes keys.
    Key: "k_proj", "self_attn.k_proj.weight", "attn_k.weight", Linear, [Keys, Hidden], AttentionInput;
    /// Makes values.
    Value: "v_proj", "self_attn.v_proj.weight", "attn_v.weight", Linear, [Keys, Hidden], AttentionInput;
    /// Brings attention's result into the residual stream.
    Output: "o_proj", "self_attn.o_proj.weight", "attn_output.weight", Linear, [Hidden, Queries], AttentionOutput;
    /// Bias of queries.
    QueryBias: "q_bias", "self_attn.q_proj.bias", "attn_q.bias", Bias, [One, Queries];
    /// Bias of keys.
    KeyBias: "k_bias", "self_attn.k_proj.bias", "attn_k.bias", Bias, [One, Keys];
    /// Bias of values.
    ValueBias: "v_bias", "self_attn.v_proj.bias", "attn_v.bias", Bias, [One, Keys];
    /// Norm of queries, before rotation.
    QueryNorm: "q_norm", "self_attn.q_norm.weight", "attn_q_norm.weight", Norm, [One, Head];
    /// Norm of keys, before rotation.
    KeyNorm: "k_norm", "self_attn.k_norm.weight", "attn_k_norm.weight", Norm, [One, Head];
    /// Norm of attention's contribution to the residual stream.
    AttentionOutputNorm: "attention_output_norm", "post_attention_layernorm.weight", "post_attention_norm.weight", Norm, [One, Hidden];
    /// Norm in front of the feed-forward layer.
    MlpNorm: "mlp_norm", "post_attention_layernorm.weight", "ffn_norm.weight", Norm, [One, Hidden];
    /// Makes the gates of the feed-forward layer.
    Gate: "gate_proj", "mlp.gate_proj.weight", "ffn_gate.weight", Linear, [Channels, Hidden], MlpInput;
    /// Makes the gated channels of the feed-forward layer.
    Up: "up_proj", "mlp.up_proj.weight", "ffn_up.weight", Linear, [Channels, Hidden], MlpInput;
    /// Brings channels into the residual stream.
    Down: "down_proj", "mlp.down_proj.weight", "ffn_down.weight", Linear, [Hidden, Channels], MlpHidden;
    /// Norm of the feed-forward layer's contribution to the residual stream.
    MlpOutputNorm: "mlp_output_norm", "post_feedforward_layernorm.weight", "post_ffw_norm.weight", Norm, [One, Hidden];
    /// Norm in front of the output layer.
    FinalNorm: "norm", "model.norm.weight", "output_norm.weight", Norm, [One, Hidden];
    /// Untied output layer.
    Head: "lm_head", "lm_head.weight", "output.weight", Head, [Tokens, Hidden];
}

impl Part {
    /// Short name. A projection has the name that recipes and engines use: `q_proj`.
    pub fn word(self) -> &'static str {
        self.facts().word
    }

    /// Name of its tensor in a Hugging Face checkpoint, or inside a layer of it, unless its family has another
    /// ([`Family::names`](super::Family::names)).
    pub(super) fn name(self) -> &'static str {
        self.facts().name
    }

    /// Name of its tensor in a GGUF file, likewise.
    pub(super) fn gguf_name(self) -> &'static str {
        self.facts().gguf
    }

    /// Purpose of its weight.
    pub fn kind(self) -> ParameterKind {
        self.facts().kind
    }

    /// Rows and columns, unless its family has others ([`Family::axes`](super::Family::axes)).
    pub(super) fn axes(self) -> [Axis; 2] {
        self.facts().axes
    }

    /// Place whose activations enter a projection; `None` for other parts. Engines join projections that share a place.
    pub fn input(self) -> Option<Site> {
        self.facts().input
    }

    /// Projections of a layer.
    pub const PROJECTIONS: [Self; 7] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// True if it is part of a layer.
    pub fn is_of_layer(self) -> bool {
        !matches!(self, Self::Embedding | Self::FinalNorm | Self::Head)
    }
}

/// Recipes name projections of a layer.
impl Word for Part {
    const WORDS: &'static [Spelling] = &{
        let mut words = [Spelling::of(""); Self::PROJECTIONS.len()];
        let mut idx = 0;
        while idx < words.len() {
            words[idx] = Spelling::of(Self::PROJECTIONS[idx].facts().word);
            idx += 1;
        }
        words
    };

    fn of(word: &str) -> Option<Self> {
        let mut parts = Self::PROJECTIONS.into_iter();
        parts.find(|part| part.word() == word)
    }
}

impl Value for Part {
    fn read(item: &Item, _: Fields<'_>) -> Option<Self> {
        word_of(item)
    }

    fn write(&self, _: &Path) -> serde_json::Value {
        self.word().into()
    }
}

/// Identity of a weight of a decoder: the key of masks, schemes and scales. The order is that of [`parameter_specs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WeightId {
    /// Layer, counted from 0; `None` outside of layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Expert, counted from 0, of a feed-forward layer that has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<usize>,
    /// Part.
    pub part: Part,
}

impl WeightId {
    /// A weight outside of layers.
    pub fn outside(part: Part) -> Self {
        Self {
            layer: None,
            expert: None,
            part,
        }
    }

    /// A weight of a layer.
    pub fn of_layer(layer: usize, part: Part) -> Self {
        Self {
            layer: Some(layer),
            ..Self::outside(part)
        }
    }

    /// The same part of another layer; a weight outside of layers stays the same.
    #[must_use]
    pub fn in_layer(self, layer: impl FnOnce(usize) -> usize) -> Self {
        Self {
            layer: self.layer.map(layer),
            ..self
        }
    }

    /// Layer of a projection, and the place whose activations enter it.
    pub fn input(self) -> Option<(usize, Site)> {
        Some((self.layer?, self.part.input()?))
    }

    /// Sort key: the embedding first, layer after layer, then the final norm and the head.
    fn place(self) -> (usize, Option<usize>, Part) {
        let layer = match (self.layer, self.part) {
            (Some(layer), _) => layer + 1,
            (None, Part::Embedding) => 0,
            (None, _) => usize::MAX,
        };
        (layer, self.expert, self.part)
    }
}

impl PartialOrd for WeightId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for WeightId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

/// One weight of a decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Identity of the weight.
    pub id: WeightId,
    /// Name for files and messages: the tensor's name in a Hugging Face checkpoint, such as `model.norm.weight`, if the
    /// family stores the weight alone.
    pub name: String,
    /// `[out, in]`; a norm or bias is `[1, N]` here and `[N]` on disk.
    pub shape: [usize; 2],
}

impl ParameterSpec {
    /// Number of weights.
    pub fn num_elements(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Purpose.
    pub fn kind(&self) -> ParameterKind {
        self.id.part.kind()
    }
}

/// All weights of a decoder, in one fixed order: embedding; per layer input norm, q, k, v, o, their biases and the
/// norms of queries and keys, the norms between, gate, up, down; then the final norm and, unless it is tied, the head.
pub fn parameter_specs(config: &DecoderConfig) -> Vec<ParameterSpec> {
    let family = config.family();
    let spec = |id: WeightId| ParameterSpec {
        name: family.name_of(id),
        shape: family.axes(id.part).map(|axis| axis.size(config)),
        id,
    };
    let of_layer: Vec<Part> = family.parts_of_layer().collect();
    let layers = (0..config.num_hidden_layers).flat_map(|layer| {
        of_layer
            .iter()
            .map(move |&part| WeightId::of_layer(layer, part))
    });
    let head = (!config.tie_word_embeddings).then_some(Part::Head);
    let ends = [Some(Part::FinalNorm), head].into_iter().flatten();
    [WeightId::outside(Part::Embedding)]
        .into_iter()
        .chain(layers)
        .chain(ends.map(WeightId::outside))
        .map(spec)
        .collect()
}

/// Number of weights of a decoder; a tied output matrix is not counted.
pub fn num_parameters(config: &DecoderConfig) -> u64 {
    parameter_specs(config)
        .iter()
        .map(|spec| spec.num_elements() as u64)
        .sum()
}

/// A tensor of a checkpoint: one weight, or several that the family stores as one matrix, row under row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in a Hugging Face checkpoint.
    pub name: String,
    /// Name in a GGUF file.
    pub gguf_name: String,
    /// `[out, in]`, of all weights together.
    pub shape: [usize; 2],
    /// Weights, from the first row on; at least one.
    pub parts: Vec<ParameterSpec>,
}

impl TensorSpec {
    /// The first of its weights; weights in one tensor have one purpose and one scheme.
    pub fn id(&self) -> WeightId {
        self.parts[0].id
    }

    /// Purpose.
    pub fn kind(&self) -> ParameterKind {
        self.id().part.kind()
    }

    /// Number of weights.
    pub fn num_elements(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Shape in a checkpoint file: `[N]` for a vector.
    pub fn stored_shape(&self) -> Vec<usize> {
        if self.kind().is_vector() {
            vec![self.shape[1]]
        } else {
            self.shape.to_vec()
        }
    }

    /// Name of the module that owns it: the name without `.weight` or `.bias`.
    pub fn module(&self) -> &str {
        let name = &self.name;
        name.rsplit_once('.').map_or(name, |(module, _)| module)
    }

    /// Name of its module inside a layer, such as `self_attn.q_proj`; the whole name of a module outside of layers.
    pub fn module_in_layer(&self) -> &str {
        let module = self.module();
        in_layer(module).map_or(module, |(_, module)| module)
    }

    /// Its numbers, row by row, joined from the numbers of its weights.
    pub fn joined<T>(&self, mut numbers: impl FnMut(&ParameterSpec) -> Vec<T>) -> Vec<T> {
        let mut joined = numbers(&self.parts[0]);
        for part in &self.parts[1..] {
            joined.extend(numbers(part));
        }
        joined
    }
}

/// All tensors of a checkpoint of a decoder, in the order of [`parameter_specs`].
pub fn tensor_specs(config: &DecoderConfig) -> Vec<TensorSpec> {
    let family = config.family();
    let mut tensors: Vec<TensorSpec> = Vec::new();
    for spec in parameter_specs(config) {
        let stored = family.stored(spec.id);
        match tensors.last_mut() {
            Some(last) if last.name == stored.name => {
                last.shape[0] += spec.shape[0];
                last.parts.push(spec);
            }
            _ => tensors.push(TensorSpec {
                name: stored.name,
                gguf_name: stored.gguf_name,
                shape: spec.shape,
                parts: vec![spec],
            }),
        }
    }
    tensors
}

/// Prefix of names inside layers, in a Hugging Face checkpoint.
pub(super) const LAYERS: &str = "model.layers.";

/// Number of the layer, as it is written, and the name inside the layer, from a name in a Hugging Face checkpoint;
/// `None` outside of layers.
pub fn in_layer(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(LAYERS)?.split_once('.')
}

#[cfg(test)]
#[path = "parts_tests.rs"]
mod tests;
