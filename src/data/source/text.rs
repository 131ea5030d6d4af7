//! Text files to documents, and bytes to text.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::compressed::FileStream;
use super::container::{Compression, other_format};
use super::fault::{FaultKind, SourceError};

/// Part of a file that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    /// The beginning, and there is more.
    Head,
}

/// Bytes after the byte-order mark, if there is one.
pub(super) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Text of bytes of which the end may be missing, or the offset of the first byte that is not UTF-8.
pub(super) fn utf8(bytes: &[u8], extent: Extent) -> Result<&str, usize> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return Ok(text),
        Err(error) => error,
    };
    let valid = &bytes[..error.valid_up_to()];
    let is_cut = error.error_len().is_none() && extent == Extent::Head;
    if is_cut && let Ok(text) = std::str::from_utf8(valid) {
        return Ok(text);
    }
    Err(valid.len())
}

/// Text of a whole file without its byte-order mark, or the line and kind of its fault.
pub(super) fn document(
    bytes: Vec<u8>,
    extent: Extent,
    is_packed: bool,
) -> Result<String, (usize, FaultKind)> {
    let mark = bytes.len() - without_mark(&bytes).len();
    let fault = |bytes: &[u8], at: usize| {
        let line = memchr::memchr_iter(b'\n', &bytes[..at]).count() + 1;
        let offset = at as u64;
        (line, FaultKind::NotUtf8 { offset, is_packed })
    };
    if mark == 0 && extent == Extent::Whole {
        // The bytes become the text: a copy would double the memory of a large file.
        return String::from_utf8(bytes)
            .map_err(|error| fault(error.as_bytes(), error.utf8_error().valid_up_to()));
    }
    match utf8(&bytes[mark..], extent) {
        Ok(text) => Ok(text.to_owned()),
        Err(at) => Err(fault(&bytes, mark + at)),
    }
}

/// Bytes of a text file from which on it is read bit by bit, and of a compressed one.
const LONG_BYTES: [u64; 2] = [4 << 20, 1 << 20];

/// Bytes that are read at a time.
const BLOCK_BYTES: u64 = 1 << 20;

/// A text that is too long to be in memory: a whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    path: Arc<Path>,
    compression: Compression,
    num_bytes: u64,
}

impl TextFile {
    /// The text of a file, if it is a long one.
    pub(super) fn of_long(path: &Arc<Path>, compression: Compression) -> io::Result<Option<Self>> {
        let num_bytes = fs::metadata(path)?.len();
        let is_packed = usize::from(compression != Compression::None);
        let is_long = num_bytes > LONG_BYTES[is_packed];
        Ok(is_long.then(|| Self {
            path: Arc::clone(path),
            compression,
            num_bytes,
        }))
    }

    /// The text of a file that is not compressed.
    #[cfg(test)]
    pub(in crate::data) fn of(path: &Arc<Path>) -> io::Result<Self> {
        Ok(Self {
            path: Arc::clone(path),
            compression: Compression::None,
            num_bytes: fs::metadata(path)?.len(),
        })
    }

    /// Bytes of the file.
    pub(in crate::data) fn num_bytes(&self) -> u64 {
        self.num_bytes
    }

    /// Begins to read the text.
    pub(in crate::data) fn open(&self) -> Result<TextReader, SourceError> {
        let stream = FileStream::open(&self.path, self.compression);
        let stream = stream.map_err(|kind| SourceError::of_file(&self.path, None, kind))?;
        Ok(TextReader {
            path: Arc::clone(&self.path),
            stream,
            bytes: Vec::new(),
            has_begun: false,
            num_read: 0,
            num_lines: 0,
        })
    }
}

/// A text that is read from its file, bit by bit.
pub(in crate::data) struct TextReader {
    path: Arc<Path>,
    stream: FileStream,
    /// Bytes of a character that is not complete.
    bytes: Vec<u8>,
    has_begun: bool,
    /// Bytes before those, and lines that end in them.
    num_read: u64,
    num_lines: usize,
}

impl TextReader {
    /// Appends the next bit of the text; false at its end.
    pub(in crate::data) fn read(&mut self, text: &mut String) -> Result<bool, SourceError> {
        let is_packed = self.stream.is_packed();
        let outcome = self.read_bytes(text, is_packed);
        outcome.map_err(|(line, kind)| SourceError::of_file(&self.path, line, kind))
    }

    fn read_bytes(
        &mut self,
        text: &mut String,
        is_packed: bool,
    ) -> Result<bool, (Option<usize>, FaultKind)> {
        let block = (&mut self.stream).take(BLOCK_BYTES);
        let read = { block }.read_to_end(&mut self.bytes);
        let num_read = read.map_err(|error| (None, self.stream.fault(error)))?;
        let mut bytes = self.bytes.as_slice();
        if !self.has_begun {
            self.has_begun = true;
            if let Some(found) = other_format(bytes) {
                return Err((None, FaultKind::OtherFormat { found }));
            }
            bytes = without_mark(bytes);
        }
        let mark = self.bytes.len() - bytes.len();
        let extent = if num_read == 0 {
            Extent::Whole
        } else {
            Extent::Head
        };
        let lines = |bytes: &[u8]| memchr::memchr_iter(b'\n', bytes).count();
        let valid = utf8(bytes, extent).map_err(|at| {
            let offset = self.num_read + (mark + at) as u64;
            let line = self.num_lines + lines(&bytes[..at]) + 1;
            (Some(line), FaultKind::NotUtf8 { offset, is_packed })
        })?;
        text.push_str(valid);
        let used = mark + valid.len();
        self.num_read += used as u64;
        self.num_lines += lines(valid.as_bytes());
        self.bytes.drain(..used);
        Ok(num_read > 0)
    }
}
