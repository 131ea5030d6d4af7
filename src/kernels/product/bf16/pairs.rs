//! Sums of pairs, as the instruction `vdpbf16ps` computes them, and the same in plain code.
//!
//! Each number of the result is one chain: pair after pair of inner numbers, first the second product of the pair is
//! added, then the first, each fused and rounded once to the nearest. Subnormal numbers, read or made, are zeros of their
//! sign (Intel 64 and IA-32 Architectures Software Developer's Manual, VDPBF16PS; processors of AMD do the same).

use super::{Block, PANEL, Target};
use crate::vector::vectorized;

/// Rows of the result that are kept in registers: two for each hold sums, and 24 of 32 are those.
pub(super) const ROWS: usize = 12;

/// True if the processor has the instruction.
pub(super) fn is_there() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Computes a block with the instruction.
///
/// # Safety
///
/// The processor has the instruction, and the target's place belongs to the caller.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the instruction is not on every processor")]
pub(super) unsafe fn multiply(block: Block<'_>, target: Target) {
    assert!(block.num_rows * block.depth <= block.left.len());
    assert!(block.depth * PANEL <= block.right.len() && block.depth.is_multiple_of(2));
    macro_rules! of_rows {
        ($($rows:literal)*) => {
            match block.num_rows {
                // SAFETY: as above; the lengths are asserted.
                $($rows => unsafe { multiply_rows::<$rows>(block, target) },)*
                rows => unreachable!("{rows} rows at once"),
            }
        };
    }
    of_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// # Safety
///
/// The processor has the instruction, both operands have the block's numbers, and the target's place belongs to the caller.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
#[expect(
    unsafe_code,
    reason = "it reads and writes through pointers, for speed"
)]
unsafe fn multiply_rows<const R: usize>(block: Block<'_>, target: Target) {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps,
        _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps,
    };
    use std::mem::transmute;

    /// Rows that one pointer reaches, so that few registers hold addresses.
    const GROUP: usize = 3;

    let lanes = |from: usize| u16::MAX >> (16 - target.num_columns.saturating_sub(from).min(16));
    let masks = [
        lanes(0),
        if target.num_columns > 16 {
            lanes(16)
        } else {
            0
        },
    ];
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    // SAFETY: the masks hide what is beyond the target's columns; pointers walk over `R` rows of `depth` numbers and over
    // `depth` times a panel, as the caller promises.
    unsafe {
        if target.adds {
            for (row, sums) in sums.iter_mut().enumerate() {
                let from = target.start.wrapping_add(row * target.row_step);
                sums[0] = _mm512_maskz_loadu_ps(masks[0], from);
                sums[1] = _mm512_maskz_loadu_ps(masks[1], from.wrapping_add(16));
            }
        }
        let bf16 = |bits: __m512i| transmute::<__m512i, __m512bh>(bits);
        let mut left: [*const u16; ROWS / GROUP] = std::array::from_fn(|group| {
            let rows = group * GROUP * block.depth;
            block.left.as_ptr().wrapping_add(rows)
        });
        let mut right = block.right.as_ptr();
        for _ in 0..block.depth / 2 {
            let columns = [0, PANEL].map(|at| bf16(_mm512_loadu_si512(right.add(at).cast())));
            for (row, sums) in sums.iter_mut().enumerate() {
                let pair = left[row / GROUP].add(row % GROUP * block.depth);
                let pair = bf16(_mm512_set1_epi32(pair.cast::<i32>().read_unaligned()));
                sums[0] = _mm512_dpbf16_ps(sums[0], pair, columns[0]);
                sums[1] = _mm512_dpbf16_ps(sums[1], pair, columns[1]);
            }
            right = right.add(2 * PANEL);
            for left in &mut left {
                *left = left.wrapping_add(2);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let to = target.start.wrapping_add(row * target.row_step);
            _mm512_mask_storeu_ps(to, masks[0], sums[0]);
            _mm512_mask_storeu_ps(to.wrapping_add(16), masks[1], sums[1]);
        }
    }
}

/// Adds a block to `sums` in plain code.
pub(super) fn multiply_plainly(block: Block<'_>, sums: &mut [[f32; PANEL]]) {
    vectorized(
        #[inline(always)]
        || {
            for sum in sums.iter_mut().flatten() {
                *sum = flushed(*sum);
            }
            let (rights, _) = block.right.as_chunks::<{ 2 * PANEL }>();
            for (pair, rights) in rights.iter().take(block.depth / 2).enumerate() {
                let rights = columns_of(rights);
                for (row, sums) in sums.iter_mut().enumerate() {
                    let place = row * block.depth + 2 * pair;
                    let left = [block.left[place], block.left[place + 1]].map(wide);
                    for (column, sum) in sums.iter_mut().enumerate() {
                        let half = flushed(left[1].mul_add(rights[1][column], *sum));
                        *sum = flushed(left[0].mul_add(rights[0][column], half));
                    }
                }
            }
        },
    );
}

/// First and second numbers of the pairs of a panel's columns.
#[inline(always)]
pub(super) fn columns_of(pairs: &[u16; 2 * PANEL]) -> [[f32; PANEL]; 2] {
    let mut columns = [[0.0; PANEL]; 2];
    for column in 0..PANEL {
        columns[0][column] = wide(pairs[2 * column]);
        columns[1][column] = wide(pairs[2 * column + 1]);
    }
    columns
}

/// A bf16 number as f32, zero of its sign if it is subnormal.
#[inline(always)]
pub(super) fn wide(bits: u16) -> f32 {
    flushed(f32::from_bits(u32::from(bits) << 16))
}

/// The number, or zero of its sign if it is subnormal.
#[inline(always)]
pub(super) fn flushed(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE {
        f32::from_bits(x.to_bits() & (1 << 31))
    } else {
        x
    }
}
