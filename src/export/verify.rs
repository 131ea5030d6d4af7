//! Comparison of an exported folder with the student in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::data::TokenRows;
use crate::loss::chunked::compare_logits;
use crate::loss::{kl_of_logits, top_id};
use crate::model::{Decoder, ParameterSpec, WeightId};
use crate::progress::{exponential, percent};
use crate::teacher::load_checked;
use crate::tensors;
use crate::train::{Predictions, Predictor};

/// Most validation rows on which logits are compared.
const MAX_ROWS: usize = 8;

/// Most positions in these rows, unless one row is longer.
const MAX_POSITIONS: usize = 2048;

/// Limit on the difference between a folder and the student in memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Largest difference of a logit, for a format that holds the student exactly.
    LogitDifference(f64),
    /// KL in nats per position, for formats that round weights: rounding moves logits in proportion to their size,
    /// which differs between models.
    Kl(f64),
}

/// Result of the comparison.
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
    /// Limit from the recipe.
    pub budget: Budget,
    /// KL(student in memory ‖ folder), nats per position.
    pub kl_nats: f64,
    /// Share of positions whose likeliest token is the same.
    pub top1_agreement: f64,
    /// KL in nats per position if nothing but embedding and output matrix are rounded, where no key asks for their type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_kl_nats: Option<f64>,
}

impl Verification {
    /// True if the folder is within its budget; NaN is not.
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
            "largest logit difference {}{logits}, KL {} nats{kl}, top-1 agreement {} %",
            exponential(self.max_logit_difference, 1),
            exponential(self.kl_nats, 1),
            percent(self.top1_agreement, 2)
        )?;
        match self.embedding_kl_nats {
            Some(kl) => write!(
                out,
                "; embedding and output matrix in Q8_0 alone cost KL {}",
                exponential(kl, 1)
            ),
            None => Ok(()),
        }
    }
}

/// Error that keeps a folder from being published.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The folder cannot be read back.
    #[error("the exported folder cannot be read back: {0}")]
    Unreadable(#[from] CheckpointError),
    /// A weight on disk differs from the one that was to be stored.
    #[error(
        "`{name}`[{index}] reads back as {got}, but {want} was stored: this is a bug in alambic"
    )]
    Weight {
        /// The tensor.
        name: String,
        /// Row-major index.
        index: usize,
        /// Value on disk.
        got: f32,
        /// Value to be stored.
        want: f32,
    },
    /// A weight on disk does not belong to the student.
    #[error("the folder has `{name}`, but the student does not: this is a bug in alambic")]
    NotOfTheStudent {
        /// The tensor.
        name: String,
    },
    /// The folder computes something else than the student.
    #[error(
        "{} differs from the student in memory: {found}; nothing was published; {help}", found.format
    )]
    OverBudget {
        /// Differences.
        found: Box<Verification>,
        /// Advice on what to write.
        help: String,
    },
}

/// Expected contents of a folder.
pub struct Expectation<'a> {
    /// Format, as in the recipe.
    pub format: &'a str,
    /// The student's free weights.
    pub weights: &'a Decoder,
    /// Weight as this format holds it; it must read back exactly so, bit for bit.
    pub stored: &'a dyn Fn(&ParameterSpec, Tensor<2>) -> Tensor<2>,
    /// Predictions of the student in memory on the same rows; the folder must agree within the budget.
    pub predictions: &'a Predictions,
    /// Limit on the difference.
    pub budget: Budget,
    /// Advice on what to write if the difference is larger.
    pub help: String,
    /// KL of rounding embedding and output matrix alone, if it is to be told.
    pub embedding_kl_nats: Option<f64>,
}

/// Predictions of a model for the rows on which folders are compared.
pub fn predictions(decoder: &Decoder, rows: &TokenRows) -> Predictions {
    Predictions::of(decoder, rows, num_rows(rows.sequence_length()), None)
}

