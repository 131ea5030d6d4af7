//! Soft-caps: smooth bounds of numbers.

use burn::tensor::Tensor;

/// `cap · tanh(x / cap)` (Bello et al. 2017, arXiv 1611.09940): almost unchanged near 0, never beyond `cap`.
pub fn soft_cap<const D: usize>(x: Tensor<D>, cap: f64) -> Tensor<D> {
    x.div_scalar(cap).tanh().mul_scalar(cap)
}

/// The slope of [`soft_cap`], from its result: `1 − (y / cap)²`.
pub fn soft_cap_slope<const D: usize>(capped: Tensor<D>, cap: f64) -> Tensor<D> {
    capped.div_scalar(cap).square().neg().add_scalar(1.0)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn a_capped_number_and_its_slope_are_those_worked_by_hand() {
        let x = Tensor::<1>::from_data(
            TensorData::new(vec![0.0_f32, 1.0, -2.0, 1e4], [4]),
            &Device::flex(),
        );
        let capped = soft_cap(x, 2.0);
        let slope = soft_cap_slope(capped.clone(), 2.0);
        let (half, one) = (0.5_f64.tanh(), 1.0_f64.tanh());
        for (got, want) in [
            (capped, [0.0, 2.0 * half, -2.0 * one, 2.0]),
            (slope, [1.0, 1.0 - half * half, 1.0 - one * one, 0.0]),
        ] {
            for (got, want) in got.try_into_vec_as::<f32>().unwrap().into_iter().zip(want) {
                assert!((f64::from(got) - want).abs() < 1e-6, "{got}, want {want}");
            }
        }
    }
}
