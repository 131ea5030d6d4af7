//! Predictions of a model for rows of text, computed on request or stored.

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::data::{Sequence, TokenRows};
use crate::device;
use crate::model::{Decoder, Head, TokenBatch};
use crate::progress::Progress;

/// Source of a model's predictions for rows.
pub trait Predictor: Sync {
    /// Hidden states in front of the output layer, `[B, T, D]`, of rows that each begin without context.
    fn hidden_of(&self, rows: &TokenRows, batch: &[usize]) -> Tensor<3>;

    /// The output layer.
    fn output(&self) -> Head;
}

impl Predictor for Decoder {
    fn hidden_of(&self, rows: &TokenRows, batch: &[usize]) -> Tensor<3> {
        let inputs: Vec<Sequence<'_>> = batch.iter().map(|&row_idx| rows.inputs(row_idx)).collect();
        self.hidden(&TokenBatch::new(&inputs, &self.device()))
    }

    fn output(&self) -> Head {
        self.head()
    }
}

/// Stored predictions for the first of some rows, without the model except its output layer.
pub struct Predictions {
    /// Hidden states of each row, `[1, T, D]`.
    hidden: Vec<Tensor<3>>,
    head: Head,
}

impl Predictions {
    /// Runs a decoder over the first rows; shows progress on stderr if there is a label.
    pub fn of(decoder: &Decoder, rows: &TokenRows, num_rows: usize, label: Option<&str>) -> Self {
        let mut progress = label.map(|label| Progress::new(label, rows.num_positions()));
        let all: Vec<usize> = (0..rows.num_rows().min(num_rows)).collect();
        let mut hidden = Vec::with_capacity(all.len());
        for group in all.chunks(device::parallelism(&decoder.device())) {
            let found = group.par_iter().map(|&row| decoder.hidden_of(rows, &[row]));
            hidden.par_extend(found);
            if let Some(progress) = &mut progress {
                progress.advance(group.iter().map(|&row| rows.mask(row).count() as u64).sum());
            }
        }
        if let Some(progress) = progress {
            progress.finish();
        }
        Self {
            hidden,
            head: decoder.head(),
        }
    }

    /// Number of stored rows.
    pub fn num_rows(&self) -> usize {
        self.hidden.len()
    }
}

impl Predictor for Predictions {
    /// Stored hidden states; the rows must be the ones they were made of.
    ///
    /// # Panics
    ///
    /// If a row of the batch is not stored.
    fn hidden_of(&self, _: &TokenRows, batch: &[usize]) -> Tensor<3> {
        let rows = batch.iter().map(|&row_idx| self.hidden[row_idx].clone());
        Tensor::cat(rows.collect(), 0)
    }

    fn output(&self) -> Head {
        self.head.clone()
    }
}
