//! Evaluation of a model on held-out text.

use burn::tensor::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Predictor, row_targets};
use crate::cache::{Cache, CacheError};
use crate::data::TokenRows;
use crate::device;
use crate::loss::chunked::{compare_logits, head_statistics};
use crate::loss::{RowStatistics, statistics_against};
use crate::progress::Progress;
use crate::support::CountedRow;

/// Rows in one forward pass.
pub(crate) const BATCH_ROWS: usize = 4;

/// Bins of the calibration error (Guo et al. 2017 use 15).
const NUM_BINS: usize = 15;

/// Measures over positions of a text, all at temperature 1; means are over those positions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean negative log-likelihood of a token.
    pub loss_nats: f64,
    /// exp of the loss; `None` if it overflows f64.
    pub perplexity: Option<f64>,
    /// Loss of the whole text in bits over its length in bytes: comparable between tokenizers.
    pub bits_per_byte: f64,
    /// Mean KL(teacher ‖ student). From a cache of the likeliest ids with one bucket for the tail: at most the exact
    /// KL. From a cache of samples an unbiased estimate of it, which may be below zero.
    pub kl_nats: Option<f64>,
    /// Share of positions at which the likeliest token is the teacher's; against samples, the one drawn most often.
    pub top1_agreement: Option<f64>,
    /// Expected calibration error of the likeliest token, 15 equal bins (Guo et al. 2017, arXiv 1706.04599).
    pub calibration_error: f64,
    /// Positions measured.
    pub positions: u64,
}

/// Measures of a text alone, and with the separators that packing put behind its documents.
///
/// A separator is predicted like any token, and shows how well a model knows where such documents end. In short
/// documents separators are a large part of all tokens. A model that was never trained on them may do badly there, and
/// its loss would then measure the packing more than the text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TextEvaluation {
    /// Measures over the positions of text.
    #[serde(flatten)]
    pub text: Evaluation,
    /// Positions whose target is a separator.
    pub separators: u64,
    /// Measures over both.
    pub with_separators: Evaluation,
}

/// Source of the teacher's prediction of a text.
#[derive(Clone, Copy)]
pub enum Reference<'a> {
    /// No teacher: no KL, no agreement.
    None,
    /// A cache of the same rows: KL on its support.
    Cache(&'a Cache),
    /// The teacher itself, or its stored predictions of the same rows: exact KL over the whole vocabulary.
    Teacher(&'a dyn Predictor),
}

impl Reference<'_> {
    fn is_there(&self) -> bool {
        !matches!(self, Self::None)
    }
}

/// Runs a model over all rows, with progress on stderr; measures of the text alone.
///
/// The text is cut into rows of `sequence_length`; each row starts without context.
pub fn evaluate(
    model: &dyn Predictor,
    rows: &TokenRows,
    reference: Reference<'_>,
    label: &str,
) -> Result<Evaluation, CacheError> {
    Ok(evaluate_each(model, rows, reference, label, |_| {})?.text)
}

/// Same as [`evaluate`], also with separators. `each` receives the losses of every row's counted tokens, including
/// separators, in nats, row after row.
pub fn evaluate_each(
    model: &dyn Predictor,
    rows: &TokenRows,
    reference: Reference<'_>,
    label: &str,
    mut each: impl FnMut(Vec<f64>),
) -> Result<TextEvaluation, CacheError> {
    let mut progress = Progress::new(label, rows.num_positions());
    let sums = sums(model, rows, reference, |losses| {
        progress.advance(losses.iter().map(|row| row.len() as u64).sum());
        losses.into_iter().for_each(&mut each);
        true
    })?;
    progress.finish();
    let [text, separators] = sums.expect("nothing ended it");
    let finish = |sums: EvaluationSums| sums.finish(rows.num_bytes(), reference.is_there());
    Ok(TextEvaluation {
        separators: separators.positions,
        with_separators: finish(text.plus(separators)),
        text: finish(text),
    })
}

