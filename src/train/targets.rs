//! Rows and supports to what each position is measured against.

use crate::cache::RowSupports;
use crate::data::TokenRows;
use crate::loss::{RowTarget, Support};

/// Targets of one row, `sequence_length` entries; `None` on padding.
///
/// `temperature_idx` chooses among the temperatures that the cache declares; `None` is temperature 1, at which
/// log-probabilities are normalised as they are.
pub fn row_targets<'a>(
    rows: &'a TokenRows,
    row_idx: usize,
    supports: Option<&'a RowSupports>,
    temperature_idx: Option<usize>,
) -> impl Iterator<Item = Option<RowTarget<'a>>> {
    let counted = rows.counted(row_idx);
    rows.labels(row_idx)
        .iter()
        .enumerate()
        .map(move |(position, &label)| {
            let support = supports.map(|supports| {
                let range = position * supports.top_k..(position + 1) * supports.top_k;
                Support {
                    ids: &supports.ids[range.clone()],
                    log_probs: &supports.log_probs[range],
                    log_sum_exp: temperature_idx.map_or(0.0, |idx| supports.lse[idx][position]),
                }
            });
            (position < counted).then_some(RowTarget { label, support })
        })
}
