//! Supports: the kept part of a teacher's prediction at a position, from its selection through the cache to the loss.
//!
//! There are two kinds. Code that does not depend on the difference asks a [`Support`] for its ids, probabilities and
//! tail.

use std::ops::Range;

use crate::data::{LossMask, Sequence, TokenRows};
use crate::recipe::words;

/// A row, and those of its positions that have supports: the ones that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountedRow<'a> {
    /// All `sequence_length + 1` tokens, and their documents.
    pub sequence: Sequence<'a>,
    /// Positions that count.
    pub mask: LossMask<'a>,
}

impl<'a> CountedRow<'a> {
    /// A row with its own mask.
    pub fn of(rows: &'a TokenRows, row_idx: usize) -> Self {
        Self {
            sequence: rows.sequence(row_idx),
            mask: rows.mask(row_idx),
        }
    }
}

/// A temperature of the soft terms.
///
/// A support has a log-sum-exp for each temperature that its cache declares and is exact at no other, so the
/// log-sum-exp is found by the value of the temperature; there is no separate index.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature(f64);

/// Log-sum-exps of the positions of a row at one temperature, over the differences of all `V` log-probabilities of a
/// position to the largest, divided by the temperature. At temperature 1 they are 0 and not read.
#[derive(Debug, Clone, PartialEq)]
pub struct LogSumExps {
    /// Temperature as the cache declares it.
    pub temperature: f64,
    /// `[L]`
    pub of_positions: Vec<f32>,
}

/// Supports of the positions of a row that count, in their order; or of a part of them. Position `t` of a row is about token `t + 1`.
#[derive(Debug, Clone, PartialEq)]
pub enum Supports {
    /// The teacher's likeliest ids.
    TopK(TopKSupports),
    /// Ids drawn from the teacher.
    Samples(SampledSupports),
}

/// The teacher's likeliest ids at each of these positions.
///
/// The probability of entry `i` of position `t` at temperature `T` is `exp((log_probs[i] − largest) / T − lse[t])`,
/// with the largest log-probability of the position, and at `T = 1` it is `exp(log_probs[i])`; see [`softened`]. The
/// remainder to one is the tail mass. The sum over the support may exceed one by f32 rounding when the tail is empty,
/// so clamp the tail mass at zero.
///
/// # Shapes
///
/// `L` is the number of positions, `K` the entries kept per position.
#[derive(Debug, Clone, PartialEq)]
pub struct TopKSupports {
    /// Entries kept per position.
    pub top_k: usize,
    /// Token ids, distinct and ascending within a position. `[L * K]`
    pub ids: Vec<u32>,
    /// Natural logarithms of the probabilities at temperature 1, in the order of `ids`. `[L * K]`
    pub log_probs: Vec<f32>,
    /// Log-sum-exps for every declared temperature.
    pub lse: Vec<LogSumExps>,
}

/// Ids drawn from the teacher at temperature 1, at each of these positions, with their counts.
///
/// `counts / N` is an unbiased estimate of the teacher's probabilities, and there is no tail.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledSupports {
    /// Number of distinct ids of each position. `[L]`
    pub num_ids: Vec<u32>,
    /// Token ids, distinct and ascending within a position, position by position.
    pub ids: Vec<u32>,
    /// Number of draws of each id, in the order of `ids`; the counts of a position sum to `N`.
    pub counts: Vec<u32>,
    /// Entropy of the teacher's full distribution, in nats. `[L]`
    pub entropies: Vec<f32>,
}

/// The teacher's prediction of one position, a view into [`Supports`].
#[derive(Debug, Clone, Copy)]
pub enum Support<'a> {
    /// The teacher's likeliest ids.
    TopK(TopK<'a>),
    /// Ids drawn from the teacher.
    Samples(Samples<'a>),
}

/// The teacher's likeliest ids.
#[derive(Debug, Clone, Copy)]
pub struct TopK<'a> {
    /// Token ids, distinct.
    pub ids: &'a [u32],
    /// Natural log-probabilities of those ids at temperature 1.
    pub log_probs: &'a [f32],
    /// Log-sum-exps for every declared temperature, for the whole row.
    pub lse: &'a [LogSumExps],
    /// Place of the position among those that have supports.
    pub position: usize,
}

/// Ids drawn from the teacher at temperature 1.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    /// Token ids, distinct.
    pub ids: &'a [u32],
    /// Number of draws of each id.
    pub counts: &'a [u32],
    /// The teacher's entropy at this position, in nats.
    pub entropy: f32,
}

words! {
    /// Treatment of the teacher's mass outside a top-k support; samples have none outside.
    pub enum Tail {
        /// One bucket on both sides.
        Bucket = "bucket",
        /// Distributed over the support in proportion.
        Renormalize = "renormalize",
    }
}

impl Temperature {
    /// The temperature at which a model is trained.
    pub const ONE: Self = Self(1.0);

    /// Lowest divisor of logits: f32 can represent its inverse times any logit. A lower one would only distinguish
    /// logits within 1e-18 of the largest.
    pub const LOWEST: f32 = 1e-20;

