//! Lines of JSON to rows, block by block.

use std::io::Read;

use rayon::prelude::*;

use super::collected::FileRows;
use super::compressed::FileStream;
use super::container::other_format;
use super::fault::FaultKind;
use super::fields::{check_beginning, names_of, values_of};
use super::rows::{Layout, Outcome, unknown_columns};
use super::text::{Extent, utf8, without_mark};
use super::{Content, FieldNames};

/// Bytes of lines that are parsed at a time.
const BLOCK_BYTES: usize = 4 << 20;

/// A line, or an element of a list, with its place in the file.
pub(super) struct Piece<'a> {
    pub(super) row: usize,
    pub(super) bytes: &'a [u8],
    /// Place of its first byte in what the file holds.
    pub(super) offset: u64,
    pub(super) extent: Extent,
    /// Line and column of the file at which it begins, counted from 1, where a row is not a line.
    pub(super) place: Option<(usize, usize)>,
}

/// Reads the lines of a file.
pub(super) fn read(stream: FileStream, rows: &mut FileRows<'_>) -> Result<(), FaultKind> {
    read_after(Vec::new(), stream, rows)
}

/// Reads the lines of a file of which the beginning has been read.
pub(super) fn read_after(
    mut block: Vec<u8>,
    mut stream: FileStream,
    rows: &mut FileRows<'_>,
) -> Result<(), FaultKind> {
    let mut lines = Lines {
        is_packed: stream.is_packed(),
        ..Lines::default()
    };
    let mut seen = 0;
    loop {
        let read = (&mut stream)
            .take(BLOCK_BYTES as u64)
            .read_to_end(&mut block);
        let read = read.map_err(|error| stream.fault(error))?;
        if read == 0 {
            return lines.block(&block, Extent::Whole, rows);
        }
        // A line that is longer than a block is looked through once only.
        if let Some(end) = memchr::memrchr(b'\n', &block[seen..]) {
            let end = seen + end + 1;
            lines.block(&block[..end], Extent::Whole, rows)?;
            block.drain(..end);
            if rows.is_closed() {
                return Ok(());
            }
        }
        seen = block.len();
    }
}

/// Reads the lines at the beginning of a file.
pub(super) fn read_head(
    head: &[u8],
    extent: Extent,
    is_packed: bool,
    rows: &mut FileRows<'_>,
) -> Result<(), FaultKind> {
    let mut lines = Lines {
        is_packed,
        ..Lines::default()
    };
    lines.block(head, extent, rows)
}

/// Reader of blocks of whole lines.
#[derive(Default)]
struct Lines {
    is_packed: bool,
    count: usize,
    num_bytes: u64,
    has_begun: bool,
}

impl Lines {
    fn block(
        &mut self,
        block: &[u8],
        extent: Extent,
        rows: &mut FileRows<'_>,
    ) -> Result<(), FaultKind> {
        let mut text = block;
        if !self.has_begun {
            self.has_begun = true;
            if let Some(found) = other_format(block) {
                return Err(FaultKind::OtherFormat { found });
            }
            text = without_mark(block);
        }
        let mut offset = self.num_bytes + (block.len() - text.len()) as u64;
        self.num_bytes += block.len() as u64;
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest);
            let (bytes, after) = rest.split_at(end.unwrap_or(rest.len()));
            self.count += 1;
            pieces.push(Piece {
                row: self.count,
                bytes,
                offset,
                extent: if end.is_some() { Extent::Whole } else { extent },
                place: None,
            });
            offset += bytes.len() as u64 + 1;
            rest = after.get(1..).unwrap_or_default();
        }
        parse(&pieces, self.is_packed, rows)
    }
}

