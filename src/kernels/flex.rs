//! The kernels as operations of Burn's `flex` backend, with their slopes for autodiff.
//!
//! No other module sees Burn's own tensors. A tensor is read in place. A tensor that is overwritten is reused without a
//! copy if nobody else holds it, which is the case without a graph, and copied first if autodiff keeps it.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor, TensorData};

use super::attention::host::{self, AttentionInputs, Heads, attention_slopes};
use super::product::bf16::{self, PackedLeft, PackedRight};
use super::product::host::{MatrixMut, row_product};
use super::product::{Arithmetic, Passes, Sums};
use super::views::{HeadTensor, from_start, last_dim, like, matrix, owned, values};
use super::{Sight, rotation};
use crate::device;

/// True if the kernels can compute with `x`: it is in the process's own memory, in f32.
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

pub(super) fn attention(
    queries: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    sight: Sight,
) -> Tensor<3> {
    let (queries, keys) = (queries.into_dispatch(), keys.into_dispatch());
    Tensor::from_dispatch(Dispatch::attend(
        queries,
        keys,
        values.into_dispatch(),
        sight,
    ))
}

pub(super) fn product(left: Tensor<2>, right: Tensor<2>, arithmetic: Arithmetic) -> Tensor<2> {
    let (left, right) = (left.into_dispatch(), right.into_dispatch());
    Tensor::from_dispatch(Dispatch::product(left, right, arithmetic))
}

pub(super) fn add_product(
    total: Tensor<2>,
    left: Tensor<2>,
    right: Tensor<2>,
    arithmetic: Arithmetic,
) -> Tensor<2> {
    let (total, left) = (total.into_dispatch(), left.into_dispatch());
    let right = right.into_dispatch();
    Tensor::from_dispatch(Dispatch::add_product(total, left, right, arithmetic))
}

/// A weight `[out, in]` as bf16 products read it; empty if it is packed for each product.
#[derive(Debug, Clone, Default)]
pub(super) struct PackedWeight {
    forward: Option<Arc<PackedRight>>,
    backward: Option<Arc<PackedRight>>,
}

impl PackedWeight {
    pub(super) fn is_packed(&self) -> bool {
        self.forward.is_some()
    }
}

/// Packs a weight once for many products.
pub(super) fn pack(weight: Tensor<2>, sums: Sums, passes: Passes) -> PackedWeight {
    let weight = weight.try_into_primitive::<Flex>();
    let weight = from_start(weight.expect("a weight is packed on the host, without autodiff"));
    let matrix = matrix(&weight);
    let to_slopes = (passes == Passes::ForwardAndBackward).then(|| matrix.transpose());
    PackedWeight {
        forward: Some(Arc::new(PackedRight::of(&matrix, sums))),
        backward: to_slopes.map(|matrix| Arc::new(PackedRight::of(&matrix, sums))),
    }
}

/// `x · weightᵀ` in bf16.
pub(super) fn linear_bf16(
    x: Tensor<2>,
    weight: Tensor<2>,
    packed: PackedWeight,
    sums: Sums,
) -> Tensor<2> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::linear_bf16(x, weight, packed, sums))
}

/// `slope · weight` in bf16.
pub(super) fn slope_of_input_bf16(
    slope: Tensor<2>,
    weight: Tensor<2>,
    packed: PackedWeight,
    sums: Sums,
) -> Tensor<2> {
    let (slope, weight) = (slope.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::slope_of_input_bf16(slope, weight, packed, sums))
}

/// The operations that this module adds to Burn's; shapes as in the functions of [`super`].
#[backend_extension(Flex, Autodiff)]
trait FusedOps: Backend {
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    fn attend(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        sight: Sight,
    ) -> FloatTensor<Self>;
    fn product(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        arithmetic: Arithmetic,
    ) -> FloatTensor<Self>;
    fn add_product(
        total: FloatTensor<Self>,
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        arithmetic: Arithmetic,
    ) -> FloatTensor<Self>;
    fn linear_bf16(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        packed: PackedWeight,
        sums: Sums,
    ) -> FloatTensor<Self>;
    fn slope_of_input_bf16(
        slope: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        packed: PackedWeight,
        sums: Sums,
    ) -> FloatTensor<Self>;
}

