//! A frozen decoder on the first training rows, to see what flows through it.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Tensor;
use thiserror::Error;

use crate::data::TokenRows;
use crate::model::{Decoder, Site, Tap, ids_tensor};
use crate::progress::Progress;

/// Rows in one forward pass.
const BATCH_ROWS: usize = 4;

/// A signal asked to stop.
#[derive(Debug, Error)]
#[error("stopped at stage {label}: run the same command to go on")]
pub struct Interrupted {
    /// The stage.
    pub label: String,
}

/// What a decoder is run on.
#[derive(Clone, Copy)]
pub struct Calibration<'a> {
    /// Training rows.
    pub rows: &'a TokenRows,
    /// Positions to read, in whole rows: at least one.
    pub num_tokens: usize,
    /// Name in progress and messages.
    pub label: &'a str,
    /// Set by the first signal.
    pub stop: &'a AtomicBool,
}

impl Calibration<'_> {
    /// Shows `observer` the activations of every layer and site, batch after batch.
    ///
    /// Padded rows are left out, unless there is no other.
    ///
    /// # Shapes
    ///
    /// Activations are `[B, T, features]`.
    pub fn run(
        &self,
        decoder: &Decoder,
        observer: &mut dyn FnMut(usize, Site, &Tensor<3>),
    ) -> Result<(), Interrupted> {
        let rows = self.rows;
        let row_idxs = self.row_idxs();
        let num_tokens = row_idxs.len() * rows.sequence_length();
        let mut progress = Progress::new(self.label, num_tokens as u64);
        for batch in row_idxs.chunks(BATCH_ROWS) {
            if self.stop.load(Ordering::Relaxed) {
                progress.finish();
                let label = self.label.to_owned();
                return Err(Interrupted { label });
            }
            let inputs: Vec<&[u32]> = batch.iter().map(|&row_idx| rows.inputs(row_idx)).collect();
            let mut pass_on = |layer: usize, site: Site, x: &Tensor<3>| observer(layer, site, x);
            decoder.hidden_tapped(
                ids_tensor(&inputs, &decoder.device()),
                &mut Tap::new(&mut pass_on),
            );
            progress.advance((batch.len() * rows.sequence_length()) as u64);
        }
        progress.finish();
        Ok(())
    }

    fn row_idxs(&self) -> Vec<usize> {
        let rows = self.rows;
        let is_full = |row_idx: &usize| rows.counted(*row_idx) == rows.sequence_length();
        let num_rows = self.num_tokens.div_ceil(rows.sequence_length()).max(1);
        let full = (0..rows.num_rows()).filter(is_full).take(num_rows);
        let row_idxs: Vec<usize> = full.collect();
        if row_idxs.is_empty() {
            vec![0]
        } else {
            row_idxs
        }
    }
}
