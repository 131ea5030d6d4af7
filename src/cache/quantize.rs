//! Supports ↔ stored integers, with the documented error bounds.
//!
//! Log-probabilities of a position are rounded to steps below the likeliest. Their sum is stored separately, as the
//! log-odds of the tail, once per temperature, so it does not depend on the rounding. Errors of the steps thus cancel
//! in the mean: the divergence from the captured distribution is of second order. Samples are integers already.

use std::sync::LazyLock;

use super::Fingerprint;
use crate::cache::SupportPlan;
use crate::support::{LogSumExps, SampledSupports, Supports, TopKSupports};

/// Nats between two levels of a log-probability.
pub(super) const LEVEL_STEP: f64 = 1.0 / 32.0;

/// Margin of the likeliest id over the others of its step, in nats: enough to distinguish it in f32.
const TOP_MARGIN: f64 = 1.0 / 4096.0;

/// Lowest level; log-probabilities further below the likeliest are read back as this level.
pub(super) const LOWEST_LEVEL: u16 = 1023;

/// Nats between two codes of a tail's log-odds.
const TAIL_STEP: f64 = 1.0 / 16.0;

/// Code of even odds; log-odds range from −20 to 20.
const EVEN_TAIL: u16 = 320;

/// Code of a tail that is empty, or holds less than 2e-9.
pub(super) const NO_TAIL: u16 = 2 * EVEN_TAIL + 1;

/// Nats between two codes of an entropy.
const ENTROPY_STEP: f64 = 1.0 / 16.0;

/// Largest code of an entropy; the entropy of 2^31 classes is 21.5 nats.
pub(super) const LARGEST_ENTROPY: u16 = 344;

/// The counted positions of a row as integers, for either kind of support; `L` of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct RowCodes {
    /// Number of ids of each position; empty for top-k rows, which have equally many at all positions. `[L]`
    pub(super) num_ids: Vec<u32>,
    pub(super) ids: Vec<u32>,
    /// A number for each id.
    ///
    /// For the likeliest ids, their levels: 0 for the likeliest only, so that it is known even if others are within
    /// half a step; for all others one more than their steps below it. For samples, their counts less one.
    pub(super) weights: Vec<u16>,
    /// Log-odds of the tail at temperature 1 and then at each other, position by position, `[L * num_tails]`; for
    /// samples, entropies, `[L]`.
    pub(super) masses: Vec<u16>,
}

/// Temperatures that have a stored tail: 1, at which log-probabilities are normalised, and the other declared ones.
pub(super) fn tail_temperatures(declared: &[f64]) -> Vec<f64> {
    let others = declared
        .iter()
        .copied()
        .filter(|t| t.to_bits() != 1.0_f64.to_bits());
    std::iter::once(1.0).chain(others).collect()
}

/// Quantizes a row whose sizes and values have been checked.
pub(super) fn quantize(supports: &Supports) -> RowCodes {
    match supports {
        Supports::TopK(top_k) => quantize_top_k(top_k),
        Supports::Samples(samples) => RowCodes {
            num_ids: samples.num_ids.clone(),
            ids: samples.ids.clone(),
            weights: samples
                .counts
                .iter()
                .map(|&count| less_one(count))
                .collect(),
            masses: samples
                .entropies
                .iter()
                .map(|&entropy| code(f64::from(entropy) / ENTROPY_STEP, LARGEST_ENTROPY))
                .collect(),
        },
    }
}

/// Reconstructs the supports from the integers of a row.
pub(super) fn dequantize(codes: RowCodes, fingerprint: &Fingerprint) -> Supports {
    match fingerprint.support {
        SupportPlan::TopK(top_k) => {
            Supports::TopK(dequantize_top_k(codes, top_k, &fingerprint.temperatures))
        }
        SupportPlan::Samples { .. } => Supports::Samples(SampledSupports {
            num_ids: codes.num_ids,
            ids: codes.ids,
            counts: codes
                .weights
                .iter()
                .map(|&weight| u32::from(weight) + 1)
                .collect(),
            entropies: codes
                .masses
                .iter()
                .map(|&code| to_f32(f64::from(code) * ENTROPY_STEP))
                .collect(),
        }),
    }
}

/// A count as stored; less one, because as many as 2^16 draws may have the same id.
pub(super) fn less_one(count: u32) -> u16 {
    u16::try_from(count - 1).expect("no support has more than 2^16 draws")
}

