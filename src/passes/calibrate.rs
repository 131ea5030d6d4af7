//! What flows into the linear layers, measured over training text.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::PassError;
use crate::model::{Decoder, Site, Tap, ids_tensor};
use crate::progress::Progress;
use crate::train::fit::FitContext;

/// Rows in one forward pass.
const BATCH_ROWS: usize = 4;

/// Sums over positions, by layer and site; one entry per input feature.
pub type SiteSums = BTreeMap<(usize, Site), Vec<f64>>;

/// Sum of squares of every input feature over the first `num_tokens` training positions (at least one row).
///
/// Padded rows are left out, unless there is no other.
pub fn input_squares(
    decoder: &Decoder,
    num_tokens: usize,
    context: &FitContext<'_>,
) -> Result<SiteSums, PassError> {
    let rows = context.rows;
    let is_full = |row_idx: &usize| rows.counted(*row_idx) == rows.sequence_length();
    let num_rows = num_tokens.div_ceil(rows.sequence_length()).max(1);
    let mut row_idxs: Vec<usize> = (0..rows.num_rows())
        .filter(is_full)
        .take(num_rows)
        .collect();
    if row_idxs.is_empty() {
        row_idxs.push(0);
    }
    let mut sums = SiteSums::new();
    let mut progress = Progress::new(
        context.label,
        (row_idxs.len() * rows.sequence_length()) as u64,
    );
    for batch in row_idxs.chunks(BATCH_ROWS) {
        if context.stop.load(Ordering::Relaxed) {
            progress.finish();
            return Err(PassError::Interrupted {
                label: context.label.to_owned(),
            });
        }
        let inputs: Vec<&[u32]> = batch.iter().map(|&row_idx| rows.inputs(row_idx)).collect();
        let mut observer = |layer: usize, site: Site, activations: &burn::tensor::Tensor<3>| {
            let squares = activations
                .clone()
                .square()
                .sum_dims_squeeze::<1, usize>(&[0, 1]); // [inputs]
            let squares = squares
                .try_into_vec_as::<f32>()
                .expect("activations are f32");
            let totals = sums
                .entry((layer, site))
                .or_insert_with(|| vec![0.0; squares.len()]);
            totals
                .iter_mut()
                .zip(squares)
                .for_each(|(total, square)| *total += f64::from(square));
        };
        decoder.hidden_tapped(
            ids_tensor(&inputs, &decoder.device()),
            &mut Tap::new(&mut observer),
        );
        progress.advance((batch.len() * rows.sequence_length()) as u64);
    }
    progress.finish();
    Ok(sums)
}
