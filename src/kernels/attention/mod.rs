//! Attention: values mixed by how well keys fit a query.

#[cfg(feature = "flex")]
pub(super) mod host;

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};

#[cfg(feature = "flex")]
use super::flex;
use super::soft_cap::soft_cap;
use crate::device;

/// Number added to the scores of hidden positions; its exponential is 0, and unlike minus infinity it cannot turn into
/// NaN on a device that subtracts it from itself.
const HIDDEN: f32 = -1e9;

/// Queries of a document that the pass on a CPU computes at once: enough rows for a product to run at full speed, few enough for
/// the scores to stay in a core's cache.
pub const QUERIES_AT_ONCE: usize = 64;

/// Keys that a query sees, and the treatment of their scores.
#[derive(Debug, Clone)]
pub struct Sight {
    /// Positions before the first query; key `s` is at position `s`.
    pub num_past: usize,
    /// Positions that a query sees, its own included as the last; at least 1.
    pub window: usize,
    /// Factor of the products of query and key.
    pub scale: f32,
    /// Bound of the scores, if they have one.
    pub soft_cap: Option<f32>,
    /// Positions of the documents of each row, which fill it; a query sees nothing of another document. None if each row
    /// is one document, the only case in which there are positions before the first query.
    pub documents: Option<Arc<[Vec<Range<usize>>]>>,
}

impl Sight {
    /// Keys that a query sees: its own position and at most `window − 1` before it, of its document, which begins at the
    /// key `first`.
    fn seen_by(&self, query: usize, first: usize) -> Range<usize> {
        let end = self.num_past + query + 1;
        end.saturating_sub(self.window).max(first)..end
    }

    /// Range from the first to the last key that any query of a range sees.
    #[cfg(feature = "flex")]
    fn seen_by_any(&self, queries: &Range<usize>, first: usize) -> Range<usize> {
        self.seen_by(queries.start, first).start..self.seen_by(queries.end - 1, first).end
    }

    /// Queries of each document of a row.
    fn documents_of(&self, row: usize, num_queries: usize) -> Vec<Range<usize>> {
        match &self.documents {
            Some(rows) => rows[row].clone(),
            None => iter::once(0..num_queries).collect(),
        }
    }

    /// Mask that [`attention`] needs on a device without a kernel for it, `[1, 1, T, S]`, or `[B, 1, T, S]` if rows have
    /// documents: 0 where a query sees a key, else a number whose exponential is 0. It is as large as the scores of one
    /// head, so it is made once for all layers, and only there.
    pub fn mask(&self, num_queries: usize, device: &Device) -> Option<Tensor<4>> {
        (!device::is_host(device)).then(|| self.mask_on(num_queries, device))
    }

    fn mask_on(&self, num_queries: usize, device: &Device) -> Tensor<4> {
        let num_keys = self.num_past + num_queries;
        let num_rows = self.documents.as_ref().map_or(1, |rows| rows.len());
        let mut mask = vec![HIDDEN; num_rows * num_queries * num_keys];
        let documents = (0..num_rows).flat_map(|row| self.documents_of(row, num_queries));
        let queries = documents.flat_map(|document| {
            let first = document.start;
            document.map(move |query| (query, first))
        });
        for ((query, first), keys) in queries.zip(mask.chunks_exact_mut(num_keys)) {
            keys[self.seen_by(query, first)].fill(0.0);
        }
        let shape = [num_rows, 1, num_queries, num_keys];
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
        None => flex::attention(queries, keys, values, sight.clone()),
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
    let [_, _, stacked, num_keys] = scores.dims();
    let scores = scores.reshape([batch, heads, seq, num_keys]) + mask.clone(); // [B, N, T, S]
    let probs = softmax(scores, 3).reshape([batch, kv_heads, stacked, num_keys]);
    let mixed = probs.matmul(values); // [B, KV, G·T, H]
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

    fn sight(num_past: usize, window: usize, soft_cap: Option<f32>) -> Sight {
        Sight {
            num_past,
            window,
            scale: 0.4,
            soft_cap,
            documents: None,
        }
    }

    /// Two rows whose documents begin at these positions.
    fn documents(seq: usize, starts: [&[usize]; 2]) -> Arc<[Vec<Range<usize>>]> {
        let row = |starts: &[usize]| {
            let ends = starts.iter().skip(1).copied().chain([seq]);
            let places = starts.iter().zip(ends);
            places.map(|(&start, end)| start..end).collect()
        };
        starts.map(row).into()
    }

    fn compare_twins(num_heads: usize, kv_heads: usize, seq: usize, sight: &Sight) {
        let mask = sight.mask_on(seq, &Device::flex());
        for scale in [1.0, 10.0] {
            compare(
                &format!("{num_heads} heads on {kv_heads}, {seq} queries times {scale}, {sight:?}"),
                scale, // scores are sums of products of this size
                heads(num_heads, kv_heads, seq, sight, scale),
                |inputs| {
                    let [q, k, v] = [0, 1, 2].map(|at| inputs[at].clone());
                    flex::attention(q, k, v, sight.clone())
                },
                |inputs| {
                    let [q, k, v] = [0, 1, 2].map(|at| inputs[at].clone());
                    chain(q, k, v, sight, &mask)
                },
            );
        }
    }

    #[test]
    fn attention_equals_its_twin_in_value_and_slopes() {
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
            compare_twins(num_heads, kv_heads, seq, &sight);
        }
    }

