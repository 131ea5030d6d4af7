//! Generation of text from a model, token by token.

use burn::tensor::Tensor;
use thiserror::Error;

use crate::model::attention::KeyValues;
use crate::model::{Decoder, TokenBatch};
use crate::random::Stream;

/// Settings for drawing the next token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenSampling {
    /// Temperature; 0 takes the likeliest token.
    pub temperature: f64,
    /// Number of likeliest tokens to draw from; `None` keeps all (Fan et al. 2018, arXiv 1805.04833).
    pub top_k: Option<usize>,
    /// Smallest set of likeliest tokens with at least this share of the mass that `top_k` keeps (Holtzman et al. 2020, arXiv 1904.09751).
    pub top_p: f64,
    /// Seed of the draws.
    pub seed: u64,
}

/// Reason why a text ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The model drew this token, with which it ends a text.
    EndOfText(u32),
    /// The text has as many tokens as were asked for.
    MaxTokens,
    /// The receiver of tokens wanted no more.
    Stopped,
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
) -> Result<Ended, NoNextToken> {
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
        let tokens = TokenBatch::document(new, &decoder.device());
        let hidden = decoder.hidden_after(&tokens, &mut past); // [1, T, D]
        let logits = decoder.logits(hidden.narrow(1, new.len() - 1, 1)); // [1, 1, V]
        let logits = to_vec(logits);
        if !logits.iter().all(|logit| logit.is_finite()) {
            let num_tokens = text.len();
            return Err(NoNextToken { num_tokens });
        }
        let next = sample(&logits, sampling, &mut stream);
        if decoder.config.eos_token_ids.contains(&next) {
            return Ok(Ended::EndOfText(next));
        }
        if !emit(next) {
            return Ok(Ended::Stopped);
        }
        num_read = text.len();
        text.push(next);
    }
    Ok(Ended::MaxTokens)
}

fn to_vec(logits: Tensor<3>) -> Vec<f32> {
    logits.try_into_vec_as::<f32>().expect("logits are f32")
}

/// Draws one id; among equal logits the lower id comes first.
fn sample(logits: &[f32], sampling: TokenSampling, stream: &mut Stream) -> u32 {
    if sampling.temperature <= 0.0 {
        return likeliest(logits);
    }
    let mut order: Vec<u32> = (0..).take(logits.len()).collect();
    let by_logit = |a: &u32, b: &u32| {
        let [a_logit, b_logit] = [a, b].map(|&id| logits[id as usize]);
        b_logit.total_cmp(&a_logit).then(a.cmp(b))
    };
    let top_k = sampling.top_k.unwrap_or(order.len()).clamp(1, order.len());
    if top_k < order.len() {
        order.select_nth_unstable_by(top_k, by_logit);
        order.truncate(top_k);
    }
    order.sort_unstable_by(by_logit);
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

fn likeliest(logits: &[f32]) -> u32 {
    let ids = (0..).zip(logits);
    let best = ids.reduce(|best, next| {
        if next.1.total_cmp(best.1).is_gt() {
            next
        } else {
            best
        }
    });
    best.expect("a vocabulary has a token").0
}

/// Text as it may be shown while it grows: nothing of a string that ends it, also if that comes in pieces.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text that may be the beginning of a string that ends it.
    held: String,
    is_over: bool,
}

