//! Rows one after another, into memory or towards a file.

use std::io::{self, Write};
use std::path::Path;

use bytemuck::Pod;
use serde::{Deserialize, Serialize};

use super::column::NewColumn;
use super::{CalibrateOn, LossMask, PositionSpan, Sequence, TokenRows};

/// A row as packing makes it, without its padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::data) struct NewRow {
    /// At least 2 tokens, and at most `sequence_length + 1`.
    pub(in crate::data) tokens: Vec<u32>,
    /// Tokens at which documents begin that are read apart; none if the row is streamed.
    pub(in crate::data) starts: Vec<u32>,
    /// Positions that count.
    pub(in crate::data) spans: Vec<PositionSpan>,
    /// Positions about a separator, ascending; all of them count.
    pub(in crate::data) separators: Vec<u32>,
    /// Bytes of text that the counted positions predict.
    pub(in crate::data) num_bytes: u64,
}

impl NewRow {
    /// Positions of the row.
    pub(in crate::data) fn num_positions(&self) -> usize {
        self.tokens.len().saturating_sub(1)
    }
}

/// Bytes of which each column in a file begins at a multiple.
pub(super) const ALIGNMENT: usize = 8;

/// Bytes behind a column of so many.
pub(super) fn padding_of(num_bytes: u64) -> usize {
    let over = num_bytes % ALIGNMENT as u64;
    (ALIGNMENT - usize::try_from(over).expect("less than 8")) % ALIGNMENT
}

/// Sums over all rows, and bytes of each column.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Totals {
    pub(super) sequence_length: usize,
    pub(super) num_bytes: u64,
    pub(super) num_positions: u64,
    pub(super) columns: [u64; 7],
}

/// Collector of rows.
pub(in crate::data) struct RowsBuilder {
    sequence_length: usize,
    /// Token behind the end of a row that is not full.
    padding: u32,
    num_rows: usize,
    num_bytes: u64,
    num_positions: u64,
    num_spans: u64,
    num_starts: u64,
    tokens: NewColumn<u32>,
    lengths: NewColumn<u32>,
    spans: NewColumn<PositionSpan>,
    span_ends: NewColumn<u64>,
    starts: NewColumn<u32>,
    start_ends: NewColumn<u64>,
    separators: NewColumn<u64>,
}

impl RowsBuilder {
    /// Begins rows in memory, padded with a token.
    pub(in crate::data) fn in_memory(sequence_length: usize, padding: u32) -> Self {
        Self {
            sequence_length,
            padding,
            num_rows: 0,
            num_bytes: 0,
            num_positions: 0,
            num_spans: 0,
            num_starts: 0,
            tokens: NewColumn::in_memory(),
            lengths: NewColumn::in_memory(),
            spans: NewColumn::in_memory(),
            span_ends: NewColumn::in_memory(),
            starts: NewColumn::in_memory(),
            start_ends: NewColumn::in_memory(),
            separators: NewColumn::in_memory(),
        }
    }

    /// Begins rows of which little is in memory, and the rest in a folder, in files without a name.
    pub(in crate::data) fn in_folder(
        sequence_length: usize,
        padding: u32,
        dir: &Path,
    ) -> io::Result<Self> {
        Ok(Self {
            tokens: NewColumn::in_folder(dir)?,
            lengths: NewColumn::in_folder(dir)?,
            spans: NewColumn::in_folder(dir)?,
            span_ends: NewColumn::in_folder(dir)?,
            starts: NewColumn::in_folder(dir)?,
            start_ends: NewColumn::in_folder(dir)?,
            separators: NewColumn::in_folder(dir)?,
            ..Self::in_memory(sequence_length, padding)
        })
    }

