//! One layer of a decoder: a mixer of positions and a feed-forward layer, each with its norms.

use std::ops::ControlFlow::Continue;

use burn::tensor::Tensor;

use super::attention::{Attention, AttentionContext, KeyValues};
use super::mlp::Mlp;
use super::norm::norm;
use super::tap::Passed;
use super::{DecoderConfig, Family, InputLevels, Part, QkNorm, Tap};

/// Weights of one layer.
#[derive(Debug, Clone)]
pub(super) struct DecoderBlock {
    mixer_norm: Option<Tensor<2>>,
    mixer: Mixer,
    mixer_output_norm: Option<Tensor<2>>,
    mlp_norm: Option<Tensor<2>>,
    mlp: Mlp,
    mlp_output_norm: Option<Tensor<2>>,
    /// Rounding of its projections' inputs.
    pub(super) inputs: InputLevels,
}

/// The half of a layer that mixes positions; layers of one decoder may have different mixers.
#[derive(Debug, Clone)]
enum Mixer {
    Attention(Attention),
}

impl Mixer {
    fn from_next(family: &Family, next: &mut impl FnMut() -> Tensor<2>) -> Self {
        Self::Attention(Attention {
            q_proj: next(),
            k_proj: next(),
            v_proj: next(),
            o_proj: next(),
            qkv_bias: family.qkv_bias.then(|| [next(), next(), next()]),
            qk_norm: (family.qk_norm != QkNorm::None).then(|| [next(), next()]),
        })
    }

    fn parameters(&self) -> Vec<&Tensor<2>> {
        match self {
            Self::Attention(Attention {
                q_proj,
                k_proj,
                v_proj,
                o_proj,
                qkv_bias,
                qk_norm,
            }) => {
                let mut tensors = vec![q_proj, k_proj, v_proj, o_proj];
                tensors.extend(qkv_bias.iter().flatten());
                tensors.extend(qk_norm.iter().flatten());
                tensors
            }
        }
    }
}

impl DecoderBlock {
    /// Takes the tensors of one layer, in the order of the table.
    pub(super) fn from_next(family: &Family, next: &mut impl FnMut() -> Tensor<2>) -> Self {
        let has = |part| family.has(part);
        Self {
            mixer_norm: has(Part::AttentionNorm).then(&mut *next),
            mixer: Mixer::from_next(family, next),
            mixer_output_norm: has(Part::AttentionOutputNorm).then(&mut *next),
            mlp_norm: has(Part::MlpNorm).then(&mut *next),
            mlp: Mlp {
                gate_proj: next(),
                up_proj: next(),
                down_proj: next(),
            },
            mlp_output_norm: has(Part::MlpOutputNorm).then(next),
            inputs: InputLevels::default(),
        }
    }

    /// Its tensors, in the order of the table.
    pub(super) fn parameters(&self) -> Vec<Tensor<2>> {
        let Mlp {
            gate_proj,
            up_proj,
            down_proj,
        } = &self.mlp;
        let mut tensors: Vec<&Tensor<2>> = self.mixer_norm.iter().collect();
        tensors.extend(self.mixer.parameters());
        tensors.extend(&self.mixer_output_norm);
        tensors.extend(&self.mlp_norm);
        tensors.extend([gate_proj, up_proj, down_proj]);
        tensors.extend(&self.mlp_output_norm);
        tensors.into_iter().cloned().collect()
    }

    /// Runs the layer, up to the place at which the tap ends the pass.
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
        tap.set_inputs(&self.inputs);
        let normed = normed(x.clone(), self.mixer_norm.as_ref(), config);
        let mixed = match &self.mixer {
            Mixer::Attention(attention) => attention.forward(normed, config, context, past, tap)?,
        };
        let x = x + self::normed(mixed, self.mixer_output_norm.as_ref(), config);
        let normed = self::normed(x.clone(), self.mlp_norm.as_ref(), config);
        let fed = self.mlp.forward(normed, config.family().activation, tap)?;
        Continue(x + self::normed(fed, self.mlp_output_norm.as_ref(), config))
    }
}

/// Norm of a half's input or output, if the family has one.
fn normed(x: Tensor<3>, weight: Option<&Tensor<2>>, config: &DecoderConfig) -> Tensor<3> {
    match weight {
        Some(weight) => norm(x, weight, config),
        None => x,
    }
}
