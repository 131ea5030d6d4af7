//! The decoder: token ids to hidden states to logits.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::attention::{Attention, AttentionContext, KeyValues};
use super::fused::rms_norm;
use super::linear::linear;
use super::mlp::Mlp;
use super::{DecoderConfig, ParameterSpec, Tap, parameter_specs};

/// A decoder-only transformer of the Llama family.
///
/// Every parameter is a matrix as the checkpoint stores it, `[out, in]`; the weight of a norm is one row.
/// Tensors are handles: a clone of a decoder copies no numbers.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Architecture.
    pub config: DecoderConfig,
    embed_tokens: Tensor<2>, // [V, D]
    blocks: Vec<Block>,
    norm: Tensor<2>,            // [1, D]
    lm_head: Option<Tensor<2>>, // [V, D]; none if tied
}

#[derive(Debug, Clone)]
struct Block {
    input_layernorm: Tensor<2>,
    attention: Attention,
    post_attention_layernorm: Tensor<2>,
    mlp: Mlp,
}

impl Decoder {
    /// Builds the decoder from its parameters, asked for one by one in the order of [`parameter_specs`].
    pub fn from_parameters<E>(
        config: DecoderConfig,
        mut parameter: impl FnMut(&ParameterSpec) -> Result<Tensor<2>, E>,
    ) -> Result<Self, E> {
        let mut tensors = Vec::new();
        for spec in parameter_specs(&config) {
            let tensor = parameter(&spec)?;
            assert_eq!(tensor.dims(), spec.shape, "shape of {}", spec.name);
            tensors.push(tensor);
        }
        Ok(Self::from_list(config, tensors))
    }

    /// Replaces every parameter by a function of it.
    #[must_use]
    pub fn map(&self, mut function: impl FnMut(&ParameterSpec, Tensor<2>) -> Tensor<2>) -> Self {
        let tensors = self
            .parameters()
            .into_iter()
            .map(|(spec, tensor)| function(&spec, tensor))
            .collect();
        Self::from_list(self.config.clone(), tensors)
    }

    /// All parameters, in the order of [`parameter_specs`].
    pub fn parameters(&self) -> Vec<(ParameterSpec, Tensor<2>)> {
        let mut tensors = vec![self.embed_tokens.clone()];
        for block in &self.blocks {
            let Attention {
                q_proj,
                k_proj,
                v_proj,
                o_proj,
            } = &block.attention;
            let Mlp {
                gate_proj,
                up_proj,
                down_proj,
            } = &block.mlp;
            tensors.extend(
                [
                    &block.input_layernorm,
                    q_proj,
                    k_proj,
                    v_proj,
                    o_proj,
                    &block.post_attention_layernorm,
                    gate_proj,
                    up_proj,
                    down_proj,
                ]
                .map(Clone::clone),
            );
        }
        tensors.push(self.norm.clone());
        tensors.extend(self.lm_head.clone());
        let specs = parameter_specs(&self.config);
        assert_eq!(specs.len(), tensors.len(), "parameters and their table");
        specs.into_iter().zip(tensors).collect()
    }

    fn from_list(config: DecoderConfig, tensors: Vec<Tensor<2>>) -> Self {
        let mut tensors = tensors.into_iter();
        let mut next = || {
            tensors
                .next()
                .expect("one tensor for each entry of the table")
        };
        let embed_tokens = next();
        let blocks = (0..config.num_hidden_layers)
            .map(|_| Block {
                input_layernorm: next(),
                attention: Attention {
                    q_proj: next(),
                    k_proj: next(),
                    v_proj: next(),
                    o_proj: next(),
                },
                post_attention_layernorm: next(),
                mlp: Mlp {
                    gate_proj: next(),
                    up_proj: next(),
                    down_proj: next(),
                },
            })
            .collect();
        let norm = next();
        let lm_head = (!config.tie_word_embeddings).then(next);
        Self {
            config,
            embed_tokens,
            blocks,
            norm,
            lm_head,
        }
    }

    /// Where the parameters live.
    pub fn device(&self) -> Device {
        self.embed_tokens.device()
    }

    /// The matrix that turns hidden states into logits, `[V, D]`: its own, or the embedding if tied.
    pub fn output_weight(&self) -> Tensor<2> {
        self.lm_head
            .clone()
            .unwrap_or_else(|| self.embed_tokens.clone())
    }

    /// Final, normalised hidden states: what the output matrix is applied to.
    ///
    /// # Shapes
    ///
    /// `ids` is `[B, T]`; returns `[B, T, D]`. Position `t` is about token `t + 1`.
    pub fn hidden(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.hidden_tapped(ids, &mut Tap::none())
    }

    /// As [`Decoder::hidden`], showing the inputs of every linear layer to `tap`.
    pub fn hidden_tapped(&self, ids: Tensor<2, Int>, tap: &mut Tap<'_>) -> Tensor<3> {
        let [_, seq] = ids.dims();
        let context =
            AttentionContext::new(&self.config, 0, seq, &self.device().without_autodiff());
        self.forward(ids, &context, None, tap)
    }

    /// Reads on after the positions that `past` holds (one entry per layer), and adds the new ones to it.
    pub fn hidden_after(&self, ids: Tensor<2, Int>, past: &mut Vec<KeyValues>) -> Tensor<3> {
        past.resize_with(self.blocks.len(), KeyValues::default);
        let [_, seq] = ids.dims();
        let num_past = past.first().map_or(0, KeyValues::len);
        let context = AttentionContext::new(&self.config, num_past, seq, &self.device());
        self.forward(ids, &context, Some(past), &mut Tap::none())
    }

    /// Logits of hidden states.
    ///
    /// # Shapes
    ///
    /// `[B, T, D]` to `[B, T, V]`.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        linear(hidden, &self.output_weight())
    }

    fn forward(
        &self,
        ids: Tensor<2, Int>,
        context: &AttentionContext,
        mut past: Option<&mut Vec<KeyValues>>,
        tap: &mut Tap<'_>,
    ) -> Tensor<3> {
        let [batch, seq] = ids.dims();
        let eps = self.config.rms_norm_eps;
        let embedded = self
            .embed_tokens
            .clone()
            .select(0, ids.reshape([batch * seq])); // [B·T, D]
        let mut x = embedded.reshape([batch, seq, self.config.hidden_size]);
        for (layer, block) in self.blocks.iter().enumerate() {
            tap.enter(layer);
            let past = past.as_deref_mut().map(|past| &mut past[layer]);
            let normed = rms_norm(x.clone(), &block.input_layernorm, eps);
            x = x + block
                .attention
                .forward(normed, &self.config, context, past, tap);
            let normed = rms_norm(x.clone(), &block.post_attention_layernorm, eps);
            x = x + block.mlp.forward(normed, tap);
        }
        rms_norm(x, &self.norm, eps)
    }
}

/// Token ids as a tensor.
///
/// # Shapes
///
/// Returns `[rows.len(), T]`; all rows have one length.
///
/// # Panics
///
/// If an id does not fit the device's 32-bit integers.
pub fn ids_tensor(rows: &[&[u32]], device: &Device) -> Tensor<2, Int> {
    let seq = rows.first().map_or(0, |row| row.len());
    let ids: Vec<i32> = rows
        .iter()
        .flat_map(|row| {
            row.iter()
                .map(|&id| i32::try_from(id).expect("a vocabulary has fewer than 2^31 tokens"))
        })
        .collect();
    Tensor::from_data(TensorData::new(ids, [rows.len(), seq]), device)
}
