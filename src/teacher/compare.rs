//! Comparison of a cache with the teacher named in its fingerprint.

use serde::Serialize;

use super::{Selection, supports};
use crate::cache::{
    Cache, CacheError, ENTROPY_ERROR_BOUND, LOG_PROB_ERROR_BOUND, LOWEST_BELOW_TOP,
    MASS_ERROR_BOUND,
};
use crate::model::Decoder;
use crate::random::Stream;
use crate::support::{Support, Supports, TopK};

/// Rounding difference of the teacher's own arithmetic between two batch shapes or machines, in nats.
const TEACHER_ROUNDING: f32 = 1e-3;

/// Result of comparing a sample of rows with the teacher.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CacheComparison {
    /// Number of recomputed rows.
    pub num_rows: usize,
    /// Number of positions of them that the cache has.
    pub num_positions: usize,
    /// Positions with other ids or counts, or with values or a tail beyond the codec's bound, at any declared
    /// temperature. In another batch or on another machine, ties may break differently at a few positions in a million.
    pub num_different: usize,
    /// Largest difference of a log-probability (or of an entropy, with samples) at positions with equal ids, in nats.
    pub max_difference_nats: f32,
}

impl CacheComparison {
    /// True if the cache is this teacher's: at most one position in a thousand, or one in all, differs.
    pub fn agrees(&self) -> bool {
        self.num_different <= (self.num_positions / 1000).max(1)
    }
}

/// Recomputes rows, chosen by a fixed draw, and compares them with the cached values.
///
/// `progress` receives the number of rows compared so far.
pub fn compare(
    decoder: &Decoder,
    cache: &Cache,
    num_rows: usize,
    mut progress: impl FnMut(usize),
) -> Result<CacheComparison, CacheError> {
    let mut comparison = CacheComparison {
        num_rows: 0,
        num_positions: 0,
        num_different: 0,
        max_difference_nats: 0.0,
    };
    let selection = Selection::of(cache.fingerprint());
    let mut row_idxs = cache.row_idxs();
    let mut draws = Stream::new(0, "rows to compare with the teacher");
    while comparison.num_rows < num_rows && !row_idxs.is_empty() {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "below the length"
        )]
        let pick = (draws.uniform() * row_idxs.len() as f64) as usize;
        let captured = cache.captured_row(row_idxs.swap_remove(pick))?;
        for fresh in supports(decoder, &[captured.row()], &selection) {
            comparison.add(&captured.supports, &fresh);
        }
        comparison.num_rows += 1;
        progress(comparison.num_rows);
    }
    Ok(comparison)
}

impl CacheComparison {
    fn add(&mut self, stored: &Supports, fresh: &Supports) {
        for pair in stored.positions().into_iter().zip(fresh.positions()) {
            match pair {
                (Support::TopK(stored), Support::TopK(fresh)) => {
                    let log_probs = fresh.log_probs.iter();
                    let top = log_probs.copied().fold(f32::NEG_INFINITY, f32::max);
                    let pairs = stored.log_probs.iter().zip(fresh.log_probs);
                    let worst = pairs.map(|(a, b)| (a - b.max(top - LOWEST_BELOW_TOP)).abs());
                    let worst = worst.fold(0.0, f32::max);
                    let is_same = stored.ids == fresh.ids
                        && mass_difference(&stored, &fresh)
                            <= f64::from(MASS_ERROR_BOUND + TEACHER_ROUNDING);
                    self.add_position(is_same, worst, LOG_PROB_ERROR_BOUND);
                }
                (Support::Samples(stored), Support::Samples(fresh)) => {
                    let is_same = stored.ids == fresh.ids && stored.counts == fresh.counts;
                    let difference = (stored.entropy - fresh.entropy).abs();
                    self.add_position(is_same, difference, ENTROPY_ERROR_BOUND);
                }
                _ => unreachable!("both follow the cache's fingerprint"),
            }
        }
    }

    fn add_position(&mut self, has_same_ids: bool, difference: f32, bound: f32) {
        self.num_positions += 1;
        if has_same_ids {
            self.max_difference_nats = self.max_difference_nats.max(difference);
        }
        if !has_same_ids || difference > bound + TEACHER_ROUNDING {
            self.num_different += 1;
        }
    }
}

/// Largest difference, at any temperature, between the probability masses of two supports.
fn mass_difference(stored: &TopK<'_>, fresh: &TopK<'_>) -> f64 {
    let temperatures = fresh.lse.iter().map(|lse| lse.temperature);
    let differences =
        temperatures.map(|temperature| stored.mass(temperature) - fresh.mass(temperature));
    differences.map(f64::abs).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{LogSumExps, TopKSupports};

    /// Two ids of probability 0.6 and 0.3, with the log-sum-exps of their softened probabilities.
    fn row(lse: [f32; 2]) -> Supports {
        let lse_at = |(temperature, lse): (f64, f32)| LogSumExps {
            temperature,
            of_positions: vec![lse],
        };
        Supports::TopK(TopKSupports {
            top_k: 2,
            ids: vec![3, 5],
            log_probs: vec![0.6_f32.ln(), 0.3_f32.ln()],
            // The second is relative to the larger log-probability.
            lse: [(1.0, lse[0]), (2.0, lse[1] - 0.6_f32.ln() / 2.0)]
                .map(lse_at)
                .to_vec(),
        })
    }

    #[test]
    fn the_mass_at_every_temperature_is_compared() {
        let fresh = row([0.0, 0.5]);
        for (lse, num_different) in [
            ([0.0, 0.5], 0),
            ([0.0, 0.505], 0),
            ([0.0, 0.6], 1),
            ([0.0, 0.3], 1),
        ] {
            let mut comparison = CacheComparison {
                num_rows: 1,
                num_positions: 0,
                num_different: 0,
                max_difference_nats: 0.0,
            };
            comparison.add(&row(lse), &fresh);
            assert_eq!(
                (comparison.num_positions, comparison.num_different),
                (1, num_different),
                "{lse:?}"
            );
        }
    }
}