fn quantize_top_k(supports: &TopKSupports) -> RowCodes {
    let mut codes = RowCodes {
        ids: supports.ids.clone(),
        ..RowCodes::default()
    };
    let declared: Vec<f64> = supports.lse.iter().map(|lse| lse.temperature).collect();
    let temperatures = tail_temperatures(&declared);
    for support in supports.positions() {
        let log_probs = support.log_probs;
        let top_place = (1..log_probs.len()).fold(0, |best, place| {
            if log_probs[place] > log_probs[best] {
                place
            } else {
                best
            }
        });
        let top = f64::from(log_probs[top_place]);
        let level = |(place, &log_prob): (usize, &f32)| match place {
            place if place == top_place => 0,
            _ => code((top - f64::from(log_prob)) / LEVEL_STEP + 1.0, LOWEST_LEVEL).max(1),
        };
        codes
            .weights
            .extend(log_probs.iter().enumerate().map(level));
        let tails = temperatures.iter();
        let tails = tails.map(|&temperature| tail_code(support.mass(temperature)));
        codes.masses.extend(tails);
    }
    codes
}

/// Code of a tail, from the mass on the support.
fn tail_code(mass: f64) -> u16 {
    let even = f64::from(EVEN_TAIL);
    let log_odds = (1.0 - mass).ln() - mass.ln();
    if mass >= 1.0 || log_odds / TAIL_STEP < -even {
        return NO_TAIL;
    }
    code(log_odds / TAIL_STEP + even, 2 * EVEN_TAIL)
}

/// Natural logarithm of the mass on the support.
fn log_mass(tail_code: u16) -> f64 {
    if tail_code == NO_TAIL {
        return 0.0;
    }
    let log_odds = (f64::from(tail_code) - f64::from(EVEN_TAIL)) * TAIL_STEP;
    -log_odds.exp().ln_1p()
}

fn dequantize_top_k(codes: RowCodes, top_k: usize, temperatures: &[f64]) -> TopKSupports {
    let stored = tail_temperatures(temperatures);
    let num_positions = codes.weights.len() / top_k;
    let mut log_probs = Vec::with_capacity(codes.weights.len());
    let lse_at = |&temperature: &f64| LogSumExps {
        temperature,
        of_positions: Vec::with_capacity(num_positions),
    };
    let mut lse: Vec<LogSumExps> = temperatures.iter().map(lse_at).collect();
    let positions = codes.weights.chunks_exact(top_k);
    for (levels, tails) in positions.zip(codes.masses.chunks_exact(stored.len())) {
        let sum: f64 = levels.iter().map(|&level| EXPS[usize::from(level)]).sum();
        let top = log_mass(tails[0]) - sum.ln();
        let log_prob = |&level: &u16| to_f32(top - below_top(level));
        log_probs.extend(levels.iter().map(log_prob));
        for lse in &mut lse {
            let temperature = lse.temperature;
            let place = stored
                .iter()
                .position(|t| t.to_bits() == temperature.to_bits());
            let place = place.expect("a tail is stored for every declared temperature");
            if place == 0 {
                lse.of_positions.push(0.0); // normalised above
                continue;
            }
            let soft = |&level: &u16| (-below_top(level) / temperature).exp();
            let sum: f64 = levels.iter().map(soft).sum();
            lse.of_positions
                .push(to_f32(sum.ln() - log_mass(tails[place])));
        }
    }
    TopKSupports {
        top_k,
        ids: codes.ids,
        log_probs,
        lse,
    }
}

/// Distance of a level below the likeliest, in nats.
fn below_top(level: u16) -> f64 {
    match level {
        0 => 0.0,
        1 => TOP_MARGIN,
        level => f64::from(level - 1) * LEVEL_STEP,
    }
}

/// `exp` of every level.
static EXPS: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let levels = 0..=LOWEST_LEVEL;
    levels.map(|level| (-below_top(level)).exp()).collect()
});

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=largest; a NaN was refused before and would give 0"
)]
fn code(steps: f64, largest: u16) -> u16 {
    steps.round().clamp(0.0, f64::from(largest)) as u16
}

#[expect(clippy::cast_possible_truncation, reason = "supports hold f32")]
fn to_f32(value: f64) -> f32 {
    value as f32
}
