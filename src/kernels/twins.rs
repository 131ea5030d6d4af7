//! Comparison of a kernel with the chain of tensor operations that it replaces.

use burn::tensor::{Device, Tensor, TensorData};

/// Relative; a tenth of it, relative to the largest number, is added. Sums in another order move f32 by so much.
const TOLERANCE: f32 = 1e-5;

/// Numbers between -1 and 1 times `scale`, the same in every run.
pub(super) fn tensor<const D: usize>(shape: [usize; D], seed: f32, scale: f32) -> Tensor<D> {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count)
        .map(|at| scale * (at as f32 * 0.731 + seed).sin() * (at as f32 * 0.0137 + seed).cos())
        .collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

pub(super) fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as::<f32>().unwrap()
}

/// Checks that numbers are close. `unit` is the size of subtracted numbers, if it is larger than the differences.
pub(super) fn assert_close(what: &str, got: &[f32], want: &[f32], unit: f32) {
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
pub(super) fn compare<const D: usize, const O: usize>(
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