    #[test]
    fn attention_inside_documents_equals_its_twin_in_value_and_slopes() {
        for (num_heads, kv_heads, seq, window, soft_cap, starts) in [
            (1, 1, 2, 2, None, [&[0, 1][..], &[0]]), // documents of one token
            (4, 2, 65, 65, None, [&[0, 64], &[0, 1, 2, 3]]),
            (6, 2, 150, 9, None, [&[0, 5, 80, 149], &[0, 130]]), // longer than a strip and the window
            (2, 2, 130, 130, Some(1.5), [&[0], &[0, 64, 65, 129]]),
            (3, 1, 70, 20, Some(3.0), [&[0, 69], &[0, 10, 31]]),
        ] {
            let sight = Sight {
                documents: Some(documents(seq, starts)),
                ..sight(0, window, soft_cap)
            };
            compare_twins(num_heads, kv_heads, seq, &sight);
        }
    }

    #[test]
    fn a_document_in_a_row_is_mixed_to_the_bits_of_the_document_alone() {
        let (seq, starts) = (200, [0, 70, 71, 199]);
        for (window, soft_cap) in [(200, None), (33, Some(1.5))] {
            let packed = Sight {
                documents: Some(documents(seq, [&starts, &[0]])),
                ..sight(0, window, soft_cap)
            };
            let whole = heads(4, 2, seq, &packed, 1.0);
            let mix = |inputs: Vec<Tensor<4>>, sight: &Sight| {
                let [q, k, v] = [0, 1, 2].map(|at| inputs[at].clone());
                flex::attention(q, k, v, sight.clone())
            };
            let together = mix(whole.clone(), &packed);
            let alone = |row: usize, place: Range<usize>| {
                let part = |x: &Tensor<4>| {
                    let x = x.clone().narrow(0, row, 1);
                    x.narrow(2, place.start, place.len())
                };
                let inputs = whole.iter().map(part).collect();
                floats(mix(inputs, &sight(0, window, soft_cap)))
            };
            for (row, places) in documents(seq, [&starts, &[0]]).iter().enumerate() {
                for place in places {
                    let got = together.clone().narrow(0, row, 1);
                    let got = floats(got.narrow(1, place.start, place.len()));
                    assert_eq!(got, alone(row, place.clone()), "row {row}, {place:?}");
                }
            }
        }
    }

    /// Probabilities of four queries whose scores are all equal, as both forms compute them.
    fn probs(sight: &Sight) -> Vec<f32> {
        let device = Device::flex();
        let zeros = Tensor::zeros([1, 1, 4, 4], &device);
        let unit = Tensor::<2>::eye(4, &device).reshape([1, 1, 4, 4]); // the result is the probabilities
        let mask = sight.mask_on(4, &device);
        let plain = chain(zeros.clone(), zeros.clone(), unit.clone(), sight, &mask);
        let probs = floats(flex::attention(zeros.clone(), zeros, unit, sight.clone()));
        assert_eq!(probs, floats(plain));
        probs
    }

    #[test]
    fn a_query_takes_nothing_from_keys_outside_its_window_and_shares_out_one() {
        let probs = probs(&sight(0, 2, None));
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
    fn a_query_takes_nothing_from_keys_of_other_documents_and_shares_out_one() {
        let sight = Sight {
            documents: Some([vec![0..1, 1..4]].into()),
            ..sight(0, 2, None)
        };
        #[rustfmt::skip]
        let want = [
            1.0, 0.0, 0.0, 0.0,
            0.0, 1.0, 0.0, 0.0,
            0.0, 0.5, 0.5, 0.0,
            0.0, 0.0, 0.5, 0.5,
        ];
        assert_eq!(probs(&sight), want);
    }
}
