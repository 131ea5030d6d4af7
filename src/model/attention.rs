//! Grouped-query causal attention.

use std::ops::ControlFlow::Continue;

use burn::tensor::{Device, Tensor};

use super::config::LayerKind;
use super::linear::linear;
use super::norm::norm;
use super::rope::RopeTable;
use super::tap::Passed;
use super::{DecoderConfig, Site, Tap, TokenBatch};
use crate::kernels::{Sight, Weight, attention};

/// Weights of one attention layer, as Hugging Face stores them.
#[derive(Debug, Clone)]
pub struct Attention {
    /// `[N·H, D]`
    pub q_proj: Weight,
    /// `[KV·H, D]`
    pub k_proj: Weight,
    /// `[KV·H, D]`
    pub v_proj: Weight,
    /// `[D, N·H]`
    pub o_proj: Weight,
    /// Biases of queries, keys and values: `[1, N·H]` and twice `[1, KV·H]`.
    pub qkv_bias: Option<[Tensor<2>; 3]>,
    /// Norms of queries and keys: `[1, H]` each, or of all heads together `[1, N·H]` and `[1, KV·H]`.
    pub qk_norm: Option<[Tensor<2>; 2]>,
}

/// Keys and values of the positions that were already read, `[B, KV, S, H]` each.
///
/// A sliding layer also keeps all of them: the mask hides positions outside its window.
#[derive(Debug, Clone, Default)]
pub struct KeyValues {
    kept: Option<(Tensor<4>, Tensor<4>)>,
}

impl KeyValues {
    /// Number of positions held.
    pub fn len(&self) -> usize {
        self.kept.as_ref().map_or(0, |(keys, _)| keys.dims()[2])
    }

    /// True if no position was read yet.
    pub fn is_empty(&self) -> bool {
        self.kept.is_none()
    }

    fn extend(&mut self, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let joined = match self.kept.take() {
            None => (keys, values),
            Some((old_keys, old_values)) => (
                Tensor::cat(vec![old_keys, keys], 2),
                Tensor::cat(vec![old_values, values], 2),
            ),
        };
        self.kept = Some(joined.clone());
        joined
    }
}

/// State that all layers of one kind share in a forward pass.
#[derive(Clone)]
pub(super) struct AttentionContext {
    rope: Option<RopeTable>, // none in layers without rotary positions
    sight: Sight,
    mask: Option<Tensor<4>>, // [B or 1, 1, T, S]
}

impl AttentionContext {
    /// Context for tokens that follow `num_past` positions, or whose documents each begin at position 0.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "scores are computed in f32"
    )]
    pub(super) fn new(
        config: &DecoderConfig,
        LayerKind { layer_type, turns }: LayerKind,
        num_past: usize,
        tokens: &TokenBatch,
        device: &Device,
    ) -> Self {
        let [_, num_new] = tokens.ids().dims();
        let total = num_past + num_new;
        let sight = Sight {
            num_past,
            window: config.window(layer_type).unwrap_or(total),
            scale: (config.query_pre_attn_scalar as f64).powf(-0.5) as f32,
            soft_cap: config.attn_logit_softcapping.map(|cap| cap as f32),
            documents: tokens.documents().cloned(),
        };
        let rope = config.rope_of(layer_type);
        let table = || match tokens.documents() {
            Some(rows) => RopeTable::of_documents(rope, config.head_dim, rows, device),
            None => RopeTable::new(rope, config.head_dim, num_past..total, device),
        };
        Self {
            rope: turns.then(table),
            mask: sight.mask(num_new, device),
            sight,
        }
    }

    /// Queries or keys, rotated by their positions if these layers do so.
    fn turned(&self, x: Tensor<4>) -> Tensor<4> {
        match &self.rope {
            Some(rope) => rope.rotate(x),
            None => x,
        }
    }
}

impl Attention {
    /// Mixes positions, up to the place at which the tap ends the pass.
    ///
    /// # Shapes
    ///
    /// `x` is `[B, T, D]`, as is the result.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        config: &DecoderConfig,
        context: &AttentionContext,
        past: Option<&mut KeyValues>,
        tap: &mut Tap<'_>,
    ) -> Passed {
        let [batch, seq, _] = x.dims();
        let (heads, kv_heads, head_dim) = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        );
        let x = tap.pass(Site::AttentionInput, x)?;

        let [queries, keys, values] = self.project(x, config);
        let split =
            |x: Tensor<3>, heads: usize| x.reshape([batch, seq, heads, head_dim]).swap_dims(1, 2);
        let queries = context.turned(split(queries, heads)); // [B, N, T, H]
        let keys = context.turned(split(keys, kv_heads)); // [B, KV, T, H]
        let values = split(values, kv_heads);
        let (keys, values) = match past {
            Some(past) => past.extend(keys, values), // [B, KV, S, H]
            None => (keys, values),
        };

        let (sight, mask) = (&context.sight, context.mask.as_ref());
        let mixed = attention(queries, keys, values, sight, mask); // [B, T, N·H]
        let mixed = tap.pass(Site::AttentionOutput, mixed)?;
        Continue(linear(mixed, &self.o_proj))
    }

    /// Queries, keys and values before rotation: projected, then with their bias added or normed, if the family does
    /// so.
    ///
    /// # Shapes
    ///
    /// `x` is `[B, T, D]`; returns `[B, T, N·H]` and twice `[B, T, KV·H]`.
    fn project(&self, x: Tensor<3>, config: &DecoderConfig) -> [Tensor<3>; 3] {
        let [batch, seq, _] = x.dims();
        let mut queries = linear(x.clone(), &self.q_proj);
        let mut keys = linear(x.clone(), &self.k_proj);
        let mut values = linear(x, &self.v_proj);
        if let Some([q_bias, k_bias, v_bias]) = &self.qkv_bias {
            queries = queries + q_bias.clone().unsqueeze::<3>();
            keys = keys + k_bias.clone().unsqueeze::<3>();
            values = values + v_bias.clone().unsqueeze::<3>();
        }
        if let Some([q_norm, k_norm]) = &self.qk_norm {
            let normed = |x: Tensor<3>, weight: &Tensor<2>| {
                let [_, _, size] = x.dims();
                let [_, width] = weight.dims(); // of one head, or of all heads
                let parts = x.reshape([batch, seq * size / width, width]);
                norm(parts, weight, config).reshape([batch, seq, size])
            };
            queries = normed(queries, q_norm);
            keys = normed(keys, k_norm);
        }
        [queries, keys, values]
    }
}