/// Parses rows and hands them on in their order. The first that says what it holds decides it for the file.
pub(super) fn parse(
    pieces: &[Piece<'_>],
    is_packed: bool,
    rows: &mut FileRows<'_>,
) -> Result<(), FaultKind> {
    let mut rest = pieces;
    while rows.layout.is_none()
        && let [piece, after @ ..] = rest
    {
        match decide(piece, is_packed, rows)? {
            Decided::Layout => break, // this row is the first that has it
            Decided::Row(outcome) => {
                rows.add(piece.row, outcome.map_err(|fault| placed(piece, fault)));
            }
            Decided::Blank => {}
        }
        rest = after;
    }
    let Some(layout) = rows.layout.clone() else {
        return Ok(());
    };
    let outcome = |piece: &Piece<'_>| {
        let outcome = json_of(piece, is_packed).transpose()?;
        let outcome = outcome.and_then(|json| content(json, piece.extent, &layout));
        Some(outcome.map_err(|fault| placed(piece, fault)))
    };
    let outcomes: Vec<_> = rest.par_iter().with_min_len(16).map(outcome).collect();
    for (piece, outcome) in rest.iter().zip(outcomes) {
        if let Some(outcome) = outcome {
            rows.add(piece.row, outcome);
        }
    }
    Ok(())
}

/// What a row says while the layout is not known.
enum Decided {
    /// The layout, which is known now.
    Layout,
    /// Nothing but what it holds itself.
    Row(Outcome),
    Blank,
}

/// Finds the layout by this row.
fn decide(
    piece: &Piece<'_>,
    is_packed: bool,
    rows: &mut FileRows<'_>,
) -> Result<Decided, FaultKind> {
    let json = match json_of(piece, is_packed) {
        Ok(Some(json)) => json,
        Ok(None) => return Ok(Decided::Blank),
        Err(fault) => return Ok(Decided::Row(Err(fault))),
    };
    if piece.extent == Extent::Head {
        let outcome = check_beginning(json, None);
        return Ok(Decided::Row(outcome.map(|()| Some(a_document(json)))));
    }
    let names = match names_of(json) {
        Ok(Some(names)) => names,
        Ok(None) => return Ok(Decided::Row(Err(FaultKind::wrong("not an object")))),
        Err(fault) => return Ok(Decided::Row(Err(fault))),
    };
    let with_values = names.iter().filter(|(_, is_null)| !is_null);
    if rows.find_layout(|name| with_values.clone().any(|(other, _)| other == name))? {
        rows.is_by_row = true;
        return Ok(Decided::Layout);
    }
    let has = |name: &str| names.iter().any(|(other, _)| other == name);
    Ok(Decided::Row(if let Some(found) = Layout::find(has)? {
        content(json, piece.extent, &found.layout)
    } else {
        let mut fields = FieldNames::default();
        for (name, _) in &names {
            fields.add(name);
        }
        Err(unknown_columns(fields))
    }))
}

/// The fault with its line, where a row is not a line.
fn placed(piece: &Piece<'_>, fault: FaultKind) -> FaultKind {
    match (fault, piece.place) {
        (FaultKind::NotJson { column, reason, .. }, Some((first_line, first_column))) => {
            let before = piece
                .bytes
                .get(..column.saturating_sub(1))
                .unwrap_or(piece.bytes);
            let (line, column) = match memchr::memrchr(b'\n', before) {
                None => (first_line, first_column + before.len()),
                Some(last) => {
                    let num_lines = memchr::memchr_iter(b'\n', before).count();
                    (first_line + num_lines, before.len() - last)
                }
            };
            FaultKind::NotJson {
                line: Some(line),
                column,
                reason,
            }
        }
        (fault, _) => fault,
    }
}

/// Text of a row; `None` if it is blank.
fn json_of<'a>(piece: &Piece<'a>, is_packed: bool) -> Result<Option<&'a str>, FaultKind> {
    match utf8(piece.bytes, piece.extent) {
        Ok(json) => Ok(Some(json).filter(|json| !json.trim().is_empty())),
        Err(at) => {
            let offset = piece.offset + at as u64;
            Err(FaultKind::NotUtf8 { offset, is_packed })
        }
    }
}

fn content(json: &str, extent: Extent, layout: &Layout) -> Outcome {
    match extent {
        Extent::Whole => layout.content(values_of(json, layout)?),
        Extent::Head => check_beginning(json, Some(layout)).map(|()| Some(a_document(json))),
    }
}

/// A document in the place of a row of which only the beginning is known: what matters is that there may be one.
fn a_document(json: &str) -> Content {
    Content::Text(json.to_owned())
}
