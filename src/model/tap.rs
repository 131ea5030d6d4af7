//! A tap shows the activations inside a decoder, for pruning scores and calibration.

use std::ops::ControlFlow::{self, Break, Continue};

use burn::tensor::Tensor;

use super::InputLevels;

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
    /// The residual stream before a layer; for layer `num_hidden_layers`, after the last one.
    Residual,
    /// Enters the output matrix; shown as in layer `num_hidden_layers`.
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

    /// True if its activations enter linear layers inside a block.
    pub fn enters_block_layers(self) -> bool {
        !matches!(self, Self::Residual | Self::HeadInput)
    }
}

type Observer<'a> = dyn FnMut(usize, Site, &Tensor<3>) + 'a;

/// Receives activations during a forward pass; does nothing unless it was given an observer or a place to end at.
pub struct Tap<'a> {
    layer: usize,
    observer: Option<&'a mut Observer<'a>>,
    until: Option<Site>,
    inputs: InputLevels,
}

/// Activations on their way through a layer, `[B, T, D]`; a break carries the activations at the place where the pass
/// ends, `[B, T, inputs]`.
pub(super) type Passed = ControlFlow<Tensor<3>, Tensor<3>>;

/// Activations at the end of a pass, early or not.
pub(super) fn settled(passed: Passed) -> Tensor<3> {
    match passed {
        Continue(x) | Break(x) => x,
    }
}

impl<'a> Tap<'a> {
    /// Observes nothing.
    pub fn none() -> Self {
        Self {
            layer: 0,
            observer: None,
            until: None,
            inputs: InputLevels::default(),
        }
    }

    /// Calls `observer` with the layer, the site and the activations, `[B, T, inputs]`.
    pub fn new(observer: &'a mut Observer<'a>) -> Self {
        Self {
            observer: Some(observer),
            ..Self::none()
        }
    }

    /// Ends the pass at the first such place, with the inputs of the projections there.
    pub(super) fn until(site: Site) -> Self {
        Self {
            until: Some(site),
            ..Self::none()
        }
    }

    pub(super) fn enter(&mut self, layer: usize) {
        self.layer = layer;
    }

    /// Sets the rounding of projection inputs for the layer from here on.
    pub(super) fn set_inputs(&mut self, inputs: &InputLevels) {
        self.inputs.clone_from(inputs);
    }

    pub(super) fn observe(&mut self, site: Site, activations: &Tensor<3>) {
        if let Some(observer) = &mut self.observer {
            observer(self.layer, site, activations);
        }
    }

    /// Shows the inputs of the projections at a place, then passes them on, rounded if the layer rounds them.
    pub(super) fn pass(&mut self, site: Site, activations: Tensor<3>) -> Passed {
        self.observe(site, &activations);
        let rounded = self.inputs.round(site, activations);
        if self.until == Some(site) {
            Break(rounded)
        } else {
            Continue(rounded)
        }
    }
}