impl FusedOps for Flex {
    fn rms_norm(x: FlexTensor, gain: FlexTensor, eps: f64) -> FlexTensor {
        let (x, gain) = (x.to_contiguous(), gain.to_contiguous());
        let normed = super::rms_norm::host::rms_norm(values(&x), values(&gain), single(eps));
        like(&x, normed)
    }

    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (mut gate, up) = (owned(gate), up.to_contiguous());
        super::swiglu::host::swiglu(gate.storage_mut(), values(&up));
        gate
    }

    fn rotate(x: FlexTensor, cos: FlexTensor, sin: FlexTensor) -> FlexTensor {
        turn(x, &cos, &sin, 1.0)
    }

    fn attend(
        queries: FlexTensor,
        keys: FlexTensor,
        values: FlexTensor,
        sight: Sight,
    ) -> FlexTensor {
        let [queries, keys, values] = [queries, keys, values].map(HeadTensor::new);
        let [batch, heads, seq, head_dim] = queries.rows.shape;
        let inputs = inputs(&queries, &keys, &values, &sight);
        let mixed = host::attention(&inputs);
        FlexTensor::from_data(TensorData::new(mixed, [batch, seq, heads * head_dim]))
    }

    fn product(left: FlexTensor, right: FlexTensor, arithmetic: Arithmetic) -> FlexTensor {
        if let Arithmetic::Bf16(sums) = arithmetic {
            return bf16_product(left, None, sums, || from_start(right.transpose(0, 1)));
        }
        let (left, right) = (from_start(left), from_start(right));
        let (rows, columns) = (left.shape()[0], right.shape()[1]);
        if let Some(values) = row_product(matrix(&left), matrix(&right)) {
            return FlexTensor::from_data(TensorData::new(values, [1, columns]));
        }
        let mut values = vec![0.0; rows * columns];
        MatrixMut::new(&mut values, columns).set(1.0, matrix(&left), matrix(&right));
        FlexTensor::from_data(TensorData::new(values, [rows, columns]))
    }

    fn add_product(
        total: FlexTensor,
        left: FlexTensor,
        right: FlexTensor,
        arithmetic: Arithmetic,
    ) -> FlexTensor {
        let (mut total, left, right) = (owned(total), from_start(left), from_start(right));
        let columns = last_dim(&total);
        let sum = MatrixMut::new(total.storage_mut(), columns);
        match arithmetic {
            Arithmetic::F32 => sum.add(1.0, matrix(&left), matrix(&right)),
            Arithmetic::Bf16(sums) => {
                let left = PackedLeft::of(&matrix(&left), sums);
                let right = PackedRight::of(&matrix(&right).transpose(), sums);
                bf16::add(sum, &left, &right);
            }
        }
        total
    }

    fn linear_bf16(
        x: FlexTensor,
        weight: FlexTensor,
        packed: PackedWeight,
        sums: Sums,
    ) -> FlexTensor {
        bf16_product(x, packed.forward, sums, || from_start(weight))
    }

    fn slope_of_input_bf16(
        slope: FlexTensor,
        weight: FlexTensor,
        packed: PackedWeight,
        sums: Sums,
    ) -> FlexTensor {
        bf16_product(slope, packed.backward, sums, || {
            from_start(weight.transpose(0, 1))
        })
    }
}

/// `left · rightᵀ`, with `right` packed already or here.
fn bf16_product(
    left: FlexTensor,
    packed: Option<Arc<PackedRight>>,
    sums: Sums,
    right: impl FnOnce() -> FlexTensor,
) -> FlexTensor {
    let left = from_start(left);
    let packed = packed.unwrap_or_else(|| {
        let right = right();
        Arc::new(PackedRight::of(&matrix(&right), sums))
    });
    let [rows, columns] = [left.shape()[0], packed.num_columns()];
    let left = PackedLeft::of(&matrix(&left), sums);
    let values = bf16::product(&left, &packed);
    FlexTensor::from_data(TensorData::new(values, [rows, columns]))
}

/// A tensor under autodiff.
type Tracked<C> = FloatTensor<Autodiff<Flex, C>>;

impl<C: CheckpointStrategy> FusedOps for Autodiff<Flex, C> {
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

    fn attend(
        queries: Tracked<C>,
        keys: Tracked<C>,
        values: Tracked<C>,
        sight: Sight,
    ) -> Tracked<C> {
        let [queries, keys, values] = [queries, keys, values].map(Tracked::<C>::into_parts);
        let ((queries, q_node), (keys, k_node), (values, v_node)) = (queries, keys, values);
        let step = AttentionStep.prepare::<C>([q_node, k_node, v_node]);
        match step.compute_bound().stateful() {
            OpsKind::Tracked(step) => {
                let state = (queries.clone(), keys.clone(), values.clone(), sight.clone());
                step.finish(state, Flex::attend(queries, keys, values, sight))
            }
            OpsKind::UnTracked(step) => step.finish(Flex::attend(queries, keys, values, sight)),
        }
    }

    fn product(left: Tracked<C>, right: Tracked<C>, _: Arithmetic) -> Tracked<C> {
        Self::float_matmul(left, right)
    }

    fn add_product(
        total: Tracked<C>,
        left: Tracked<C>,
        right: Tracked<C>,
        _: Arithmetic,
    ) -> Tracked<C> {
        Self::float_add(total, Self::float_matmul(left, right))
    }

