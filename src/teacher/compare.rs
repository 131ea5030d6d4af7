//! A cache against the teacher it says it was captured from.

use serde::Serialize;

use super::{Selection, supports};
use crate::cache::{
    Cache, CacheError, ENTROPY_ERROR_BOUND, LOG_PROB_ERROR_BOUND, LOWEST_BELOW_TOP,
    MASS_ERROR_BOUND, RowSupports, TopKSupports,
};
use crate::model::Decoder;
use crate::random::Stream;

/// Rounding of the teacher's own arithmetic between two batch shapes or machines, in nats.
const TEACHER_ROUNDING: f32 = 1e-3;

/// How a sample of rows compares with the teacher.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Rows computed anew.
    pub num_rows: usize,
    /// Positions in them.
    pub num_positions: usize,
    /// Positions with other ids or counts, or values or a tail beyond the codec's bound, at any declared temperature. A teacher computed in another batch or
    /// on another machine may break a tie differently, at a few positions in a million.
    pub num_different: usize,
    /// Largest difference of a log-probability (or of an entropy, with samples) where ids agree, in nats.
    pub max_difference_nats: f32,
}

impl Comparison {
    /// Whether the cache is this teacher's: at most one position in a thousand, or one in all, differs.
    pub fn agrees(&self) -> bool {
        self.num_different <= (self.num_positions / 1000).max(1)
    }
}

/// Computes rows anew, chosen by a fixed draw, and compares them with what the cache says.
///
/// `progress` is told how many rows have been compared.
pub fn compare(
    decoder: &Decoder,
    cache: &Cache,
    num_rows: usize,
    mut progress: impl FnMut(usize),
) -> Result<Comparison, CacheError> {
    let mut comparison = Comparison {
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
        let (tokens, stored) = cache.captured_row(row_idxs.swap_remove(pick))?;
        let fresh = supports(decoder, &[&tokens], &selection);
        for fresh in &fresh {
            comparison.add(&stored, fresh, selection.temperatures);
        }
        comparison.num_rows += 1;
        progress(comparison.num_rows);
    }
    Ok(comparison)
}

impl Comparison {
    fn add(&mut self, stored: &RowSupports, fresh: &RowSupports, temperatures: &[f64]) {
        match (stored, fresh) {
            (RowSupports::TopK(stored), RowSupports::TopK(fresh)) => {
                let k = stored.top_k;
                let off_mass = mass_differences(stored, fresh, temperatures);
                let ids = stored.ids.chunks_exact(k).zip(fresh.ids.chunks_exact(k));
                let log_probs = stored
                    .log_probs
                    .chunks_exact(k)
                    .zip(fresh.log_probs.chunks_exact(k));
                let positions = ids.zip(log_probs).zip(off_mass);
                for (((stored_ids, fresh_ids), (stored, fresh)), off_mass) in positions {
                    let top = fresh.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let pairs = stored.iter().zip(fresh);
                    let worst = pairs.map(|(a, b)| (a - b.max(top - LOWEST_BELOW_TOP)).abs());
                    let worst = worst.fold(0.0, f32::max);
                    let is_same = stored_ids == fresh_ids
                        && off_mass <= f64::from(MASS_ERROR_BOUND + TEACHER_ROUNDING);
                    self.add_position(is_same, worst, LOG_PROB_ERROR_BOUND);
                }
            }
            (RowSupports::Samples(stored), RowSupports::Samples(fresh)) => {
                let positions = stored.ranges().zip(fresh.ranges());
                let entropies = stored.entropies.iter().zip(&fresh.entropies);
                for ((a, b), (was, is)) in positions.zip(entropies) {
                    let is_same = stored.ids[a.clone()] == fresh.ids[b.clone()]
                        && stored.counts[a] == fresh.counts[b];
                    self.add_position(is_same, (was - is).abs(), ENTROPY_ERROR_BOUND);
                }
            }
            _ => unreachable!("both follow the cache's fingerprint"),
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

/// Per position, the largest difference at any temperature between what two supports hold of all probability.
fn mass_differences(stored: &TopKSupports, fresh: &TopKSupports, temperatures: &[f64]) -> Vec<f64> {
    let mass = |supports: &TopKSupports, position: usize, place: usize, temperature: f64| {
        supports.mass(position, temperature, supports.lse[place][position])
    };
    let num_positions = stored.log_probs.len() / stored.top_k;
    let difference = |position: usize| {
        let temperatures = temperatures.iter().enumerate();
        let differences = temperatures.map(|(place, &temperature)| {
            let stored = mass(stored, position, place, temperature);
            (stored - mass(fresh, position, place, temperature)).abs()
        });
        differences.fold(0.0, f64::max)
    };
    (0..num_positions).map(difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ids of probability 0.6 and 0.3, and what their softened probabilities are divided by.
    fn row(lse: [f32; 2]) -> RowSupports {
        RowSupports::TopK(TopKSupports {
            top_k: 2,
            ids: vec![3, 5],
            log_probs: vec![0.6_f32.ln(), 0.3_f32.ln()],
            // The second of what they are below the larger.
            lse: vec![vec![lse[0]], vec![lse[1] - 0.6_f32.ln() / 2.0]],
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
            let mut comparison = Comparison {
                num_rows: 1,
                num_positions: 0,
                num_different: 0,
                max_difference_nats: 0.0,
            };
            comparison.add(&row(lse), &fresh, &[1.0, 2.0]);
            assert_eq!(
                (comparison.num_positions, comparison.num_different),
                (1, num_different),
                "{lse:?}"
            );
        }
    }
}
