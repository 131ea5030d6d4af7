//! Generation of text from a model, token by token.

use burn::tensor::Tensor;
use thiserror::Error;

use crate::model::attention::KeyValues;
use crate::model::{Decoder, ids_tensor};
use crate::random::Stream;

/// Settings for drawing the next token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenSampling {
    /// Temperature; 0 takes the likeliest token.
    pub temperature: f64,
    /// Smallest set of likeliest tokens with at least this mass (Holtzman et al. 2020, arXiv 1904.09751).
    pub top_p: f64,
    /// Seed of the draws.
    pub seed: u64,
}

/// Error of a model whose logits give no token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the model's logits are NaN or infinite after {num_tokens} tokens: there is no next one")]
pub struct NoNextToken {
    /// Number of tokens before it, including the prompt.
    pub num_tokens: usize,
}

/// Continues `prompt` by at most `max_tokens` tokens, and passes each to `emit` as it comes.
///
/// Keys and values of earlier tokens are kept, so each new token costs one position. If a new token changes the rotation of
/// earlier positions ([`Rope::differs_between`](crate::model::Rope::differs_between)), all are read again. Generation ends at
/// an end-of-text token of the model, which is not passed on, or when `emit` returns false.
///
/// # Errors
///
/// If a logit is NaN or infinite, which is possible with finite weights.
///
/// # Panics
///
/// If the prompt is empty.
pub fn generate(
    decoder: &Decoder,
    prompt: &[u32],
    max_tokens: usize,
    sampling: TokenSampling,
    mut emit: impl FnMut(u32) -> bool,
) -> Result<(), NoNextToken> {
    assert!(!prompt.is_empty(), "a prompt has at least one token");
    let mut stream = Stream::new(sampling.seed, "generate");
    let mut past: Vec<KeyValues> = Vec::new();
    let mut text = prompt.to_vec();
    let mut num_read = 0;
    for _ in 0..max_tokens {
        let ropes = [
            Some(&decoder.config.rope),
            decoder.config.local_rope.as_ref(),
        ];
        let mut ropes = ropes.into_iter().flatten();
        if ropes.any(|rope| rope.differs_between(num_read, text.len())) {
            past.clear();
            num_read = 0;
        }
        let new = &text[num_read..];
        let hidden = decoder.hidden_after(ids_tensor(&[new], &decoder.device()), &mut past); // [1, T, D]
        let logits = decoder.logits(hidden.narrow(1, new.len() - 1, 1)); // [1, 1, V]
        let logits = to_vec(logits);
        if !logits.iter().all(|logit| logit.is_finite()) {
            let num_tokens = text.len();
            return Err(NoNextToken { num_tokens });
        }
        let next = sample(&logits, sampling, &mut stream);
        if decoder.config.eos_token_ids.contains(&next) || !emit(next) {
            break;
        }
        num_read = text.len();
        text.push(next);
    }
    Ok(())
}

fn to_vec(logits: Tensor<3>) -> Vec<f32> {
    logits.try_into_vec_as::<f32>().expect("logits are f32")
}

/// Draws one id; among equal logits the lower id comes first.
fn sample(logits: &[f32], sampling: TokenSampling, stream: &mut Stream) -> u32 {
    let mut order: Vec<u32> = (0..u32::try_from(logits.len())
        .expect("a vocabulary has fewer than 2^32 tokens"))
        .collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    if sampling.temperature <= 0.0 {
        return order[0];
    }
    let largest = f64::from(logits[order[0] as usize]);
    let weights: Vec<f64> = order
        .iter()
        .map(|&id| ((f64::from(logits[id as usize]) - largest) / sampling.temperature).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    let mut kept = 0;
    let mut mass = 0.0;
    while kept < weights.len() && (kept == 0 || mass < sampling.top_p * total) {
        mass += weights[kept];
        kept += 1;
    }
    let mut left = stream.uniform() * mass;
    for (&id, weight) in order.iter().zip(&weights[..kept]) {
        left -= weight;
        if left < 0.0 {
            return id;
        }
    }
    order[kept - 1] // rounding may leave a little mass
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.0, 2.0, 1.0, -5.0];

    fn draw(temperature: f64, top_p: f64, draws: usize) -> [usize; 4] {
        let mut counts = [0; 4];
        let mut stream = Stream::new(1, "test");
        for _ in 0..draws {
            counts[sample(
                &LOGITS,
                TokenSampling {
                    temperature,
                    top_p,
                    seed: 1,
                },
                &mut stream,
            ) as usize] += 1;
        }
        counts
    }

    #[test]
    fn temperature_zero_takes_the_likeliest() {
        assert_eq!(draw(0.0, 1.0, 10), [0, 10, 0, 0]);
    }

    #[test]
    fn draws_follow_the_softmax_and_top_p_cuts_its_tail() {
        let counts = draw(1.0, 1.0, 20_000);
        let total: f64 = LOGITS.iter().map(|z| f64::from(*z).exp()).sum();
        for (count, z) in counts.iter().zip(LOGITS) {
            let want = f64::from(z).exp() / total;
            assert!((*count as f64 / 20_000.0 - want).abs() < 0.01, "{counts:?}");
        }
        let counts = draw(1.0, 0.8, 1_000); // the two likeliest hold 0.90 of the mass, the first alone 0.66
        assert_eq!((counts[0], counts[3]), (0, 0));
        assert!(counts[2] > 200, "{counts:?}");
    }
}
