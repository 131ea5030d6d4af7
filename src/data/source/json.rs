//! A list of JSON objects to rows, element by element.

use std::io::Read;

use super::collected::FileRows;
use super::compressed::FileStream;
use super::container::other_format;
use super::fault::{FaultKind, num_rows};
use super::jsonl::{self, Piece};
use super::text::{Extent, without_mark};

/// Bytes that are looked through at a time.
const BLOCK_BYTES: usize = 4 << 20;

/// Reads a file. One that holds lines of objects instead of a list is read as such, as `datasets` does.
pub(super) fn read(mut stream: FileStream, rows: &mut FileRows<'_>) -> Result<(), FaultKind> {
    let is_packed = stream.is_packed();
    let mut buffer = Vec::new();
    let mut elements: Option<Elements> = None;
    loop {
        let read = (&mut stream)
            .take(BLOCK_BYTES as u64)
            .read_to_end(&mut buffer);
        let is_end = read.map_err(|error| stream.fault(error))? == 0;
        if elements.is_none() && is_lines(&buffer) {
            return jsonl::read_after(buffer, stream, rows);
        }
        let found = match elements.as_mut() {
            Some(found) => found,
            None => match Elements::begin(&buffer, is_packed)? {
                Some(found) => elements.insert(found),
                None if is_end => return Ok(()), // nothing but white space
                None => continue,
            },
        };
        found.scan(&buffer, rows)?;
        found.drop_read(&mut buffer);
        if rows.is_closed() {
            return Ok(());
        }
        if is_end {
            return found.finish();
        }
    }
}

/// Reads the beginning of a file.
pub(super) fn read_head(
    head: &[u8],
    extent: Extent,
    is_packed: bool,
    rows: &mut FileRows<'_>,
) -> Result<(), FaultKind> {
    if is_lines(head) {
        return jsonl::read_head(head, extent, is_packed, rows);
    }
    let Some(mut elements) = Elements::begin(head, is_packed)? else {
        return Ok(());
    };
    elements.scan(head, rows)?;
    if extent == Extent::Whole {
        return elements.finish();
    }
    match elements.unfinished(head) {
        Some(piece) => jsonl::parse(&[piece], is_packed, rows),
        None => Ok(()),
    }
}

/// True for objects one after another, each on its line.
fn is_lines(first: &[u8]) -> bool {
    let text = without_mark(first).trim_ascii_start();
    let Some(end) = memchr::memchr(b'\n', text) else {
        return false;
    };
    let (line, after) = text.split_at(end);
    let line = line.trim_ascii();
    line.starts_with(b"{") && line.ends_with(b"}") && after.trim_ascii_start().starts_with(b"{")
}

/// Finds the elements of a list as its bytes come.
struct Elements {
    state: State,
    /// Open brackets inside of an element.
    depth: usize,
    in_string: bool,
    /// Bytes that have been looked through, of those that are kept.
    seen: usize,
    num_rows: usize,
    /// Bytes of the file before those that are kept.
    offset: u64,
    lines: LineCount,
    /// The element that is open: its first byte among those that are kept, its line and its column.
    open: (usize, usize, usize),
    is_packed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first element.
    First,
    /// After a comma.
    Next,
    Inside,
    /// After an element.
    After,
    /// After the list.
    End,
}

/// Lines up to a byte.
struct LineCount {
    /// Byte up to which lines are counted, of those that are kept.
    counted: usize,
    /// Line that this byte is on, counted from 1.
    line: usize,
    /// Bytes of that line before it.
    column: usize,
}

impl LineCount {
    /// Line and column of a byte, both counted from 1. Bytes are asked for in their order.
    fn of(&mut self, buffer: &[u8], at: usize) -> (usize, usize) {
        let before = buffer.get(self.counted..at).unwrap_or_default();
        match memchr::memrchr(b'\n', before) {
            None => self.column += before.len(),
            Some(last) => {
                self.line += memchr::memchr_iter(b'\n', before).count();
                self.column = before.len() - last - 1;
            }
        }
        self.counted = self.counted.max(at);
        (self.line, self.column + 1)
    }
}

impl Elements {
    /// Finds the begin of the list; `None` if there is only white space yet.
    fn begin(buffer: &[u8], is_packed: bool) -> Result<Option<Self>, FaultKind> {
        let text = without_mark(buffer);
        let blank = text.len() - text.trim_ascii_start().len();
        let Some(first) = text.get(blank) else {
            return Ok(None);
        };
        if *first != b'[' {
            if let Some(found) = other_format(buffer) {
                return Err(FaultKind::OtherFormat { found });
            }
            let found = match first {
                b'{' => {
                    "one object, not a list of objects; write the list of its rows alone, or one object on each line of a `.jsonl` file"
                }
                _ => "not a list of JSON objects",
            };
            return Err(FaultKind::Damaged(found.to_owned()));
        }
        Ok(Some(Self {
            state: State::First,
            depth: 0,
            in_string: false,
            seen: buffer.len() - text.len() + blank + 1,
            num_rows: 0,
            offset: 0,
            lines: LineCount {
                counted: 0,
                line: 1,
                column: 0,
            },
            open: (0, 1, 1),
            is_packed,
        }))
    }

