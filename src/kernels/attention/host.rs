//! Attention, strip by strip: the scores of a few queries with all keys that they see, and never those of all queries.
//!
//! The backward pass computes each strip again instead of keeping it, as FlashAttention does (Dao et al. 2022, arXiv
//! 2205.14135); but a strip holds whole rows of scores, so each softmax is computed at once. Memory grows with the
//! length of the text, not with its square. Keys that a causal mask or a window hides from a whole strip cost nothing, nor do
//! those of other documents: no strip is of two, so that a row costs as much as its documents alone.

use std::ops::Range;

use rayon::prelude::*;

use super::{QUERIES_AT_ONCE, Sight};
use crate::kernels::product::host::{Matrix, MatrixMut};
use crate::kernels::views::HeadRows;
use crate::vector::{dot, exp_in_place, max, vectorized};

/// Queries, keys or values in place.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Heads<'a> {
    pub(in crate::kernels) values: &'a [f32],
    pub(in crate::kernels) rows: &'a HeadRows,
}

impl<'a> Heads<'a> {
    /// Some positions of one head, `[positions, H]`.
    fn matrix(&self, batch_row: usize, head: usize, positions: Range<usize>) -> Matrix<'a> {
        let [batch_step, head_step, step] = self.rows.strides;
        let [_, _, _, head_dim] = self.rows.shape;
        let start =
            self.rows.start + batch_row * batch_step + head * head_step + positions.start * step;
        Matrix::new(
            &self.values[start..],
            [positions.len(), head_dim],
            [step, 1],
        )
    }
}

/// Inputs of attention, each `[B, N or KV, T or S, H]`.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct AttentionInputs<'a> {
    pub(in crate::kernels) queries: Heads<'a>,
    pub(in crate::kernels) keys: Heads<'a>,
    pub(in crate::kernels) values: Heads<'a>,
    pub(in crate::kernels) sight: &'a Sight,
}

/// Slopes with respect to queries, keys and values, each row-major.
pub(in crate::kernels) struct Slopes {
    pub(in crate::kernels) queries: Vec<f32>,
    pub(in crate::kernels) keys: Vec<f32>,
    pub(in crate::kernels) values: Vec<f32>,
}

/// Some queries of a document, with the keys that any of them sees.
struct Strip {
    batch_row: usize,
    queries: Range<usize>,
    keys: Range<usize>,
}

/// Scores of a strip and the numbers computed from them; all strips of a task reuse the same memory.
#[derive(Default)]
struct Scores {
    /// Probabilities, `[queries, keys]`.
    probs: Vec<f32>,
    /// Slopes of the probabilities, then of the scores.
    slopes: Vec<f32>,
    /// Slopes of the soft-cap, if there is one.
    bends: Vec<f32>,
}

/// Mixed values, `[B, T, N·H]`.
pub(in crate::kernels) fn attention(inputs: &AttentionInputs<'_>) -> Vec<f32> {
    let [batch, heads, seq, head_dim] = inputs.queries.rows.shape;
    let width = heads * head_dim;
    let mut mixed = vec![0.0; batch * seq * width];
    let mut tasks = Vec::new();
    let mut rest = mixed.as_mut_slice();
    for strip in (0..batch).flat_map(|batch_row| inputs.strips(batch_row)) {
        let (mixed, after) = rest.split_at_mut(strip.queries.len() * width);
        tasks.push((strip, mixed));
        rest = after;
    }
    let tasks = tasks.into_par_iter();
    tasks.for_each_init(Scores::default, |scores, (strip, mixed)| {
        for head in 0..heads {
            inputs.probs(scores, &strip, head);
            let probs = Matrix::of_rows(&scores.probs, strip.keys.len());
            let mixed = MatrixMut::new(&mut mixed[head * head_dim..], width);
            mixed.set(1.0, probs, inputs.values_of(&strip, head));
        }
    });
    mixed
}

