//! Positions of a row that losses and measures count.

use bytemuck::{Pod, Zeroable};

/// A range of positions of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PositionSpan {
    /// First position.
    pub start: u32,
    /// Position after the last.
    pub end: u32,
}

impl PositionSpan {
    /// Positions of the span.
    pub fn positions(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Positions of one row that count, as spans: none is empty, they ascend, and between two of them lies a position that
/// does not count. A row of prose has one span, which begins at its first position.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LossMask<'a> {
    spans: &'a [PositionSpan],
}

impl<'a> LossMask<'a> {
    /// Builds a mask; `None` if the spans are not as they have to be, or reach beyond `num_positions`.
    pub fn new(spans: &'a [PositionSpan], num_positions: usize) -> Option<Self> {
        let is_apart = |pair: &[PositionSpan]| pair[0].end < pair[1].start;
        let is_sound = spans.iter().all(|span| span.start < span.end)
            && spans.windows(2).all(is_apart)
            && spans
                .last()
                .is_none_or(|last| last.end as usize <= num_positions);
        is_sound.then_some(Self { spans })
    }

    /// Wraps spans that were checked by [`LossMask::new`].
    pub(crate) fn checked(spans: &'a [PositionSpan]) -> Self {
        Self { spans }
    }

    /// Spans of the mask.
    pub fn spans(self) -> &'a [PositionSpan] {
        self.spans
    }

    /// Number of positions that count.
    pub fn count(self) -> usize {
        self.spans.iter().map(|span| span.positions().len()).sum()
    }

    /// Positions that count, ascending.
    pub fn positions(self) -> impl Iterator<Item = usize> + Clone + 'a {
        self.spans.iter().flat_map(|span| span.positions())
    }

    /// True if a position counts.
    pub fn contains(self, position: usize) -> bool {
        let num_ended = self
            .spans
            .partition_point(|span| span.end as usize <= position);
        let span = self.spans.get(num_ended);
        span.is_some_and(|span| span.start as usize <= position)
    }

    /// One entry for each of the first `num_positions` positions: true where it counts.
    pub fn flags(self, num_positions: usize) -> Vec<bool> {
        let mut flags = vec![false; num_positions];
        for span in self.spans {
            let positions = span.positions();
            flags[positions.start.min(num_positions)..positions.end.min(num_positions)].fill(true);
        }
        flags
    }
}

/// Spans of the positions whose flag is true.
pub fn spans_of(flags: impl IntoIterator<Item = bool>) -> Vec<PositionSpan> {
    let mut spans: Vec<PositionSpan> = Vec::new();
    for (position, counts) in (0..).zip(flags) {
        match spans.last_mut() {
            _ if !counts => {}
            Some(last) if last.end == position => last.end += 1,
            _ => spans.push(PositionSpan {
                start: position,
                end: position + 1,
            }),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(of: &[(u32, u32)]) -> Vec<PositionSpan> {
        of.iter()
            .map(|&(start, end)| PositionSpan { start, end })
            .collect()
    }

    #[test]
    fn a_mask_and_its_flags_say_the_same() {
        for bits in 0_u32..1 << 9 {
            let flags: Vec<bool> = (0..9).map(|at| bits >> at & 1 == 1).collect();
            let spans = spans_of(flags.iter().copied());
            let mask = LossMask::new(&spans, 9).unwrap();
            assert_eq!(mask.flags(9), flags);
            assert_eq!(mask.count(), bits.count_ones() as usize);
            let positions: Vec<usize> = (0..9).filter(|&at| flags[at]).collect();
            assert_eq!(mask.positions().collect::<Vec<_>>(), positions);
            assert!((0..12).all(|at| mask.contains(at) == positions.contains(&at)));
        }
    }

    #[test]
    fn spans_that_touch_overlap_are_empty_or_reach_too_far_are_no_mask() {
        for bad in [
            &[(0, 2), (2, 3)][..],
            &[(0, 3), (2, 4)],
            &[(3, 4), (0, 1)],
            &[(1, 1)],
            &[(2, 1)],
            &[(0, 7)],
        ] {
            assert_eq!(LossMask::new(&spans(bad), 6), None, "{bad:?}");
        }
        assert!(LossMask::new(&spans(&[(0, 1), (2, 6)]), 6).is_some());
        assert_eq!(LossMask::new(&[], 6).unwrap().count(), 0);
    }
}
