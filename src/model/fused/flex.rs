//! The kernels as operations of Burn's `flex` backend, with their slopes for autodiff.
//!
//! This is the one place that sees Burn's own tensors. A tensor is read where it lies; what is written over is taken over
//! without a copy if nobody else holds it, which is the case without a graph, and copied first if autodiff keeps it.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor, TensorData};

use super::{HIDDEN, kernels};
use crate::device;

/// Whether the kernels compute this: in the process's own memory, in f32.
pub(super) fn takes<const D: usize>(x: &Tensor<D>) -> bool {
    device::is_host(&x.device()) && x.dtype() == DType::F32
}

pub(super) fn rms_norm(x: Tensor<3>, gain: Tensor<2>, eps: f64) -> Tensor<3> {
    let normed = Dispatch::rms_norm(x.into_dispatch(), gain.into_dispatch(), eps);
    Tensor::from_dispatch(normed)
}

pub(super) fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

pub(super) fn rotate(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let (x, cos, sin) = (x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch());
    Tensor::from_dispatch(Dispatch::rotate(x, cos, sin))
}

pub(super) fn masked_softmax(scores: Tensor<4>, mask: Tensor<4>) -> Tensor<4> {
    let probs = Dispatch::masked_softmax(scores.into_dispatch(), mask.into_dispatch());
    Tensor::from_dispatch(probs)
}

/// The operations that this module adds to Burn's; shapes as in the functions of [`super`].
#[backend_extension(Flex, Autodiff)]
trait Fused: Backend {
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    fn masked_softmax(scores: FloatTensor<Self>, mask: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Fused for Flex {
    fn rms_norm(x: FlexTensor, gain: FlexTensor, eps: f64) -> FlexTensor {
        let (x, gain) = (x.to_contiguous(), gain.to_contiguous());
        let normed = kernels::rms_norm(values(&x), values(&gain), single(eps));
        like(&x, normed)
    }

    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (mut gate, up) = (owned(gate), up.to_contiguous());
        kernels::swiglu(gate.storage_mut(), values(&up));
        gate
    }

    fn rotate(x: FlexTensor, cos: FlexTensor, sin: FlexTensor) -> FlexTensor {
        turn(x, &cos, &sin, 1.0)
    }

    fn masked_softmax(scores: FlexTensor, mask: FlexTensor) -> FlexTensor {
        let width = last_dim(&scores);
        let (mut scores, mask) = (owned(scores), mask.to_contiguous());
        kernels::masked_softmax(scores.storage_mut(), values(&mask), width, HIDDEN);
        scores
    }
}

/// A tensor under autodiff.
type Tracked<C> = FloatTensor<Autodiff<Flex, C>>;

impl<C: CheckpointStrategy> Fused for Autodiff<Flex, C> {
    fn rms_norm(x: Tracked<C>, gain: Tracked<C>, eps: f64) -> Tracked<C> {
        let ((x, x_node), (gain, gain_node)) = (x.into_parts(), gain.into_parts());
        let step = RmsNormStep.prepare::<C>([x_node, gain_node]);
        match step.compute_bound().stateful() {
            OpsKind::Tracked(step) => {
                let state = (x.clone(), gain.clone(), eps);
                step.finish(state, Flex::rms_norm(x, gain, eps))
            }
            OpsKind::UnTracked(step) => step.finish(Flex::rms_norm(x, gain, eps)),
        }
    }

    fn swiglu(gate: Tracked<C>, up: Tracked<C>) -> Tracked<C> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        let step = SwigluStep.prepare::<C>([gate_node, up_node]);
        match step.compute_bound().stateful() {
            OpsKind::Tracked(step) => {
                let state = (gate.clone(), up.clone());
                step.finish(state, Flex::swiglu(gate, up))
            }
            OpsKind::UnTracked(step) => step.finish(Flex::swiglu(gate, up)),
        }
    }

    fn rotate(x: Tracked<C>, cos: Tracked<C>, sin: Tracked<C>) -> Tracked<C> {
        let (x, x_node) = x.into_parts();
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        let step = RotateStep.prepare::<C>([x_node]);
        match step.compute_bound().stateful() {
            OpsKind::Tracked(step) => {
                let turned = turn(x, &cos, &sin, 1.0);
                step.finish((cos, sin), turned)
            }
            OpsKind::UnTracked(step) => step.finish(turn(x, &cos, &sin, 1.0)),
        }
    }