/// Slopes of [`attention`]'s inputs, given the slopes of its result, a `[B, N, T, H]` view.
///
/// ```text
/// P = softmax(scores)     d values = Pᵀ slope     d P = slope valuesᵀ     d scores = P (d P − Σ P d P)
/// d queries = scale · d scores · keys             d keys = scale · d scoresᵀ · queries
/// ```
pub(in crate::kernels) fn attention_slopes(
    inputs: &AttentionInputs<'_>,
    slope: Heads<'_>,
) -> Slopes {
    let [batch, heads, seq, head_dim] = inputs.queries.rows.shape;
    let [_, kv_heads, seen, _] = inputs.keys.rows.shape;
    let groups = heads / kv_heads;
    let (of_queries, of_keys) = (seq * head_dim, seen * head_dim);
    let mut slopes = Slopes {
        queries: vec![0.0; batch * heads * of_queries],
        keys: vec![0.0; batch * kv_heads * of_keys],
        values: vec![0.0; batch * kv_heads * of_keys],
    };
    // One task for each key/value head: the contributions of its queries are added in their order.
    slopes
        .queries
        .par_chunks_mut(groups * of_queries)
        .zip(slopes.keys.par_chunks_mut(of_keys))
        .zip(slopes.values.par_chunks_mut(of_keys))
        .enumerate()
        .for_each_init(Scores::default, |scores, (idx, ((to_q, to_k), to_v))| {
            let (batch_row, kv_head) = (idx / kv_heads, idx % kv_heads);
            let strips = inputs.strips(batch_row);
            for (group, to_q) in to_q.chunks_mut(of_queries).enumerate() {
                let head = kv_head * groups + group;
                for strip in &strips {
                    let slope = slope.matrix(batch_row, head, strip.queries.clone());
                    inputs.score_slopes(scores, strip, head, slope);
                    let probs = Matrix::of_rows(&scores.probs, strip.keys.len());
                    let to_scores = Matrix::of_rows(&scores.slopes, strip.keys.len());
                    let (scale, before) = (inputs.sight.scale, strip.keys.start * head_dim);
                    let to_v = MatrixMut::new(&mut to_v[before..], head_dim);
                    to_v.add(1.0, probs.transpose(), slope);
                    let to_k = MatrixMut::new(&mut to_k[before..], head_dim);
                    to_k.add(scale, to_scores.transpose(), inputs.queries_of(strip, head));
                    let before = strip.queries.start * head_dim;
                    let to_q = MatrixMut::new(&mut to_q[before..], head_dim);
                    to_q.set(scale, to_scores, inputs.keys_of(strip, head));
                }
            }
        });
    slopes
}

impl AttentionInputs<'_> {
    /// Strips of a row, in the order of their queries.
    fn strips(&self, batch_row: usize) -> Vec<Strip> {
        let [_, _, seq, _] = self.queries.rows.shape;
        let mut strips = Vec::new();
        for document in self.sight.documents_of(batch_row, seq) {
            for start in document.clone().step_by(QUERIES_AT_ONCE) {
                let queries = start..document.end.min(start + QUERIES_AT_ONCE);
                strips.push(Strip {
                    batch_row,
                    keys: self.sight.seen_by_any(&queries, document.start),
                    queries,
                });
            }
        }
        strips
    }

    fn queries_of(&self, strip: &Strip, head: usize) -> Matrix<'_> {
        self.queries
            .matrix(strip.batch_row, head, strip.queries.clone())
    }

    fn keys_of(&self, strip: &Strip, head: usize) -> Matrix<'_> {
        self.keys
            .matrix(strip.batch_row, self.kv_head(head), strip.keys.clone())
    }

    fn values_of(&self, strip: &Strip, head: usize) -> Matrix<'_> {
        self.values
            .matrix(strip.batch_row, self.kv_head(head), strip.keys.clone())
    }

    /// The head of keys and values that a head of queries reads.
    fn kv_head(&self, head: usize) -> usize {
        let [_, heads, _, _] = self.queries.rows.shape;
        let [_, kv_heads, _, _] = self.keys.rows.shape;
        head / (heads / kv_heads)
    }

    /// Fills `probs`, and `bends` if scores are capped.
    fn probs(&self, scores: &mut Scores, strip: &Strip, head: usize) {
        let Scores { probs, bends, .. } = scores;
        let Strip { queries, keys, .. } = strip;
        let width = keys.len();
        probs.resize(queries.len() * width, 0.0);
        let (queries_of, keys_of) = (self.queries_of(strip, head), self.keys_of(strip, head));
        MatrixMut::new(probs, width).set(self.sight.scale, queries_of, keys_of.transpose());
        if let Some(cap) = self.sight.soft_cap {
            bends.clear();
            for score in probs.iter_mut() {
                let bent = (*score / cap).tanh();
                *score = cap * bent;
                bends.push(1.0 - bent * bent);
            }
        }
        vectorized(|| {
            for (query, row) in queries.clone().zip(probs.chunks_exact_mut(width)) {
                let seen = self.sight.seen_by(query, keys.start); // nobody of the strip sees more
                let seen = seen.start - keys.start..seen.end - keys.start;
                row[..seen.start].fill(0.0);
                row[seen.end..].fill(0.0);
                let row = &mut row[seen];
                let largest = max(row);
                let inverse = exp_in_place(row, largest, 1.0).recip();
                for prob in row {
                    *prob *= inverse;
                }
            }
        });
    }

    /// Fills `probs`, and `slopes` with the slopes of the scaled scores.
    fn score_slopes(&self, scores: &mut Scores, strip: &Strip, head: usize, slope: Matrix<'_>) {
        self.probs(scores, strip, head);
        let Scores {
            probs,
            slopes,
            bends,
        } = scores;
        let width = strip.keys.len();
        slopes.resize(probs.len(), 0.0);
        MatrixMut::new(slopes, width).set(1.0, slope, self.values_of(strip, head).transpose());
        vectorized(|| {
            let rows = slopes
                .chunks_exact_mut(width)
                .zip(probs.chunks_exact(width));
            for (slopes, probs) in rows {
                let mean = dot(probs, slopes);
                for (slope, prob) in slopes.iter_mut().zip(probs) {
                    *slope = prob * (*slope - mean);
                }
            }
        });
        if self.sight.soft_cap.is_some() {
            for (slope, bend) in slopes.iter_mut().zip(bends) {
                *slope *= *bend;
            }
        }
    }
}
