//! Products of matrices anywhere in slices of f32; the destination is overwritten or added to.
//!
//! The multiplication itself is the `gemm` crate's, which Burn's `flex` backend uses, too.

use rayon::current_num_threads;
use rayon::prelude::*;

use crate::vector::{dot, vectorized};

/// Multiplications from which sharing a product among the cores pays: about as many as for two matrices of 192 × 192.
pub(super) const SHARED: usize = 192 * 192 * 192;

/// Rows of a product that are computed at once. The crate packs as much of the left matrix as fits into the last cache, tens of
/// megabytes on a server; a panel packs a few.
const PANEL: usize = 4096;

/// A matrix to read: `rows · columns` numbers of a slice, at fixed steps.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Matrix<'a> {
    pub(super) values: &'a [f32],
    pub(super) shape: [usize; 2],
    pub(super) steps: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// Rows and columns, and the steps from one row and from one column to the next.
    ///
    /// # Panics
    ///
    /// If the slice ends before the last number.
    pub(in crate::kernels) fn new(values: &'a [f32], shape: [usize; 2], steps: [usize; 2]) -> Self {
        assert!(
            extent(shape, steps) <= values.len(),
            "a matrix of {shape:?} at steps {steps:?} in {} numbers",
            values.len()
        );
        Self {
            values,
            shape,
            steps,
        }
    }

    /// A matrix of contiguous rows.
    pub(in crate::kernels) fn of_rows(values: &'a [f32], columns: usize) -> Self {
        Self::new(values, [values.len() / columns, columns], [columns, 1])
    }

    pub(in crate::kernels) fn transpose(self) -> Self {
        let ([rows, columns], [row_step, column_step]) = (self.shape, self.steps);
        Self {
            values: self.values,
            shape: [columns, rows],
            steps: [column_step, row_step],
        }
    }
}

/// A matrix to write: its rows lie in a slice at a fixed step.
pub(in crate::kernels) struct MatrixMut<'a> {
    values: &'a mut [f32],
    row_step: usize,
}

impl<'a> MatrixMut<'a> {
    pub(in crate::kernels) fn new(values: &'a mut [f32], row_step: usize) -> Self {
        Self { values, row_step }
    }

    /// `self = scale · left · right`.
    pub(in crate::kernels) fn set(self, scale: f32, left: Matrix<'_>, right: Matrix<'_>) {
        self.multiply(false, scale, left, right);
    }

    /// `self += scale · left · right`.
    pub(in crate::kernels) fn add(self, scale: f32, left: Matrix<'_>, right: Matrix<'_>) {
        self.multiply(true, scale, left, right);
    }

    /// Numbers and row step, which have room for this many rows and columns.
    pub(super) fn checked(self, [rows, columns]: [usize; 2]) -> (&'a mut [f32], usize) {
        assert!(
            columns <= self.row_step
                && extent([rows, columns], [self.row_step, 1]) <= self.values.len(),
            "{rows} rows of {columns} at step {} in {} numbers",
            self.row_step,
            self.values.len()
        );
        (self.values, self.row_step)
    }

    fn multiply(self, adds: bool, scale: f32, left: Matrix<'_>, right: Matrix<'_>) {
        let ([rows, inner], [right_rows, columns]) = (left.shape, right.shape);
        assert_eq!(inner, right_rows, "inner size of a product");
        let (values, row_step) = self.checked([rows, columns]);
        let is_shared = rows * columns * inner >= SHARED && current_num_threads() > 1;
        let parallelism = if is_shared {
            gemm::Parallelism::Rayon(0)
        } else {
            gemm::Parallelism::None
        };
        let [
            [left_row, left_column],
            [right_row, right_column],
            [row, column],
        ] = [left.steps, right.steps, [row_step, 1]].map(|steps| steps.map(signed));
        for start in (0..rows).step_by(PANEL) {
            let panel = &mut values[start * row_step..];
            let left = &left.values[start * left.steps[0]..];
            #[expect(
                unsafe_code,
                reason = "the crate takes pointers; all three matrices were measured against their slices"
            )]
            // SAFETY: every index below the shapes, times the steps, is inside the slices: asserted above and in `Matrix::new`. The
            // destination is borrowed mutably, so it overlaps neither source, and its rows do not overlap each other.
            unsafe {
                gemm::gemm(
                    PANEL.min(rows - start),
                    columns,
                    inner,
                    panel.as_mut_ptr(),
                    column,
                    row,
                    adds,
                    left.as_ptr(),
                    left_column,
                    left_row,
                    right.values.as_ptr(),
                    right_column,
                    right_row,
                    1.0,
                    scale,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
        }
    }
}

/// Multiplications from which sharing a product of one row pays: its weights are read once, so memory is what it waits for.
const SHARED_ROW: usize = 128 * 1024;

/// Columns of a product of one row that a core computes at once.
const COLUMNS: usize = 64;

