//! Second moments of the inputs of a linear layer, and the factor of their inverse that GPTQ and SparseGPT use.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use thiserror::Error;

use crate::vector::vectorized;

/// Rows factored together: a panel stays in a cache while all other rows are compared with it.
const PANEL: usize = 64;

/// Lanes of a sum of products, which compilers turn into vectors.
const LANES: usize = 8;

/// Mean over positions of x xᵀ, where x is the input of a linear layer.
///
/// An error E of the layer's weight costs the diagonal of `E H Eᵀ`, in squared outputs. H is half the second derivative
/// of the squared error by a row of weights.
#[derive(Debug, Clone)]
pub struct Hessian {
    size: usize,
    sums: Vec<f64>,
    num_positions: usize,
}

/// The inputs of a layer leave a direction without curvature, damping included: they are not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("its inputs have no positive curvature in feature {feature}, damping included")]
pub struct NotPositiveDefinite {
    /// Input feature without curvature.
    pub feature: usize,
}

/// U, upper triangular, with `UᵀU = (H + λI)⁻¹`.
#[derive(Debug, Clone)]
pub struct InverseFactor {
    size: usize,
    values: Vec<f32>,
}

impl Hessian {
    /// Starts without any position, for a layer with `size` input features.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            sums: vec![0.0; size * size],
            num_positions: 0,
        }
    }

    /// Adds the positions of a batch: products in f32, their sum over batches in f64.
    ///
    /// # Shapes
    ///
    /// `x` is `[B, T, size]`.
    pub fn add(&mut self, x: &Tensor<3>) {
        let [batch, seq, size] = x.dims();
        assert_eq!(size, self.size, "input features");
        let flat = x.clone().reshape([batch * seq, size]);
        let products = flat.clone().transpose().matmul(flat); // [size, size]
        let products = products
            .try_into_vec_as::<f32>()
            .expect("activations are f32");
        for (sum, product) in self.sums.iter_mut().zip(products) {
            *sum += f64::from(product);
        }
        self.num_positions += batch * seq;
    }

    /// Mean square of each input feature.
    pub fn diagonal(&self) -> Vec<f64> {
        let diagonal = self.sums.iter().step_by(self.size + 1);
        diagonal.map(|sum| sum / self.count()).collect()
    }

    /// Mean over positions of `‖matrix · x‖²`: the square of what a weight outputs, or the cost of an error of it.
    ///
    /// # Shapes
    ///
    /// `matrix` is `[outputs, size]`.
    pub fn output_square(&self, matrix: &Tensor<2>) -> f64 {
        output_square(matrix, self.matrix(&matrix.device()))
    }

    /// Refuses inputs that are not finite.
    pub fn check_finite(&self) -> Result<(), NotPositiveDefinite> {
        let squares = self.sums.iter().step_by(self.size + 1);
        match squares.enumerate().find(|(_, square)| !square.is_finite()) {
            Some((feature, _)) => Err(NotPositiveDefinite { feature }),
            None => Ok(()),
        }
    }

    /// Mean of x xᵀ, as a tensor.
    ///
    /// # Shapes
    ///
    /// `[size, size]`.
    #[expect(clippy::cast_possible_truncation, reason = "activations are f32")]
    pub fn matrix(&self, device: &Device) -> Tensor<2> {
        let means = self.sums.iter().map(|sum| (sum / self.count()) as f32);
        let data = TensorData::new(means.collect::<Vec<f32>>(), [self.size, self.size]);
        Tensor::from_data(data, device)
    }

    /// The input features in their own order.
    pub fn natural(&self) -> Vec<usize> {
        (0..self.size).collect()
    }

    /// The input features, those with the largest mean square first; equal ones keep their order.
    pub fn descending(&self) -> Vec<usize> {
        let diagonal = self.diagonal();
        let mut order: Vec<usize> = (0..self.size).collect();
        order.sort_by(|&one, &other| diagonal[other].total_cmp(&diagonal[one]));
        order
    }

    /// Upper Cholesky factor of the inverse, with `damping` times the mean of the diagonal added to the diagonal.
    ///
    /// The factor of `(H + λI)⁻¹` is the inverse of R, upper triangular with `R Rᵀ = H + λI`. R is the lower Cholesky
    /// factor of the matrix with its rows and columns reversed, reversed again. So only one factor and one triangular
    /// inverse are computed, in f64. Where all inputs are 0, the identity is factored.
    pub fn inverse_factor(&self, damping: f64) -> Result<InverseFactor, NotPositiveDefinite> {
        self.inverse_factor_in(&self.natural(), damping)
    }

    /// Same factor as [`Hessian::inverse_factor`], with rows and columns of the matrix in the given order.
    pub fn inverse_factor_in(
        &self,
        order: &[usize],
        damping: f64,
    ) -> Result<InverseFactor, NotPositiveDefinite> {
        let size = self.size;
        assert_eq!(order.len(), size, "input features");
        let mean = self.diagonal().iter().sum::<f64>() / size as f64;
        let added = if mean == 0.0 { 1.0 } else { damping * mean };
        let backwards = || order.iter().rev();
        let of_row = |row: usize| backwards().map(move |column| self.sums[row * size + column]);
        let mut factor: Vec<f64> = backwards()
            .flat_map(|&row| of_row(row))
            .map(|sum| sum / self.count())
            .collect();
        for value in factor.iter_mut().step_by(size + 1) {
            *value += added;
        }
        cholesky(&mut factor, size).map_err(|row| NotPositiveDefinite {
            feature: order[size - 1 - row],
        })?;
        let mut values = lower_inverse(&factor, size);
        values.reverse();
        Ok(InverseFactor { size, values })
    }

    fn count(&self) -> f64 {
        self.num_positions.max(1) as f64
    }
}