impl StopStrings {
    /// Strings that end a text; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty());
        Self {
            stops: stops.cloned().collect(),
            ..Self::default()
        }
    }

    /// True once one of the strings has come.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Takes the next piece of text and returns what can be shown of it and of what was held back.
    pub fn push(&mut self, piece: &str) -> String {
        if self.is_over {
            return String::new();
        }
        self.held.push_str(piece);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop));
        if let Some(end) = found.min() {
            self.held.truncate(end);
            self.is_over = true;
            return std::mem::take(&mut self.held);
        }
        let held = &self.held;
        let may_begin = |&start: &usize| {
            self.stops
                .iter()
                .any(|stop| stop.starts_with(&held[start..]))
        };
        let mut starts = held.char_indices().map(|(start, _)| start);
        let kept = starts.find(may_begin).unwrap_or(held.len());
        let rest = self.held.split_off(kept);
        std::mem::replace(&mut self.held, rest)
    }

    /// Returns what was held back when no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.0, 2.0, 1.0, -5.0];

    fn draw(temperature: f64, top_k: Option<usize>, top_p: f64, draws: usize) -> [usize; 4] {
        let mut counts = [0; 4];
        let mut stream = Stream::new(1, "test");
        for _ in 0..draws {
            counts[sample(
                &LOGITS,
                TokenSampling {
                    temperature,
                    top_k,
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
        assert_eq!(draw(0.0, None, 1.0, 10), [0, 10, 0, 0]);
    }

    #[test]
    fn draws_follow_the_softmax_and_top_p_cuts_its_tail() {
        let counts = draw(1.0, None, 1.0, 20_000);
        let total: f64 = LOGITS.iter().map(|z| f64::from(*z).exp()).sum();
        for (count, z) in counts.iter().zip(LOGITS) {
            let want = f64::from(z).exp() / total;
            assert!((*count as f64 / 20_000.0 - want).abs() < 0.01, "{counts:?}");
        }
        let counts = draw(1.0, None, 0.8, 1_000); // the two likeliest hold 0.90 of the mass, the first alone 0.66
        assert_eq!((counts[0], counts[3]), (0, 0));
        assert!(counts[2] > 200, "{counts:?}");
    }

    #[test]
    fn top_k_keeps_the_likeliest_and_changes_nothing_if_it_keeps_all() {
        let all = draw(1.0, None, 0.9, 500);
        assert_eq!(draw(1.0, Some(4), 0.9, 500), all);
        assert_eq!(draw(1.0, Some(99), 0.9, 500), all);
        let two = draw(1.0, Some(2), 1.0, 1_000);
        assert_eq!((two[0], two[3]), (0, 0), "{two:?}");
        assert!(two[2] > 150, "{two:?}");
        assert_eq!(draw(1.0, Some(1), 1.0, 10), [0, 10, 0, 0]);
        // Of the two that are kept, the first has 0.73 of the mass.
        assert_eq!(draw(1.0, Some(2), 0.7, 50), [0, 50, 0, 0]);
    }

    #[test]
    fn among_equal_logits_the_lower_id_is_the_likeliest() {
        assert_eq!(likeliest(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(likeliest(&[-1.0]), 0);
        assert_eq!(likeliest(&[-0.0, 0.0]), 1);
    }

    fn shown(stops: &[&str], pieces: &[&str]) -> (Vec<String>, String, bool) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut text = StopStrings::new(&stops);
        let shown = pieces.iter().map(|piece| text.push(piece)).collect();
        let rest = text.finish();
        (shown, rest, text.is_over())
    }

    #[test]
    fn a_stop_string_ends_the_text_wherever_its_pieces_are_cut() {
        let text = "one\n\nUser: two";
        for cut in 0..=text.len() {
            for second in cut..=text.len() {
                let pieces = [&text[..cut], &text[cut..second], &text[second..]];
                let (found, rest, is_over) = shown(&["User:", "Anne"], &pieces);
                assert_eq!(
                    (found.concat().as_str(), is_over),
                    ("one\n\n", true),
                    "{pieces:?}"
                );
                assert_eq!(rest, "");
            }
        }
    }

    #[test]
    fn what_may_begin_a_stop_string_is_held_back_and_comes_after_all() {
        let (found, rest, is_over) = shown(&["aab"], &["xa", "a", "a", "c", "aa"]);
        assert_eq!(
            (found, rest, is_over),
            (
                ["x", "", "a", "aac", ""].map(str::to_owned).to_vec(),
                "aa".to_owned(),
                false,
            )
        );
        let (found, _, _) = shown(&["é!"], &["caf", "é", "!", "more"]);
        assert_eq!(found.concat(), "caf");
        // The first of several in the text ends it, whichever was named first.
        assert_eq!(shown(&["two", "one"], &["a one two"]).0.concat(), "a ");
        assert_eq!(shown(&[""], &["all"]).0.concat(), "all");
    }
}
