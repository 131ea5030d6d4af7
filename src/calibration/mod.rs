//! Runs of decoders on the first training rows, to observe their activations: frozen, or changed layer by layer.

mod hessian;
mod layer_sweep;

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Tensor;
use thiserror::Error;

pub use self::hessian::{Hessian, InverseFactor, NotPositiveDefinite, output_square};
pub use self::layer_sweep::LayerSweep;
use crate::cost::Text;
use crate::data::{Sequence, TokenRows};
use crate::loss::counted_rows;
use crate::model::{Decoder, Site, Tap, TokenBatch};
use crate::progress::{self, Progress, thousands};

/// Rows in one forward pass.
const BATCH_ROWS: usize = 4;

/// A signal asked to stop.
#[derive(Debug, Error)]
#[error("stopped at stage {label}: run the same command to resume")]
pub struct Interrupted {
    /// Name of the stage.
    pub label: String,
}

/// Text that a decoder is run on, and how progress is shown.
#[derive(Clone, Copy)]
pub struct Calibration<'a> {
    /// Training rows.
    pub rows: &'a TokenRows,
    /// Positions to read, in whole rows: at least one.
    pub num_tokens: usize,
    /// Name in progress and messages.
    pub label: &'a str,
    /// True if no progress is shown.
    pub is_silent: bool,
    /// Set by the first signal.
    pub stop: &'a AtomicBool,
}

impl Calibration<'_> {
    /// Amount of text that is read.
    pub(crate) fn text(&self) -> Text {
        let sequence_length = self.rows.sequence_length();
        Text {
            tokens: (self.row_idxs().len() * sequence_length) as u64,
            sequence_length,
        }
    }

    /// Shows `observer` the activations of every layer and site, batch after batch.
    ///
    /// # Shapes
    ///
    /// Activations are `[B, T, features]`, or `[1, N, features]` of the `N` positions of a batch that are observed if these
    /// are not all.
    pub fn run(
        &self,
        decoder: &Decoder,
        observer: &mut dyn FnMut(usize, Site, &Tensor<3>),
    ) -> Result<(), Interrupted> {
        let rows = self.rows;
        let row_idxs = self.row_idxs();
        let num_tokens = row_idxs.len() * rows.sequence_length();
        let mut progress = self.progress(num_tokens);
        for batch in row_idxs.chunks(BATCH_ROWS) {
            if let Err(interrupted) = self.check_stop() {
                progress.finish();
                return Err(interrupted);
            }
            let inputs: Vec<Sequence<'_>> =
                batch.iter().map(|&row_idx| rows.inputs(row_idx)).collect();
            let observed = self.observed(batch);
            let mut pass_on = |layer: usize, site: Site, x: &Tensor<3>| {
                observer(layer, site, &observed.of(x));
            };
            let tokens = TokenBatch::new(&inputs, &decoder.device());
            decoder.hidden_tapped(&tokens, &mut Tap::new(&mut pass_on));
            progress.advance((batch.len() * rows.sequence_length()) as u64);
        }
        progress.finish();
        Ok(())
    }

    fn progress(&self, num_tokens: usize) -> Progress {
        if self.is_silent {
            return Progress::hidden(self.label, num_tokens as u64);
        }
        self.log_if_short();
        Progress::new(self.label, num_tokens as u64)
    }

    /// Prints a note if there is less text than asked for.
    fn log_if_short(&self) {
        let (asked, there) = (self.num_rows_asked(), self.num_whole_rows());
        if there < asked {
            let positions =
                |num_rows: usize| thousands((num_rows * self.rows.sequence_length()) as u64);
            progress::log(&format!(
                "{}: calibrated on {} of the {} positions asked for: the training text within `cache.tokens` has no more",
                self.label,
                positions(there),
                positions(asked)
            ));
        }
    }

    /// The rows that are read, with their targets: to measure losses on.
    pub fn read_rows(&self) -> TokenRows {
        self.rows.only(&self.row_idxs()) // without bytes of text, which no loss needs
    }

    /// Positions of a batch of rows that are observed.
    fn observed(&self, batch: &[usize]) -> Observed {
        let flags = batch
            .iter()
            .flat_map(|&row_idx| self.rows.observed(row_idx));
        let flags: Vec<bool> = flags.collect();
        Observed(Some(flags).filter(|flags| flags.contains(&true) && flags.contains(&false)))
    }

    /// Fails if a signal asked to stop.
    pub fn check_stop(&self) -> Result<(), Interrupted> {
        if self.stop.load(Ordering::Relaxed) {
            let label = self.label.to_owned();
            return Err(Interrupted { label });
        }
        Ok(())
    }

    /// Number of rows that hold the positions asked for.
    fn num_rows_asked(&self) -> usize {
        let length = self.rows.sequence_length();
        self.num_tokens.div_ceil(length).max(1)
    }

    /// Number of rows without padding: at most as many as are asked for.
    pub fn num_whole_rows(&self) -> usize {
        self.whole_rows().count()
    }

    /// Rows of documents, and streamed rows without padding.
    fn whole_rows(&self) -> impl Iterator<Item = usize> {
        let rows = self.rows;
        let is_whole = |row_idx: &usize| !rows.is_rest_of_stream(*row_idx);
        let whole = (0..rows.num_rows()).filter(is_whole);
        whole.take(self.num_rows_asked())
    }

    /// Indices of the rows that are read.
    fn row_idxs(&self) -> Vec<usize> {
        let row_idxs: Vec<usize> = self.whole_rows().collect();
        if row_idxs.is_empty() {
            vec![0]
        } else {
            row_idxs
        }
    }
}

/// True for the positions of a batch that are observed, row by row; `None` if all are.
struct Observed(Option<Vec<bool>>);

impl Observed {
    /// Activations of these positions: `[B, T, D]` if they are all, else `[1, N, D]`.
    fn of(&self, x: &Tensor<3>) -> Tensor<3> {
        let Some(is_observed) = &self.0 else {
            return x.clone();
        };
        let [batch, seq, size] = x.dims();
        let flat = x.clone().reshape([batch * seq, size]);
        counted_rows(&flat, is_observed).unsqueeze() // [1, N, D]
    }
}