    /// Creates a temperature that the cache declares.
    pub const fn new(declared: f64) -> Self {
        Self(declared)
    }

    /// True if it is 1 and changes nothing.
    pub const fn is_one(self) -> bool {
        self.divisor().to_bits() == 1.0_f32.to_bits()
    }

    /// Divisor of logits.
    #[expect(clippy::cast_possible_truncation, reason = "logits are f32")]
    pub const fn divisor(self) -> f32 {
        (self.0 as f32).max(Self::LOWEST)
    }
}

impl Supports {
    /// Supports of every position.
    pub fn positions(&self) -> Vec<Support<'_>> {
        match self {
            Self::TopK(supports) => supports.positions().map(Support::TopK).collect(),
            Self::Samples(supports) => supports.positions().map(Support::Samples).collect(),
        }
    }

    /// Appends supports of the positions that follow.
    ///
    /// # Panics
    ///
    /// If they are of another kind.
    pub fn extend(&mut self, more: Self) {
        match (self, more) {
            (Self::TopK(all), Self::TopK(more)) => {
                all.ids.extend(more.ids);
                all.log_probs.extend(more.log_probs);
                for (all, more) in all.lse.iter_mut().zip(more.lse) {
                    all.of_positions.extend(more.of_positions);
                }
            }
            (Self::Samples(all), Self::Samples(more)) => {
                all.num_ids.extend(more.num_ids);
                all.ids.extend(more.ids);
                all.counts.extend(more.counts);
                all.entropies.extend(more.entropies);
            }
            _ => unreachable!("the supports of a row are of one kind"),
        }
    }

    /// Number of positions.
    pub fn num_positions(&self) -> usize {
        match self {
            Self::TopK(supports) => supports.ids.len() / supports.top_k.max(1),
            Self::Samples(supports) => supports.num_ids.len(),
        }
    }

    /// Supports of some of these positions, given by their places, which ascend.
    #[must_use]
    pub fn at(&self, places: impl Iterator<Item = usize> + Clone) -> Self {
        match self {
            Self::TopK(supports) => Self::TopK(supports.at(places)),
            Self::Samples(supports) => Self::Samples(supports.at(places)),
        }
    }

    /// True if the teacher's logits were NaN at a position, which makes the stored values NaN, too.
    pub fn has_nan(&self) -> bool {
        match self {
            Self::TopK(supports) => {
                let lse = supports.lse.iter().flat_map(|lse| &lse.of_positions);
                lse.chain(&supports.log_probs).any(|value| value.is_nan())
            }
            Self::Samples(supports) => supports.entropies.iter().any(|value| value.is_nan()),
        }
    }
}

impl TopKSupports {
    fn at(&self, places: impl Iterator<Item = usize> + Clone) -> Self {
        let entries = |place: usize| place * self.top_k..(place + 1) * self.top_k;
        let lse = self.lse.iter().map(|lse| LogSumExps {
            temperature: lse.temperature,
            of_positions: places
                .clone()
                .map(|place| lse.of_positions[place])
                .collect(),
        });
        Self {
            top_k: self.top_k,
            lse: lse.collect(),
            ids: places
                .clone()
                .flat_map(|place| &self.ids[entries(place)])
                .copied()
                .collect(),
            log_probs: places
                .flat_map(|place| &self.log_probs[entries(place)])
                .copied()
                .collect(),
        }
    }

    /// Supports of every position.
    pub fn positions(&self) -> impl Iterator<Item = TopK<'_>> {
        let log_probs = self.log_probs.chunks_exact(self.top_k);
        let entries = self.ids.chunks_exact(self.top_k).zip(log_probs);
        let positions = entries.enumerate();
        positions.map(|(position, (ids, log_probs))| TopK {
            ids,
            log_probs,
            lse: &self.lse,
            position,
        })
    }
}

impl SampledSupports {
    fn at(&self, places: impl Iterator<Item = usize> + Clone) -> Self {
        let ranges: Vec<Range<usize>> = self.ranges().collect();
        let entries = places.clone().flat_map(|place| ranges[place].clone());
        Self {
            num_ids: places.clone().map(|place| self.num_ids[place]).collect(),
            ids: entries.clone().map(|entry| self.ids[entry]).collect(),
            counts: entries.map(|entry| self.counts[entry]).collect(),
            entropies: places.map(|place| self.entropies[place]).collect(),
        }
    }

    /// Range of each position's entries in `ids` and `counts`.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.num_ids.iter().scan(0, |start, &num_ids| {
            let range = *start..*start + num_ids as usize;
            *start = range.end;
            Some(range)
        })
    }

    /// Supports of every position.
    pub fn positions(&self) -> impl Iterator<Item = Samples<'_>> {
        let positions = self.ranges().zip(&self.entropies);
        positions.map(|(range, &entropy)| Samples {
            ids: &self.ids[range.clone()],
            counts: &self.counts[range],
            entropy,
        })
    }
}

