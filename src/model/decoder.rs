//! The decoder: token ids to hidden states to logits.

use burn::tensor::{Device, IndexingUpdateOp, Tensor};

use super::attention::{AttentionContext, KeyValues};
use super::block::DecoderBlock;
use super::config::LayerKind;
use super::norm::norm;
use super::tap::settled;
use super::{
    DecoderConfig, Head, InputLevels, ParameterKind, ParameterSpec, Site, Tap, TokenBatch,
    parameter_specs,
};
use crate::kernels::{Arithmetic, Passes, Weight};

/// A decoder-only transformer of the Llama, Qwen or Gemma kind.
///
/// Every parameter is a matrix as the checkpoint stores it, `[out, in]`; a norm's weight or a bias is one row.
/// Tensors are handles: a clone of a decoder copies no numbers.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Architecture.
    pub config: DecoderConfig,
    embed_tokens: Weight, // [V, D]
    blocks: Vec<DecoderBlock>,
    norm: Tensor<2>,         // [1, D]
    lm_head: Option<Weight>, // [V, D]; none if tied
}

impl Decoder {
    /// Builds the decoder from its parameters, requested one by one in the order of [`parameter_specs`].
    pub fn from_parameters<E>(
        config: DecoderConfig,
        mut parameter: impl FnMut(&ParameterSpec) -> Result<Tensor<2>, E>,
    ) -> Result<Self, E> {
        let weight = |spec: &ParameterSpec| Ok(Weight::new(parameter(spec)?, Arithmetic::F32));
        Self::from_weights(config, weight)
    }

    /// Builds a decoder for forward passes alone, in memory as its products need it: with an arithmetic of bf16, the weights
    /// of projections are packed one by one and are not kept in f32.
    pub fn for_reading<E>(
        config: DecoderConfig,
        arithmetic: Arithmetic,
        mut parameter: impl FnMut(&ParameterSpec) -> Result<Tensor<2>, E>,
    ) -> Result<Self, E> {
        let is_tied = config.tie_word_embeddings;
        Self::from_weights(config, |spec| {
            let weight = Weight::new(parameter(spec)?, arithmetic);
            Ok(match spec.kind() {
                ParameterKind::Linear | ParameterKind::Head => {
                    weight.packed(Passes::Forward).without_tensor()
                }
                ParameterKind::Embedding if is_tied => weight.packed(Passes::Forward),
                _ => weight,
            })
        })
    }

    fn from_weights<E>(
        config: DecoderConfig,
        mut weight: impl FnMut(&ParameterSpec) -> Result<Weight, E>,
    ) -> Result<Self, E> {
        let mut weights = Vec::new();
        for spec in parameter_specs(&config) {
            let weight = weight(&spec)?;
            assert_eq!(weight.tensor().dims(), spec.shape, "shape of {}", spec.name);
            weights.push(weight);
        }
        Ok(Self::from_list(config, weights))
    }

    /// Replaces every parameter by a function of it.
    #[must_use]
    pub fn map(&self, mut function: impl FnMut(&ParameterSpec, Tensor<2>) -> Tensor<2>) -> Self {
        let arithmetic = self.arithmetic();
        self.with_weights(|spec, weight| {
            Weight::new(function(spec, weight.into_tensor()), arithmetic)
        })
    }

    /// The same decoder, whose parameters are all leaves of autodiff.
    #[must_use]
    pub fn tracked(&self) -> Self {
        self.with_weights(|_, weight| weight.in_tensor(|tensor| tensor.autodiff().require_grad()))
    }

    /// Sets the arithmetic of the products of projections and head; that of a new decoder is f32.
    #[must_use]
    pub fn with_arithmetic(&self, arithmetic: Arithmetic) -> Self {
        self.with_weights(|_, weight| Weight::new(weight.into_tensor(), arithmetic))
    }

    /// Packs the weights once for all products of these passes, if their arithmetic needs them packed.
    #[must_use]
    pub fn packed(&self, passes: Passes) -> Self {
        let is_tied = self.config.tie_word_embeddings;
        self.with_weights(|spec, weight| match spec.kind() {
            ParameterKind::Linear | ParameterKind::Head => weight.packed(passes),
            ParameterKind::Embedding if is_tied => weight.packed(passes),
            _ => weight,
        })
    }

    /// Arithmetic of the products of projections and head.
    pub fn arithmetic(&self) -> Arithmetic {
        self.embed_tokens.arithmetic()
    }

    fn with_weights(&self, mut function: impl FnMut(&ParameterSpec, Weight) -> Weight) -> Self {
        let weights = self.weights().into_iter();
        let weights = weights.map(|(spec, weight)| function(&spec, weight));
        let inputs = self.blocks.iter().map(|block| block.inputs.clone());
        Self::from_list(self.config.clone(), weights.collect()).with_inputs(inputs.collect())
    }

    /// Sets the levels that inputs of the projections of each layer are rounded to; a new decoder rounds nothing.
    ///
    /// # Panics
    ///
    /// If there is not one entry per layer.
    #[must_use]
    pub fn with_inputs(mut self, inputs: Vec<InputLevels>) -> Self {
        assert_eq!(inputs.len(), self.blocks.len(), "one entry per layer");
        for (block, inputs) in self.blocks.iter_mut().zip(inputs) {
            block.inputs = inputs;
        }
        self
    }

