//! Rows and supports to what each position is measured against.

use crate::cache::RowSupports;
use crate::data::TokenRows;
use crate::loss::{RowTarget, Samples, Support, TopK};

/// Targets of one row, `sequence_length` entries; `None` on padding.
///
/// `temperature_idx` chooses among the temperatures that the cache declares; `None` is temperature 1, at which
/// log-probabilities are normalised as they are. Samples have that one alone.
pub fn row_targets<'a>(
    rows: &'a TokenRows,
    row_idx: usize,
    supports: Option<&'a RowSupports>,
    temperature_idx: Option<usize>,
) -> impl Iterator<Item = Option<RowTarget<'a>>> {
    let counted = rows.counted(row_idx);
    let opinions: Vec<Support<'a>> = match supports {
        None => Vec::new(),
        Some(RowSupports::TopK(supports)) => {
            let log_probs = supports.log_probs.chunks_exact(supports.top_k);
            let positions = supports.ids.chunks_exact(supports.top_k).zip(log_probs);
            let top_k = |(position, (ids, log_probs))| {
                let lse = temperature_idx.map_or(0.0, |idx| supports.lse[idx][position]);
                Support::TopK(TopK {
                    ids,
                    log_probs,
                    log_sum_exp: lse,
                })
            };
            positions.enumerate().map(top_k).collect()
        }
        Some(RowSupports::Samples(supports)) => {
            let positions = supports.ranges().zip(&supports.entropies);
            let samples = |(range, &entropy): (std::ops::Range<usize>, &f32)| {
                Support::Samples(Samples {
                    ids: &supports.ids[range.clone()],
                    counts: &supports.counts[range],
                    entropy,
                })
            };
            positions.map(samples).collect()
        }
    };
    let labels = rows.labels(row_idx).iter().enumerate();
    labels.map(move |(position, &label)| {
        let support = opinions.get(position).copied();
        (position < counted).then_some(RowTarget { label, support })
    })
}
