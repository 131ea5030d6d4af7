//! Rows of each training step: a pure function of the seed and the step.

use std::ops::Range;

/// Rows of every step, in a new random order each epoch.
///
/// The epochs form one endless list and step `s` takes entries `s * rows_per_step ..` of it: each epoch
/// visits every row once, and a step may straddle two epochs. Nothing is stored between calls, so a
/// resumed run needs only its step number.
///
/// The order of an epoch is a Feistel network over row numbers (Luby and Rackoff 1988), keyed by the
/// seed and the epoch; numbers past the last row are sent through again ("cycle walking", Black and
/// Rogaway 2002, section 3). One entry costs the same with ten rows or ten million, whereas a shuffled
/// list would have to be stored or rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOrder {
    seed: u64,
    num_rows: usize,
    rows_per_step: usize,
}

impl BatchOrder {
    /// Creates the order over `num_rows` rows.
    ///
    /// # Panics
    ///
    /// If there are no rows.
    pub fn new(seed: u64, num_rows: usize, rows_per_step: usize) -> Self {
        assert!(num_rows > 0, "an order needs a row");
        Self {
            seed,
            num_rows,
            rows_per_step,
        }
    }

    /// Rows of a step (counted from 0), in reading order.
    pub fn rows_at(&self, step: usize) -> Vec<usize> {
        let start = step * self.rows_per_step;
        self.entries(start..start + self.rows_per_step)
    }

    fn entries(&self, range: Range<usize>) -> Vec<usize> {
        let mut rows = Vec::with_capacity(range.len());
        let mut entry = range.start;
        while entry < range.end {
            let epoch = entry / self.num_rows;
            let epoch_end = ((epoch + 1) * self.num_rows).min(range.end);
            let permutation = Permutation::new(self.seed, epoch, self.num_rows);
            rows.extend((entry..epoch_end).map(|entry| permutation.at(entry % self.num_rows)));
            entry = epoch_end;
        }
        rows
    }
}

/// Rounds of the network; four suffice for pseudo-randomness (Luby and Rackoff), more cost nothing here.
const ROUNDS: usize = 8;

/// Permutation of `0..len`, which is not empty.
pub(super) struct Permutation {
    keys: [u64; ROUNDS],
    half_bits: u32,
    len: usize,
}

impl Permutation {
    pub(super) fn new(seed: u64, epoch: usize, len: usize) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"batch");
        hasher.update(&seed.to_le_bytes());
        hasher.update(&(epoch as u64).to_le_bytes());
        let mut bytes = hasher.finalize_xof();
        let keys = std::array::from_fn(|_| {
            let mut key = [0; 8];
            bytes.fill(&mut key);
            u64::from_le_bytes(key)
        });
        // The network permutes 2^(2 * half_bits) numbers. Halves under 4 bits have too few round functions
        // to reach every order of a handful of rows.
        let bits = usize::BITS - (len - 1).leading_zeros();
        let half_bits = bits.div_ceil(2).max(4);
        Self {
            keys,
            half_bits,
            len,
        }
    }

    pub(super) fn at(&self, index: usize) -> usize {
        let mut number = index;
        loop {
            number = self.encipher(number);
            if number < self.len {
                return number;
            }
        }
    }

    fn encipher(&self, number: usize) -> usize {
        let mask = (1_u64 << self.half_bits) - 1;
        let (mut left, mut right) = (number as u64 >> self.half_bits, number as u64 & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        usize::try_from(left << self.half_bits | right).expect(
            "the network is at most one bit pair wider than a row number, which is below 2^62",
        )
    }
}

/// Finaliser of splitmix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_epoch_visits_every_row_once_also_when_steps_straddle_epochs() {
        for num_rows in (1..70).chain([255, 256, 257, 1000, 5000]) {
            let order = BatchOrder::new(3, num_rows, 7);
            let entries: Vec<usize> = (0..num_rows * 3)
                .flat_map(|step| order.rows_at(step))
                .take(num_rows * 3)
                .collect();
            for epoch in entries.chunks(num_rows) {
                let mut rows = epoch.to_vec();
                rows.sort_unstable();
                assert!(rows.into_iter().eq(0..num_rows), "{num_rows} rows");
            }
            if num_rows >= 20 {
                assert_ne!(entries[..num_rows], entries[num_rows..2 * num_rows]);
            }
        }
    }

    #[test]
    fn a_step_gives_the_same_rows_in_any_order_of_calls() {
        let order = BatchOrder::new(17, 50, 8);
        let forwards: Vec<_> = (0..30).map(|step| order.rows_at(step)).collect();
        let backwards: Vec<_> = (0..30).rev().map(|step| order.rows_at(step)).collect();
        assert!(forwards.iter().eq(backwards.iter().rev()));
        assert_ne!(BatchOrder::new(18, 50, 8).rows_at(0), forwards[0]);
    }

    #[test]
    fn the_order_of_a_seed_never_changes() {
        assert_eq!(
            BatchOrder::new(17, 10, 12).rows_at(0),
            [2, 0, 5, 1, 3, 6, 4, 9, 7, 8, 1, 8],
            "a finished run must be repeatable by a later version"
        );
        assert_eq!(
            BatchOrder::new(17, 10_000_000, 4).rows_at(1_000_000),
            [9_085_915, 3_912_646, 830_354, 1_381_643]
        );
    }

    #[test]
    fn all_orders_of_a_few_rows_are_about_equally_likely() {
        let mut counts = BTreeMap::new();
        for seed in 0..12_000 {
            *counts
                .entry(BatchOrder::new(seed, 4, 4).rows_at(3))
                .or_insert(0_u32) += 1;
        }
        assert_eq!(counts.len(), 24);
        // 500 expected of each, standard deviation 22.
        for (order, count) in counts {
            assert!((400..600).contains(&count), "{order:?}: {count}");
        }
    }
}
