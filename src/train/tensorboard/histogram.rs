//! Histogram of a set of numbers.

/// Buckets between the smallest and the largest number; what TensorBoard draws by default.
const NUM_BUCKETS: usize = 30;

/// Distribution of a set of numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    /// Smallest number.
    pub min: f64,
    /// Largest number.
    pub max: f64,
    /// Count of the numbers.
    pub num: f64,
    /// Sum of the numbers.
    pub sum: f64,
    /// Sum of their squares.
    pub sum_squares: f64,
    /// Upper edge of each bucket, ascending.
    pub bucket_limits: Vec<f64>,
    /// Count of the numbers in each bucket.
    pub buckets: Vec<f64>,
}

impl Histogram {
    /// Sorts the finite numbers into 30 equally wide buckets (one, if all are equal); `None` if there are none.
    ///
    /// NaN and infinities are left out: they belong to no bucket, and one would make every sum useless.
    pub fn of(numbers: &[f32]) -> Option<Self> {
        let finite = || {
            let finite = numbers.iter().filter(|number| number.is_finite());
            finite.map(|&number| f64::from(number))
        };
        let min = finite().reduce(f64::min)?;
        let max = finite().reduce(f64::max)?;
        let num_buckets = if min < max { NUM_BUCKETS } else { 1 };
        let width = (max - min) / num_buckets as f64;
        let mut buckets = vec![0.0; num_buckets];
        for number in finite() {
            buckets[bucket_idx(number - min, width, num_buckets)] += 1.0;
        }
        let inner_edges = (1..num_buckets).map(|edge_idx| min + width * edge_idx as f64);
        Some(Self {
            min,
            max,
            num: finite().count() as f64,
            sum: finite().sum(),
            sum_squares: finite().map(|number| number * number).sum(),
            bucket_limits: inner_edges.chain([max]).collect(),
            buckets,
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "neither is negative, and 0 / 0 (all numbers equal) becomes the only bucket"
)]
fn bucket_idx(offset: f64, width: f64, num_buckets: usize) -> usize {
    ((offset / width) as usize).min(num_buckets - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_number_lies_in_the_bucket_between_its_edges() {
        let numbers = [0.0, 0.5, 1.5, 29.0, 30.0, f32::NAN, f32::INFINITY];
        let histogram = Histogram::of(&numbers).unwrap();
        let want_limits: Vec<f64> = (1..=30).map(f64::from).collect();
        let mut want = vec![0.0; 30];
        (want[0], want[1], want[29]) = (2.0, 1.0, 2.0);
        assert_eq!(histogram.bucket_limits, want_limits);
        assert_eq!(histogram.buckets, want);
        assert_eq!((histogram.min, histogram.max), (0.0, 30.0));
        let moments = (histogram.num, histogram.sum, histogram.sum_squares);
        assert_eq!(moments, (5.0, 61.0, 0.25 + 2.25 + 841.0 + 900.0));
    }

    #[test]
    fn equal_numbers_share_one_bucket_and_no_number_has_none() {
        let equal = Histogram::of(&[2.0; 3]).unwrap();
        assert_eq!((equal.bucket_limits, equal.buckets), (vec![2.0], vec![3.0]));
        assert_eq!(Histogram::of(&[]), None);
        assert_eq!(Histogram::of(&[f32::NAN]), None);
    }
}
