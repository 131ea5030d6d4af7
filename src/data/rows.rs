//! Token rows: the only form in which text reaches teacher and student.

use super::mask::{LossMask, PositionSpan};
use super::plan::CalibrateOn;
use super::sequence::Sequence;

/// Rows of tokens, all of one length, in one fixed order.
///
/// A row holds `sequence_length + 1` tokens: position `t` sees tokens `0..=t` of its row and is about token `t + 1`.
///
/// First come rows of *streamed* text, documents end to end: the last token of a row is the first of the next, so every
/// token of the text is predicted exactly once, and only the last of these rows may be padded. Then come rows that hold a
/// conversation each, from its beginning, and are padded behind it.
///
/// The [`LossMask`] of a row tells which positions count. Some of these may be about a *separator*, a token that packing
/// put after a document: it is predicted and trained on like any other, but it is not text, and measures cover only text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRows {
    sequence_length: usize,
    tokens: Vec<u32>,
    /// Positions of each row in front of its padding.
    lengths: Vec<u32>,
    /// Spans of all masks, row by row.
    spans: Vec<PositionSpan>,
    /// Number of spans up to the end of each row.
    span_ends: Vec<usize>,
    num_streamed: usize,
    num_bytes: u64,
    /// Positions about a separator, numbered row by row from the first position of the first row, ascending.
    separators: Vec<usize>,
    calibrate_on: CalibrateOn,
}

/// Row of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationRow {
    /// Tokens from the beginning of the conversation, at most `sequence_length + 1`, at least 2.
    pub tokens: Vec<u32>,
    /// Positions that count.
    pub spans: Vec<PositionSpan>,
    /// Bytes of text that these positions predict.
    pub num_bytes: u64,
    /// True if its last position counts and is about a separator, which is no text.
    pub ends_with_separator: bool,
}

impl TokenRows {
    /// Builds rows of streamed text, each of which counts its first positions; `tokens` has
    /// `counted.len() * (sequence_length + 1)` entries and `num_bytes` is the length of the text that the counted
    /// positions predict.
    ///
    /// # Panics
    ///
    /// If the lengths do not agree or a row counts more positions than it has.
    pub fn new(
        sequence_length: usize,
        tokens: Vec<u32>,
        counted: Vec<u32>,
        num_bytes: u64,
    ) -> Self {
        assert_eq!(
            tokens.len(),
            counted.len() * (sequence_length + 1),
            "tokens per row"
        );
        assert!(
            counted
                .iter()
                .all(|&count| count as usize <= sequence_length),
            "counted positions"
        );
        let mut rows = Self {
            sequence_length,
            tokens,
            lengths: Vec::new(),
            spans: Vec::new(),
            span_ends: Vec::new(),
            num_streamed: counted.len(),
            num_bytes,
            separators: Vec::new(),
            calibrate_on: CalibrateOn::All,
        };
        for &count in &counted {
            rows.spans.extend(
                Some(PositionSpan {
                    start: 0,
                    end: count,
                })
                .filter(|span| span.end > 0),
            );
            rows.span_ends.push(rows.spans.len());
        }
        rows.lengths = counted;
        rows
    }

    /// Marks these positions as being about a separator; they are numbered row by row, `sequence_length` per row.
    ///
    /// # Panics
    ///
    /// If they do not ascend, or one of them does not count.
    #[must_use]
    pub fn with_separators(self, separators: Vec<usize>) -> Self {
        assert!(self.could_have(&separators), "separators that count");
        Self { separators, ..self }
    }

    /// Appends a row that holds a conversation, padded with a token.
    ///
    /// # Panics
    ///
    /// If it has fewer than two tokens or more than a row, or its spans are no mask of its positions.
    pub fn push_conversation(&mut self, row: ConversationRow, padding: u32) {
        let width = self.sequence_length + 1;
        let ConversationRow {
            mut tokens,
            spans,
            num_bytes,
            ends_with_separator,
        } = row;
        let num_positions = tokens.len().saturating_sub(1);
        assert!(
            (1..width).contains(&num_positions),
            "tokens of a conversation"
        );
        assert!(LossMask::new(&spans, num_positions).is_some(), "a mask");
        tokens.resize(width, padding);
        self.tokens.extend(tokens);
        self.lengths
            .push(u32::try_from(num_positions).expect("a row is shorter than 2^32 tokens"));
        self.spans.extend(spans);
        self.span_ends.push(self.spans.len());
        self.num_bytes += num_bytes;
        if ends_with_separator {
            let first = (self.num_rows() - 1) * self.sequence_length;
            self.separators.push(first + num_positions - 1);
        }
    }

