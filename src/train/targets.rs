//! Targets of positions, from rows and supports.

use crate::data::TokenRows;
use crate::loss::RowTarget;
use crate::support::Supports;

/// Targets of one row, `sequence_length` entries; `None` where a position does not count. `supports` are those of the
/// positions that count.
///
/// # Panics
///
/// If there are more or fewer supports than positions that count.
pub fn row_targets<'a>(
    rows: &'a TokenRows,
    row_idx: usize,
    supports: Option<&'a Supports>,
) -> impl Iterator<Item = Option<RowTarget<'a>>> {
    let mask = rows.mask(row_idx);
    let counts = mask.flags(rows.sequence_length());
    let predictions = supports.map(|supports| {
        let predictions = supports.positions();
        assert_eq!(predictions.len(), mask.count(), "supports of row {row_idx}");
        predictions.into_iter()
    });
    let mut predictions = predictions.into_iter().flatten();
    let labels = rows.labels(row_idx).iter().zip(counts);
    labels.map(move |(&label, counts)| {
        counts.then(|| RowTarget {
            label,
            support: predictions.next(),
        })
    })
}
