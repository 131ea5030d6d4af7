//! Targets of positions, from rows and supports.

use crate::data::TokenRows;
use crate::loss::RowTarget;
use crate::support::Supports;

/// Targets of one row, `sequence_length` entries; `None` on padding.
pub fn row_targets<'a>(
    rows: &'a TokenRows,
    row_idx: usize,
    supports: Option<&'a Supports>,
) -> impl Iterator<Item = Option<RowTarget<'a>>> {
    let counted = rows.counted(row_idx);
    let predictions = supports.map_or_else(Vec::new, Supports::positions);
    let labels = rows.labels(row_idx).iter().enumerate();
    labels.map(move |(position, &label)| {
        let support = predictions.get(position).copied();
        (position < counted).then_some(RowTarget { label, support })
    })
}
