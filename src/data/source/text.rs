//! Text files to documents, and bytes to text.

use super::fault::FaultKind;

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