    fn could_have(&self, separators: &[usize]) -> bool {
        let length = self.sequence_length.max(1);
        let counts = |&at: &usize| {
            at / length < self.num_rows() && self.mask(at / length).contains(at % length)
        };
        separators.is_sorted_by(|before, after| before < after) && separators.iter().all(counts)
    }

    /// Positions per row.
    pub fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    /// Number of rows.
    pub fn num_rows(&self) -> usize {
        self.lengths.len()
    }

    /// Number of rows of streamed text, which come first.
    pub fn num_streamed(&self) -> usize {
        self.num_streamed
    }

    /// All `sequence_length + 1` tokens of a row.
    pub fn row(&self, row_idx: usize) -> &[u32] {
        let width = self.sequence_length + 1;
        &self.tokens[row_idx * width..(row_idx + 1) * width]
    }

    /// Positions at which the documents of a row begin, if models are to read them apart; streamed documents and a
    /// conversation are read as one.
    #[expect(clippy::unused_self, reason = "rows that are packed will hold them")]
    fn starts(&self, _row_idx: usize) -> &[u32] {
        &[0]
    }

    /// All `sequence_length + 1` tokens of a row, and its documents.
    pub fn sequence(&self, row_idx: usize) -> Sequence<'_> {
        Sequence::packed(self.row(row_idx), self.starts(row_idx))
    }

    /// Tokens that the model reads: `sequence_length` of them, and their documents.
    pub fn inputs(&self, row_idx: usize) -> Sequence<'_> {
        self.sequence(row_idx).inputs()
    }

    /// Token that position `t` is about, for each `t`.
    pub fn labels(&self, row_idx: usize) -> &[u32] {
        &self.row(row_idx)[1..]
    }

    /// Positions of this row that count.
    pub fn mask(&self, row_idx: usize) -> LossMask<'_> {
        let start = self.spans_before(row_idx);
        LossMask::checked(&self.spans[start..self.span_ends[row_idx]])
    }

    /// Number of spans of all rows before this one.
    fn spans_before(&self, row_idx: usize) -> usize {
        let before = row_idx.checked_sub(1);
        before.map_or(0, |before| self.span_ends[before])
    }

    /// Number of positions of this row in front of its padding.
    pub fn length(&self, row_idx: usize) -> usize {
        self.lengths[row_idx] as usize
    }

    /// Chooses the positions that a calibration observes.
    #[must_use]
    pub fn calibrated_on(self, calibrate_on: CalibrateOn) -> Self {
        Self {
            calibrate_on,
            ..self
        }
    }

    /// One entry for each position of a row: true if a calibration observes it. Padding is not observed.
    pub fn observed(&self, row_idx: usize) -> Vec<bool> {
        let (mask, length) = (self.mask(row_idx), self.length(row_idx));
        match self.calibrate_on {
            CalibrateOn::Learnt if mask.count() > 0 => mask.flags(self.sequence_length),
            _ => (0..self.sequence_length).map(|at| at < length).collect(),
        }
    }

    /// Number of positions that count, over all rows.
    pub fn num_positions(&self) -> u64 {
        self.spans
            .iter()
            .map(|span| u64::from(span.end - span.start))
            .sum()
    }

    /// True if a position of a row is about a separator.
    pub fn is_separator(&self, row_idx: usize, position: usize) -> bool {
        let at = row_idx * self.sequence_length + position;
        self.separators.binary_search(&at).is_ok()
    }

    /// Number of positions that count and are about text, over all rows.
    pub fn num_text_positions(&self) -> u64 {
        self.num_positions() - self.separators.len() as u64
    }

    /// Number of bytes of UTF-8 text that the counted positions predict.
    pub fn num_bytes(&self) -> u64 {
        self.num_bytes
    }

    /// Splits the rows before `row_idx` from the rest. Bytes are divided in proportion to the positions of text,
    /// because the bytes of single tokens are not known here.
    pub fn split_at(&self, row_idx: usize) -> [Self; 2] {
        let mut before = self.part(0..row_idx);
        let mut rest = self.part(row_idx..self.num_rows());
        let text = self.num_text_positions().max(1);
        before.num_bytes = self.num_bytes * before.num_text_positions() / text;
        rest.num_bytes = self.num_bytes - before.num_bytes;
        [before, rest]
    }

    /// Some of the rows, in order of their indices, which ascend. Their bytes of text are not known: 0.
    #[must_use]
    pub fn only(&self, row_idxs: &[usize]) -> Self {
        let mut chosen = self.part(0..0);
        for &row_idx in row_idxs {
            let row = self.part(row_idx..row_idx + 1);
            let start = chosen.num_rows() * self.sequence_length;
            chosen
                .separators
                .extend(row.separators.iter().map(|at| start + at));
            chosen.tokens.extend(row.tokens);
            chosen.lengths.extend(row.lengths);
            chosen.spans.extend(row.spans);
            chosen.span_ends.push(chosen.spans.len());
            chosen.num_streamed += row.num_streamed;
        }
        chosen
    }

    /// Rows of a range, without their bytes of text.
    fn part(&self, rows: std::ops::Range<usize>) -> Self {
        let width = self.sequence_length + 1;
        let spans = self.spans_before(rows.start)..self.spans_before(rows.end);
        let at = [rows.start, rows.end].map(|row_idx| row_idx * self.sequence_length);
        let separators = at.map(|end| self.separators.partition_point(|&at| at < end));
        let streamed = |row_idx: usize| row_idx.min(self.num_streamed);
        Self {
            sequence_length: self.sequence_length,
            tokens: self.tokens[rows.start * width..rows.end * width].to_vec(),
            lengths: self.lengths[rows.clone()].to_vec(),
            span_ends: self.span_ends[rows.clone()]
                .iter()
                .map(|end| end - spans.start)
                .collect(),
            spans: self.spans[spans].to_vec(),
            num_streamed: streamed(rows.end) - streamed(rows.start),
            num_bytes: 0,
            separators: self.separators[separators[0]..separators[1]]
                .iter()
                .map(|separator| separator - at[0])
                .collect(),
            calibrate_on: self.calibrate_on,
        }
    }

    /// BLAKE3 (hex) over all of the rows.
    pub fn hash(&self) -> String {
        blake3::hash(&self.to_bytes()).to_hex().to_string()
    }

    /// Serialises the rows: six numbers (sequence length, rows, rows of streamed text, bytes of text, spans, separators)
    /// and the separators' positions; then the length of each row, the number of spans up to its end, the spans and the
    /// tokens. All are little-endian, of 8 bytes first and then of 4.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let head = [
            self.sequence_length as u64,
            self.num_rows() as u64,
            self.num_streamed as u64,
            self.num_bytes,
            self.spans.len() as u64,
            self.separators.len() as u64,
        ];
        let separators = self.separators.iter().map(|&at| at as u64);
        let ends = self.span_ends.iter().map(|&end| end as u64);
        let head = head.into_iter().chain(separators).chain(ends);
        let spans = self.spans.iter().flat_map(|span| [span.start, span.end]);
        let lengths = self.lengths.iter().copied();
        let body = lengths.chain(spans).chain(self.tokens.iter().copied());
        let head = head.flat_map(u64::to_le_bytes);
        head.chain(body.flat_map(u32::to_le_bytes)).collect()
    }

    /// Reads rows that [`TokenRows::to_bytes`] wrote; `None` if the bytes are invalid.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut numbers = bytes;
        let mut long = || {
            let (number, rest) = numbers.split_first_chunk::<8>()?;
            numbers = rest;
            usize::try_from(u64::from_le_bytes(*number)).ok()
        };
        let (sequence_length, num_rows, num_streamed) = (long()?, long()?, long()?);
        let (num_bytes, num_spans, num_separators) = (long()?, long()?, long()?);
        let num_left = bytes.len() / 4;
        if num_rows.max(num_spans).max(num_separators) > num_left {
            return None;
        }
        let separators: Vec<usize> = (0..num_separators).map(|_| long()).collect::<Option<_>>()?;
        let span_ends: Vec<usize> = (0..num_rows).map(|_| long()).collect::<Option<_>>()?;
        let (body, []) = numbers.as_chunks::<4>() else {
            return None;
        };
        let mut body = body.iter().map(|number| u32::from_le_bytes(*number));
        let lengths: Vec<u32> = body.by_ref().take(num_rows).collect();
        let spans: Vec<u32> = body.by_ref().take(num_spans.checked_mul(2)?).collect();
        let (pairs, _) = spans.as_chunks::<2>();
        let tokens: Vec<u32> = body.collect();
        let rows = Self {
            sequence_length,
            lengths,
            spans: pairs
                .iter()
                .map(|&[start, end]| PositionSpan { start, end })
                .collect(),
            span_ends,
            num_streamed,
            num_bytes: num_bytes as u64,
            separators: Vec::new(),
            calibrate_on: CalibrateOn::All,
            tokens,
        };
        let is_whole = num_rows.checked_mul(sequence_length.checked_add(1)?)? == rows.tokens.len()
            && rows.lengths.len() == num_rows
            && num_streamed <= num_rows
            && pairs.len() == num_spans
            && rows.span_ends.is_sorted()
            && rows.span_ends.last().copied().unwrap_or(0) == num_spans;
        (is_whole && rows.has_masks() && rows.could_have(&separators))
            .then(|| rows.with_separators(separators))
    }

    /// True if the spans of each row are a mask of the positions in front of its padding.
    fn has_masks(&self) -> bool {
        let mut start = 0;
        let mut rows = self.lengths.iter().zip(&self.span_ends);
        rows.all(|(&length, &end)| {
            let spans = &self.spans[start..end];
            start = end;
            length as usize <= self.sequence_length
                && LossMask::new(spans, length as usize).is_some()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of prose, the second padded, and two of conversations.
    fn rows() -> TokenRows {
        let tokens = vec![0, 1, 2, 3, 4, 4, 5, 6, 0, 0];
        let mut rows = TokenRows::new(4, tokens, vec![4, 2], 12).with_separators(vec![1, 5]);
        let span = |start, end| PositionSpan { start, end };
        let first = ConversationRow {
            tokens: vec![7, 8, 9, 10, 11],
            spans: vec![span(0, 1), span(2, 4)],
            num_bytes: 5,
            ends_with_separator: false,
        };
        let second = ConversationRow {
            tokens: vec![7, 12, 13],
            spans: vec![span(1, 2)],
            num_bytes: 1,
            ends_with_separator: true,
        };
        rows.push_conversation(first, 0);
        rows.push_conversation(second, 0);
        rows
    }

    fn positions(rows: &TokenRows) -> Vec<Vec<usize>> {
        let of_row = |row_idx| rows.mask(row_idx).positions().collect();
        (0..rows.num_rows()).map(of_row).collect()
    }

    #[test]
    fn conversations_follow_prose_in_rows_of_their_own_with_their_masks() {
        let rows = rows();
        assert_eq!(rows.row(3), [7, 12, 13, 0, 0]);
        assert_eq!([0, 1, 2, 3].map(|row| rows.length(row)), [4, 2, 4, 2]);
        let want = [vec![0, 1, 2, 3], vec![0, 1], vec![0, 2, 3], vec![1]];
        assert_eq!(positions(&rows), want);
        assert_eq!((rows.num_positions(), rows.num_text_positions()), (10, 7));
        assert_eq!((rows.num_rows(), rows.num_streamed()), (4, 2));
        assert_eq!(rows.num_bytes(), 18);
        assert_eq!(rows.observed(2), [true; 4]);
        assert_eq!(rows.observed(3), [true, true, false, false]);
        let rows = rows.calibrated_on(CalibrateOn::Learnt);
        assert_eq!(rows.observed(2), [true, false, true, true]);
        assert_eq!(rows.only(&[3]).observed(0), [false, true, false, false]);
    }

    #[test]
    fn a_part_of_rows_has_their_masks_and_separators() {
        let rows = rows();
        let [before, rest] = rows.split_at(1);
        assert_eq!(positions(&before), positions(&rows)[..1]);
        assert_eq!(positions(&rest), positions(&rows)[1..]);
        assert_eq!((before.num_streamed(), rest.num_streamed()), (1, 1));
        assert!(rest.is_separator(0, 1) && !rest.is_separator(1, 0));
        assert_eq!(before.num_bytes() + rest.num_bytes(), rows.num_bytes());
        let chosen = rows.only(&[1, 3]);
        assert_eq!(positions(&chosen), [vec![0, 1], vec![1]]);
        assert_eq!((chosen.row(1), chosen.length(1)), (rows.row(3), 2));
        assert!(chosen.is_separator(0, 1));
        assert_eq!(rows.only(&[0, 1, 2, 3]).split_at(4)[0].row(2), rows.row(2));
    }

    #[test]
    fn damaged_bytes_are_refused_or_give_rows_whose_masks_are_sound() {
        let rows = rows();
        let bytes = rows.to_bytes();
        assert_eq!(TokenRows::from_bytes(&bytes), Some(rows));
        for at in 0..bytes.len() {
            assert_eq!(TokenRows::from_bytes(&bytes[..at]), None, "{at} bytes");
            for to in [0, 1, 3, 200] {
                let mut bytes = bytes.clone();
                bytes[at] = to;
                if let Some(rows) = TokenRows::from_bytes(&bytes) {
                    assert!(rows.has_masks());
                    assert_eq!(positions(&rows).len(), rows.num_rows());
                }
            }
        }
    }
}
