//! Operands of bf16 products, and the order in which the kernels read them.

use rayon::current_num_threads;
use rayon::prelude::*;

use super::super::host::Matrix;
use super::transpose::{Pairs, transpose};
use super::{DEPTH, PANEL, Sums};
use crate::vector::vectorized;

/// Rows of a tile.
const TILE_ROWS: usize = 16;

/// Rows that are packed together: tile beside tile, so that a transposed matrix is read in runs of a few lines.
const STRIP_ROWS: usize = 4 * TILE_ROWS;

/// Inner numbers of a tile.
const TILE_DEPTH: usize = 32;

/// A few rows of an operand.
pub(in crate::kernels) type Tile = [[u16; TILE_DEPTH]; TILE_ROWS];

/// Numbers from which packing pays on several cores.
const SHARED: usize = 1 << 16;

/// A matrix that a product reads, tile by tile. The right one is read as its transpose, so rows are always those along which
/// the product sums.
pub(in crate::kernels) trait Operand: Sync {
    /// Rows, and inner numbers of each.
    fn shape(&self) -> [usize; 2];

    /// Writes 16 rows of 32 inner numbers in bf16, from a place on; what lies beyond the matrix stays as it is.
    fn fill(&self, row: usize, inner: usize, tile: &mut Tile);
}

/// A left operand: for each block of inner numbers, its rows.
pub(in crate::kernels) struct PackedLeft {
    numbers: Vec<u16>,
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) sums: Sums,
}

/// A right operand: for each block of inner numbers and each panel of columns, pair after pair, those of all columns.
#[derive(Debug)]
pub(in crate::kernels) struct PackedRight {
    numbers: Vec<u16>,
    /// Columns of the product.
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) sums: Sums,
}

impl PackedLeft {
    pub(in crate::kernels) fn of(operand: &impl Operand, sums: Sums) -> Self {
        let [rows, inner] = operand.shape();
        let all_rows = rows.next_multiple_of(sums.row_unit());
        let mut numbers = vec![0; all_rows * whole_depth(inner, sums)];
        let mut parts = Vec::new();
        for (start, block) in (0..inner)
            .step_by(DEPTH)
            .zip(numbers.chunks_mut((all_rows * DEPTH).max(1)))
        {
            let depth = sums.padded_depth(DEPTH.min(inner - start));
            let of_rows = block.chunks_mut(STRIP_ROWS * depth);
            parts.extend(
                of_rows
                    .zip((0..).step_by(STRIP_ROWS))
                    .map(|(part, row)| (row, start, depth, part)),
            );
        }
        for_each(parts, rows * inner, |(row, start, depth, part)| {
            vectorized(
                #[inline(always)]
                || pack_rows(operand, [row, start], depth, part),
            );
        });
        Self {
            numbers,
            rows,
            inner,
            sums,
        }
    }

    pub(super) fn num_blocks(&self) -> usize {
        self.inner.div_ceil(DEPTH)
    }

    /// A block's numbers from a row on, and its depth.
    pub(super) fn rows_from(&self, block: usize, row: usize) -> (&[u16], usize) {
        let all_rows = self.rows.next_multiple_of(self.sums.row_unit());
        let depth = self
            .sums
            .padded_depth(DEPTH.min(self.inner - block * DEPTH));
        let start = all_rows * DEPTH * block;
        (
            &self.numbers[start + row * depth..start + all_rows * depth],
            depth,
        )
    }
}

impl PackedRight {
    pub(in crate::kernels) fn of(operand: &impl Operand, sums: Sums) -> Self {
        let [rows, inner] = operand.shape();
        let all_rows = rows.next_multiple_of(PANEL);
        let mut numbers = vec![0; all_rows * whole_depth(inner, sums)];
        let mut parts = Vec::new();
        for (start, block) in (0..inner)
            .step_by(DEPTH)
            .zip(numbers.chunks_mut((all_rows * DEPTH).max(1)))
        {
            let depth = sums.padded_depth(DEPTH.min(inner - start));
            let panels = block.chunks_mut(PANEL * depth);
            parts.extend(
                panels
                    .zip((0..).step_by(PANEL))
                    .map(|(panel, row)| (row, start, depth, panel)),
            );
        }
        for_each(parts, rows * inner, |(row, start, depth, panel)| {
            vectorized(
                #[inline(always)]
                || pack_panel(operand, [row, start], depth, panel),
            );
        });
        Self {
            numbers,
            rows,
            inner,
            sums,
        }
    }

    /// Columns of the product.
    pub(in crate::kernels) fn num_columns(&self) -> usize {
        self.rows
    }

