//! Cost and loss of kinds of support, measured on a few rows before a long capture.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;

use super::{Selection, supports};
use crate::cache::{CacheError, Fingerprint, SupportPlan, Trial};
use crate::data::TokenRows;
use crate::model::Decoder;
use crate::support::{CountedRow, Support, Supports};

/// Number of timed decodings; the fastest counts, because other processes can only slow it down.
const DECODES: usize = 5;

/// Cost and loss of one kind of support. Means are taken over counted positions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SupportCost {
    /// The support.
    pub support: SupportPlan,
    /// Bytes of a counted position, including the tokens of its row, without the tables of the shard.
    pub bytes_per_position: f64,
    /// Bytes of the tables that these rows need, once per shard; tables of many rows are a few times as long.
    pub tables_bytes: u64,
    /// Mean number of ids in a support.
    pub mean_num_ids: f64,
    /// Mean probability outside the support; 0 for samples.
    pub mean_tail_mass: f64,
    /// KL(exact ‖ decoded) on the support and one bucket: the cost of rounding. Samples are not rounded: 0.
    pub rounding_kl_nats: f64,
    /// Mean squared difference between target and teacher's distribution, summed over the vocabulary: for samples the
    /// noise of the draws, for the likeliest ids the part outside them, of which the student learns only the sum.
    pub squared_error: f64,
    /// Counted positions decoded per second on one core.
    pub decoded_per_sec: u64,
}

/// Measures kinds of support on the given rows.
///
/// Rounding is measured with the values that the cache's own reader returns. `fingerprint` names the teacher; its
/// support is replaced by each of `kinds`.
pub fn bench(
    decoder: &Decoder,
    rows: &TokenRows,
    row_idxs: &[usize],
    fingerprint: &Fingerprint,
    kinds: &[SupportPlan],
    mut progress: impl FnMut(usize),
) -> Result<Vec<SupportCost>, CacheError> {
    let exact = Selection {
        support: SupportPlan::TopK(decoder.config.vocab_size),
        temperatures: &[],
    };
    let mut sums: Vec<ErrorSums> = kinds.iter().map(|_| ErrorSums::default()).collect();
    let mut captured: Vec<Vec<Supports>> = kinds.iter().map(|_| Vec::new()).collect();
    for (place, &row_idx) in row_idxs.iter().enumerate() {
        let row = CountedRow::of(rows, row_idx);
        let everything = supports(decoder, &[row], &exact);
        for ((&support, sums), captured) in kinds.iter().zip(&mut sums).zip(&mut captured) {
            let temperatures = &[1.0];
            let selection = Selection {
                support,
                temperatures,
            };
            let draws = selection.draws(row.sequence.tokens());
            for all in &everything {
                let Supports::TopK(all) = all else {
                    continue;
                };
                let places: Vec<usize> = row.mask.positions().collect();
                let whole = all.log_probs.par_chunks(all.top_k).zip(places);
                let kept: Vec<Supports> = whole
                    .map(|(log_probs, position)| selection.select(log_probs, &draws, position))
                    .collect();
                let mut of_row = selection.none();
                for kept in kept {
                    of_row.extend(kept);
                }
                let whole = all.log_probs.chunks(all.top_k);
                for (kept, whole) in of_row.positions().iter().zip(whole) {
                    sums.add_errors(kept, whole);
                }
                captured.push(of_row);
            }
        }
        progress(place + 1);
    }
    let measured = kinds.iter().zip(sums).zip(captured);
    let costs = measured.map(|((&support, sums), captured)| {
        let fingerprint = Fingerprint {
            support,
            temperatures: vec![1.0],
            ..fingerprint.clone()
        };
        store(rows, row_idxs, &fingerprint, sums, &captured)
    });
    costs.collect()
}

/// Stores the kept part of the rows and reads it back.
fn store(
    rows: &TokenRows,
    row_idxs: &[usize],
    fingerprint: &Fingerprint,
    mut sums: ErrorSums,
    captured: &[Supports],
) -> Result<SupportCost, CacheError> {
    let entries = row_idxs.iter().zip(captured);
    let entries: Vec<(CountedRow<'_>, &Supports)> = entries
        .map(|(&row_idx, kept)| (CountedRow::of(rows, row_idx), kept))
        .collect();
    let trial = Trial::of(fingerprint, &entries)?;
    let decoded = trial.decode();
    let timed = (0..DECODES).map(|_| {
        let since = Instant::now();
        black_box(trial.decode());
        since.elapsed().as_secs_f64()
    });
    let secs = timed.fold(f64::INFINITY, f64::min);
    for (kept, decoded) in captured.iter().zip(&decoded) {
        sums.add_rounding(kept, decoded);
    }
    let counted = sums.counted.max(1) as f64;
    Ok(SupportCost {
        support: fingerprint.support,
        bytes_per_position: trial.rows_bytes as f64 / counted,
        tables_bytes: trial.tables_bytes,
        mean_num_ids: sums.num_ids as f64 / counted,
        mean_tail_mass: sums.tail_mass / counted,
        rounding_kl_nats: sums.rounding_kl / counted,
        squared_error: sums.squared_error / counted,
        decoded_per_sec: rate(sums.counted, secs),
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded; a cast saturates"
)]
fn rate(count: usize, secs: f64) -> u64 {
    (count as f64 / secs).round() as u64
}

#[derive(Default)]
struct ErrorSums {
    counted: usize,
    num_ids: usize,
    tail_mass: f64,
    rounding_kl: f64,
    squared_error: f64,
}

impl ErrorSums {
    /// Adds the differences between the kept part of a position and the logarithms of all its probabilities.
    fn add_errors(&mut self, kept: &Support<'_>, log_probs: &[f32]) {
        let prob = |id: &u32| f64::from(log_probs[*id as usize]).exp();
        let square: f64 = log_probs.iter().map(|l| f64::from(*l).exp().powi(2)).sum();
        let pairs = kept.ids().iter().zip(kept.probs());
        let changed = pairs.map(|(id, kept)| (kept - prob(id)).powi(2) - prob(id).powi(2));
        self.squared_error += (square + changed.sum::<f64>()).max(0.0);
        self.tail_mass += kept.tail_mass();
        self.num_ids += kept.ids().len();
        self.counted += 1;
    }

    fn add_rounding(&mut self, kept: &Supports, decoded: &Supports) {
        let [kept, decoded] = [kept, decoded].map(Supports::positions);
        for (kept, decoded) in kept.into_iter().zip(decoded) {
            let classes = |of: &Support<'_>| of.probs().into_iter().chain([of.tail_mass()]);
            let pairs = classes(&kept).zip(classes(&decoded));
            let both = pairs.filter(|(p, q)| *p > 0.0 && *q > 0.0);
            self.rounding_kl += both.map(|(p, q)| p * (p / q).ln()).sum::<f64>();
        }
    }
}
