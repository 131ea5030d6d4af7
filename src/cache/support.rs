//! What a cache gives back for a row.

use crate::loss::softened;

/// What the teacher said about the positions of one row. Position `t` is about token `t + 1`.
#[derive(Debug, Clone, PartialEq)]
pub enum RowSupports {
    /// The teacher's likeliest ids.
    TopK(TopKSupports),
    /// Ids drawn from the teacher.
    Samples(SampledSupports),
}

impl RowSupports {
    /// Tells whether the teacher's logits were NaN at a position, so that what is stored of it is, too.
    pub fn has_nan(&self) -> bool {
        match self {
            Self::TopK(supports) => {
                let lse = supports.lse.iter().flatten();
                lse.chain(&supports.log_probs).any(|value| value.is_nan())
            }
            Self::Samples(supports) => supports.entropies.iter().any(|value| value.is_nan()),
        }
    }
}

/// The teacher's likeliest ids at every position of a row.
///
/// At the `j`-th declared temperature `T` the probability of support entry `i` of position `t` is
/// `exp((log_probs[i] − largest) / T − lse[j][t])`, with the largest log-probability of the position, and at `T = 1` it is
/// `exp(log_probs[i])`; see [`softened`]. What is missing to one is the tail mass. The sum over the support may pass one
/// by rounding in f32 when the tail is empty, so clamp the tail mass at zero.
///
/// # Shapes
///
/// `L` is the sequence length, `K` the entries kept per position.
#[derive(Debug, Clone, PartialEq)]
pub struct TopKSupports {
    /// Entries kept per position.
    pub top_k: usize,
    /// Token ids, distinct and ascending within a position. `[L * K]`
    pub ids: Vec<u32>,
    /// Natural logarithms of the probabilities at temperature 1, in the order of `ids`. `[L * K]`
    pub log_probs: Vec<f32>,
    /// Per temperature, log-sum-exp of what all `V` log-probabilities are below the largest, divided by it; nothing reads
    /// that at 1, and it is 0. `[num_temperatures][L]`
    pub lse: Vec<Vec<f32>>,
}

impl TopKSupports {
    /// Probability mass that a position's support holds at a temperature whose entry in `lse` is given.
    pub fn mass(&self, position: usize, temperature: f64, lse: f32) -> f64 {
        let entries = position * self.top_k..(position + 1) * self.top_k;
        let log_probs = softened(&self.log_probs[entries], temperature, lse);
        log_probs.map(f64::exp).sum()
    }
}

/// Ids drawn from the teacher at temperature 1, at every position of a row, and how often each was.
///
/// `counts / N` is an unbiased estimate of the teacher's probabilities, and there is no tail.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledSupports {
    /// Distinct ids of each position. `[L]`
    pub num_ids: Vec<u32>,
    /// Token ids, distinct and ascending within a position, position by position.
    pub ids: Vec<u32>,
    /// Draws that fell on each, in the order of `ids`; those of a position sum to `N`.
    pub counts: Vec<u32>,
    /// The teacher's own entropy, in nats. `[L]`
    pub entropies: Vec<f32>,
}

impl SampledSupports {
    /// The entries of each position, as a range into `ids` and `counts`.
    pub fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.num_ids.iter().scan(0, |start, &num_ids| {
            let range = *start..*start + num_ids as usize;
            *start = range.end;
            Some(range)
        })
    }
}
