//! Products of matrices in bf16, summed in f32.
//!
//! Operands are rounded to bf16 where they are packed ([`operand`]); the sums are those of one of two instructions
//! ([`Sums`]). Each has a plain twin with the same bits, so that a run which began where there is such an instruction can
//! finish where there is none. Neither the number of cores nor the size of blocks changes a bit.
#![expect(
    clippy::inline_always,
    reason = "code is compiled for a vector width only where it is inlined into `vectorized`"
)]

mod operand;
mod pairs;
#[cfg(test)]
mod tests;
mod tiles;
mod transpose;

use std::ops::Range;
use std::sync::OnceLock;

use rayon::current_num_threads;
use rayon::prelude::*;

pub(in crate::kernels) use self::operand::{PackedLeft, PackedRight};
use super::Sums;
use super::host::{Matrix, MatrixMut, SHARED};

/// Columns of the result in a panel of the right operand.
const PANEL: usize = 32;

/// Inner numbers of a block: a panel of a block, 24 KiB, stays in a core's first cache.
const DEPTH: usize = 384;

/// Rows of the left operand that pass by a panel before the next: of a block, 288 KiB, for a core's second cache.
const ROWS_AT_ONCE: usize = 384;

/// Columns of the result that one core computes at once.
const COLUMNS_AT_ONCE: usize = 4 * PANEL;

/// Blocks that are added to a part of the result before the next part.
const BLOCKS_AT_ONCE: usize = 4;

/// Rows of a task are a multiple of this, which both kernels divide.
const ROW_UNIT: usize = 96;

/// A way to compute such sums on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kernel {
    sums: Sums,
    /// With the instruction, or in plain code.
    has_instruction: bool,
}

/// A few rows of the left operand and a panel of the right one, over a block of inner numbers.
#[derive(Clone, Copy)]
struct Block<'a> {
    num_rows: usize,
    /// Rows of `depth` numbers.
    left: &'a [u16],
    /// For each pair of inner numbers, the pair of each column.
    right: &'a [u16],
    depth: usize,
}

/// Numbers that a kernel sets or adds to: some columns of a panel, of the rows of a block.
#[derive(Clone, Copy)]
struct Target {
    start: *mut f32,
    row_step: usize,
    num_columns: usize,
    adds: bool,
}

/// The result of a product, into which cores write different places.
struct Shared {
    start: *mut f32,
    row_step: usize,
}

#[expect(
    unsafe_code,
    reason = "tasks of a product write different places of its result"
)]
// SAFETY: only `compute` shares it, and no two of its tasks write to the same rows and columns.
unsafe impl Sync for Shared {}

/// True if this machine has the instruction, and the instruction has the bits of its plain twin.
pub(super) fn has_instruction(sums: Sums) -> bool {
    static PAIRS: OnceLock<bool> = OnceLock::new();
    static TILES: OnceLock<bool> = OnceLock::new();
    let (kept, is_there): (_, fn() -> bool) = match sums {
        Sums::Pairs => (&PAIRS, pairs::is_there),
        Sums::Tiles => (&TILES, tiles::is_there),
    };
    *kept.get_or_init(|| is_there() && Kernel::agrees_with_its_twin(sums))
}

impl Sums {
    /// Inner numbers are padded with zeros to a multiple of this.
    fn depth_unit(self) -> usize {
        match self {
            Self::Pairs => 2,
            Self::Tiles => tiles::DEPTH,
        }
    }

    /// Rows of the result that a kernel computes at once.
    fn rows_at_once(self) -> usize {
        match self {
            Self::Pairs => pairs::ROWS,
            Self::Tiles => tiles::ROWS,
        }
    }

    /// Rows of the left operand are padded with zeros to a multiple of this.
    fn row_unit(self) -> usize {
        match self {
            Self::Pairs => 1,
            Self::Tiles => tiles::ROWS,
        }
    }

    fn padded_depth(self, depth: usize) -> usize {
        depth.next_multiple_of(self.depth_unit())
    }
}

impl Kernel {
    fn of(sums: Sums) -> Self {
        Self {
            sums,
            has_instruction: sums.has_instruction(),
        }
    }

