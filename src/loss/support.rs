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

    /// The likeliest id, or the one drawn most often; the first of equals.
    pub fn top_id(&self) -> Option<u32> {
        match self {
            Self::TopK(top_k) => first_largest(top_k.ids, top_k.log_probs),
            Self::Samples(samples) => first_largest(samples.ids, samples.counts),
        }
    }
}

impl TopK<'_> {
    /// Probabilities on the support at a temperature, and the mass outside it.
    ///
    /// Log-probabilities come rounded from a cache: where their sum exceeds one by that, they are scaled back.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "probabilities are f32 in arithmetic"
    )]
    pub(super) fn probs(&self, temperature: f32) -> (Vec<f32>, f32) {
        let inverse = temperature.recip();
        let mut probs: Vec<f32> = self
            .log_probs
            .iter()
            .map(|log_prob| (log_prob * inverse - self.log_sum_exp).exp())
            .collect();
        let mass: f64 = probs.iter().map(|&prob| f64::from(prob)).sum();
        if mass > 1.0 {
            for prob in &mut probs {
                *prob = (f64::from(*prob) / mass) as f32;
            }
        }
        (probs, (1.0 - mass).max(0.0) as f32)
    }
}

impl Samples<'_> {
    /// Share of the draws that fell on each id; they sum to one.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand draws at most")]
    pub(super) fn shares(&self) -> Vec<f32> {
        let drawn: u32 = self.counts.iter().sum();
        let shares = self.counts.iter();
        shares.map(|&count| count as f32 / drawn as f32).collect()
    }
}

fn first_largest<T: PartialOrd + Copy>(ids: &[u32], values: &[T]) -> Option<u32> {
    let pairs = ids.iter().copied().zip(values.iter().copied());
    let best = pairs.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map(|(id, _)| id)
}
