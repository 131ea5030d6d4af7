//! Products of matrices, and their addition to a matrix.

mod arithmetic;
#[cfg(feature = "flex")]
pub(super) mod bf16;
#[cfg(feature = "flex")]
pub(super) mod host;
mod weight;

use burn::tensor::Tensor;

pub(crate) use self::arithmetic::PRECISION;
pub use self::arithmetic::{Arithmetic, Sums};
pub use self::weight::{Passes, Weight};
#[cfg(feature = "flex")]
use super::flex;

/// `left · right`.
///
/// # Shapes
///
/// `[P, D]` and `[D, V]`; returns `[P, V]`.
pub fn product(left: Tensor<2>, right: Tensor<2>, arithmetic: Arithmetic) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if flex::takes(&left) {
        return flex::product(left, right, arithmetic);
    }
    arithmetic.assert_f32();
    left.matmul(right)
}

/// `total + left · right`, added in place if nobody else holds `total`: no second matrix of its size is made.
///
/// # Shapes
///
/// `total` is `[P, V]`, as is the result; `left` is `[P, D]`, `right` is `[D, V]`.
pub fn add_product(
    total: Tensor<2>,
    left: Tensor<2>,
    right: Tensor<2>,
    arithmetic: Arithmetic,
) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if flex::takes(&total) {
        return flex::add_product(total, left, right, arithmetic);
    }
    arithmetic.assert_f32();
    total + left.matmul(right)
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::super::twins::{assert_close, floats, tensor};
    use super::*;

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
            let got = flex::product(left.clone(), right.clone(), Arithmetic::F32);
            assert_close(&name, &floats(got), &floats(want.clone()), inner as f32);
            let got = flex::add_product(total.clone(), left, right, Arithmetic::F32);
            let sum = floats(want + total.clone());
            assert_close(&name, &floats(got), &sum, inner as f32);
            assert_eq!(floats(total), floats(kept), "{name} wrote over the total");
        }
    }

    /// Bits of a tensor's numbers.
    fn bits(tensor: Tensor<2>) -> Vec<u32> {
        floats(tensor).into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn a_linear_layer_in_bf16_is_near_f32_and_its_slopes_are_products_in_bf16() {
        for sums in Sums::ALL {
            let arithmetic = Arithmetic::Bf16(sums);
            for [rows, inputs, outputs] in [[1, 3, 5], [70, 96, 40], [130, 400, 33]] {
                let x = tensor([rows, inputs], 1.0, 1.0);
                let weight = Weight::new(tensor([outputs, inputs], 2.0, 1.0), arithmetic);
                let slope = tensor([rows, outputs], 3.0, 1.0);
                let name = format!("{sums:?}, {rows} × {inputs} × {outputs}");

                let tracked_x = x.clone().autodiff().require_grad();
                let tracked = weight.in_tensor(|weight| weight.autodiff().require_grad());
                let got = tracked.linear(tracked_x.clone());
                let exact = x.clone().matmul(weight.tensor().clone().transpose());
                let scale = (inputs as f32).sqrt();
                for (got, want) in floats(got.clone().inner()).iter().zip(floats(exact)) {
                    assert!(
                        (got - want).abs() < scale / 64.0,
                        "{name}: {got} instead of {want}"
                    );
                }
                let tape = (got.clone() * slope.clone().autodiff()).sum().backward();
                let [of_x, of_weight] =
                    [tracked_x, tracked.tensor().clone()].map(|leaf| leaf.grad(&tape).unwrap());

                let packed = weight.clone().packed(Passes::ForwardAndBackward);
                let alone = packed.clone().without_tensor();
                let forward = bits(got.inner());
                for other in [&weight, &packed, &alone] {
                    assert!(bits(other.linear(x.clone())) == forward, "{name}, forward");
                }
                for other in [&weight, &packed] {
                    let slope_of_x = other.slope_of_input(slope.clone());
                    assert!(bits(slope_of_x) == bits(of_x.clone()), "{name}, input");
                }
                let whole = product(slope.clone().transpose(), x.clone(), arithmetic);
                assert!(bits(whole.clone()) == bits(of_weight), "{name}, weight");
                let added = add_product(whole.zeros_like(), slope.transpose(), x, arithmetic);
                assert_close(&name, &floats(added), &floats(whole), 1.0);
            }
        }
    }
}