    fn linear_bf16(
        x: Tracked<C>,
        weight: Tracked<C>,
        packed: PackedWeight,
        sums: Sums,
    ) -> Tracked<C> {
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        let step = LinearBf16Step.prepare::<C>([x_node, weight_node]);
        match step.compute_bound().stateful() {
            OpsKind::Tracked(step) => {
                let state = (x.clone(), weight.clone(), packed.clone(), sums);
                step.finish(state, Flex::linear_bf16(x, weight, packed, sums))
            }
            OpsKind::UnTracked(step) => step.finish(Flex::linear_bf16(x, weight, packed, sums)),
        }
    }

    fn slope_of_input_bf16(
        slope: Tracked<C>,
        weight: Tracked<C>,
        _: PackedWeight,
        _: Sums,
    ) -> Tracked<C> {
        Self::float_matmul(slope, weight)
    }
}

#[derive(Debug)]
struct LinearBf16Step;

impl Backward<Flex, 2> for LinearBf16Step {
    type State = (FlexTensor, FlexTensor, PackedWeight, Sums);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (x, weight, packed, sums) = ops.state;
        let slope = gradients.consume::<Flex>(&ops.node);
        let [x_node, weight_node] = ops.parents;
        if let Some(node) = weight_node {
            let right = || from_start(x.transpose(0, 1)); // [in, P]
            let to_weight = bf16_product(slope.transpose(0, 1), None, sums, right);
            gradients.register::<Flex>(node.id, to_weight); // [out, in]
        }
        if let Some(node) = x_node {
            let to_x = Flex::slope_of_input_bf16(slope, weight, packed, sums);
            gradients.register::<Flex>(node.id, to_x); // [P, in]
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
        let to_gain = super::rms_norm::host::rms_norm_slopes(
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
        super::swiglu::host::swiglu_slopes(gate.storage_mut(), up.storage_mut(), values(&slope));
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
struct AttentionStep;

impl Backward<Flex, 3> for AttentionStep {
    type State = (FlexTensor, FlexTensor, FlexTensor, Sight);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (queries, keys, values, sight) = ops.state;
        let [queries, keys, values] = [queries, keys, values].map(HeadTensor::new);
        let shape = queries.rows.shape;
        let [batch, heads, seq, head_dim] = shape;
        let slope = gradients.consume::<Flex>(&ops.node);
        let slope = slope.reshape([batch, seq, heads, head_dim].into());
        let slope = HeadTensor::new(slope.transpose(1, 2)); // [B, N, T, H]
        let inputs = inputs(&queries, &keys, &values, &sight);
        let slopes = attention_slopes(&inputs, slope.heads());
        let of_keys = keys.rows.shape;
        let slopes = [
            (slopes.queries, shape),
            (slopes.keys, of_keys),
            (slopes.values, of_keys),
        ];
        for (node, (slope, shape)) in ops.parents.into_iter().zip(slopes) {
            if let Some(node) = node {
                let slope = FlexTensor::from_data(TensorData::new(slope, shape));
                gradients.register::<Flex>(node.id, slope);
            }
        }
    }
}

fn inputs<'a>(
    queries: &'a HeadTensor,
    keys: &'a HeadTensor,
    values: &'a HeadTensor,
    sight: &'a Sight,
) -> AttentionInputs<'a> {
    AttentionInputs {
        queries: queries.heads(),
        keys: keys.heads(),
        values: values.heads(),
        sight,
    }
}

/// [`rotation::host::rotate`] of any view.
fn turn(x: FlexTensor, cos: &FlexTensor, sin: &FlexTensor, sign: f32) -> FlexTensor {
    let x = HeadTensor::new(x);
    let Heads {
        values: numbers,
        rows,
    } = x.heads();
    let (cos, sin) = (cos.to_contiguous(), sin.to_contiguous());
    let turned = rotation::host::rotate(numbers, rows, values(&cos), values(&sin), sign);
    FlexTensor::from_data(TensorData::new(turned, rows.shape))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the term is added to an f32 mean"
)]
fn single(eps: f64) -> f32 {
    eps as f32
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::twins::floats;
    use super::*;

    #[test]
    fn not_a_number_stays_so() {
        let device = Device::flex();
        let nan = |shape: [usize; 4]| Tensor::<4>::full(shape, f32::NAN, &device);
        let x = nan([1, 1, 2, 4]);
        let flat = x.clone().reshape([1, 2, 4]);
        let gain = Tensor::ones([1, 4], &device);
        let sight = Sight {
            num_past: 0,
            window: 2,
            scale: 1.0,
            soft_cap: None,
            documents: None,
        };
        let all = [
            floats(rms_norm(flat.clone(), gain, 1e-5)),
            floats(swiglu(flat.clone(), flat.ones_like())),
            floats(attention(x.clone(), x.clone(), x.clone(), sight)),
            floats(rotate(
                x,
                Tensor::ones([1, 1, 2, 2], &device),
                Tensor::ones([1, 1, 2, 2], &device),
            )),
        ];
        assert!(all.iter().flatten().all(|value| value.is_nan()), "{all:?}");
    }
}
