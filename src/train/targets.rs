//! Targets of positions, from rows and supports.

use crate::data::TokenRows;
use crate::loss::RowTarget;
use crate::support::Supports;

/// Targets of one row, `sequence_length` entries; `None` where a position does not count.
pub fn row_targets<'a>(
    rows: &'a TokenRows,
    row_idx: usize,
    supports: Option<&'a Supports>,
) -> impl Iterator<Item = Option<RowTarget<'a>>> {
    let counts = rows.mask(row_idx).flags(rows.sequence_length());
    let predictions = supports.map_or_else(Vec::new, Supports::positions);
    let labels = rows.labels(row_idx).iter().enumerate();
    labels.map(move |(position, &label)| {
        let support = predictions.get(position).copied();
        counts[position].then_some(RowTarget { label, support })
    })
}
