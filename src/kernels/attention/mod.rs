//! Attention: values mixed by how well keys fit a query.

#[cfg(feature = "flex")]
pub(super) mod host;

use std::ops::Range;

use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};

#[cfg(feature = "flex")]
use super::flex;
use super::soft_cap::soft_cap;
use crate::device;

/// Number added to the scores of hidden positions; its exponential is 0, and unlike minus infinity it cannot turn into
/// NaN on a device that subtracts it from itself.
const HIDDEN: f32 = -1e9;

/// Keys that a query sees, and the treatment of their scores.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    /// Positions before the first query; key `s` is at position `s`.
    pub num_past: usize,
    /// Positions that a query sees, its own included as the last; at least 1.
    pub window: usize,
    /// Factor of the products of query and key.
    pub scale: f32,
    /// Bound of the scores, if they have one.
    pub soft_cap: Option<f32>,
}

impl Sight {
    /// Keys that a query sees: its own position and at most `window − 1` before it.
    fn seen_by(&self, query: usize) -> Range<usize> {
        let end = self.num_past + query + 1;
        end.saturating_sub(self.window)..end
    }

    /// Range from the first to the last key that any query of a range sees.
    #[cfg(feature = "flex")]
    fn seen_by_any(&self, queries: &Range<usize>) -> Range<usize> {
        self.seen_by(queries.start).start..self.seen_by(queries.end - 1).end
    }

    /// Mask that [`attention`] needs on a device without a kernel for it, `[1, 1, G·T, S]`: 0 where a query sees a key,
    /// else a number whose exponential is 0. It is as large as the scores of one head, so it is made once for all
    /// layers, and only there.
    pub fn mask(&self, groups: usize, num_queries: usize, device: &Device) -> Option<Tensor<4>> {
        (!device::is_host(device)).then(|| self.mask_on(groups, num_queries, device))
    }

    fn mask_on(&self, groups: usize, num_queries: usize, device: &Device) -> Tensor<4> {
        let num_keys = self.num_past + num_queries;
        let mut mask = Vec::with_capacity(groups * num_queries * num_keys);
        for query in (0..groups).flat_map(|_| 0..num_queries) {
            let seen = self.seen_by(query);
            mask.extend((0..num_keys).map(|key| if seen.contains(&key) { 0.0 } else { HIDDEN }));
        }
        let shape = [1, 1, groups * num_queries, num_keys];
        Tensor::from_data(TensorData::new(mask, shape), device)
    }
}

/// Values mixed by the softmax of the scores, `softmax(cap(scale · queries · keysᵀ)) · values`.
///
/// # Shapes
///
/// `queries` is `[B, N, T, H]`, `keys` and `values` are `[B, KV, S, H]` with `S = num_past + T`; returns `[B, T, N·H]`.
pub fn attention(
    queries: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    sight: &Sight,
    mask: Option<&Tensor<4>>,
) -> Tensor<3> {
    match mask {
        Some(mask) => chain(queries, keys, values, sight, mask),
        #[cfg(feature = "flex")]
        None => flex::attention(queries, keys, values, *sight),
        #[cfg(not(feature = "flex"))]
        None => unreachable!("a device without kernels has a mask"),
    }
}

/// Chain of tensor operations.
///
/// The query heads that share a key/value head are placed one after another along the positions, so that keys and
/// values are never repeated: `[B, KV, G·T, H] · [B, KV, H, S]`.
fn chain(
    queries: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    sight: &Sight,
    mask: &Tensor<4>,
) -> Tensor<3> {
    let [batch, heads, seq, head_dim] = queries.dims();
    let [_, kv_heads, _, _] = keys.dims();
    let queries = queries.mul_scalar(sight.scale);
    let queries = queries.reshape([batch, kv_heads, heads / kv_heads * seq, head_dim]); // [B, KV, G·T, H]
    let scores = queries.matmul(keys.transpose()); // [B, KV, G·T, S]
    let scores = match sight.soft_cap {
        Some(cap) => soft_cap(scores, f64::from(cap)),
        None => scores,
    };
    let mixed = softmax(scores + mask.clone(), 3).matmul(values); // [B, KV, G·T, H]
    let mixed = mixed.reshape([batch, heads, seq, head_dim]).swap_dims(1, 2);
    mixed.reshape([batch, seq, heads * head_dim]) // [B, T, N·H]
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::super::twins::{compare, floats, tensor};
    use super::*;

    /// Queries, keys and values of two rows; keys are there for `sight.num_past` more positions.
    fn heads(
        heads: usize,
        kv_heads: usize,
        seq: usize,
        sight: &Sight,
        scale: f32,
    ) -> Vec<Tensor<4>> {
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
                    &format!(
                        "{num_heads} heads on {kv_heads}, {seq} queries times {scale}, {sight:?}"
                    ),
                    scale, // scores are sums of products of this size
                    heads(num_heads, kv_heads, seq, &sight, scale),
                    |inputs| {
                        let [q, k, v] = [0, 1, 2].map(|at| inputs[at].clone());
                        flex::attention(q, k, v, sight)
                    },
                    |inputs| {
                        let [q, k, v] = [0, 1, 2].map(|at| inputs[at].clone());
                        chain(q, k, v, &sight, &mask)
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
        let unit = Tensor::<2>::eye(4, &device).reshape([1, 1, 4, 4]); // the result is the probabilities
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
}