/// `row · right` if `right` is the transpose of contiguous rows, as a weight is; `None` for another layout.
///
/// Each number is a dot product of its own, in the order of [`dot`], so it does not depend on how many cores share the work.
pub(in crate::kernels) fn row_product(row: Matrix<'_>, right: Matrix<'_>) -> Option<Vec<f32>> {
    let ([1, inner], [_, step]) = (row.shape, row.steps) else {
        return None;
    };
    let [_, columns] = right.shape;
    if inner == 0 || step != 1 && inner > 1 || right.steps != [1, inner] {
        return None;
    }
    let row = &row.values[..inner];
    let weights = &right.values[..inner * columns];
    let mut product = vec![0.0; columns];
    let fill = |(product, weights): (&mut [f32], &[f32])| {
        vectorized(|| {
            for (value, weight) in product.iter_mut().zip(weights.chunks_exact(inner)) {
                *value = dot(row, weight);
            }
        });
    };
    if inner * columns >= SHARED_ROW && current_num_threads() > 1 {
        let parts = product.par_chunks_mut(COLUMNS);
        parts
            .zip(weights.par_chunks(COLUMNS * inner))
            .for_each(fill);
    } else {
        fill((&mut product, weights));
    }
    Some(product)
}

/// Numbers from the first to the last of a matrix, both included.
fn extent([rows, columns]: [usize; 2], [row_step, column_step]: [usize; 2]) -> usize {
    if rows == 0 || columns == 0 {
        return 0;
    }
    let last = |count: usize, step: usize| (count - 1).checked_mul(step);
    last(rows, row_step)
        .zip(last(columns, column_step))
        .and_then(|(row, column)| row.checked_add(column)?.checked_add(1))
        .unwrap_or(usize::MAX)
}

fn signed(step: usize) -> isize {
    isize::try_from(step).expect("a step inside a slice")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_set_and_added_as_worked_by_hand() {
        let (left, right) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
        let (left, right) = (Matrix::of_rows(&left, 2), Matrix::of_rows(&right, 2));
        let mut got = [9.0; 6]; // two rows at step 3
        MatrixMut::new(&mut got, 3).set(1.0, left, right);
        assert_eq!(
            got.map(f32::to_bits),
            [19.0, 22.0, 9.0, 43.0, 50.0, 9.0].map(f32::to_bits)
        );
        MatrixMut::new(&mut got, 3).add(0.5, left.transpose(), right);
        assert_eq!(
            got.map(f32::to_bits),
            [32.0, 37.0, 9.0, 62.0, 72.0, 9.0].map(f32::to_bits)
        );
    }

    #[test]
    fn a_product_of_several_panels_has_all_its_rows() {
        let left: Vec<f32> = (0..2 * PANEL + 3).map(|row| row as f32).collect();
        let mut got = vec![1.0; left.len()];
        MatrixMut::new(&mut got, 1).add(2.0, Matrix::of_rows(&left, 1), Matrix::of_rows(&[3.0], 1));
        for (row, got) in got.into_iter().enumerate() {
            assert_eq!(got.to_bits(), (1.0 + 6.0 * row as f32).to_bits(), "{row}");
        }
    }

    #[test]
    fn a_row_times_a_weight_has_the_same_bits_on_any_number_of_threads() {
        let (inner, columns) = (131, 2_003);
        let number = |place: usize| ((place * 7919) % 1013) as f32 / 512.0 - 1.0;
        let row: Vec<f32> = (0..inner).map(number).collect();
        let weight: Vec<f32> = (0..inner * columns).map(number).collect();
        let (row, right) = (
            Matrix::of_rows(&row, inner),
            Matrix::of_rows(&weight, inner).transpose(),
        );
        let on = |num_threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads);
            let product = || row_product(row, right).unwrap();
            let product = pool.build().unwrap().install(product);
            product.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
        };
        let alone = on(1);
        for num_threads in [2, 3, 8] {
            assert!(on(num_threads) == alone, "{num_threads} threads");
        }
        let mut want = vec![0.0; columns];
        MatrixMut::new(&mut want, columns).set(1.0, row, right);
        for (got, want) in alone.into_iter().zip(want) {
            assert!((f32::from_bits(got) - want).abs() < 1e-4, "{want}");
        }
        let rows = Matrix::of_rows(&weight, inner);
        assert!(
            row_product(rows, rows.transpose()).is_none(),
            "several rows"
        );
        let aside = Matrix::new(&weight, [inner, columns], [columns, 1]);
        assert!(
            row_product(row, aside).is_none(),
            "columns that are not contiguous"
        );
    }

    #[test]
    #[should_panic(expected = "in 5 numbers")]
    fn a_matrix_past_the_end_of_its_slice_is_not_made() {
        Matrix::new(&[0.0; 5], [2, 3], [3, 1]);
    }

    #[test]
    #[should_panic(expected = "2 rows of 2 at step 3 in 4 numbers")]
    fn a_product_past_the_end_of_its_slice_is_not_written() {
        let ones = [1.0; 4];
        let ones = Matrix::of_rows(&ones, 2);
        MatrixMut::new(&mut [0.0; 4], 3).set(1.0, ones, ones);
    }
}