    /// Compares one block of numbers of all sizes.
    fn agrees_with_its_twin(sums: Sums) -> bool {
        let (num_rows, inner) = (sums.rows_at_once(), 2 * sums.depth_unit().max(8));
        let mut mixed = 0_u32;
        let mut number = |_| {
            mixed = mixed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let exponent = (mixed >> 7) % 160; // from subnormal to a few billions
            f32::from_bits(mixed & 0x807f_0000 | exponent << 23)
        };
        let left: Vec<f32> = (0..num_rows * inner).map(&mut number).collect();
        let right: Vec<f32> = (0..PANEL * inner).map(number).collect();
        let left = PackedLeft::of(&Matrix::of_rows(&left, inner), sums);
        let right = PackedRight::of(&Matrix::of_rows(&right, inner), sums);
        let [with, without] = [true, false].map(|has_instruction| {
            let mut got = vec![0.0_f32; num_rows * PANEL];
            let kernel = Self {
                sums,
                has_instruction,
            };
            multiply_with(
                kernel,
                MatrixMut::new(&mut got, PANEL),
                false,
                &left,
                &right,
            );
            got
        });
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
        with.iter().zip(&without).all(same)
    }

    /// Computes one block.
    ///
    /// # Safety
    ///
    /// The target's place belongs to the caller, and the machine has the instruction if the kernel says so.
    #[expect(
        unsafe_code,
        reason = "a target is a place in a matrix that several cores write"
    )]
    unsafe fn compute(self, block: Block<'_>, target: Target) {
        // SAFETY: as above.
        unsafe {
            match (self.sums, self.has_instruction) {
                #[cfg(target_arch = "x86_64")]
                (Sums::Pairs, true) => pairs::multiply(block, target),
                #[cfg(target_arch = "x86_64")]
                (Sums::Tiles, true) => tiles::multiply(block, target),
                (Sums::Pairs, _) => target.plainly(block, pairs::multiply_plainly),
                (Sums::Tiles, _) => target.plainly(block, tiles::multiply_plainly),
            }
        }
    }
}

impl Target {
    /// Runs a plain kernel, which adds to sums of its own.
    ///
    /// # Safety
    ///
    /// The target's place belongs to the caller.
    #[expect(
        unsafe_code,
        reason = "a target is a place in a matrix that several cores write"
    )]
    unsafe fn plainly(self, block: Block<'_>, kernel: impl FnOnce(Block<'_>, &mut [[f32; PANEL]])) {
        let mut sums = [[0.0; PANEL]; tiles::ROWS];
        let sums = &mut sums[..block.num_rows];
        let row = |row: usize| {
            // SAFETY: rows and columns of the target are inside the caller's place.
            unsafe {
                std::slice::from_raw_parts_mut(
                    self.start.add(row * self.row_step),
                    self.num_columns,
                )
            }
        };
        if self.adds {
            for (idx, sums) in sums.iter_mut().enumerate() {
                sums[..self.num_columns].copy_from_slice(row(idx));
            }
        }
        kernel(block, sums);
        for (idx, sums) in sums.iter().enumerate() {
            row(idx).copy_from_slice(&sums[..self.num_columns]);
        }
    }
}

/// `left · right`, row by row; `right` is packed as its transpose.
pub(in crate::kernels) fn product(left: &PackedLeft, right: &PackedRight) -> Vec<f32> {
    let size = left.rows * right.rows;
    if left.inner == 0 {
        return vec![0.0; size];
    }
    let mut values = Vec::with_capacity(size);
    let shared = Shared {
        start: values.as_mut_ptr(),
        row_step: right.rows,
    };
    #[expect(
        unsafe_code,
        reason = "zeros that are overwritten would cost as much as packing"
    )]
    // SAFETY: the vector has room for all rows, and a product that does not add writes each number before anything reads it.
    unsafe {
        compute(Kernel::of(left.sums), &shared, false, left, right);
        values.set_len(size);
    }
    values
}

/// `into += left · right`; `right` is packed as its transpose.
pub(in crate::kernels) fn add(into: MatrixMut<'_>, left: &PackedLeft, right: &PackedRight) {
    multiply_with(Kernel::of(left.sums), into, true, left, right);
}

fn multiply_with(
    kernel: Kernel,
    into: MatrixMut<'_>,
    adds: bool,
    left: &PackedLeft,
    right: &PackedRight,
) {
    let (values, row_step) = into.checked([left.rows, right.rows]);
    let shared = Shared {
        start: values.as_mut_ptr(),
        row_step,
    };
    #[expect(unsafe_code, reason = "cores write different places of one matrix")]
    // SAFETY: the place was checked, and is borrowed mutably.
    unsafe {
        compute(kernel, &shared, adds, left, right);
    }
}