    /// All parameters, in the order of [`parameter_specs`].
    pub fn parameters(&self) -> Vec<(ParameterSpec, Tensor<2>)> {
        let weights = self.weights().into_iter();
        weights
            .map(|(spec, weight)| (spec, weight.into_tensor()))
            .collect()
    }

    fn weights(&self) -> Vec<(ParameterSpec, Weight)> {
        let plain = |tensor: Tensor<2>| Weight::new(tensor, self.arithmetic());
        let mut weights = vec![self.embed_tokens.clone()];
        weights.extend(self.blocks.iter().flat_map(|block| block.weights(plain)));
        weights.push(plain(self.norm.clone()));
        weights.extend(self.lm_head.clone());
        let specs = parameter_specs(&self.config);
        assert_eq!(specs.len(), weights.len(), "parameters and their table");
        specs.into_iter().zip(weights).collect()
    }

    fn from_list(config: DecoderConfig, weights: Vec<Weight>) -> Self {
        let mut weights = weights.into_iter();
        let mut next = || {
            weights
                .next()
                .expect("one weight for each entry of the table")
        };
        let embed_tokens = next();
        let blocks = (0..config.num_hidden_layers)
            .map(|_| DecoderBlock::from_next(config.family(), &mut next))
            .collect();
        let norm = next().into_tensor();
        let lm_head = (!config.tie_word_embeddings).then(next);
        Self {
            config,
            embed_tokens,
            blocks,
            norm,
            lm_head,
        }
    }

    /// Device of the parameters.
    pub fn device(&self) -> Device {
        self.embed_tokens.tensor().device()
    }

    /// The same model without the embeddings and logits of ids from `num_tokens` on.
    #[must_use]
    pub fn with_tokens(self, num_tokens: usize) -> Self {
        let kept = num_tokens.min(self.config.vocab_size);
        self.with_token_rows(|rows| rows.narrow(0, 0, kept))
    }

    /// The same model with other rows for its tokens: embedding, and head if it has its own, `[V, D]` each.
    #[must_use]
    pub fn with_token_rows(mut self, rows: impl Fn(Tensor<2>) -> Tensor<2>) -> Self {
        let arithmetic = self.arithmetic();
        let tables = [Some(self.embed_tokens), self.lm_head]
            .map(|table| table.map(|weight| Weight::new(rows(weight.into_tensor()), arithmetic)));
        let [Some(embed_tokens), lm_head] = tables else {
            unreachable!("a table stays one");
        };
        (self.embed_tokens, self.lm_head) = (embed_tokens, lm_head);
        let [vocab_size, _] = self.embed_tokens.tensor().dims();
        self.config.vocab_size = vocab_size;
        self
    }

    /// The layer that turns hidden states into logits.
    pub fn head(&self) -> Head {
        let own = self.lm_head.clone();
        Head {
            weight: own.unwrap_or_else(|| self.embed_tokens.clone()),
            soft_cap: self.config.final_logit_softcapping,
        }
    }

    /// Final, normalised hidden states: the input of the output matrix.
    ///
    /// # Shapes
    ///
    /// `tokens` are `[B, T]`; returns `[B, T, D]`. Position `t` is about token `t + 1`.
    pub fn hidden(&self, tokens: &TokenBatch) -> Tensor<3> {
        self.hidden_tapped(tokens, &mut Tap::none())
    }

    /// Hidden states as in [`Decoder::hidden`]; shows all activations to `tap`.
    pub fn hidden_tapped(&self, tokens: &TokenBatch, tap: &mut Tap<'_>) -> Tensor<3> {
        self.forward(tokens, &self.contexts(tokens), None, tap)
    }

    /// Hidden states of tokens that follow the positions in `past` (one entry per layer); adds the new positions to it.
    ///
    /// # Panics
    ///
    /// If a row of the tokens has several documents.
    pub fn hidden_after(&self, tokens: &TokenBatch, past: &mut Vec<KeyValues>) -> Tensor<3> {
        assert!(!tokens.is_packed(), "one document is read on");
        past.resize_with(self.blocks.len(), KeyValues::default);
        let num_past = past.first().map_or(0, KeyValues::len);
        let contexts = LayerContexts::new(&self.config, num_past, tokens, &self.device());
        self.forward(tokens, &contexts, Some(past), &mut Tap::none())
    }

