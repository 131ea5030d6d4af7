//! An exported folder against the student in memory.

use std::fmt;
use std::path::Path;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::data::TokenRows;
use crate::loss::chunked::all_logits;
use crate::loss::log_sum_exp;
use crate::model::{Decoder, Head, ParameterSpec, ids_tensor};
use crate::teacher::load_decoder;
use crate::tensors;

/// Validation rows on which logits are compared.
const NUM_ROWS: usize = 8;

/// How far a folder may be from the student in memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Largest difference of a logit, for a format that holds the student exactly.
    LogitDifference(f64),
    /// KL in nats per position, where weights are rounded on the way: that moves logits in proportion to their size,
    /// which differs between models.
    Kl(f64),
}

/// What the comparison found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// Format, as in the recipe.
    pub format: String,
    /// Bytes of its weights on disk.
    pub size_bytes: u64,
    /// Validation positions compared.
    pub positions: u64,
    /// Largest absolute difference of a logit.
    pub max_logit_difference: f64,
    /// What the recipe allows.
    pub budget: Budget,
    /// KL(student in memory ‖ folder), nats per position.
    pub kl_nats: f64,
    /// Share of positions whose likeliest token is the same.
    pub top1_agreement: f64,
}

impl Verification {
    /// Whether the folder is within its budget; what is not a number is not.
    pub fn holds(&self) -> bool {
        match self.budget {
            Budget::LogitDifference(most) => self.max_logit_difference <= most,
            Budget::Kl(most) => self.kl_nats <= most,
        }
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (logits, kl) = match self.budget {
            Budget::LogitDifference(most) => (format!(" (at most {most:.0e})"), String::new()),
            Budget::Kl(most) => (String::new(), format!(" (at most {most:.0e})")),
        };
        write!(
            out,
            "largest logit difference {:.1e}{logits}, KL {:.1e} nats{kl}, top-1 agreement {:.2} %",
            self.max_logit_difference,
            self.kl_nats,
            100.0 * self.top1_agreement
        )
    }
}

/// Why a folder is not published.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// It cannot be read back.
    #[error("the exported folder cannot be read back: {0}")]
    Unreadable(#[from] CheckpointError),
    /// A weight on disk is not the one that was to be stored.
    #[error(
        "`{name}`[{index}] reads back as {got}, but {want} was stored: this is a fault of alambic"
    )]
    Weight {
        /// The tensor.
        name: String,
        /// Row-major place.
        index: usize,
        /// On disk.
        got: f32,
        /// To be stored.
        want: f32,
    },
    /// The folder computes something else.
    #[error(
        "{} is not the student in memory: {}; nothing was published; {}", .0.format, .0, help(.0.budget)
    )]
    OverBudget(Box<Verification>),
}

fn help(budget: Budget) -> &'static str {
    match budget {
        Budget::LogitDifference(_) => "`export.max_logit_difference` is the limit",
        Budget::Kl(_) => {
            "write `export.dtype: f32`, which rounds nothing, or raise the limit, `export.max_rounding_kl`"
        }
    }
}

/// What a folder is held against.
pub struct Expectation<'a> {
    /// Format, as in the recipe.
    pub format: &'a str,
    /// The student's free weights.
    pub weights: &'a Decoder,
    /// One of them as this format holds it: it must read back like that, bit for bit.
    pub stored: &'a dyn Fn(&ParameterSpec, Tensor<2>) -> Tensor<2>,
    /// Of the student in memory, on the same rows: they must agree within the budget.
    pub predictions: &'a Predictions,
    /// What may differ.
    pub budget: Budget,
}

/// What a model says of some rows, without the model but for its output layer.
pub struct Predictions {
    /// `[T, D]` each.
    hidden: Vec<Tensor<2>>,
    head: Head,
}

impl Predictions {
    /// Runs a decoder over the rows on which folders are compared.
    pub fn of_first(decoder: &Decoder, rows: &TokenRows) -> Self {
        Self::of(decoder, rows, rows.num_rows().min(NUM_ROWS))
    }

    /// Runs a decoder over all rows.
    pub fn of_all(decoder: &Decoder, rows: &TokenRows) -> Self {
        Self::of(decoder, rows, rows.num_rows())
    }

    fn of(decoder: &Decoder, rows: &TokenRows, num_rows: usize) -> Self {
        let hidden = (0..num_rows).map(|row_idx| {
            let ids = ids_tensor(&[rows.inputs(row_idx)], &decoder.device());
            let hidden = decoder.hidden(ids); // [1, T, D]
            let [_, seq, size] = hidden.dims();
            hidden.reshape([seq, size])
        });
        Self {
            hidden: hidden.collect(),
            head: decoder.head(),
        }
    }

    /// How far another model is from this one on the same rows.
    pub fn compare(&self, other: &Self, rows: &TokenRows) -> Differences {
        let mut found = Differences::default();
        let [vocab, _] = self.head.weight.dims();
        for row_idx in 0..self.hidden.len() {
            let (want, got) = (self.logits(row_idx), other.logits(row_idx));
            let pairs = want.chunks(vocab).zip(got.chunks(vocab));
            for (want, got) in pairs.take(rows.counted(row_idx)) {
                found.add(want, got);
            }
        }
        found
    }

    /// Row-major `[T, V]`.
    fn logits(&self, row_idx: usize) -> Vec<f32> {
        all_logits(&self.hidden[row_idx], &self.head)
    }
}

