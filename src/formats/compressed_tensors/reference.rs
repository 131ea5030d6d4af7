//! Rounding to nearest of a bfloat16 model as in llm-compressor and compressed-tensors, in plain arithmetic: every
//! operation is rounded to bfloat16, and a scale need not fit float16.

use half::bf16;

use crate::kernels::grid::{Grid, Levels};
use crate::model::OnGrid;

/// Codes and scales that the reference gives a weight.
pub(super) fn quantize(grid: Grid, weight: &[f32], cols: usize) -> OnGrid {
    let (mut codes, mut scales, mut zeros) = (Vec::new(), Vec::new(), Vec::new());
    for group in weight.chunks(grid.group_size.unwrap_or(cols)) {
        let (scale, zero) = scale_and_zero(grid.levels, group);
        scales.push(scale);
        zeros.push(zero);
        let weights = group.iter();
        codes.extend(weights.map(|weight| code(grid.levels, round(weight / scale), zero)));
    }
    OnGrid::new(codes, scales, grid.levels.has_zeros().then_some(zeros))
}

fn scale_and_zero(levels: Levels, group: &[f32]) -> (f32, f32) {
    let [lowest, highest] = limits(levels);
    let least = group.iter().copied().fold(0.0, f32::min);
    let most = group.iter().copied().fold(0.0, f32::max);
    if !levels.has_zeros() {
        return (round(most.max(-least) / ((highest - lowest) / 2.0)), 0.0);
    }
    let scale = round(round(most - least) / (highest - lowest));
    let zero = round(lowest - round(least / scale));
    (scale, zero.clamp(lowest, highest).round_ties_even())
}

fn code(levels: Levels, quotient: f32, zero: f32) -> f32 {
    let [lowest, highest] = limits(levels);
    let quotient = round(quotient + zero).clamp(lowest, highest);
    if levels != Levels::Fp8 {
        return quotient.round_ties_even();
    }
    let step = (quotient.abs().log2().floor().max(-6.0) - 3.0).exp2();
    (quotient / step).round_ties_even() * step
}

#[expect(clippy::cast_possible_truncation, reason = "small whole numbers")]
fn limits(levels: Levels) -> [f32; 2] {
    levels.limits().map(|limit| limit as f32)
}

fn round(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}