/// Rows on which folders are compared, if the text has as many.
pub(crate) fn num_rows(sequence_length: usize) -> usize {
    (MAX_POSITIONS / sequence_length).clamp(1, MAX_ROWS)
}

/// KL(model of the predictions ‖ another model) in nats per position of the same rows.
pub(super) fn kl(predictions: &Predictions, other: &Decoder, rows: &TokenRows) -> f64 {
    Differences::between(predictions, other, rows).kl_nats()
}

/// Reads the folder through `checkpoint`, which shares no code with the writers, and compares weights and logits.
///
/// A difference that is NaN is over any budget.
pub fn verify(
    dir: &Path,
    rows: &TokenRows,
    expected: &Expectation<'_>,
) -> Result<Verification, VerifyError> {
    let checkpoint = Checkpoint::open(dir)?;
    let reloaded = load_compared(&checkpoint, expected)?;
    let found = Differences::between(expected.predictions, &reloaded, rows);
    let verification = Verification {
        format: expected.format.to_owned(),
        size_bytes: checkpoint.num_bytes(),
        positions: found.positions,
        max_logit_difference: found.logit,
        budget: expected.budget,
        kl_nats: found.kl_nats(),
        top1_agreement: found.top1_agreement(),
        embedding_kl_nats: expected.embedding_kl_nats,
    };
    if verification.holds() {
        Ok(verification)
    } else {
        Err(VerifyError::OverBudget {
            found: Box::new(verification),
            help: expected.help.clone(),
        })
    }
}

/// Loads a folder's model and compares each weight as it comes, so that at most one weight exists twice.
fn load_compared(
    checkpoint: &Checkpoint,
    expected: &Expectation<'_>,
) -> Result<Decoder, VerifyError> {
    let free = expected.weights.parameters().into_iter();
    let mut free: BTreeMap<WeightId, Tensor<2>> =
        free.map(|(spec, weight)| (spec.id, weight)).collect();
    load_checked(checkpoint, &expected.weights.device(), |spec, got| {
        let Some(weight) = free.remove(&spec.id) else {
            let name = spec.name.clone();
            return Err(VerifyError::NotOfTheStudent { name });
        };
        compare_weight(spec, &(expected.stored)(spec, weight), got)
    })
}

#[expect(
    clippy::float_cmp,
    reason = "a weight reads back as it was stored, or it is wrong"
)]
fn compare_weight(
    spec: &ParameterSpec,
    want: &Tensor<2>,
    got: &Tensor<2>,
) -> Result<(), VerifyError> {
    if tensors::are_equal(want, got) {
        return Ok(());
    }
    let (want, got) = (tensors::to_vec(want), tensors::to_vec(got));
    let unequal = want.iter().zip(&got).position(|(want, got)| want != got);
    let index = unequal.unwrap_or_default();
    Err(VerifyError::Weight {
        name: spec.name.clone(),
        index,
        got: got[index],
        want: want[index],
    })
}

/// Differences between two models on the same positions.
#[derive(Debug, Default, PartialEq)]
struct Differences {
    positions: u64,
    /// Largest difference of a logit.
    logit: f64,
    /// Sum over positions of KL(one ‖ other), in nats.
    kl: f64,
    /// Positions whose likeliest token is the same.
    agreed: u64,
}

impl Differences {
    /// Differences of a model from another one's predictions for rows.
    fn between(one: &Predictions, other: &Decoder, rows: &TokenRows) -> Self {
        let heads = [&other.head(), &one.output()];
        let mut sum = Self::default();
        for row_idx in 0..one.num_rows() {
            let hidden = [
                other.hidden_of(rows, &[row_idx]),
                one.hidden_of(rows, &[row_idx]),
            ];
            let [got, want] = hidden.map(|hidden| hidden.squeeze_dim::<2>(0)); // [T, D]
            let of_position = |_, got: &mut [f32], want: &[f32]| Self::of_position(want, got);
            let found = compare_logits(
                [&got, &want],
                heads,
                rows.mask(row_idx).positions(),
                of_position,
            );
            sum = found.into_iter().fold(sum, Self::plus);
        }
        sum
    }