impl<'a> Support<'a> {
    /// Token ids, distinct.
    pub fn ids(&self) -> &'a [u32] {
        match self {
            Self::TopK(top_k) => top_k.ids,
            Self::Samples(samples) => samples.ids,
        }
    }

    /// Logits of those ids.
    pub fn gather(&self, logits: &[f32]) -> Vec<f32> {
        let ids = self.ids().iter();
        ids.map(|&id| logits[id as usize]).collect()
    }

    /// The likeliest id, or the one drawn most often; the first among equals.
    pub fn top_id(&self) -> Option<u32> {
        match self {
            Self::TopK(top_k) => first_largest(top_k.ids, top_k.log_probs),
            Self::Samples(samples) => first_largest(samples.ids, samples.counts),
        }
    }

    /// Probabilities of the ids at temperature 1, or their shares of the draws.
    pub fn probs(&self) -> Vec<f64> {
        match self {
            Self::TopK(top_k) => {
                let log_probs = top_k.log_probs.iter();
                log_probs
                    .map(|log_prob| f64::from(*log_prob).exp())
                    .collect()
            }
            Self::Samples(samples) => samples.shares().collect(),
        }
    }

    /// Probability outside the support at temperature 1; samples have none.
    pub fn tail_mass(&self) -> f64 {
        match self {
            Self::TopK(_) => (1.0 - self.probs().iter().sum::<f64>()).max(0.0),
            Self::Samples(_) => 0.0,
        }
    }

    /// Entropy of the teacher in nats; for top-k a lower bound, from the likeliest ids and the tail as one class.
    pub fn entropy(&self) -> f64 {
        match self {
            Self::TopK(_) => {
                let probs = self.probs().into_iter();
                probs.chain([self.tail_mass()]).map(surprise).sum()
            }
            Self::Samples(samples) => f64::from(samples.entropy),
        }
    }
}

/// `−p ln p`, 0 at 0.
fn surprise(prob: f64) -> f64 {
    if prob > 0.0 { -prob * prob.ln() } else { 0.0 }
}

/// Natural logarithms of the probabilities of a position's likeliest ids at a temperature, from those at temperature 1
/// and ln Σ exp((log_prob − largest) / T) over the whole vocabulary.
///
/// The largest is subtracted before the division: at low temperatures the quotients are so large that f32 resolves them
/// only to a few nats. At temperature 1 the log-probabilities are already normalised.
#[expect(
    clippy::float_cmp,
    reason = "temperature 1 is a value that recipes write"
)]
pub fn softened(
    log_probs: &[f32],
    temperature: f64,
    log_sum_exp: f32,
) -> impl Iterator<Item = f64> {
    let largest = f64::from(log_probs.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let log_sum_exp = f64::from(log_sum_exp);
    log_probs.iter().map(move |&log_prob| {
        let log_prob = f64::from(log_prob);
        if temperature == 1.0 {
            log_prob
        } else {
            (log_prob - largest) / temperature - log_sum_exp
        }
    })
}

impl TopK<'_> {
    /// Log-sum-exp at a declared temperature; 0 at 1, which is not read.
    fn log_sum_exp(&self, temperature: f64) -> f32 {
        let is_it = |lse: &&LogSumExps| lse.temperature.to_bits() == temperature.to_bits();
        if let Some(lse) = self.lse.iter().find(is_it) {
            return lse.of_positions[self.position];
        }
        assert!(
            temperature.to_bits() == 1.0_f64.to_bits(),
            "recipes name no temperature that the cache does not declare"
        );
        0.0
    }

    /// Probability mass on the support at a declared temperature, or at 1.
    pub fn mass(&self, temperature: f64) -> f64 {
        let log_probs = softened(self.log_probs, temperature, self.log_sum_exp(temperature));
        log_probs.map(f64::exp).sum()
    }

    /// ln of the probabilities on the support at a temperature, and the mass outside it.
    ///
    /// Log-probabilities from a cache are rounded; if their sum thereby exceeds one, they are scaled back.
    pub fn log_probs_and_tail(&self, temperature: Temperature, tail: Tail) -> (Vec<f64>, f64) {
        let log_sum_exp = self.log_sum_exp(temperature.0);
        let temperature = f64::from(temperature.divisor());
        let soft = softened(self.log_probs, temperature, log_sum_exp);
        let mut log_probs: Vec<f64> = soft.collect();
        let mass: f64 = log_probs.iter().map(|log_prob| log_prob.exp()).sum();
        if tail == Tail::Renormalize || mass > 1.0 {
            let log_mass = mass.ln();
            for log_prob in &mut log_probs {
                *log_prob -= log_mass;
            }
            return (log_probs, 0.0);
        }
        (log_probs, 1.0 - mass)
    }
}

impl Samples<'_> {
    /// Share of the draws of each id; the shares sum to one.
    pub fn shares(&self) -> impl Iterator<Item = f64> {
        let drawn: u32 = self.counts.iter().sum();
        let shares = self.counts.iter();
        shares.map(move |&count| f64::from(count) / f64::from(drawn))
    }
}

fn first_largest<T: PartialOrd + Copy>(ids: &[u32], values: &[T]) -> Option<u32> {
    let pairs = ids.iter().copied().zip(values.iter().copied());
    let best = pairs.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map(|(id, _)| id)
}
