//! The kernels against the chains of tensor operations that they replace.

use burn::tensor::{Device, Tensor, TensorData};

use super::{Sight, flex, plain};

/// Relative; a tenth of it, relative to the largest number, is allowed besides. So far sums in another order move f32.
const TOLERANCE: f32 = 1e-5;

/// Numbers between -1 and 1 times `scale`, the same in every run.
fn tensor<const D: usize>(shape: [usize; D], seed: f32, scale: f32) -> Tensor<D> {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count)
        .map(|at| scale * (at as f32 * 0.731 + seed).sin() * (at as f32 * 0.0137 + seed).cos())
        .collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as::<f32>().unwrap()
}

/// `unit` is the size of the numbers that were subtracted from each other, if it is larger than what was left.
fn assert_close(what: &str, got: &[f32], want: &[f32], unit: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want
        .iter()
        .fold(0.0_f32, |largest, want| largest.max(want.abs()));
    assert!(largest > 0.0, "{what}: nothing to compare");
    for (idx, (got, want)) in got.iter().zip(want).enumerate() {
        let allowed = TOLERANCE * want.abs() + 0.1 * TOLERANCE * largest.max(unit);
        assert!(
            (got - want).abs() <= allowed,
            "{what}[{idx}]: got {got}, want {want}"
        );
    }
}

/// Compares a kernel with its twin: values without a graph, values under autodiff, and the slope of every input.
fn compare<const D: usize, const O: usize>(
    what: &str,
    unit: f32,
    inputs: Vec<Tensor<D>>,
    kernel: impl Fn(&[Tensor<D>]) -> Tensor<O>,
    twin: impl Fn(&[Tensor<D>]) -> Tensor<O>,
) {
    let before: Vec<Vec<f32>> = inputs.iter().cloned().map(floats).collect();
    let want = twin(&inputs);
    let slope = tensor(want.dims(), 0.3, 1.0);
    let want = floats(want);
    assert_close(what, &floats(kernel(&inputs)), &want, unit);
    let after: Vec<Vec<f32>> = inputs.iter().cloned().map(floats).collect();
    assert_eq!(
        before, after,
        "{what} wrote over an input that somebody holds"
    );

    let slopes = |function: &dyn Fn(&[Tensor<D>]) -> Tensor<O>| {
        let tracked: Vec<Tensor<D>> = inputs
            .iter()
            .map(|input| input.clone().autodiff().require_grad())
            .collect();
        let output = function(&tracked);
        assert_close(what, &floats(output.clone().inner()), &want, unit);
        let tape = (output * slope.clone().autodiff()).sum().backward();
        let of_input = |input: &Tensor<D>| input.grad(&tape).map(floats);
        tracked.iter().map(of_input).collect::<Vec<_>>()
    };
    let (got, want) = (slopes(&kernel), slopes(&twin));
    for (idx, (got, want)) in got.iter().zip(&want).enumerate() {
        let name = format!("slope of input {idx} of {what}");
        assert_close(&name, got.as_ref().unwrap(), want.as_ref().unwrap(), unit);
    }
}

#[test]
fn a_norm_equals_its_twin_in_value_and_slopes() {
    for shape in [[1, 1, 5], [2, 3, 7], [2, 80, 96], [1, 1, 576]] {
        let [_, _, size] = shape;
        let gain = tensor([1, 1, size], 2.0, 1.5);
        let flat = |gain: &Tensor<3>| gain.clone().reshape([1, size]);
        for scale in [1e-3, 1.0, 1e3] {
            compare(
                &format!("rms_norm of {shape:?} times {scale}"),
                0.0,
                vec![tensor(shape, 1.0, scale), gain.clone()],
                |inputs| flex::rms_norm(inputs[0].clone(), flat(&inputs[1]), 1e-5),
                |inputs| plain::rms_norm(inputs[0].clone(), &flat(&inputs[1]), 1e-5),
            );
        }
    }
}

#[test]
fn a_gated_activation_equals_its_twin_in_value_and_slopes() {
    for shape in [[1, 1, 1], [2, 3, 7], [3, 50, 333]] {
        for scale in [1.0, 60.0] {
            compare(
                &format!("swiglu of {shape:?} times {scale}"),
                0.0,
                vec![tensor(shape, 1.0, scale), tensor(shape, 2.0, 1.0)],
                |inputs| flex::swiglu(inputs[0].clone(), inputs[1].clone()),
                |inputs| plain::swiglu(inputs[0].clone(), inputs[1].clone()),
            );
        }
    }
}

#[test]
fn a_rotation_equals_its_twin_in_value_and_slopes_of_any_view() {
    for [batch, heads, seq, head_dim] in [[1, 1, 1, 2], [2, 3, 5, 8], [2, 9, 33, 64]] {
        let angles = tensor([1, 1, seq, head_dim / 2], 5.0, 3.0);
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        compare(
            "rotate of rows",
            0.0,
            vec![tensor([batch, heads, seq, head_dim], 1.0, 1.0)],
            |inputs| flex::rotate(inputs[0].clone(), cos.clone(), sin.clone()),
            |inputs| plain::rotate(inputs[0].clone(), &cos, &sin),
        );
        let view = |x: &Tensor<4>| x.clone().narrow(1, 1, seq).swap_dims(1, 2); // [B, N, T, H]
        compare(
            "rotate of a narrowed and swapped view",
            0.0,
            vec![tensor([batch, seq + 1, heads, head_dim], 1.0, 1.0)],
            |inputs| flex::rotate(view(&inputs[0]), cos.clone(), sin.clone()),
            |inputs| plain::rotate(view(&inputs[0]), &cos, &sin),
        );
        let across = |x: &Tensor<4>| x.clone().swap_dims(2, 3);
        compare(
            "rotate of a view whose rows are scattered",
            0.0,
            vec![tensor([batch, heads, head_dim, seq], 1.0, 1.0)],
            |inputs| flex::rotate(across(&inputs[0]), cos.clone(), sin.clone()),
            |inputs| plain::rotate(across(&inputs[0]), &cos, &sin),
        );
    }
}

