//! The kernels: rows of f32 in, rows of f32 out, on all cores and the widest vectors.
//!
//! Rows do not depend on each other, and where they are summed up the order is fixed: neither the number of cores nor the
//! width of the vectors moves a bit.

use rayon::prelude::*;

use crate::vector::{dot, sigmoid, vectorized};

/// Numbers given to a core at a time: enough that handing them out costs nothing, few enough for its own cache.
const TASK: usize = 1 << 15;

/// Rows whose contributions to the gradient of a gain are added up before they join the total.
const ROWS_PER_SUM: usize = 64;

/// `gate ← gate · σ(gate) · up`.
pub(super) fn swiglu(gate: &mut [f32], up: &[f32]) {
    gate.par_chunks_mut(TASK)
        .zip(up.par_chunks(TASK))
        .for_each(|(gate, up)| {
            vectorized(|| {
                for (gate, up) in gate.iter_mut().zip(up) {
                    *gate = *gate * sigmoid(*gate) * up;
                }
            });
        });
}

/// Replaces `gate` and `up` by the slopes with respect to them, given the slope of what [`swiglu`] returned.
///
/// ```text
/// d up = slope · gate σ        d gate = slope · up · σ (1 + gate (1 − σ))
/// ```
pub(super) fn swiglu_slopes(gate: &mut [f32], up: &mut [f32], slope: &[f32]) {
    gate.par_chunks_mut(TASK)
        .zip(up.par_chunks_mut(TASK))
        .zip(slope.par_chunks(TASK))
        .for_each(|((gate, up), slope)| {
            vectorized(|| {
                for ((gate, up), slope) in gate.iter_mut().zip(up).zip(slope) {
                    let sigma = sigmoid(*gate);
                    let bend = sigma * (1.0 + *gate * (1.0 - sigma));
                    let to_up = slope * *gate * sigma;
                    *gate = slope * *up * bend;
                    *up = to_up;
                }
            });
        });
}

/// Rows of `x` divided by the root of their mean square, times `gain`; a row is as long as `gain`.
pub(super) fn rms_norm(x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
    let size = gain.len();
    let mut normed = vec![0.0; x.len()];
    let task = rows_per_task(size) * size;
    normed
        .par_chunks_mut(task)
        .zip(x.par_chunks(task))
        .for_each(|(normed, x)| {
            vectorized(|| {
                for (normed, x) in normed.chunks_exact_mut(size).zip(x.chunks_exact(size)) {
                    let scale = (dot(x, x) / size as f32 + eps).sqrt().recip();
                    for ((normed, x), gain) in normed.iter_mut().zip(x).zip(gain) {
                        *normed = x * scale * gain;
                    }
                }
            });
        });
    normed
}

/// Replaces `slope`, that of what [`rms_norm`] returned, by the slope with respect to `x`; returns that of `gain`.
///
/// ```text
/// r = 1 / √(mean(x²) + eps)        d x = r (slope · gain − x r² mean(slope · gain · x))        d gain = Σ_rows slope · x r
/// ```
pub(super) fn rms_norm_slopes(x: &[f32], gain: &[f32], eps: f32, slope: &mut [f32]) -> Vec<f32> {
    let size = gain.len();
    let block = ROWS_PER_SUM * size;
    let of_blocks: Vec<Vec<f32>> = slope
        .par_chunks_mut(block)
        .zip(x.par_chunks(block))
        .map(|(slope, x)| {
            let mut to_gain = vec![0.0; size];
            vectorized(|| {
                for (slope, x) in slope.chunks_exact_mut(size).zip(x.chunks_exact(size)) {
                    rms_norm_row_slopes(x, gain, eps, slope, &mut to_gain);
                }
            });
            to_gain
        })
        .collect();
    let mut total = vec![0.0; size];
    for to_gain in of_blocks {
        total
            .iter_mut()
            .zip(to_gain)
            .for_each(|(total, part)| *total += part);
    }
    total
}

#[expect(
    clippy::inline_always,
    reason = "compiled for a vector width only where it is inlined"
)]
#[inline(always)]
fn rms_norm_row_slopes(x: &[f32], gain: &[f32], eps: f32, slope: &mut [f32], to_gain: &mut [f32]) {
    let size = gain.len() as f32;
    let scale = (dot(x, x) / size + eps).sqrt().recip();
    for (((slope, x), gain), to_gain) in slope.iter_mut().zip(x).zip(gain).zip(to_gain) {
        *to_gain += *slope * x * scale;
        *slope *= gain;
    }
    let pull = scale * scale * dot(slope, x) / size;
    for (slope, x) in slope.iter_mut().zip(x) {
        *slope = scale * (*slope - x * pull);
    }
}

/// Places and steps of a `[B, N, T, H]` view whose rows of `H` numbers lie together.
pub(super) struct HeadRows {
    /// Place of the first number.
    pub(super) start: usize,
    /// Steps from one batch row, head and position to the next.
    pub(super) strides: [usize; 3],
    /// B, N, T and H.
    pub(super) shape: [usize; 4],
}

/// Turns every pair `(j, j + H/2)` of each row by its position's angle; returns `[B, N, T, H]` row-major.
///
/// `cos` and `sin` are `[T, H/2]`; with `-sin` it is the slope of the turn.
pub(super) fn rotate(x: &[f32], rows: &HeadRows, cos: &[f32], sin: &[f32], sign: f32) -> Vec<f32> {
    let [batch, heads, seq, head_dim] = rows.shape;
    let half = head_dim / 2;
    let mut turned = vec![0.0; batch * heads * seq * head_dim];
    turned
        .par_chunks_mut(seq * head_dim)
        .enumerate()
        .for_each(|(idx, turned)| {
            let start = rows.start + idx / heads * rows.strides[0] + idx % heads * rows.strides[1];
            vectorized(|| {
                for (position, turned) in turned.chunks_exact_mut(head_dim).enumerate() {
                    let x = &x[start + position * rows.strides[2]..][..head_dim];
                    let (first, second) = x.split_at(half);
                    let (turned_first, turned_second) = turned.split_at_mut(half);
                    let angles = position * half..(position + 1) * half;
                    let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
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

fn rows_per_task(width: usize) -> usize {
    (TASK / width).max(1)
}
