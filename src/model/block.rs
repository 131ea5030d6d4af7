//! One layer of a decoder: attention and feed-forward, each behind its norm.

use burn::tensor::Tensor;

use super::attention::{Attention, AttentionContext, KeyValues};
use super::mlp::Mlp;
use super::norm::norm;
use super::{Architecture, DecoderConfig, InputLevels, Site, Tap};

/// Weights of one layer.
#[derive(Debug, Clone)]
pub(super) struct Block {
    attention_input_norm: Tensor<2>,
    attention: Attention,
    attention_output_norm: Option<Tensor<2>>,
    mlp_input_norm: Tensor<2>,
    mlp: Mlp,
    mlp_output_norm: Option<Tensor<2>>,
}

impl Block {
    /// Takes the tensors of one layer, in the order of the table.
    pub(super) fn from_next(
        architecture: Architecture,
        next: &mut impl FnMut() -> Tensor<2>,
    ) -> Self {
        let has_output_norms = architecture.has_output_norms();
        Self {
            attention_input_norm: next(),
            attention: Attention {
                q_proj: next(),
                k_proj: next(),
                v_proj: next(),
                o_proj: next(),
                qkv_bias: architecture
                    .has_qkv_bias()
                    .then(|| [next(), next(), next()]),
                qk_norm: architecture.has_qk_norm().then(|| [next(), next()]),
                inputs: InputLevels::default(),
            },
            attention_output_norm: has_output_norms.then(&mut *next),
            mlp_input_norm: next(),
            mlp: Mlp {
                gate_proj: next(),
                up_proj: next(),
                down_proj: next(),
                inputs: InputLevels::default(),
            },
            mlp_output_norm: has_output_norms.then(next),
        }
    }

    /// Its tensors, in the order of the table.
    pub(super) fn parameters(&self) -> Vec<Tensor<2>> {
        let Attention {
            q_proj,
            k_proj,
            v_proj,
            o_proj,
            qkv_bias,
            qk_norm,
            inputs: _,
        } = &self.attention;
        let Mlp {
            gate_proj,
            up_proj,
            down_proj,
            inputs: _,
        } = &self.mlp;
        let mut tensors = vec![&self.attention_input_norm, q_proj, k_proj, v_proj, o_proj];
        tensors.extend(qkv_bias.iter().flatten());
        tensors.extend(qk_norm.iter().flatten());
        tensors.extend(&self.attention_output_norm);
        tensors.extend([&self.mlp_input_norm, gate_proj, up_proj, down_proj]);
        tensors.extend(&self.mlp_output_norm);
        tensors.into_iter().cloned().collect()
    }

    /// How what enters its projections is rounded.
    pub(super) fn inputs(&self) -> &InputLevels {
        &self.mlp.inputs
    }

    /// Rounds it to other levels than now.
    pub(super) fn set_inputs(&mut self, inputs: InputLevels) {
        self.attention.inputs = inputs.clone();
        self.mlp.inputs = inputs;
    }

    /// # Shapes
    ///
    /// `x` is `[B, T, D]`, returned alike.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        config: &DecoderConfig,
        context: &AttentionContext,
        past: Option<&mut KeyValues>,
        tap: &mut Tap<'_>,
    ) -> Tensor<3> {
        let normed = norm(x.clone(), &self.attention_input_norm, config);
        let mixed = self.attention.forward(normed, config, context, past, tap);
        let x = x + output_normed(mixed, self.attention_output_norm.as_ref(), config);
        let normed = norm(x.clone(), &self.mlp_input_norm, config);
        let fed = self
            .mlp
            .forward(normed, config.architecture.activation(), tap);
        x + output_normed(fed, self.mlp_output_norm.as_ref(), config)
    }

    /// As far of [`Block::forward`] as it takes to see what enters the projections at a place, rounded where it is.
    pub(super) fn entering(
        &self,
        site: Site,
        x: Tensor<3>,
        config: &DecoderConfig,
        context: &AttentionContext,
    ) -> Tensor<3> {
        let tap = &mut Tap::none();
        let normed = norm(x.clone(), &self.attention_input_norm, config);
        if site == Site::AttentionInput {
            return self.inputs().round(site, normed);
        }
        if site == Site::AttentionOutput {
            return self.attention.mix(normed, config, context, None, tap);
        }
        let mixed = self.attention.forward(normed, config, context, None, tap);
        let x = x + output_normed(mixed, self.attention_output_norm.as_ref(), config);
        let normed = norm(x, &self.mlp_input_norm, config);
        if site == Site::MlpInput {
            return self.inputs().round(site, normed);
        }
        let activation = config.architecture.activation();
        self.mlp.hidden(normed, activation, tap)
    }
}

/// What a layer adds to the residual stream, normed where the family does so.
fn output_normed(y: Tensor<3>, weight: Option<&Tensor<2>>, config: &DecoderConfig) -> Tensor<3> {
    match weight {
        Some(weight) => norm(y, weight, config),
        None => y,
    }
}