impl InverseFactor {
    /// Number of input features.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Row of a feature, from its diagonal element on.
    pub fn row(&self, feature: usize) -> &[f32] {
        &self.values[feature * self.size + feature..(feature + 1) * self.size]
    }

    /// Sets the first weight of the rest of a row, that of `feature`, to its final value and corrects all later
    /// weights for the error: `w ← w − (w₀ − value) / U₀₀ · U₀`.
    #[expect(
        clippy::inline_always,
        reason = "compiled for a vector width only where it is inlined into `vectorized`"
    )]
    #[inline(always)]
    pub fn settle(&self, feature: usize, rest_of_row: &mut [f32], value: f32) {
        let (Some((weight, rest)), Some((diagonal, factors))) = (
            rest_of_row.split_first_mut(),
            self.row(feature).split_first(),
        ) else {
            return;
        };
        let error = (*weight - value) / diagonal;
        *weight = value;
        if error != 0.0 {
            for (weight, factor) in rest.iter_mut().zip(factors) {
                *weight -= error * factor;
            }
        }
    }
}

/// Same as [`Hessian::output_square`], given the mean of x xᵀ: for many matrices that see the same inputs.
pub fn output_square(matrix: &Tensor<2>, inputs: Tensor<2>) -> f64 {
    let products = matrix.clone().matmul(inputs) * matrix.clone();
    f64::from(products.sum().into_scalar::<f32>())
}

/// Writes L, where `L Lᵀ` is the positive definite matrix, into its lower triangle; fails with the row without a pivot.
fn cholesky(matrix: &mut [f64], size: usize) -> Result<(), usize> {
    for start in (0..size).step_by(PANEL) {
        let end = (start + PANEL).min(size);
        let (above, below) = matrix.split_at_mut(end * size);
        for row in start..end {
            let (before, this) = above.split_at_mut(row * size);
            eliminate(this, start..row, |column| &before[column * size..]);
            let pivot = this[row] - dot(&this[..row], &this[..row]);
            if pivot.is_nan() || pivot <= 0.0 {
                return Err(row);
            }
            this[row] = pivot.sqrt();
        }
        let above = &*above;
        below.par_chunks_mut(size).for_each(|this| {
            vectorized(|| eliminate(this, start..end, |column| &above[column * size..]));
        });
    }
    Ok(())
}

/// Turns some columns of a row into columns of the factor. The factor's rows with these indices are done.
#[expect(
    clippy::inline_always,
    reason = "compiled for a vector width only where it is inlined into `vectorized`"
)]
#[inline(always)]
fn eliminate<'a>(
    this: &mut [f64],
    columns: std::ops::Range<usize>,
    factor_row: impl Fn(usize) -> &'a [f64],
) {
    for column in columns {
        let other = factor_row(column);
        this[column] = (this[column] - dot(&this[..column], &other[..column])) / other[column];
    }
}

/// Inverse of a lower triangular matrix, in strips of columns, which do not depend on each other.
#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
fn lower_inverse(factor: &[f64], size: usize) -> Vec<f32> {
    let starts: Vec<usize> = (0..size).step_by(PANEL).collect();
    let strips: Vec<Vec<f64>> = starts
        .par_iter()
        .map(|&start| {
            let width = PANEL.min(size - start);
            vectorized(|| inverse_strip(factor, size, start, width))
        })
        .collect();
    let mut inverse = vec![0.0; size * size];
    for (&start, strip) in starts.iter().zip(&strips) {
        let width = PANEL.min(size - start);
        for (row, values) in (start..size).zip(strip.chunks(width)) {
            let place = row * size + start;
            let slots = &mut inverse[place..place + width];
            slots
                .iter_mut()
                .zip(values)
                .for_each(|(slot, value)| *slot = *value as f32);
        }
    }
    inverse
}

