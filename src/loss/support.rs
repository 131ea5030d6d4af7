//! What the cache holds of the teacher at one position.

/// The teacher's opinion of one position.
#[derive(Debug, Clone, Copy)]
pub enum Support<'a> {
    /// Its likeliest ids.
    TopK(TopK<'a>),
    /// Ids drawn from it.
    Samples(Samples<'a>),
}

/// What becomes of the teacher's mass outside a top-k support; samples have none outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// One bucket, on both sides.
    Bucket,
    /// Shared out over the support in proportion.
    Renormalize,
}

/// The teacher's likeliest ids.
#[derive(Debug, Clone, Copy)]
pub struct TopK<'a> {
    /// Token ids, distinct.
    pub ids: &'a [u32],
    /// Natural log-probabilities of those ids at temperature 1.
    pub log_probs: &'a [f32],
    /// ln Σ exp((log_prob − largest) / T) over the whole vocabulary, at the temperature of the loss; see [`softened`].
    pub log_sum_exp: f32,
}

/// Ids drawn from the teacher at temperature 1.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    /// Token ids, distinct.
    pub ids: &'a [u32],
    /// How often each was drawn.
    pub counts: &'a [u32],
    /// The teacher's entropy at this position, in nats.
    pub entropy: f32,
}

impl<'a> Support<'a> {
    /// Token ids, distinct.
    pub fn ids(&self) -> &'a [u32] {
        match self {
            Self::TopK(top_k) => top_k.ids,
            Self::Samples(samples) => samples.ids,
        }
    }

    /// The logits of those ids.
    pub(super) fn gather(&self, logits: &[f32]) -> Vec<f32> {
        let ids = self.ids().iter();
        ids.map(|&id| logits[id as usize]).collect()
    }

    /// The likeliest id, or the one drawn most often; the first of equals.
    pub fn top_id(&self) -> Option<u32> {
        match self {
            Self::TopK(top_k) => first_largest(top_k.ids, top_k.log_probs),
            Self::Samples(samples) => first_largest(samples.ids, samples.counts),
        }
    }
}

/// Natural logarithms of the probabilities of a position's likeliest ids at a temperature, from those at temperature 1 and
/// ln Σ exp((log_prob − largest) / T) over the whole vocabulary.
///
/// The largest is subtracted before the division: at low temperatures the quotients are so large that f32 knows them to a
/// few nats only. At temperature 1 log-probabilities are normalised as they are.
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
    /// ln of the probabilities on the support at a temperature, and the mass outside it.
    ///
    /// Log-probabilities come rounded from a cache: where their sum exceeds one by that, they are scaled back.
    pub(super) fn log_probs_and_tail(&self, temperature: f32, tail: Tail) -> (Vec<f64>, f64) {
        let soft = softened(self.log_probs, f64::from(temperature), self.log_sum_exp);
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
    /// Share of the draws that fell on each id; they sum to one.
    pub(super) fn shares(&self) -> impl Iterator<Item = f64> {
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
