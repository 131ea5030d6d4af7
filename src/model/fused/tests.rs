//! The kernels against the chains of tensor operations that they replace.

use burn::tensor::{Device, Tensor, TensorData};

use super::{HIDDEN, flex, plain};

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

/// `[1, 1, groups · rows, width]`: the last `rows` of `width` positions see those before them, at most `window` of them.
fn mask(groups: usize, rows: usize, width: usize, window: usize) -> Tensor<4> {
    let mut mask = Vec::new();
    for row in (0..groups * rows).map(|row| row % rows + width - rows) {
        mask.extend((0..width).map(|seen| {
            if seen <= row && seen + window > row {
                0.0
            } else {
                HIDDEN
            }
        }));
    }
    let shape = [1, 1, groups * rows, width];
    Tensor::from_data(TensorData::new(mask, shape), &Device::flex())
}

#[test]
fn a_masked_softmax_equals_its_twin_in_value_and_slopes() {
    for (groups, rows, width, window) in [
        (1, 2, 2, 2),
        (3, 33, 33, 33),
        (2, 70, 70, 9),
        (2, 1, 40, 40),
        (1, 5, 300, 17),
    ] {
        let mask = mask(groups, rows, width, window);
        for scale in [1.0, 100.0] {
            compare(
                &format!(
                    "masked_softmax of {width} positions in a window of {window} times {scale}"
                ),
                1.0, // probabilities and slopes
                vec![tensor([2, 3, groups * rows, width], 1.0, scale)],
                |inputs| flex::masked_softmax(inputs[0].clone(), mask.clone()) + 1e-3,
                |inputs| plain::masked_softmax(inputs[0].clone(), &mask) + 1e-3,
            );
        }
    }
}

#[test]
fn a_softmax_gives_nothing_to_what_the_mask_hides_and_shares_out_one() {
    let mask = mask(1, 4, 4, 2);
    let probs = floats(flex::masked_softmax(
        Tensor::zeros([1, 1, 4, 4], &Device::flex()),
        mask,
    ));
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
    let all = [
        floats(flex::rms_norm(flat.clone(), gain, 1e-5)),
        floats(flex::swiglu(flat.clone(), flat.ones_like())),
        floats(flex::masked_softmax(x.clone(), mask(1, 2, 4, 4)))[..3].to_vec(),
        floats(flex::rotate(
            x,
            Tensor::ones([1, 1, 2, 2], &device),
            Tensor::ones([1, 1, 2, 2], &device),
        )),
    ];
    assert!(all.iter().flatten().all(|value| value.is_nan()), "{all:?}");
}
