//! Masks of stored rows, compared with those that are asked for.

use crate::data::{LossMask, PositionSpan, spans_of};

/// BLAKE3 (hex) over the masks of rows: for each row the number of its spans, then the bounds of each, as four
/// little-endian bytes.
pub(super) fn masks_hash<'m>(masks: impl Iterator<Item = LossMask<'m>>) -> String {
    let mut hasher = blake3::Hasher::new();
    for mask in masks {
        let num_spans = u32::try_from(mask.spans().len()).expect("a row has fewer than 2^32 spans");
        hasher.update(&num_spans.to_le_bytes());
        for span in mask.spans() {
            hasher.update(&span.start.to_le_bytes());
            hasher.update(&span.end.to_le_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// True if a mask has all positions of another.
pub(super) fn has_all(stored: LossMask<'_>, asked: LossMask<'_>) -> bool {
    let has = |span: &PositionSpan| {
        let spans = stored.spans();
        let behind = spans.partition_point(|stored| stored.end < span.end);
        let around = spans.get(behind);
        around.is_some_and(|stored| stored.start <= span.start)
    };
    asked.spans().iter().all(has)
}

/// Places that the positions of `asked` have among those of `stored`, which has them all.
pub(super) fn places_in<'m>(
    stored: LossMask<'m>,
    asked: LossMask<'m>,
) -> impl Iterator<Item = usize> + Clone + 'm {
    let positions = stored.positions().enumerate();
    positions.filter_map(move |(place, position)| asked.contains(position).then_some(place))
}

/// Spans of the positions that either mask has.
pub(super) fn union(one: LossMask<'_>, other: LossMask<'_>) -> Vec<PositionSpan> {
    let spans = one.spans().iter().chain(other.spans());
    let num_positions = spans.map(|span| span.end as usize).max().unwrap_or(0);
    let [one, other] = [one, other].map(|mask| mask.flags(num_positions));
    spans_of(one.into_iter().zip(other).map(|(one, other)| one || other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_contain_each_other_and_join_as_sets_do() {
        let spans = |bits: u32| spans_of((0..6).map(|at| bits >> at & 1 == 1));
        let mut hashes = std::collections::BTreeSet::new();
        for a in 0..1 << 6 {
            let stored = spans(a);
            let stored = LossMask::new(&stored, 6).unwrap();
            hashes.insert(masks_hash([stored, LossMask::default()].into_iter()));
            hashes.insert(masks_hash([LossMask::default(), stored].into_iter()));
            for b in 0..1 << 6 {
                let asked = spans(b);
                let asked = LossMask::new(&asked, 6).unwrap();
                assert_eq!(has_all(stored, asked), a & b == b, "{a:b} {b:b}");
                assert_eq!(union(stored, asked), spans(a | b), "{a:b} {b:b}");
                if a & b == b {
                    let positions: Vec<usize> = stored.positions().collect();
                    let found: Vec<usize> = places_in(stored, asked)
                        .map(|place| positions[place])
                        .collect();
                    assert!(asked.positions().eq(found), "{a:b} {b:b}");
                }
            }
        }
        assert_eq!(
            hashes.len(),
            2 * (1 << 6) - 1,
            "rows and spans are told apart"
        );
    }
}
