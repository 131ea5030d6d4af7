//! The fingerprint of a cache: the inputs that it was made from.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::CacheError;
use crate::cache::SupportPlan;
use crate::kernels::Arithmetic;

/// Most draws at a position; beyond this, the whole distribution takes less space.
const MOST_DRAWS: usize = 1 << 16;

/// Inputs that a cache was made from; two equal fingerprints mean interchangeable caches.
///
/// The reader compares it with the plan before it opens a shard, because a stale cache does not crash:
/// it trains the student on another teacher's prediction. A field belongs here if changing it changes
/// any stored number of a row. The choice of rows does not: each row carries the hash of its own
/// tokens, so more of the same text is captured into the same cache. Nor does the choice of positions:
/// each row says which it has, so a cache serves whoever asks for some of them. Paths and dates do not
/// either, so a cache may be moved and copied.
///
/// Stored in `manifest.json`, and again in each shard's footer, so that a shard that was separated
/// from its folder still says what it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Version of format and codec: [`Fingerprint::VERSION`].
    pub version: u32,
    /// BLAKE3 (hex) over the teacher's tensors.
    pub teacher_weights: String,
    /// BLAKE3 (hex) of `tokenizer.json`: the same ids have the same meaning.
    pub tokenizer: String,
    /// Arithmetic of the teacher's products.
    pub precision: Arithmetic,
    /// Positions per row, whether they count or not.
    pub sequence_length: usize,
    /// Size of the teacher's vocabulary.
    pub vocab_size: usize,
    /// Token ids kept per position.
    pub support: SupportPlan,
    /// Temperatures that have a log-sum-exp, in the order of [`TopKSupports::lse`](crate::support::TopKSupports::lse).
    pub temperatures: Vec<f64>,
}

impl Fingerprint {
    /// Version of format and codec that this program writes and reads; raise it when a column
    /// changes its meaning.
    pub const VERSION: u32 = 5;

    /// Every field in which `self` (the cache) and `wanted` differ, in the order of the fields.
    pub fn differences(&self, wanted: &Self) -> Vec<FieldDifference> {
        let (cached, wanted) = (fields(self), fields(wanted));
        let pairs = cached.into_iter().zip(wanted);
        pairs
            .filter(|((_, cached), (_, wanted))| cached != wanted)
            .map(|((field, cached), (_, wanted))| FieldDifference {
                field,
                cached,
                wanted,
            })
            .collect()
    }

    /// Maximum number of support entries of a position.
    pub(super) fn most_entries(&self) -> usize {
        match self.support {
            SupportPlan::TopK(top_k) => top_k,
            SupportPlan::Samples { num_draws, .. } => num_draws,
        }
    }

    /// Refuses sizes with which the arithmetic below would overflow or have no meaning.
    pub(super) fn check_sizes(&self) -> Result<(), CacheError> {
        let refuse = |what: String| Err(CacheError::Sizes { what });
        if self.sequence_length == 0 {
            return refuse("rows of 0 positions".to_owned());
        }
        if self.vocab_size == 0 || self.vocab_size > 1 << 31 {
            return refuse(format!("a vocabulary of {} tokens", self.vocab_size));
        }
        match self.support {
            SupportPlan::TopK(top_k) if !(1..=self.vocab_size).contains(&top_k) => {
                return refuse(format!("top {top_k} of {} tokens", self.vocab_size));
            }
            SupportPlan::Samples { num_draws, .. } if !(1..=MOST_DRAWS).contains(&num_draws) => {
                return refuse(format!("{num_draws} draws at a position"));
            }
            SupportPlan::Samples { .. } if self.temperatures != [1.0] => {
                return refuse("samples at another temperature than 1".to_owned());
            }
            _ => {}
        }
        if let Some(bad) = self
            .temperatures
            .iter()
            .find(|t| !(**t > 0.0 && t.is_finite()))
        {
            return refuse(format!("a temperature of {bad}"));
        }
        if self.temperatures.is_empty() {
            return refuse("no temperature".to_owned());
        }
        // A row must fit into memory and its streams into 32 bits.
        let widest = self.most_entries().max(self.temperatures.len() + 1);
        match self.sequence_length.checked_mul(widest) {
            Some(entries) if i32::try_from(entries).is_ok() => Ok(()),
            _ => refuse(format!(
                "{} positions of {widest} values in a row",
                self.sequence_length
            )),
        }
    }
}

/// A field of the fingerprint in which a cache differs from the wanted one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldDifference {
    /// Name of the field.
    pub field: String,
    /// Its value in the cache.
    pub cached: String,
    /// Its wanted value.
    pub wanted: String,
}

impl fmt::Display for FieldDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cached, wanted) = (abridged(&self.cached), abridged(&self.wanted));
        write!(
            f,
            "`{}` is {cached} in the cache, but {wanted} is wanted",
            self.field
        )
    }
}

fn fields(fingerprint: &Fingerprint) -> Vec<(String, String)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(fingerprint) else {
        unreachable!("a fingerprint is a struct of strings and numbers");
    };
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let pairs = fields.into_iter();
    pairs.map(|(name, value)| (name, text(value))).collect()
}

/// The beginning of a long value, which is enough to distinguish hashes.
fn abridged(value: &str) -> String {
    match value.char_indices().nth(12) {
        Some((end, _)) if value.chars().count() > 24 => format!("`{}…`", &value[..end]),
        _ => format!("`{value}`"),
    }
}