/// Reads the folder through `checkpoint`, which shares no code with the writers, and compares weights and logits.
///
/// A difference that is not a number is over any budget.
pub fn verify(
    dir: &Path,
    rows: &TokenRows,
    expected: &Expectation<'_>,
) -> Result<Verification, VerifyError> {
    let checkpoint = Checkpoint::open(dir)?;
    let reloaded = load_decoder(&checkpoint, &expected.weights.device())?;
    compare_weights(expected, &reloaded)?;
    let predictions = Predictions::of_first(&reloaded, rows);
    let found = expected.predictions.compare(&predictions, rows);
    let verification = Verification {
        format: expected.format.to_owned(),
        size_bytes: checkpoint.num_bytes(),
        positions: found.positions,
        max_logit_difference: found.difference,
        budget: expected.budget,
        kl_nats: found.kl_nats(),
        top1_agreement: found.top1_agreement(),
    };
    if verification.holds() {
        Ok(verification)
    } else {
        Err(VerifyError::OverBudget(Box::new(verification)))
    }
}

#[expect(
    clippy::float_cmp,
    reason = "a weight reads back as it was stored, or it is wrong"
)]
fn compare_weights(expected: &Expectation<'_>, reloaded: &Decoder) -> Result<(), VerifyError> {
    let free = expected.weights.parameters().into_iter();
    for ((spec, free), (_, got)) in free.zip(reloaded.parameters()) {
        let want = (expected.stored)(&spec, free);
        let (want, got) = (tensors::to_vec(&want), tensors::to_vec(&got));
        let unequal = want.iter().zip(&got).position(|(want, got)| want != got);
        if let Some(index) = unequal {
            return Err(VerifyError::Weight {
                name: spec.name,
                index,
                got: got[index],
                want: want[index],
            });
        }
    }
    Ok(())
}

/// Between two models on the same positions.
#[derive(Default)]
pub struct Differences {
    positions: u64,
    difference: f64,
    kl: f64,
    agreed: u64,
}

impl Differences {
    /// KL(one ‖ other), nats per position.
    pub fn kl_nats(&self) -> f64 {
        self.kl / self.positions.max(1) as f64
    }

    /// Share of positions whose likeliest token is the same.
    pub fn top1_agreement(&self) -> f64 {
        self.agreed as f64 / self.positions.max(1) as f64
    }

    fn add(&mut self, want: &[f32], got: &[f32]) {
        self.positions += 1;
        let (want_lse, got_lse) = (log_sum_exp(want, 1.0), log_sum_exp(got, 1.0));
        for (want, got) in want.iter().zip(got) {
            let difference = f64::from((want - got).abs());
            // `max` would pass over NaN.
            self.difference = if difference.is_nan() {
                f64::INFINITY
            } else {
                self.difference.max(difference)
            };
            let log_prob = f64::from(want - want_lse);
            self.kl += log_prob.exp() * (log_prob - f64::from(got - got_lse));
        }
        let top = |logits: &[f32]| {
            logits
                .iter()
                .enumerate()
                .max_by(|a, b| a.1.total_cmp(b.1))
                .map(|(id, _)| id)
        };
        self.agreed += u64::from(top(want) == top(got));
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_folder_of_another_model_is_refused_by_weight_and_by_budget() {
        let dir = Path::new("tests/golden/hf-llama");
        let decoder = load_decoder(&Checkpoint::open(dir).unwrap(), &Device::flex()).unwrap();
        let other = decoder.map(|_, weight| weight.mul_scalar(1.01));
        let rows = TokenRows::new(4, vec![5, 6, 7, 8, 9], vec![4], 9);
        let predictions = Predictions::of_first(&other, &rows);
        let expect = |weights, budget| Expectation {
            format: "huggingface",
            weights,
            stored: &|_, weight| weight,
            predictions: &predictions,
            budget,
        };

        let logits = Budget::LogitDifference;
        let wrong = verify(dir, &rows, &expect(&other, logits(1.0))).unwrap_err();
        assert!(
            matches!(wrong, VerifyError::Weight { index: 0, .. }),
            "{wrong}"
        );
        for (too_little, limit) in [
            (logits(1e-3), "`export.max_logit_difference` is the limit"),
            (Budget::Kl(1e-9), "`export.dtype: f32`"),
        ] {
            let over = verify(dir, &rows, &expect(&decoder, too_little)).unwrap_err();
            assert!(over.to_string().contains(limit), "{over}");
            let VerifyError::OverBudget(found) = over else {
                panic!("{over}")
            };
            assert!(found.max_logit_difference > 1e-3 && found.kl_nats > 1e-9);
            let enough = match too_little {
                Budget::LogitDifference(_) => logits(found.max_logit_difference),
                Budget::Kl(_) => Budget::Kl(found.kl_nats),
            };
            let found = verify(dir, &rows, &expect(&decoder, enough)).unwrap();
            assert_eq!(found.positions, 4);
        }
    }

    #[test]
    fn differences_are_the_largest_logit_gap_the_divergence_and_the_shared_top() {
        let mut found = Differences::default();
        found.add(&[0.0, 1.0], &[0.0, 1.0]);
        assert_eq!((found.difference, found.agreed), (0.0, 1));
        assert!(found.kl.abs() < 1e-7);
        found.add(&[0.0, 0.0], &[3.0_f32.ln(), 0.0]);
        assert!((found.difference - 3.0_f64.ln()).abs() < 1e-6);
        let want = 0.5 * (0.5_f64 / 0.75).ln() + 0.5 * (0.5_f64 / 0.25).ln();
        assert!((found.kl - want).abs() < 1e-6, "{}", found.kl);
        found.add(&[f32::NAN, 0.0], &[0.0, 0.0]);
        assert!(found.difference > f64::MAX, "NaN is over any budget");
    }
}