/// Same as [`evaluate`]. `advance` receives the losses of the rows measured since its last call; if it returns `false`,
/// the measurement ends and gives `None`.
pub fn measure(
    model: &dyn Predictor,
    rows: &TokenRows,
    reference: Reference<'_>,
    advance: impl FnMut(Vec<Vec<f64>>) -> bool,
) -> Result<Option<Evaluation>, CacheError> {
    let sums = sums(model, rows, reference, advance)?;
    Ok(sums.map(|[text, _]| text.finish(rows.num_bytes(), reference.is_there())))
}

/// Sums over the positions of text, and over those of separators.
fn sums(
    model: &dyn Predictor,
    rows: &TokenRows,
    reference: Reference<'_>,
    mut advance: impl FnMut(Vec<Vec<f64>>) -> bool,
) -> Result<Option<[EvaluationSums; 2]>, CacheError> {
    let all: Vec<usize> = (0..rows.num_rows()).collect();
    let at_once = device::parallelism(&model.output().weight.tensor().device());
    let [mut text, mut separators] = [EvaluationSums::default(); 2];
    for group in all.chunks(BATCH_ROWS * at_once) {
        let parts: Result<Vec<_>, CacheError> = group
            .par_chunks(BATCH_ROWS)
            .map(|batch| batch_statistics(model, rows, reference, batch))
            .collect();
        let mut losses = Vec::with_capacity(group.len());
        for (&row_idx, row) in group.iter().zip(parts?.into_iter().flatten()) {
            for (position, (token, label)) in rows.mask(row_idx).positions().zip(&row) {
                if rows.is_separator(row_idx, position) {
                    separators.add(token, *label);
                } else {
                    text.add(token, *label);
                }
            }
            losses.push(row.iter().map(|(token, _)| token.cross_entropy).collect());
        }
        if !advance(losses) {
            return Ok(None);
        }
    }
    Ok(Some([text, separators]))
}

fn batch_statistics(
    model: &dyn Predictor,
    rows: &TokenRows,
    reference: Reference<'_>,
    batch: &[usize],
) -> Result<Vec<Vec<(RowStatistics, u32)>>, CacheError> {
    let cached = match reference {
        Reference::Cache(cache) => {
            Some(cache.rows(batch, |row_idx| CountedRow::of(rows, row_idx))?)
        }
        Reference::None | Reference::Teacher(_) => None,
    };
    let teacher = match reference {
        Reference::Teacher(teacher) => Some((teacher.hidden_of(rows, batch), teacher.output())),
        Reference::None | Reference::Cache(_) => None,
    };
    let (hidden, head) = (model.hidden_of(rows, batch), model.output());
    let mut found = Vec::new();
    for (entry, &row_idx) in batch.iter().enumerate() {
        let of_row = |hidden: &Tensor<3>| hidden.clone().narrow(0, entry, 1).squeeze_dim::<2>(0);
        let hidden = of_row(&hidden); // [T, D]
        if let Some((theirs, their_head)) = &teacher {
            let labels = rows.labels(row_idx);
            let of_position = |position: usize, logits: &mut [f32], teacher: &[f32]| {
                let label = labels[position];
                (statistics_against(logits, teacher, label), label)
            };
            let (hidden, heads) = ([&hidden, &of_row(theirs)], [&head, their_head]);
            found.push(compare_logits(
                hidden,
                heads,
                rows.mask(row_idx).positions(),
                of_position,
            ));
            continue;
        }
        let support = cached.as_ref().and_then(|rows| rows.get(entry));
        let targets: Vec<_> = row_targets(rows, row_idx, support).collect();
        let statistics = head_statistics(&hidden, &head, &targets);
        let pairs = statistics.into_iter().zip(&targets);
        let counted = pairs.filter_map(|(token, target)| Some((token?, target.as_ref()?.label)));
        found.push(counted.collect());
    }
    Ok(found)
}