    /// The numbers of a panel of a block.
    pub(super) fn panel(&self, block: usize, panel: usize) -> &[u16] {
        let depth = self
            .sums
            .padded_depth(DEPTH.min(self.inner - block * DEPTH));
        let all_rows = self.rows.next_multiple_of(PANEL);
        let start = all_rows * DEPTH * block + panel * PANEL * depth;
        &self.numbers[start..start + PANEL * depth]
    }
}

/// Depth of all blocks together.
fn whole_depth(inner: usize, sums: Sums) -> usize {
    inner / DEPTH * DEPTH + sums.padded_depth(inner % DEPTH)
}

fn for_each<T: Send>(parts: Vec<T>, num_numbers: usize, pack: impl Fn(T) + Sync + Send) {
    if num_numbers >= SHARED && current_num_threads() > 1 {
        parts.into_par_iter().for_each(pack);
    } else {
        parts.into_iter().for_each(pack);
    }
}

/// Packs some rows of a block of a left operand.
#[inline(always)]
fn pack_rows(operand: &impl Operand, [row, start]: [usize; 2], depth: usize, to: &mut [u16]) {
    for at in (0..depth).step_by(TILE_DEPTH) {
        for (rows, row) in to
            .chunks_mut(TILE_ROWS * depth)
            .zip((row..).step_by(TILE_ROWS))
        {
            let tile = filled(operand, row, start + at);
            for (numbers, tile) in rows.chunks_exact_mut(depth).zip(&tile) {
                match numbers[at..].first_chunk_mut::<TILE_DEPTH>() {
                    Some(numbers) => *numbers = *tile,
                    None => numbers[at..].copy_from_slice(&tile[..depth - at]),
                }
            }
        }
    }
}

/// Packs a panel of a block of a right operand.
#[inline(always)]
fn pack_panel(operand: &impl Operand, [row, start]: [usize; 2], depth: usize, to: &mut [u16]) {
    let (to, _) = to.as_chunks_mut::<{ 2 * PANEL }>();
    for at in (0..depth).step_by(TILE_DEPTH) {
        for half in [0, TILE_ROWS] {
            let tile = transposed(&filled(operand, row + half, start + at));
            for (numbers, tile) in to[at / 2..].iter_mut().zip(&tile) {
                numbers[2 * half..2 * half + TILE_DEPTH].copy_from_slice(tile);
            }
        }
    }
}

#[inline(always)]
fn filled(operand: &impl Operand, row: usize, inner: usize) -> Tile {
    let mut tile = [[0; TILE_DEPTH]; TILE_ROWS];
    operand.fill(row, inner, &mut tile);
    tile
}

/// The pairs of a tile with rows and columns exchanged: for each pair of inner numbers, that of every row.
#[inline(always)]
fn transposed(tile: &Tile) -> Tile {
    let mut pairs: Pairs = bytemuck::cast(*tile);
    transpose(&mut pairs);
    bytemuck::cast(pairs)
}

impl Operand for Matrix<'_> {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    #[inline(always)]
    fn fill(&self, row: usize, inner: usize, tile: &mut Tile) {
        let [rows, depth] = self.shape;
        let (rows, depth) = (
            rows.saturating_sub(row).min(TILE_ROWS),
            depth.saturating_sub(inner).min(TILE_DEPTH),
        );
        if rows == 0 || depth == 0 {
            return;
        }
        let [row_step, inner_step] = self.steps;
        let values = &self.values[row * row_step + inner * inner_step..];
        if inner_step == 1 && depth == TILE_DEPTH {
            for (row, tile) in tile.iter_mut().take(rows).enumerate() {
                let values = &values[row * row_step..][..TILE_DEPTH];
                for (to, value) in tile.iter_mut().zip(values) {
                    *to = rounded(*value);
                }
            }
        } else if row_step == 1 && rows == TILE_ROWS && depth == TILE_DEPTH {
            let mut pairs: Pairs = [[0; TILE_ROWS]; TILE_DEPTH / 2];
            for (pair, pairs) in pairs.iter_mut().enumerate() {
                let first = &values[2 * pair * inner_step..][..TILE_ROWS];
                let second = &values[(2 * pair + 1) * inner_step..][..TILE_ROWS];
                for (to, (first, second)) in pairs.iter_mut().zip(first.iter().zip(second)) {
                    *to = u32::from(rounded(*first)) | u32::from(rounded(*second)) << 16;
                }
            }
            transpose(&mut pairs);
            *tile = bytemuck::cast(pairs);
        } else {
            for (row, tile) in tile.iter_mut().take(rows).enumerate() {
                for (at, to) in tile.iter_mut().take(depth).enumerate() {
                    *to = rounded(values[row * row_step + at * inner_step]);
                }
            }
        }
    }
}

/// The nearest bf16 number, the even one of two; its bits. NaN stays NaN.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "16 bits are left")]
fn rounded(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let nearest = if x.is_nan() {
        bits >> 16 | 0x40
    } else {
        nearest
    };
    nearest as u16
}
