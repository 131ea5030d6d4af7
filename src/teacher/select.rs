//! Selection of a position's support from its logits.

use crate::cache::{Fingerprint, Sampling, SupportPlan};
use crate::loss::{exps_in_place, likeliest, log_prob, log_sum_exp, softened_log_sum_exp};
use crate::random::Stream;
use crate::support::{LogSumExps, SampledSupports, Supports, TopKSupports};

/// Logits further below the largest have negligible probability: e^−87 is the smallest normal f32.
const LOWEST_LOGIT: f32 = -87.0;

/// The kept part of a distribution.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// Kind and size of the support.
    pub support: SupportPlan,
    /// Temperatures that get a log-sum-exp.
    pub temperatures: &'a [f64],
}

/// Uniform numbers of a row, `per_position` for each position.
pub(super) struct RowDraws {
    uniforms: Vec<f64>,
    per_position: usize,
}

impl<'a> Selection<'a> {
    /// The selection that a cache was made with.
    pub fn of(fingerprint: &'a Fingerprint) -> Self {
        Self {
            support: fingerprint.support,
            temperatures: &fingerprint.temperatures,
        }
    }

    /// Random numbers of a row. They depend only on its tokens, so they are the same in every batch, shard, process and
    /// recipe. Equal rows get equal draws.
    pub(super) fn draws(&self, tokens: &[u32]) -> RowDraws {
        let SupportPlan::Samples {
            num_draws,
            sampling,
        } = self.support
        else {
            return RowDraws {
                uniforms: Vec::new(),
                per_position: 0,
            };
        };
        let per_position = match sampling {
            Sampling::Systematic => 1,
            Sampling::Independent => num_draws,
        };
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| token.to_le_bytes())
            .collect();
        let purpose = format!("samples of row {}", blake3::hash(&bytes).to_hex());
        let mut stream = Stream::new(0, &purpose);
        let num_positions = tokens.len() - 1;
        RowDraws {
            uniforms: (0..num_positions * per_position)
                .map(|_| stream.uniform())
                .collect(),
            per_position,
        }
    }

    /// Supports of no position.
    pub(super) fn none(&self) -> Supports {
        let none_at = |&temperature: &f64| LogSumExps {
            temperature,
            of_positions: Vec::new(),
        };
        match self.support {
            SupportPlan::TopK(top_k) => Supports::TopK(TopKSupports {
                top_k,
                ids: Vec::new(),
                log_probs: Vec::new(),
                lse: self.temperatures.iter().map(none_at).collect(),
            }),
            SupportPlan::Samples { .. } => Supports::Samples(SampledSupports {
                num_ids: Vec::new(),
                ids: Vec::new(),
                counts: Vec::new(),
                entropies: Vec::new(),
            }),
        }
    }

    /// Selects the kept part of the position.
    pub(super) fn select(&self, logits: &[f32], draws: &RowDraws, position: usize) -> Supports {
        match self.support {
            SupportPlan::TopK(top_k) => {
                Supports::TopK(top_k_support(logits, top_k, self.temperatures))
            }
            SupportPlan::Samples {
                num_draws,
                sampling,
            } => {
                let start = position * draws.per_position;
                let uniforms = &draws.uniforms[start..start + draws.per_position];
                Supports::Samples(sampled_support(logits, num_draws, sampling, uniforms))
            }
        }
    }
}

/// Selects the likeliest ids without sorting the whole vocabulary; among equals the lower id is kept.
fn top_k_support(logits: &[f32], top_k: usize, temperatures: &[f64]) -> TopKSupports {
    let plain = log_sum_exp(logits);
    let ids = likeliest(logits, top_k);
    let of_id = |&id: &u32| log_prob(logits[id as usize], plain);
    let log_probs: Vec<f32> = ids.iter().map(of_id).collect();
    let lse = |&temperature: &f64| {
        let log_sum_exp = match temperature {
            1.0 => 0.0, // log-probabilities are normalised at 1
            temperature => softened_log_sum_exp(logits, &ids, &log_probs, temperature),
        };
        LogSumExps {
            temperature,
            of_positions: vec![log_sum_exp],
        }
    };
    TopKSupports {
        top_k: ids.len(),
        lse: temperatures.iter().map(lse).collect(),
        log_probs,
        ids,
    }
}

/// Draws ids from the distribution, and computes its entropy.
///
/// The distribution is cumulated in f64 over ascending ids. Systematic draws are at `(n + U) / N` of it: an id of
/// probability `t` is drawn `⌊N t⌋` or `⌈N t⌉` times, `N t` times on average. The variance of its share is
/// `f (1 − f) / N²` with `f` the fraction of `N t`; for independent draws it is `t (1 − t) / N`.
fn sampled_support(
    logits: &[f32],
    num_draws: usize,
    sampling: Sampling,
    uniforms: &[f64],
) -> SampledSupports {
    let mut weights = logits.to_vec();
    exps_in_place(&mut weights, 1.0);
    let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    let mut points: Vec<f64> = match sampling {
        Sampling::Systematic => {
            let step = total / num_draws as f64;
            (0..num_draws)
                .map(|draw| (draw as f64 + uniforms[0]) * step)
                .collect()
        }
        Sampling::Independent => uniforms.iter().map(|uniform| uniform * total).collect(),
    };
    points.sort_unstable_by(f64::total_cmp);
    let (mut ids, mut counts) = (Vec::new(), Vec::new());
    let mut remaining = points.iter().peekable();
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut below, mut weighted_logits) = (0.0, 0.0);
    let mut last = 0;
    for ((id, &logit), &weight) in (0..).zip(logits).zip(&weights) {
        let weight = f64::from(weight);
        weighted_logits += weight * f64::from((logit - largest).max(LOWEST_LOGIT));
        below += weight;
        let mut count = 0;
        while remaining.next_if(|&&point| point < below).is_some() {
            count += 1;
        }
        if count > 0 {
            ids.push(id);
            counts.push(count);
        }
        last = id;
    }
    // A point that rounding put at the very end belongs to the last id.
    for _ in remaining {
        if ids.last() == Some(&last) {
            *counts.last_mut().expect("as many as ids") += 1;
        } else {
            ids.push(last);
            counts.push(1);
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "supports hold f32")]
    let entropy = (total.ln() - weighted_logits / total) as f32;
    let num_ids = u32::try_from(ids.len()).expect("a vocabulary has fewer than 2^32 tokens");
    SampledSupports {
        num_ids: vec![num_ids],
        ids,
        counts,
        entropies: vec![entropy],
    }
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
