//! Rows as models read them: tokens, and the documents that they are of.

use std::ops::Range;

/// Tokens of a row, and the positions at which its documents begin.
///
/// Documents lie one behind another. Each is read as if it were alone: attention stays inside it, and its first token is
/// at position 0. Padding behind several documents is one more, about which nothing counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence<'a> {
    tokens: &'a [u32],
    starts: &'a [u32],
}

impl<'a> Sequence<'a> {
    /// A row that is one document.
    pub fn document(tokens: &'a [u32]) -> Self {
        Self {
            tokens,
            starts: &[0],
        }
    }

    /// A row of documents that begin at these positions.
    ///
    /// # Panics
    ///
    /// If these are no [starts](Self::are_starts) of documents of so many tokens.
    pub fn packed(tokens: &'a [u32], starts: &'a [u32]) -> Self {
        assert!(Self::are_starts(starts, tokens.len()), "starts {starts:?}");
        Self { tokens, starts }
    }

    /// True if documents can begin at these positions of a row: the first at 0, each behind the one before it, and the
    /// last before the end of the row.
    pub fn are_starts(starts: &[u32], num_tokens: usize) -> bool {
        starts.first() == Some(&0)
            && starts.is_sorted_by(|before, after| before < after)
            && starts
                .last()
                .is_none_or(|&last| (last as usize) < num_tokens)
    }

    /// Tokens of the row.
    pub fn tokens(self) -> &'a [u32] {
        self.tokens
    }

    /// Number of documents.
    pub fn num_documents(self) -> usize {
        self.starts.len()
    }

    /// Positions of each document, in their order.
    pub fn documents(self) -> impl Iterator<Item = Range<usize>> + 'a {
        let ends = self.starts.iter().skip(1).map(|&start| start as usize);
        let starts = self.starts.iter().map(|&start| start as usize);
        let ends = ends.chain([self.tokens.len()]);
        starts.zip(ends).map(|(start, end)| start..end)
    }

    /// The row without its last token, which is only predicted.
    #[must_use]
    pub fn inputs(self) -> Self {
        let num_inputs = self.tokens.len().saturating_sub(1);
        let num_documents = self
            .starts
            .partition_point(|&start| (start as usize) < num_inputs);
        Self {
            tokens: &self.tokens[..num_inputs],
            starts: &self.starts[..num_documents.max(1)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(sequence: Sequence<'_>) -> Vec<Range<usize>> {
        sequence.documents().collect()
    }

    #[test]
    fn documents_fill_a_row_without_gaps() {
        let tokens = [5, 6, 7, 8, 9];
        assert_eq!(
            documents(Sequence::packed(&tokens, &[0, 2, 4])),
            [0..2, 2..4, 4..5]
        );
        assert_eq!(Sequence::packed(&tokens, &[0]), Sequence::document(&tokens));
        assert_eq!(documents(Sequence::document(&tokens)).len(), 1);
    }

    #[test]
    fn a_document_that_is_only_predicted_is_not_among_the_inputs() {
        let tokens = [5, 6, 7, 8, 9];
        let whole = Sequence::packed(&tokens, &[0, 2, 4]);
        assert_eq!(whole.inputs(), Sequence::packed(&tokens[..4], &[0, 2]));
        assert_eq!(
            whole.inputs().inputs(),
            Sequence::packed(&tokens[..3], &[0, 2])
        );
        let one = Sequence::document(&tokens[..1]);
        assert_eq!(
            (one.inputs().tokens(), one.inputs().num_documents()),
            (&[][..], 1)
        );
    }

    #[test]
    fn starts_begin_at_0_ascend_and_lie_inside_the_row() {
        for good in [&[0][..], &[0, 1], &[0, 1, 2]] {
            assert!(Sequence::are_starts(good, 3), "{good:?}");
        }
        for bad in [&[][..], &[1], &[0, 0], &[0, 2, 1], &[0, 3], &[0, u32::MAX]] {
            assert!(!Sequence::are_starts(bad, 3), "{bad:?}");
        }
        assert!(!Sequence::are_starts(&[0], 0));
    }
}