#[derive(Default, Clone, Copy)]
struct EvaluationSums {
    positions: u64,
    loss: f64,
    kl: f64,
    agreed: u64,
    bins: [Bin; NUM_BINS],
}

#[derive(Default, Clone, Copy)]
struct Bin {
    confidence: f64,
    correct: u64,
    count: u64,
}

impl EvaluationSums {
    fn add(&mut self, row: &RowStatistics, label: u32) {
        self.positions += 1;
        self.loss += row.cross_entropy;
        self.kl += row.forward_kl.unwrap_or(0.0);
        self.agreed += u64::from(row.teacher_top_id == Some(row.top_id));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of the bins"
        )]
        let bin = ((row.confidence * NUM_BINS as f32) as usize).min(NUM_BINS - 1);
        self.bins[bin].confidence += f64::from(row.confidence);
        self.bins[bin].correct += u64::from(row.top_id == label);
        self.bins[bin].count += 1;
    }

    fn plus(mut self, other: Self) -> Self {
        self.positions += other.positions;
        self.loss += other.loss;
        self.kl += other.kl;
        self.agreed += other.agreed;
        for (bin, other) in self.bins.iter_mut().zip(other.bins) {
            bin.confidence += other.confidence;
            bin.correct += other.correct;
            bin.count += other.count;
        }
        self
    }

    fn finish(&self, num_bytes: u64, has_teacher: bool) -> Evaluation {
        let count = self.positions.max(1) as f64;
        let gap = |bin: &Bin| (bin.confidence - bin.correct as f64).abs();
        Evaluation {
            loss_nats: self.loss / count,
            perplexity: Some((self.loss / count).exp()).filter(|perplexity| perplexity.is_finite()),
            bits_per_byte: self.loss / std::f64::consts::LN_2 / num_bytes.max(1) as f64,
            kl_nats: has_teacher.then_some(self.kl / count + 0.0), // 0 has no sign,
            top1_agreement: has_teacher.then_some(self.agreed as f64 / count),
            calibration_error: self.bins.iter().map(gap).sum::<f64>() / count,
            positions: self.positions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cross_entropy: f64, top_id: u32, confidence: f32) -> RowStatistics {
        RowStatistics {
            cross_entropy,
            forward_kl: Some(0.25),
            top_id,
            confidence,
            teacher_top_id: Some(1),
        }
    }

    #[test]
    fn means_bits_per_byte_and_calibration_are_those_worked_by_hand() {
        let mut sums = EvaluationSums::default();
        sums.add(&row(1.0, 1, 0.91), 1); // right, in bin 13
        sums.add(&row(2.0, 1, 0.92), 5); // wrong, in the same bin
        sums.add(&row(3.0, 2, 0.10), 2); // right, in bin 1
        let got = sums.finish(10, true);
        assert!((got.loss_nats - 2.0).abs() < 1e-12);
        assert!((got.perplexity.unwrap() - 2.0_f64.exp()).abs() < 1e-12);
        assert!((got.bits_per_byte - 6.0 / std::f64::consts::LN_2 / 10.0).abs() < 1e-12);
        assert_eq!(got.kl_nats, Some(0.25));
        assert!((got.top1_agreement.unwrap() - 2.0 / 3.0).abs() < 1e-12);
        let want = ((0.91 + 0.92 - 1.0) + (1.0 - 0.10)) / 3.0;
        assert!(
            (got.calibration_error - want).abs() < 1e-6,
            "{}",
            got.calibration_error
        );
    }

    #[test]
    fn a_loss_beyond_the_exponential_and_one_that_is_no_number_have_no_perplexity() {
        for (loss, has_perplexity) in [(709.0, true), (710.0, false), (f64::NAN, false)] {
            let mut sums = EvaluationSums::default();
            sums.add(&row(loss, 1, 0.5), 1);
            let got = sums.finish(1, false);
            assert_eq!(got.loss_nats.to_bits(), f64::to_bits(loss));
            assert_eq!(got.perplexity.is_some(), has_perplexity, "{loss}");
        }
    }
}
