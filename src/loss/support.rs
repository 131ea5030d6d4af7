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
    /// ln Σ exp(log_prob / T) over the whole vocabulary, at the temperature of the loss.
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

impl TopK<'_> {
    /// ln of the probabilities on the support at a temperature, and the mass outside it.
    ///
    /// Log-probabilities come rounded from a cache: where their sum exceeds one by that, they are scaled back.
    pub(super) fn log_probs_and_tail(&self, temperature: f32, tail: Tail) -> (Vec<f64>, f64) {
        let (temperature, log_sum_exp) = (f64::from(temperature), f64::from(self.log_sum_exp));
        let softened = |&log_prob: &f32| f64::from(log_prob) / temperature - log_sum_exp;
        let mut log_probs: Vec<f64> = self.log_probs.iter().map(softened).collect();
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