    /// Number of rows so far.
    pub(in crate::data) fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Appends a row. Its padding is a document of its own, unless the row is streamed: then it is read as one.
    ///
    /// # Panics
    ///
    /// If it has fewer than two tokens or more than a row, or its starts, spans or separators do not fit it.
    pub(in crate::data) fn push(&mut self, mut row: NewRow) -> io::Result<()> {
        let width = self.sequence_length + 1;
        let num_positions = row.num_positions();
        assert!((1..width).contains(&num_positions), "tokens of a row");
        let mask = LossMask::new(&row.spans, num_positions).expect("a mask of a row");
        let counts = |&at: &u32| mask.contains(at as usize);
        assert!(row.separators.iter().all(counts), "separators that count");
        self.num_positions += mask.count() as u64;
        if !row.starts.is_empty() && row.tokens.len() < width {
            row.starts.push(short(row.tokens.len()));
        }
        let is_one = row.starts == [0];
        if is_one {
            row.starts.clear(); // a row that is one document, and full
        }
        assert!(
            row.starts.is_empty() || Sequence::are_starts(&row.starts, width),
            "starts of documents"
        );
        row.tokens.resize(width, self.padding);
        let length = short(num_positions);
        self.append(&row, length)
    }

    /// Appends a row of others, without its bytes of text.
    pub(super) fn push_copy(&mut self, rows: &TokenRows, row_idx: usize) {
        let first = (row_idx * rows.sequence_length) as u64;
        let separators = rows.separators_of(row_idx).iter().map(|at| at - first);
        let mask = rows.mask(row_idx);
        self.num_positions += mask.count() as u64;
        let row = NewRow {
            tokens: rows.row(row_idx).to_vec(),
            starts: rows.starts[super::entries(&rows.start_ends, row_idx)].to_vec(),
            spans: mask.spans().to_vec(),
            separators: separators
                .map(|at| u32::try_from(at).expect("a position of a row"))
                .collect(),
            num_bytes: 0,
        };
        let appended = self.append(&row, short(rows.length(row_idx)));
        appended.expect("columns in memory");
    }

    fn append(&mut self, row: &NewRow, length: u32) -> io::Result<()> {
        let first = (self.num_rows * self.sequence_length) as u64;
        let separators = row.separators.iter().map(|&at| first + u64::from(at));
        self.num_rows += 1;
        self.num_bytes += row.num_bytes;
        self.num_spans += row.spans.len() as u64;
        self.num_starts += row.starts.len() as u64;
        self.tokens.extend(&row.tokens)?;
        self.lengths.extend(&[length])?;
        self.spans.extend(&row.spans)?;
        self.span_ends.extend(&[self.num_spans])?;
        self.starts.extend(&row.starts)?;
        self.start_ends.extend(&[self.num_starts])?;
        self.separators.extend(&separators.collect::<Vec<_>>())
    }

    /// Writes all columns to `out`, one after another in the order of [`TokenRows`], each up to a multiple of 8 bytes.
    pub(super) fn write(self, out: &mut dyn Write) -> io::Result<Totals> {
        let columns = [
            aligned(self.tokens, out)?,
            aligned(self.lengths, out)?,
            aligned(self.spans, out)?,
            aligned(self.span_ends, out)?,
            aligned(self.starts, out)?,
            aligned(self.start_ends, out)?,
            aligned(self.separators, out)?,
        ];
        Ok(Totals {
            sequence_length: self.sequence_length,
            num_bytes: self.num_bytes,
            num_positions: self.num_positions,
            columns,
        })
    }

    /// The rows, in memory.
    pub(in crate::data) fn into_rows(self) -> TokenRows {
        TokenRows {
            sequence_length: self.sequence_length,
            tokens: self.tokens.into_column(),
            lengths: self.lengths.into_column(),
            spans: self.spans.into_column(),
            span_ends: self.span_ends.into_column(),
            starts: self.starts.into_column(),
            start_ends: self.start_ends.into_column(),
            separators: self.separators.into_column(),
            num_bytes: self.num_bytes,
            num_positions: self.num_positions,
            calibrate_on: CalibrateOn::All,
        }
    }
}

/// A place in a row as it is stored.
fn short(place: usize) -> u32 {
    u32::try_from(place).expect("a row is shorter than 2^32 tokens")
}

/// Writes a column and the bytes behind it, and returns its bytes without those.
fn aligned<T: Pod>(column: NewColumn<T>, out: &mut dyn Write) -> io::Result<u64> {
    let num_bytes = column.copy_to(out)?;
    out.write_all(&[0; ALIGNMENT][..padding_of(num_bytes)])?;
    Ok(num_bytes)
}
