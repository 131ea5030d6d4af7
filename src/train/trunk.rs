//! Forward and backward through everything below the output matrix, one layer at a time.
//!
//! Each layer has its own tape, which is freed as soon as its gradients are computed. Between two layers there is only
//! a plain tensor: the input of a layer is enough to make its tape again.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use crate::model::{Decoder, LayerContexts, ParameterKind, TokenBatch};
use crate::train::FitPlan;

/// Storage of the activations that the backward pass needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationMemory {
    /// All are kept from the forward pass on.
    Kept,
    /// Only the input of each layer is kept; the layer runs again when its turn comes (gradient checkpointing, Chen et
    /// al. 2016, <https://arxiv.org/abs/1604.06174>). Same operations on the same numbers: on the CPU the same bits.
    Recomputed,
}

impl ActivationMemory {
    /// Storage that a plan asks for.
    pub fn of(plan: &FitPlan) -> Self {
        if plan.gradient_checkpointing {
            Self::Recomputed
        } else {
            Self::Kept
        }
    }
}

/// A forward pass that waits for its backward pass.
pub(super) struct Trunk {
    /// Decoder whose parameters are all leaves, so that a tape gives their gradients.
    tracked: Decoder,
    contexts: LayerContexts,
    tokens: TokenBatch,
    layers: Vec<Layer>,
}

/// Kept part of a layer; the final norm is the last.
struct Layer {
    /// A leaf if there is a tape, else a plain tensor.
    input: Tensor<3>,
    /// The end of the tape, if it is kept.
    output: Option<Tensor<3>>,
}

impl Trunk {
    /// Returns the final hidden states, `[B, T, D]`, without a tape.
    pub(super) fn forward(
        decoder: &Decoder,
        tokens: TokenBatch,
        activations: ActivationMemory,
    ) -> (Tensor<3>, Self) {
        let mut trunk = Self {
            tracked: decoder.tracked(),
            contexts: decoder.contexts(&tokens),
            layers: Vec::new(),
            tokens,
        };
        let mut x = decoder.embed(&trunk.tokens);
        for layer in 0..=decoder.config.num_hidden_layers {
            let (kept, output) = match activations {
                ActivationMemory::Kept => {
                    let (input, output) = run(&trunk.tracked, layer, x, &trunk.contexts);
                    let plain = output.clone().inner();
                    let output = Some(output);
                    (Layer { input, output }, plain)
                }
                ActivationMemory::Recomputed => {
                    let output = decoder.layer(layer, x.clone(), &trunk.contexts);
                    (
                        Layer {
                            input: x,
                            output: None,
                        },
                        output,
                    )
                }
            };
            trunk.layers.push(kept);
            x = output;
        }
        (x, trunk)
    }

    /// Output of a layer, `[B, T, D]`, without a tape: the residual stream behind it.
    pub(super) fn output(&self, layer: usize) -> Tensor<3> {
        match &self.layers[layer].output {
            Some(output) => output.clone().inner(),
            None => self.layers[layer + 1].input.clone(),
        }
    }

    /// Gradients of all parameters, in the order of their table, given the slope with respect to the final hidden
    /// states, the gradient of the output matrix, and slopes with respect to the outputs of some layers, which are
    /// added when the backward pass reaches them.
    ///
    /// If the two matrices are tied, the embedding adds its part to the gradient of the output matrix in place.
    pub(super) fn backward(
        self,
        slope: Tensor<3>,
        output_matrix: Tensor<2>,
        mut inner_slopes: BTreeMap<usize, Tensor<3>>,
    ) -> Vec<Tensor<2>> {
        let Self {
            tracked,
            contexts,
            tokens,
            mut layers,
        } = self;
        let parameters = tracked.parameters();
        let mut gradients: Vec<Option<Tensor<2>>> = vec![None; parameters.len()];
        let mut slope = slope;
        while let Some(Layer { input, output }) = layers.pop() {
            if let Some(inner) = inner_slopes.remove(&layers.len()) {
                slope = slope + inner;
            }
            let (input, output) = match output {
                Some(output) => (input, output),
                None => run(&tracked, layers.len(), input, &contexts),
            };
            let mut tape = (output * slope.autodiff()).sum().backward();
            slope = input
                .grad_remove(&mut tape)
                .expect("a layer's output depends on its input");
            for ((_, parameter), total) in parameters.iter().zip(&mut gradients) {
                if let Some(part) = parameter.grad_remove(&mut tape) {
                    *total = Some(match total.take() {
                        Some(total) => total + part,
                        None => part,
                    });
                }
            }
        }

        let tied = tracked.config.tie_word_embeddings;
        let mut output_matrix = Some(output_matrix);
        let zeros = |parameter: &Tensor<2>| parameter.clone().inner().zeros_like();
        let gradients = parameters.iter().zip(gradients);
        gradients
            .map(|((spec, parameter), gradient)| match spec.kind() {
                ParameterKind::Embedding => {
                    let total = output_matrix.take_if(|_| tied);
                    let total = total.unwrap_or_else(|| zeros(parameter));
                    tracked.add_embedding_gradient(total, &tokens, slope.clone())
                }
                ParameterKind::Head => output_matrix.take().unwrap_or_else(|| zeros(parameter)),
                ParameterKind::Norm
                | ParameterKind::Linear
                | ParameterKind::Bias
                | ParameterKind::Scale => gradient.unwrap_or_else(|| zeros(parameter)),
            })
            .collect()
    }
}

/// Runs a layer with its tape; returns its input, a leaf, and its output.
fn run(
    tracked: &Decoder,
    layer: usize,
    x: Tensor<3>,
    contexts: &LayerContexts,
) -> (Tensor<3>, Tensor<3>) {
    let input = x.autodiff().require_grad();
    let output = tracked.layer(layer, input.clone(), contexts);
    (input, output)
}