/// # Safety
///
/// The result has room for all rows and columns, and nobody else reads or writes it.
#[expect(unsafe_code, reason = "cores write different places of one matrix")]
unsafe fn compute(
    kernel: Kernel,
    shared: &Shared,
    adds: bool,
    left: &PackedLeft,
    right: &PackedRight,
) {
    assert_eq!(left.sums, right.sums, "operands are packed for one kernel");
    assert_eq!(left.inner, right.inner, "inner size of a product");
    let (rows, columns) = (left.rows, right.rows);
    let num_threads = current_num_threads();
    let is_shared = rows * columns * left.inner >= SHARED && num_threads > 1;
    let tasks = places(rows, columns, if is_shared { num_threads } else { 1 });
    let task = |(rows, columns): (Range<usize>, Range<usize>)| {
        compute_place(kernel, shared, adds, (left, rows), (right, columns));
    };
    if is_shared {
        tasks.into_par_iter().for_each(task);
    } else {
        tasks.into_iter().for_each(task);
    }
}

/// Rows and columns of the tasks of a product: columns first, since a panel is read for all rows; rows, too, if there are too
/// few columns for all threads.
fn places(rows: usize, columns: usize, num_threads: usize) -> Vec<(Range<usize>, Range<usize>)> {
    if num_threads == 1 {
        return vec![(0..rows, 0..columns)];
    }
    let num_column_tasks = columns.div_ceil(COLUMNS_AT_ONCE).max(1);
    let num_row_tasks = (4 * num_threads).div_ceil(num_column_tasks);
    let of_rows = rows.div_ceil(num_row_tasks).next_multiple_of(ROW_UNIT);
    let columns = parts(0..columns, COLUMNS_AT_ONCE);
    columns
        .flat_map(|columns| parts(0..rows, of_rows.max(1)).map(move |rows| (rows, columns.clone())))
        .collect()
}

/// Computes some rows and columns of a product.
///
/// Blocks of a group are added to a part of the result while that is in a core's second cache; rows of the left operand come
/// from a cache for every part of a group.
fn compute_place(
    kernel: Kernel,
    shared: &Shared,
    adds: bool,
    (left, rows): (&PackedLeft, Range<usize>),
    (right, columns): (&PackedRight, Range<usize>),
) {
    let _tiles =
        (kernel.sums == Sums::Tiles && kernel.has_instruction).then(tiles::Configured::new);
    for group in parts(0..left.num_blocks(), BLOCKS_AT_ONCE) {
        for columns in parts(columns.clone(), COLUMNS_AT_ONCE) {
            for rows in parts(rows.clone(), ROWS_AT_ONCE) {
                for block in group.clone() {
                    let adds = adds || block > 0;
                    for columns in parts(columns.clone(), PANEL) {
                        let panel = right.panel(block, columns.start / PANEL);
                        let place = (rows.clone(), columns);
                        compute_panel(kernel, shared, adds, (left, block), panel, place);
                    }
                }
            }
        }
    }
}

/// Computes some rows of a panel over one block of inner numbers.
fn compute_panel(
    kernel: Kernel,
    shared: &Shared,
    adds: bool,
    (left, block): (&PackedLeft, usize),
    panel: &[u16],
    (rows, columns): (Range<usize>, Range<usize>),
) {
    for rows in parts(rows, kernel.sums.rows_at_once()) {
        let (left, depth) = left.rows_from(block, rows.start);
        let block = Block {
            num_rows: rows.len(),
            left,
            right: panel,
            depth,
        };
        #[expect(unsafe_code, reason = "cores write different places of one matrix")]
        // SAFETY: `compute` has the whole matrix; this task has these rows and columns alone; `Kernel::of` asked the machine.
        unsafe {
            let target = Target {
                start: shared
                    .start
                    .add(rows.start * shared.row_step + columns.start),
                row_step: shared.row_step,
                num_columns: columns.len(),
                adds,
            };
            kernel.compute(block, target);
        }
    }
}

/// A range in parts of a size; the last may be smaller.
fn parts(whole: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let end = whole.end;
    whole
        .step_by(size)
        .map(move |start| start..end.min(start + size))
}
