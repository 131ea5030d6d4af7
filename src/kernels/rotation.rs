//! Rotations of rotary positions.

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
use super::flex;

/// Rotates dimensions `j` and `j + H/2` of every row by the angle of its position.
///
/// # Shapes
///
/// `x` is `[B, N, T, H]`, as is the result; `cos` and `sin` are `[1, 1, T, H/2]`, or `[B, 1, T, H/2]` if positions differ from
/// row to row, and constants: no slope reaches them.
pub fn rotate(x: Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if flex::takes(&x) {
        return flex::rotate(x, cos.clone(), sin.clone());
    }
    chain(x, cos, sin)
}

/// Chain of tensor operations.
fn chain(x: Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>) -> Tensor<4> {
    let [_, _, _, head_dim] = x.dims();
    let first = x.clone().narrow(3, 0, head_dim / 2); // [B, N, T, H/2]
    let second = x.narrow(3, head_dim / 2, head_dim / 2);
    let turned_first = first.clone() * cos.clone() - second.clone() * sin.clone();
    let turned_second = second * cos.clone() + first * sin.clone();
    Tensor::cat(vec![turned_first, turned_second], 3) // [B, N, T, H]
}

/// One pass over rows on the host.
#[cfg(feature = "flex")]
pub(super) mod host {
    use rayon::prelude::*;

    use crate::kernels::views::HeadRows;
    use crate::vector::vectorized;

    /// Rotates every pair `(j, j + H/2)` of each row by its position's angle; returns `[B, N, T, H]` row-major.
    ///
    /// `cos` and `sin` are `[T, H/2]`, or `[B, T, H/2]`; with `-sin` the result is the slope of the rotation.
    pub(in crate::kernels) fn rotate(
        x: &[f32],
        rows: &HeadRows,
        cos: &[f32],
        sin: &[f32],
        sign: f32,
    ) -> Vec<f32> {
        let [batch, heads, seq, head_dim] = rows.shape;
        let half = head_dim / 2;
        let mut turned = vec![0.0; batch * heads * seq * head_dim];
        turned
            .par_chunks_mut(seq * head_dim)
            .enumerate()
            .for_each(|(idx, turned)| {
                let (row, head) = (idx / heads, idx % heads);
                let start = rows.start + row * rows.strides[0] + head * rows.strides[1];
                let first_angle = row * seq * half % cos.len(); // 0 if there is one table for all rows
                vectorized(|| {
                    for (position, turned) in turned.chunks_exact_mut(head_dim).enumerate() {
                        let x = &x[start + position * rows.strides[2]..][..head_dim];
                        let (first, second) = x.split_at(half);
                        let (turned_first, turned_second) = turned.split_at_mut(half);
                        let angle = first_angle + position * half;
                        let (cos, sin) = (&cos[angle..angle + half], &sin[angle..angle + half]);
                        for j in 0..half {
                            let sin = sign * sin[j];
                            turned_first[j] = first[j] * cos[j] - second[j] * sin;
                            turned_second[j] = second[j] * cos[j] + first[j] * sin;
                        }
                    }
                });
            });
        turned
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::super::twins::{compare, tensor};
    use super::*;

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
                |inputs| chain(inputs[0].clone(), &cos, &sin),
            );
            let view = |x: &Tensor<4>| x.clone().narrow(1, 1, seq).swap_dims(1, 2); // [B, N, T, H]
            compare(
                "rotate of a narrowed and swapped view",
                0.0,
                vec![tensor([batch, seq + 1, heads, head_dim], 1.0, 1.0)],
                |inputs| flex::rotate(view(&inputs[0]), cos.clone(), sin.clone()),
                |inputs| chain(view(&inputs[0]), &cos, &sin),
            );
            let across = |x: &Tensor<4>| x.clone().swap_dims(2, 3);
            compare(
                "rotate of a view whose rows are scattered",
                0.0,
                vec![tensor([batch, heads, head_dim, seq], 1.0, 1.0)],
                |inputs| flex::rotate(across(&inputs[0]), cos.clone(), sin.clone()),
                |inputs| chain(across(&inputs[0]), &cos, &sin),
            );
            let angles = tensor([batch, 1, seq, head_dim / 2], 5.0, 3.0);
            let (cos, sin) = (angles.clone().cos(), angles.sin());
            compare(
                "rotate by angles that differ from row to row",
                0.0,
                vec![tensor([batch, seq + 1, heads, head_dim], 1.0, 1.0)],
                |inputs| flex::rotate(view(&inputs[0]), cos.clone(), sin.clone()),
                |inputs| chain(view(&inputs[0]), &cos, &sin),
            );
        }
    }
}