    /// Logits of hidden states.
    ///
    /// # Shapes
    ///
    /// `[B, T, D]` to `[B, T, V]`.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [batch, seq, size] = hidden.dims();
        let logits = self.head().logits(hidden.reshape([batch * seq, size])); // [B·T, V]
        logits.reshape([batch, seq, self.config.vocab_size])
    }

    fn forward(
        &self,
        tokens: &TokenBatch,
        contexts: &LayerContexts,
        mut past: Option<&mut Vec<KeyValues>>,
        tap: &mut Tap<'_>,
    ) -> Tensor<3> {
        let mut x = self.embed(tokens);
        for (layer, block) in self.blocks.iter().enumerate() {
            tap.enter(layer);
            tap.observe(Site::Residual, &x);
            let context = contexts.of(self.config.layer_kind(layer));
            let past = past.as_deref_mut().map(|past| &mut past[layer]);
            x = settled(block.forward(x, &self.config, context, past, tap));
        }
        tap.enter(self.config.num_hidden_layers);
        tap.observe(Site::Residual, &x);
        let hidden = norm(x, &self.norm, &self.config);
        tap.observe(Site::HeadInput, &hidden);
        hidden
    }

    /// Embedded tokens, with which a forward pass begins.
    ///
    /// # Shapes
    ///
    /// `tokens` are `[B, T]`; returns `[B, T, D]`.
    pub fn embed(&self, tokens: &TokenBatch) -> Tensor<3> {
        let ids = tokens.ids();
        let [batch, seq] = ids.dims();
        let hidden_size = self.config.hidden_size;
        let embedded = self
            .embed_tokens
            .tensor()
            .clone()
            .select(0, ids.reshape([batch * seq])); // [B·T, D]
        let embedded = embedded.reshape([batch, seq, hidden_size]);
        match self.config.family().embedding_scale(hidden_size) {
            Some(scale) => embedded.mul_scalar(scale),
            None => embedded,
        }
    }

    /// Adds to `total` the gradient of the embedding: the slopes with respect to the result of [`Decoder::embed`], each
    /// in the row of its token.
    ///
    /// # Shapes
    ///
    /// `total` is `[V, D]`, as is the result; `tokens` are `[B, T]`, `slope` is `[B, T, D]`.
    pub fn add_embedding_gradient(
        &self,
        total: Tensor<2>,
        tokens: &TokenBatch,
        slope: Tensor<3>,
    ) -> Tensor<2> {
        let [batch, seq, hidden_size] = slope.dims();
        let slope = match self.config.family().embedding_scale(hidden_size) {
            Some(scale) => slope.mul_scalar(scale),
            None => slope,
        };
        let slope = slope.reshape([batch * seq, hidden_size]);
        let ids = tokens.ids().reshape([batch * seq]);
        total.select_assign(0, ids, slope, IndexingUpdateOp::Add)
    }

    /// State that the layers share in a pass over tokens, whose documents begin at their first position.
    pub fn contexts(&self, tokens: &TokenBatch) -> LayerContexts {
        LayerContexts::new(&self.config, 0, tokens, &self.device().without_autodiff())
    }

    /// State as of [`Decoder::contexts`] for one of many passes over rows of one length: `whole`, which is that of a row
    /// of one document, for all whose rows are so. What packed rows need is as large as their activations and is not kept.
    pub fn contexts_or(&self, whole: &LayerContexts, tokens: &TokenBatch) -> LayerContexts {
        if tokens.is_packed() {
            self.contexts(tokens)
        } else {
            whole.clone()
        }
    }

    /// One layer of a forward pass; the one after the last is the final norm.
    ///
    /// # Shapes
    ///
    /// `x` is `[B, T, D]`, as is the result.
    pub fn layer(&self, layer: usize, x: Tensor<3>, contexts: &LayerContexts) -> Tensor<3> {
        match self.blocks.get(layer) {
            Some(block) => {
                let context = contexts.of(self.config.layer_kind(layer));
                settled(block.forward(x, &self.config, context, None, &mut Tap::none()))
            }
            None => norm(x, &self.norm, &self.config),
        }
    }

    /// Inputs of the projections at a place of one layer; nothing after that place is computed.
    ///
    /// # Shapes
    ///
    /// `x`, the layer's input, is `[B, T, D]`; returns `[B, T, inputs]`.
    ///
    /// # Panics
    ///
    /// If the place is not inside a layer.
    pub fn entering(
        &self,
        layer: usize,
        site: Site,
        x: Tensor<3>,
        contexts: &LayerContexts,
    ) -> Tensor<3> {
        assert!(site.enters_block_layers(), "{site:?} is not inside a layer");
        let context = contexts.of(self.config.layer_kind(layer));
        let tap = &mut Tap::until(site);
        settled(self.blocks[layer].forward(x, &self.config, context, None, tap))
    }
}

/// The context of each kind of layer that a decoder has.
#[derive(Clone)]
pub struct LayerContexts(Vec<(LayerKind, AttentionContext)>);

impl LayerContexts {
    fn new(config: &DecoderConfig, num_past: usize, tokens: &TokenBatch, device: &Device) -> Self {
        let mut contexts: Vec<(LayerKind, AttentionContext)> = Vec::new();
        for layer in 0..config.num_hidden_layers {
            let kind = config.layer_kind(layer);
            if contexts.iter().all(|(known, _)| *known != kind) {
                let context = AttentionContext::new(config, kind, num_past, tokens, device);
                contexts.push((kind, context));
            }
        }
        Self(contexts)
    }

    fn of(&self, kind: LayerKind) -> &AttentionContext {
        let found = self.0.iter().find(|(known, _)| *known == kind);
        let (_, context) = found.expect("each kind in use has a context");
        context
    }
}