    fn of_position(want: &[f32], got: &[f32]) -> Self {
        // The opposite comparison would ignore NaN.
        let larger = |largest: f32, gap: f32| if gap <= largest { largest } else { gap };
        let gaps = want.iter().zip(got).map(|(want, got)| (want - got).abs());
        let logit = gaps.fold(0.0, |largest: f32, gap| {
            if largest.is_nan() {
                largest
            } else {
                larger(largest, gap)
            }
        });
        let is_number = logit.is_finite();
        Self {
            positions: 1,
            logit: if is_number {
                logit.into()
            } else {
                f64::INFINITY
            },
            kl: if is_number {
                kl_of_logits(want, got)
            } else {
                f64::INFINITY
            },
            agreed: u64::from(top_id(want) == top_id(got)),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            positions: self.positions + other.positions,
            logit: self.logit.max(other.logit),
            kl: self.kl + other.kl,
            agreed: self.agreed + other.agreed,
        }
    }

    fn kl_nats(&self) -> f64 {
        self.kl / self.positions.max(1) as f64
    }

    fn top1_agreement(&self) -> f64 {
        self.agreed as f64 / self.positions.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::teacher::load_decoder;

    #[test]
    fn a_folder_of_another_model_is_refused_by_weight_and_by_budget() {
        let dir = Path::new("tests/golden/hf-llama");
        let decoder = load_decoder(&Checkpoint::open(dir).unwrap(), &Device::flex()).unwrap();
        let other = decoder.map(|_, weight| weight.mul_scalar(1.01));
        let rows = TokenRows::new(4, vec![5, 6, 7, 8, 9], vec![4], 9);
        let other_predictions = predictions(&other, &rows);
        let expect = |weights, budget| Expectation {
            format: "huggingface",
            weights,
            stored: &|_, weight| weight,
            predictions: &other_predictions,
            budget,
            help: "write less".to_owned(),
            embedding_kl_nats: None,
        };

        let logits = Budget::LogitDifference;
        let wrong = verify(dir, &rows, &expect(&other, logits(1.0))).unwrap_err();
        assert!(
            matches!(wrong, VerifyError::Weight { index: 0, .. }),
            "{wrong}"
        );
        for too_little in [logits(1e-3), Budget::Kl(1e-9)] {
            let over = verify(dir, &rows, &expect(&decoder, too_little)).unwrap_err();
            let text = over.to_string();
            assert!(
                text.ends_with("; nothing was published; write less"),
                "{text}"
            );
            let VerifyError::OverBudget { found, .. } = over else {
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
        let same = Differences::of_position(&[0.0, 1.0], &[0.0, 1.0]);
        assert_eq!((same.logit, same.kl, same.agreed), (0.0, 0.0, 1));
        let found = Differences::of_position(&[0.0, 0.0], &[0.0, 3.0_f32.ln()]);
        assert!((found.logit - 3.0_f64.ln()).abs() < 1e-6);
        let want = 0.5 * (0.5_f64 / 0.75).ln() + 0.5 * (0.5_f64 / 0.25).ln();
        assert!((found.kl - want).abs() < 1e-6, "{}", found.kl);
        let both = same.plus(found);
        assert_eq!((both.positions, both.agreed), (2, 1));
        assert!((both.kl_nats() - 0.5 * want).abs() < 1e-6);
        for broken in [[f32::NAN, 0.0], [0.0, f32::NAN], [f32::INFINITY, 0.0]] {
            for found in [
                Differences::of_position(&broken, &[0.0, 0.0]),
                Differences::of_position(&[0.0, 0.0], &broken),
            ] {
                assert!(found.logit > f64::MAX && found.kl > f64::MAX, "{found:?}");
            }
        }
    }
}