/// Queries, keys and values of two rows; keys are there for `sight.num_past` more positions.
fn heads(heads: usize, kv_heads: usize, seq: usize, sight: &Sight, scale: f32) -> Vec<Tensor<4>> {
    let num_keys = sight.num_past + seq;
    vec![
        tensor([2, heads, seq, 6], 1.0, scale),
        tensor([2, kv_heads, num_keys, 6], 2.0, scale),
        tensor([2, num_keys, kv_heads, 6], 3.0, 1.0).swap_dims(1, 2), // values come as a view
    ]
}

#[test]
fn attention_equals_its_twin_in_value_and_slopes() {
    let sight = |num_past, window, soft_cap| Sight {
        num_past,
        window,
        scale: 0.4,
        soft_cap,
    };
    for (num_heads, kv_heads, seq, sight) in [
        (1, 1, 1, sight(1, 2, None)),
        (4, 4, 2, sight(0, 2, None)),
        (3, 1, 64, sight(0, 64, None)), // a strip, and one more query
        (4, 2, 65, sight(0, 65, None)),
        (6, 2, 150, sight(0, 9, None)), // strips that begin after the first key
        (2, 2, 70, sight(0, 70, Some(1.5))),
        (4, 2, 130, sight(0, 40, Some(3.0))),
        (6, 3, 1, sight(40, 41, None)), // a word after others, as in generation
        (2, 1, 67, sight(30, 17, None)),
    ] {
        let device = Device::flex();
        let mask = sight.mask_on(num_heads / kv_heads, seq, &device);
        for scale in [1.0, 10.0] {
            compare(
                &format!("{num_heads} heads on {kv_heads}, {seq} queries times {scale}, {sight:?}"),
                scale, // scores are sums of products whose size it is
                heads(num_heads, kv_heads, seq, &sight, scale),
                |inputs| {
                    let [q, k, v] = [0, 1, 2].map(|at| inputs[at].clone());
                    flex::attention(q, k, v, sight)
                },
                |inputs| {
                    let [q, k, v] = [0, 1, 2].map(|at| inputs[at].clone());
                    plain::attention(q, k, v, &sight, &mask)
                },
            );
        }
    }
}

#[test]
fn a_query_takes_nothing_from_keys_outside_its_window_and_shares_out_one() {
    let sight = Sight {
        num_past: 0,
        window: 2,
        scale: 1.0,
        soft_cap: None,
    };
    let device = Device::flex();
    let zeros = Tensor::zeros([1, 1, 4, 4], &device);
    let unit = Tensor::<2>::eye(4, &device).reshape([1, 1, 4, 4]); // what is mixed are the probabilities
    let probs = floats(flex::attention(zeros.clone(), zeros, unit, sight));
    #[rustfmt::skip]
    let want = [
        1.0, 0.0, 0.0, 0.0,
        0.5, 0.5, 0.0, 0.0,
        0.0, 0.5, 0.5, 0.0,
        0.0, 0.0, 0.5, 0.5,
    ];
    assert_eq!(probs, want);
}

#[test]
fn products_of_any_view_are_those_of_tensors_and_change_nothing_they_read() {
    for [rows, inner, columns] in [[1, 1, 1], [3, 5, 7], [200, 210, 220]] {
        let wide = tensor([rows, 2 * inner], 1.0, 1.0);
        let left = wide.clone().narrow(1, inner, inner);
        let right = tensor([columns, inner], 2.0, 1.0).transpose();
        let total = tensor([rows, columns], 3.0, 1.0);
        let kept = total.clone();
        let want = left.clone().matmul(right.clone());
        let name = format!("product of {rows} × {inner} × {columns}");
        let got = flex::product(left.clone(), right.clone());
        assert_close(&name, &floats(got), &floats(want.clone()), inner as f32);
        let got = flex::add_product(total.clone(), left, right);
        let sum = floats(want + total.clone());
        assert_close(&name, &floats(got), &sum, inner as f32);
        assert_eq!(floats(total), floats(kept), "{name} wrote over the total");
    }
}

#[test]
fn without_a_graph_the_result_is_written_where_the_gate_was() {
    let shape = [2, 3, 64];
    let (gate, up) = (tensor(shape, 1.0, 1.0), tensor(shape, 2.0, 1.0));
    let kept = gate.clone();
    let held = floats(flex::swiglu(gate, up.clone()));
    assert_eq!(
        held,
        floats(flex::swiglu(kept, up)),
        "held by somebody else or not"
    );
}

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
    };
    let all = [
        floats(flex::rms_norm(flat.clone(), gain, 1e-5)),
        floats(flex::swiglu(flat.clone(), flat.ones_like())),
        floats(flex::attention(x.clone(), x.clone(), x.clone(), sight)),
        floats(flex::rotate(
            x,
            Tensor::ones([1, 1, 2, 2], &device),
            Tensor::ones([1, 1, 2, 2], &device),
        )),
    ];
    assert!(all.iter().flatten().all(|value| value.is_nan()), "{all:?}");
}
