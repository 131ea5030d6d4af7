//! Token rows: the only form in which text reaches teacher and student.

mod builder;
mod column;
mod file;

#[cfg(test)]
mod tests;

use std::ops::Range;

use self::column::RowsColumn;
use super::mask::{LossMask, PositionSpan};
use super::plan::CalibrateOn;
use super::sequence::Sequence;

pub(super) use self::builder::{NewRow, RowsBuilder};
pub(super) use self::file::{RowsFile, read, write};

/// Rows of tokens, all of one length, in one fixed order.
///
/// A row holds `sequence_length + 1` tokens: position `t` sees tokens `0..=t` of its row and is about token `t + 1`.
///
/// There are two kinds. *Streamed* rows hold text end to end: the last token of a row is the first of the next, so every
/// token is predicted exactly once, and only the last of these rows may be padded. Rows of *documents* hold whole
/// documents, or pieces of them, one behind another, each read as if it were alone, and what is left is padding.
///
/// The [`LossMask`] of a row tells which positions count. Some of these may be about a *separator*, a token that packing
/// put after a document: it is predicted and trained on like any other, but it is not text, and measures cover only text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRows {
    sequence_length: usize,
    tokens: RowsColumn<u32>,
    /// Positions of each row in front of its padding.
    lengths: RowsColumn<u32>,
    /// Spans of all masks, row by row.
    spans: RowsColumn<PositionSpan>,
    /// Number of spans up to the end of each row.
    span_ends: RowsColumn<u64>,
    /// Tokens at which the documents of rows begin, row by row; none for a row that is read as one.
    starts: RowsColumn<u32>,
    /// Number of starts up to the end of each row.
    start_ends: RowsColumn<u64>,
    /// Positions about a separator, numbered row by row from the first position of the first row, ascending.
    separators: RowsColumn<u64>,
    num_bytes: u64,
    num_positions: u64,
    calibrate_on: CalibrateOn,
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
        let counts = counted.iter().map(|&end| PositionSpan { start: 0, end });
        let mut num_spans = 0;
        let span_ends = counted.iter().map(|&count| {
            num_spans += u64::from(count > 0);
            num_spans
        });
        Self {
            sequence_length,
            tokens: tokens.into(),
            span_ends: span_ends.collect::<Vec<_>>().into(),
            spans: counts
                .filter(|span| span.end > 0)
                .collect::<Vec<_>>()
                .into(),
            starts: RowsColumn::default(),
            start_ends: vec![0; counted.len()].into(),
            separators: RowsColumn::default(),
            num_bytes,
            num_positions: counted.iter().map(|&count| u64::from(count)).sum(),
            calibrate_on: CalibrateOn::All,
            lengths: counted.into(),
        }
    }

    /// Marks these positions as being about a separator; they are numbered row by row, `sequence_length` per row.
    ///
    /// # Panics
    ///
    /// If they do not ascend, or one of them does not count.
    #[must_use]
    pub fn with_separators(self, separators: Vec<u64>) -> Self {
        let rows = Self {
            separators: separators.into(),
            ..self
        };
        assert!(rows.has_sound_separators(), "separators that count");
        rows
    }

    fn has_sound_separators(&self) -> bool {
        let length = self.sequence_length.max(1);
        let counts = |&at: &u64| {
            let Ok(at) = usize::try_from(at) else {
                return false;
            };
            at / length < self.num_rows() && self.mask(at / length).contains(at % length)
        };
        let ascend = self.separators.is_sorted_by(|before, after| before < after);
        ascend && self.separators.iter().all(counts)
    }

    /// Positions per row.
    pub fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    /// Number of rows.
    pub fn num_rows(&self) -> usize {
        self.lengths.len()
    }

    /// All `sequence_length + 1` tokens of a row.
    pub fn row(&self, row_idx: usize) -> &[u32] {
        let width = self.sequence_length + 1;
        &self.tokens[row_idx * width..(row_idx + 1) * width]
    }

    /// Tokens at which the documents of a row begin that models read apart. Padding is the last of them.
    fn starts(&self, row_idx: usize) -> &[u32] {
        match &self.starts[entries(&self.start_ends, row_idx)] {
            [] => &[0],
            starts => starts,
        }
    }

    /// True if a row is the padded rest of a stream, at the end of its text.
    pub fn is_rest_of_stream(&self, row_idx: usize) -> bool {
        let is_streamed = entries(&self.start_ends, row_idx).is_empty();
        is_streamed && self.length(row_idx) < self.sequence_length
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
        LossMask::checked(&self.spans[entries(&self.span_ends, row_idx)])
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
        self.num_positions
    }

    /// Number of positions in front of padding, over all rows.
    pub fn num_filled(&self) -> u64 {
        self.lengths.iter().map(|&length| u64::from(length)).sum()
    }

    /// True if a position of a row is about a separator.
    pub fn is_separator(&self, row_idx: usize, position: usize) -> bool {
        let at = (row_idx * self.sequence_length + position) as u64;
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

    /// BLAKE3 (hex) over all of the rows.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let columns: [&[u8]; 7] = [
            bytemuck::cast_slice(&self.tokens),
            bytemuck::cast_slice(&self.lengths),
            bytemuck::cast_slice(&self.spans),
            bytemuck::cast_slice(&self.span_ends),
            bytemuck::cast_slice(&self.starts),
            bytemuck::cast_slice(&self.start_ends),
            bytemuck::cast_slice(&self.separators),
        ];
        for column in columns {
            hasher.update(&(column.len() as u64).to_le_bytes());
            hasher.update(column);
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Some of the rows, in order of their indices, which ascend. Their bytes of text are not known: 0.
    #[must_use]
    pub fn only(&self, row_idxs: &[usize]) -> Self {
        let mut chosen = RowsBuilder::in_memory(self.sequence_length, 0);
        for &row_idx in row_idxs {
            chosen.push_copy(self, row_idx);
        }
        chosen.into_rows().calibrated_on(self.calibrate_on)
    }

    /// Rows of a range, without their bytes of text.
    fn part(&self, rows: Range<usize>) -> Self {
        self.only(&rows.collect::<Vec<_>>())
    }

    /// Positions of a row about separators.
    fn separators_of(&self, row_idx: usize) -> &[u64] {
        let bounds = [row_idx, row_idx + 1].map(|row_idx| {
            let first = (row_idx * self.sequence_length) as u64;
            self.separators.partition_point(|&at| at < first)
        });
        &self.separators[bounds[0]..bounds[1]]
    }

    /// True if the columns are those of rows: equally many of each, and each row with starts, a mask and separators that
    /// fit it.
    fn are_sound(&self) -> bool {
        let num_rows = self.num_rows();
        let width = self.sequence_length.checked_add(1);
        let num_tokens = width.and_then(|width| width.checked_mul(num_rows));
        let fits = |ends: &[u64], num_entries: usize| {
            ends.len() == num_rows
                && ends.is_sorted()
                && ends.last().copied().unwrap_or(0) == num_entries as u64
        };
        let is_row = |row_idx: usize| {
            let length = self.length(row_idx);
            let spans = &self.spans[entries(&self.span_ends, row_idx)];
            length <= self.sequence_length
                && LossMask::new(spans, length).is_some()
                && Sequence::are_starts(self.starts(row_idx), self.sequence_length + 1)
        };
        num_tokens == Some(self.tokens.len())
            && fits(&self.span_ends, self.spans.len())
            && fits(&self.start_ends, self.starts.len())
            && (0..num_rows).all(is_row)
            && self.has_sound_separators()
    }
}

/// Entries of a row, from the ends of the entries of all rows.
fn entries(ends: &[u64], row_idx: usize) -> Range<usize> {
    let end_of = |row_idx: usize| {
        usize::try_from(ends[row_idx]).expect("entries of rows are in memory or mapped")
    };
    let before = row_idx.checked_sub(1);
    before.map_or(0, end_of)..end_of(row_idx)
}
