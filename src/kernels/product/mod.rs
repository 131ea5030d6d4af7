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
}
