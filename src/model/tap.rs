//! A tap shows what flows through a decoder, for pruning scores and calibration.

use burn::tensor::Tensor;

/// A place in a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// Enters `q_proj`, `k_proj` and `v_proj`.
    AttentionInput,
    /// Enters `o_proj`.
    AttentionOutput,
    /// Enters `gate_proj` and `up_proj`.
    MlpInput,
    /// Enters `down_proj`.
    MlpHidden,
    /// The residual stream in front of a layer; as that of layer `num_hidden_layers`, behind the last.
    Residual,
    /// Enters the output matrix; shown as of layer `num_hidden_layers`.
    HeadInput,
}

impl Site {
    /// The places of a layer whose activations enter projections, in the order in which they are reached.
    pub const OF_LAYER: [Self; 4] = [
        Self::AttentionInput,
        Self::AttentionOutput,
        Self::MlpInput,
        Self::MlpHidden,
    ];

    /// Whether its activations enter linear layers inside a block.
    pub fn enters_block_layers(self) -> bool {
        !matches!(self, Self::Residual | Self::HeadInput)
    }
}

type Observer<'a> = dyn FnMut(usize, Site, &Tensor<3>) + 'a;

/// Receives activations during a forward pass; does nothing unless it was given an observer.
pub struct Tap<'a> {
    layer: usize,
    observer: Option<&'a mut Observer<'a>>,
}

impl<'a> Tap<'a> {
    /// Observes nothing.
    pub fn none() -> Self {
        Self {
            layer: 0,
            observer: None,
        }
    }

    /// Calls `observer` with the layer, the site and the activations, `[B, T, inputs]`.
    pub fn new(observer: &'a mut Observer<'a>) -> Self {
        Self {
            layer: 0,
            observer: Some(observer),
        }
    }

    pub(super) fn enter(&mut self, layer: usize) {
        self.layer = layer;
    }

    pub(super) fn observe(&mut self, site: Site, activations: &Tensor<3>) {
        if let Some(observer) = &mut self.observer {
            observer(self.layer, site, activations);
        }
    }
}
