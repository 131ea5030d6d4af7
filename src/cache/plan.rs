//! Keys of the cache: what is captured of the teacher.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::diag::Diagnostic;
use crate::recipe::{
    Block, Fields, Item, Kind, MAX_SIZE, TEMPERATURE, Value, Word, distinct, keys, required, words,
};

keys! {
    pub struct CachePlan in CACHE = "cache", "Capture of the teacher's predictions." {
        #[serde(skip)]
        tokens: Option<u64> = rule("all of them", Kind::Tokens(1), "upper limit of training positions captured") also ["max_tokens", "num_tokens", "train_tokens"];
        support: SupportPlan = or("{ top_k: 32 }", Kind::Choice(&SUPPORT), "token ids kept per position");
        /// Ascending.
        temperatures: Vec<f64> = or("[1.0]", Kind::List(&TEMPERATURE, 1, 64), "temperatures at which the cached distribution is exact; only 1 with `samples`") also ["temperature", "temp", "temps"] from ascending_temperatures;
        key sampling = or("systematic", Kind::Word(Sampling::WORDS), "method of drawing `samples`: equal steps from one random offset, or independent draws") write sampling;
        rows_per_shard: usize = or("128", Kind::Integer(1, MAX_SIZE), "rows per shard, the most that a killed capture loses");
    }
}

/// The token ids that the cache holds at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupportPlan {
    /// The teacher's likeliest ids, this many.
    TopK(usize),
    /// Ids drawn from the teacher (Anshumann et al. 2025, arXiv 2503.16870).
    Samples {
        /// Draws at each position.
        num_draws: usize,
        /// Method of drawing.
        sampling: Sampling,
    },
}

words! {
    /// Method of drawing ids from the teacher; both are unbiased.
    pub enum Sampling {
        /// One random offset, then equal steps through the distribution: no count is a whole draw off its mean.
        Systematic = "systematic",
        /// Independent draws.
        Independent = "independent",
    }
}

words! {
    /// Kinds of support, by their words in the recipe; see [`SupportPlan`].
    pub(crate) enum SupportWord {
        TopK = "top_k",
        Samples = "samples",
    }
}

static SUPPORT: Block = Block {
    name: "support",
    about: "Token ids that the cache holds at a position.",
    rows: &[
        required(
            SupportWord::TopK.word(),
            Kind::Integer(1, MAX_SIZE),
            "number of the teacher's likeliest tokens",
        ),
        required(
            SupportWord::Samples.word(),
            Kind::Integer(1, 1 << 16),
            "number of tokens drawn from the teacher: unbiased, smaller, and without a tail",
        ),
    ],
};

impl Value for SupportPlan {
    fn read(item: &Item, cache: Fields<'_>) -> Option<Self> {
        let support = cache.inside(item)?;
        Some(match support.variant()? {
            (SupportWord::TopK, _) => Self::TopK(support.get("top_k")?),
            (SupportWord::Samples, _) => Self::Samples {
                num_draws: support.get("samples")?,
                sampling: cache.get("sampling")?,
            },
        })
    }

    fn write(&self, _: &Path) -> serde_json::Value {
        match self {
            Self::TopK(top_k) => json!({"top_k": top_k}),
            Self::Samples { num_draws, .. } => json!({"samples": num_draws}),
        }
    }
}

fn sampling(plan: &CachePlan) -> serde_json::Value {
    match plan.support {
        SupportPlan::TopK(_) => json!(null),
        SupportPlan::Samples { sampling, .. } => json!(sampling),
    }
}

fn ascending_temperatures(fields: Fields<'_>) -> Option<Vec<f64>> {
    let mut temperatures: Vec<f64> = fields.get("temperatures")?;
    temperatures.sort_by(f64::total_cmp);
    Some(temperatures)
}

/// Reports every contradiction within the block.
pub(crate) fn check(cache: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    distinct::<f64>(cache, "temperatures", faults);
    let Some(support) = cache.block("support") else {
        return;
    };
    match support.variant() {
        Some((SupportWord::TopK, _)) if cache.is_written("sampling") => {
            let message = "`sampling` has no effect: the support is `top_k`";
            faults.push(
                Diagnostic::new("recipe/unused-key", message)
                    .primary(cache.span("sampling"), "how `samples` are drawn")
                    .secondary(support.holder(), "")
                    .help("delete it, or write `support: { samples: 50 }`"),
            );
        }
        Some((SupportWord::Samples, _)) => {
            let declared = cache.get::<Vec<f64>>("temperatures");
            if let Some(declared) = declared.filter(|declared| *declared != [1.0]) {
                let message = "`samples` support only temperature 1";
                faults.push(
                    Diagnostic::new("recipe/samples-temperature", message)
                        .primary(cache.span("temperatures"), format!("declares {declared:?}"))
                        .secondary(
                            support.span("samples"),
                            "drawn from the teacher at temperature 1",
                        )
                        .help("delete `temperatures`, or write `support: { top_k: 64 }`"),
                );
            }
        }
        _ => {}
    }
}