/// Rows `start..size` of the columns `start..start + width` of the inverse; above them it is 0.
#[expect(
    clippy::inline_always,
    reason = "compiled for a vector width only where it is inlined into `vectorized`"
)]
#[inline(always)]
fn inverse_strip(factor: &[f64], size: usize, start: usize, width: usize) -> Vec<f64> {
    let mut strip = vec![0.0; (size - start) * width];
    for row in start..size {
        let (done, rest) = strip.split_at_mut((row - start) * width);
        let this = &mut rest[..width];
        if let Some(one) = this.get_mut(row - start) {
            *one = 1.0;
        }
        let factors = &factor[row * size + start..=row * size + row];
        for (factor, other) in factors.iter().zip(done.chunks(width)) {
            for (value, other) in this.iter_mut().zip(other) {
                *value -= factor * other;
            }
        }
        let diagonal = factors[row - start];
        for value in this.iter_mut() {
            *value /= diagonal;
        }
    }
    strip
}

#[expect(
    clippy::inline_always,
    reason = "compiled for a vector width only where it is inlined into `vectorized`"
)]
#[inline(always)]
fn dot(left: &[f64], right: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for ((lane, left), right) in lanes.iter_mut().zip(left).zip(right) {
            *lane += left * right;
        }
    }
    let rest = left_rest.iter().zip(right_rest).map(|(a, b)| a * b);
    lanes.into_iter().chain(rest).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn moments(size: usize, num_positions: usize) -> Hessian {
        let mut stream = Stream::new(7, "x");
        #[expect(clippy::cast_possible_truncation, reason = "activations are f32")]
        let values: Vec<f32> = (0..size * num_positions)
            .map(|_| stream.normal() as f32)
            .collect();
        let device = crate::device::open("flex").unwrap();
        let x = Tensor::from_data(TensorData::new(values, [1, num_positions, size]), &device);
        let mut hessian = Hessian::new(size);
        hessian.add(&x.clone().narrow(1, 0, 3));
        hessian.add(&x.narrow(1, 3, num_positions - 3));
        hessian
    }

    #[test]
    fn the_factor_times_itself_times_the_damped_moments_is_the_identity() {
        for (size, num_positions) in [(1, 4), (5, 4), (150, 40), (130, 400)] {
            let hessian = moments(size, num_positions);
            let factor = hessian.inverse_factor(0.1).unwrap();
            let mean = hessian.diagonal().iter().sum::<f64>() / size as f64;
            let upper = |row: usize, column: usize| {
                let value = column.checked_sub(row).map(|ahead| factor.row(row)[ahead]);
                f64::from(value.unwrap_or(0.0))
            };
            for (row, column) in [(0, 0), (size - 1, 0), (size / 2, size - 1), (size / 3, 0)] {
                let inverse = |at: usize| (0..size).map(|k| upper(k, row) * upper(k, at)).sum();
                let product: f64 = (0..size)
                    .map(|at| {
                        let inverse: f64 = inverse(at);
                        let moment = hessian.sums[at * size + column] / num_positions as f64;
                        let damped = if at == column { 0.1 * mean } else { 0.0 };
                        inverse * (moment + damped)
                    })
                    .sum();
                let want = f64::from(u8::from(row == column));
                assert!((product - want).abs() < 1e-4, "{size}: {product}, {want}");
            }
        }
    }

    #[test]
    fn a_factor_worked_by_hand() {
        // H = [[2, 1], [1, 2]]; its inverse is [[2, -1], [-1, 2]] / 3 = UᵀU.
        let device = crate::device::open("flex").unwrap();
        let x = TensorData::new(vec![2.0_f32, 1.0, 0.0, 3.0_f32.sqrt()], [1, 2, 2]);
        let mut hessian = Hessian::new(2);
        hessian.add(&Tensor::from_data(x, &device));
        let (factor, diagonal) = (hessian.inverse_factor(0.0).unwrap(), hessian.diagonal());
        assert!((diagonal[0] - 2.0).abs() < 1e-6 && (diagonal[1] - 2.0).abs() < 1e-6);
        let third = 1.0_f32 / 3.0;
        let want = [
            (2.0 * third).sqrt(),
            -(1.0_f32 / 6.0).sqrt(),
            0.5_f32.sqrt(),
        ];
        let got = [factor.row(0)[0], factor.row(0)[1], factor.row(1)[0]];
        for (got, want) in got.into_iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{got}, {want}");
        }
        let matrix = Tensor::from_data(TensorData::new(vec![1.0_f32, -1.0], [1, 2]), &device);
        assert!((hessian.output_square(&matrix) - 2.0).abs() < 1e-6);
    }

    #[test]
    fn inputs_that_are_all_zero_have_the_identity_and_those_that_are_not_finite_none() {
        let device = crate::device::open("flex").unwrap();
        let mut silent = Hessian::new(3);
        silent.add(&Tensor::zeros([1, 2, 3], &device));
        let factor = silent.inverse_factor(0.01).unwrap();
        assert_eq!(factor.row(0), [1.0, 0.0, 0.0]);
        let mut broken = Hessian::new(3);
        let x = TensorData::new(vec![1.0_f32, f32::NAN, 1.0], [1, 1, 3]);
        broken.add(&Tensor::from_data(x, &device));
        assert!(broken.inverse_factor(0.01).is_err());
    }
}
