//! One layer of a decoder: a mixer of positions and a feed-forward layer, each with its norms.

use std::ops::ControlFlow::Continue;

use burn::tensor::Tensor;

use super::attention::{Attention, AttentionContext, KeyValues};
use super::mlp::Mlp;
use super::norm::norm;
use super::tap::Passed;
use super::{DecoderConfig, Family, InputLevels, Part, QkNorm, Tap};
use crate::kernels::Weight;

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
    fn from_next(family: &Family, next: &mut impl FnMut() -> Weight) -> Self {
        let [q_proj, k_proj, v_proj, o_proj] = [(); 4].map(|()| next());
        let mut vector = || next().into_tensor();
        Self::Attention(Attention {
            q_proj,
            k_proj,
            v_proj,
            o_proj,
            qkv_bias: family.qkv_bias.then(|| [(); 3].map(|()| vector())),
            qk_norm: (family.qk_norm != QkNorm::None).then(|| [(); 2].map(|()| vector())),
        })
    }

    fn weights(&self, plain: impl Fn(Tensor<2>) -> Weight) -> Vec<Weight> {
        match self {
            Self::Attention(Attention {
                q_proj,
                k_proj,
                v_proj,
                o_proj,
                qkv_bias,
                qk_norm,
            }) => {
                let mut weights = [q_proj, k_proj, v_proj, o_proj].map(Weight::clone).to_vec();
                let vectors = qkv_bias.iter().flatten().chain(qk_norm.iter().flatten());
                weights.extend(vectors.cloned().map(plain));
                weights
            }
        }
    }
}

impl DecoderBlock {
    /// Takes the tensors of one layer, in the order of the table.
    pub(super) fn from_next(family: &Family, next: &mut impl FnMut() -> Weight) -> Self {
        fn norm(is_there: bool, next: &mut impl FnMut() -> Weight) -> Option<Tensor<2>> {
            is_there.then(|| next().into_tensor())
        }
        let has = |part| family.has(part);
        Self {
            mixer_norm: norm(has(Part::AttentionNorm), next),
            mixer: Mixer::from_next(family, next),
            mixer_output_norm: norm(has(Part::AttentionOutputNorm), next),
            mlp_norm: norm(has(Part::MlpNorm), next),
            mlp: Mlp {
                gate_proj: next(),
                up_proj: next(),
                down_proj: next(),
            },
            mlp_output_norm: norm(has(Part::MlpOutputNorm), next),
            inputs: InputLevels::default(),
        }
    }

    /// Its weights, in the order of the table; `plain` makes one of a norm or a bias.
    pub(super) fn weights(&self, plain: impl Fn(Tensor<2>) -> Weight) -> Vec<Weight> {
        let norm = |norm: &Option<Tensor<2>>| norm.clone().map(&plain);
        let Mlp {
            gate_proj,
            up_proj,
            down_proj,
        } = &self.mlp;
        let mut weights: Vec<Weight> = norm(&self.mixer_norm).into_iter().collect();
        weights.extend(self.mixer.weights(&plain));
        weights.extend(norm(&self.mixer_output_norm));
        weights.extend(norm(&self.mlp_norm));
        weights.extend([gate_proj, up_proj, down_proj].map(Weight::clone));
        weights.extend(norm(&self.mlp_output_norm));
        weights
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