    /// Looks through what has come, and hands on the elements that are whole.
    fn scan(&mut self, buffer: &[u8], rows: &mut FileRows<'_>) -> Result<(), FaultKind> {
        let mut pieces = Vec::new();
        while let Some(&byte) = buffer.get(self.seen) {
            if self.state == State::Inside {
                match self.end_of_element(buffer) {
                    Some(end) => pieces.push(self.piece(buffer, end, Extent::Whole)),
                    None => break,
                }
                continue;
            }
            match (self.state, byte) {
                (_, b' ' | b'\t' | b'\r' | b'\n') => {}
                (State::First | State::After, b']') => self.state = State::End,
                (State::After, b',') => self.state = State::Next,
                (State::Next, b',' | b']') => {
                    return Err(self.broken(buffer, "a comma without a row"));
                }
                (State::First | State::Next, _) => {
                    let (line, column) = self.lines.of(buffer, self.seen);
                    self.open = (self.seen, line, column);
                    (self.state, self.depth, self.in_string) = (State::Inside, 0, false);
                    continue;
                }
                (State::After, _) => {
                    return Err(self.broken(buffer, "expected `,` or `]` after a row"));
                }
                (State::End | State::Inside, _) => {
                    return Err(self.broken(buffer, "more text after the end of the list"));
                }
            }
            self.seen += 1;
        }
        jsonl::parse(&pieces, self.is_packed, rows)
    }

    /// Moves on to the end of the element, which is the byte after it; `None` if it has not come yet.
    fn end_of_element(&mut self, buffer: &[u8]) -> Option<usize> {
        while let Some(&byte) = buffer.get(self.seen) {
            if self.in_string {
                let rest = buffer.get(self.seen..)?;
                let Some(found) = memchr::memchr2(b'"', b'\\', rest) else {
                    self.seen = buffer.len();
                    return None;
                };
                self.seen += found;
                if rest.get(found) == Some(&b'\\') {
                    buffer.get(self.seen + 1)?; // what is escaped may be in the bytes to come
                    self.seen += 2;
                } else {
                    self.in_string = false;
                    self.seen += 1;
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b',' | b']' if self.depth == 0 => {
                    self.state = State::After;
                    return Some(self.seen);
                }
                b'}' | b']' if self.depth > 0 => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        self.state = State::After;
                        self.seen += 1;
                        return Some(self.seen);
                    }
                }
                _ => {}
            }
            self.seen += 1;
        }
        None
    }

    /// The open element up to a byte.
    fn piece<'a>(&mut self, buffer: &'a [u8], end: usize, extent: Extent) -> Piece<'a> {
        let (begin, line, column) = self.open;
        self.num_rows += 1;
        Piece {
            row: self.num_rows,
            bytes: buffer.get(begin..end).unwrap_or_default(),
            offset: self.offset + begin as u64,
            extent,
            place: Some((line, column)),
        }
    }

    /// The element whose end has not come.
    fn unfinished<'a>(&mut self, buffer: &'a [u8]) -> Option<Piece<'a>> {
        let is_open = self.state == State::Inside;
        is_open.then(|| self.piece(buffer, buffer.len(), Extent::Head))
    }

    /// Drops the bytes that are not needed any more.
    fn drop_read(&mut self, buffer: &mut Vec<u8>) {
        let end = match self.state {
            State::Inside => self.open.0,
            _ => self.seen,
        };
        self.lines.of(buffer, end);
        buffer.drain(..end);
        self.open.0 = 0;
        self.seen -= end;
        self.lines.counted -= end;
        self.offset += end as u64;
    }

    fn broken(&mut self, buffer: &[u8], what: &str) -> FaultKind {
        let (line, column) = self.lines.of(buffer, self.seen);
        FaultKind::Damaged(format!("not JSON at line {line}, column {column}: {what}"))
    }

    fn finish(&self) -> Result<(), FaultKind> {
        if self.state == State::End {
            return Ok(());
        }
        Err(FaultKind::Damaged(format!(
            "ends in the middle of its list, after {}; fetch or write it again",
            num_rows(self.num_rows)
        )))
    }
}