    fn masked_softmax(scores: Tracked<C>, mask: Tracked<C>) -> Tracked<C> {
        let (scores, scores_node) = scores.into_parts();
        let probs = Flex::masked_softmax(scores, mask.into_primitive());
        let step = SoftmaxStep.prepare::<C>([scores_node]);
        match step.compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish(probs.clone(), probs),
            OpsKind::UnTracked(step) => step.finish(probs),
        }
    }
}

#[derive(Debug)]
struct RmsNormStep;

impl Backward<Flex, 2> for RmsNormStep {
    type State = (FlexTensor, FlexTensor, f64);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (x, gain, eps) = ops.state;
        let (x, gain_values) = (x.to_contiguous(), gain.to_contiguous());
        let mut slope = owned(gradients.consume::<Flex>(&ops.node));
        let to_gain = kernels::rms_norm_slopes(
            values(&x),
            values(&gain_values),
            single(eps),
            slope.storage_mut(),
        );
        let [x_node, gain_node] = ops.parents;
        if let Some(node) = x_node {
            gradients.register::<Flex>(node.id, slope);
        }
        if let Some(node) = gain_node {
            gradients.register::<Flex>(node.id, like(&gain, to_gain));
        }
    }
}

#[derive(Debug)]
struct SwigluStep;

impl Backward<Flex, 2> for SwigluStep {
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let slope = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let (gate, up) = ops.state;
        let (mut gate, mut up) = (owned(gate), owned(up));
        kernels::swiglu_slopes(gate.storage_mut(), up.storage_mut(), values(&slope));
        let [gate_node, up_node] = ops.parents;
        if let Some(node) = gate_node {
            gradients.register::<Flex>(node.id, gate);
        }
        if let Some(node) = up_node {
            gradients.register::<Flex>(node.id, up);
        }
    }
}

#[derive(Debug)]
struct RotateStep;

impl Backward<Flex, 1> for RotateStep {
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let slope = gradients.consume::<Flex>(&ops.node);
        let (cos, sin) = ops.state;
        let [node] = ops.parents;
        if let Some(node) = node {
            gradients.register::<Flex>(node.id, turn(slope, &cos, &sin, -1.0));
        }
    }
}

#[derive(Debug)]
struct SoftmaxStep;

impl Backward<Flex, 1> for SoftmaxStep {
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let mut slope = owned(gradients.consume::<Flex>(&ops.node));
        let probs = ops.state;
        let width = last_dim(&probs);
        kernels::softmax_slopes(values(&probs), slope.storage_mut(), width);
        let [node] = ops.parents;
        if let Some(node) = node {
            gradients.register::<Flex>(node.id, slope);
        }
    }
}

/// [`kernels::rotate`] of any view.
fn turn(x: FlexTensor, cos: &FlexTensor, sin: &FlexTensor, sign: f32) -> FlexTensor {
    let is_readable = |x: &FlexTensor| {
        let strides = x.layout().strides();
        strides.last() == Some(&1) && strides.iter().all(|&stride| stride >= 0)
    };
    let x = if is_readable(&x) {
        x
    } else {
        x.to_contiguous()
    };
    let shape = x.shape();
    let shape = [shape[0], shape[1], shape[2], shape[3]];
    let strides = x.layout().strides();
    let rows = kernels::HeadRows {
        start: x.layout().start_offset(),
        strides: [0, 1, 2].map(|dim| strides[dim].unsigned_abs()),
        shape,
    };
    let (cos, sin) = (cos.to_contiguous(), sin.to_contiguous());
    let turned = kernels::rotate(x.storage(), &rows, values(&cos), values(&sin), sign);
    FlexTensor::from_data(TensorData::new(turned, shape))
}

/// The same numbers row by row, held by nobody else unless autodiff keeps them.
fn owned(tensor: FlexTensor) -> FlexTensor {
    let own = tensor.to_contiguous();
    drop(tensor); // a second handle would make the first write a copy
    own
}

/// The numbers of a tensor that lies row by row.
fn values(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice()
        .expect("a contiguous f32 tensor is one slice")
}

fn like(tensor: &FlexTensor, values: Vec<f32>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, tensor.shape()))
}

fn last_dim(tensor: &FlexTensor) -> usize {
    let shape = tensor.shape();
    shape[shape.num_dims() - 1]
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the term is added to an f32 mean"
)]
fn single(eps: f64) -> f32 {
    eps as f32
}
