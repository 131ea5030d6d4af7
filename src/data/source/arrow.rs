//! Arrow files to rows: the stream of IPC messages that `datasets` writes, or the same stream inside of a file.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use arrow_ipc::reader::StreamReader;
use arrow_schema::ArrowError;

use super::collected::FileRows;
use super::columns;
use super::container::{LFS, is_lfs_pointer};
use super::fault::{FaultKind, num_rows};
use super::parquet::{HEAD_ROWS, Room};
use super::text::Extent;
use crate::files;
use crate::panics;

/// First bytes of the format for files, which holds a stream after these.
const FILE_MAGIC: &[u8; 8] = b"ARROW1\0\0";

/// Last bytes of a stream that was written to its end.
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// Reads a file, or its first rows; returns which of both it was.
pub(super) fn read(
    path: &Path,
    extent: Extent,
    rows: &mut FileRows<'_>,
) -> Result<Extent, FaultKind> {
    let mut file = files::open(path)?;
    let begin = begin_of(&mut file)?;
    let schema = guarded(|| StreamReader::try_new(BufReader::new(&file), None))?.schema();
    let read = columns::choose(&schema, rows)?;
    file.seek(SeekFrom::Start(begin))?;
    let stream = Tail {
        inner: BufReader::with_capacity(256 << 10, file),
        last: [0; 8],
    };
    let mut batches = guarded(|| StreamReader::try_new(stream, Some(read)))?;
    let room = Room::now();
    let mut num_read = 0;
    while let Some(batch) = guarded(|| batches.next().transpose())? {
        if extent == Extent::Head && batch.num_rows() > 0 {
            let head = batch.slice(0, batch.num_rows().min(HEAD_ROWS));
            columns::read(&head, 1, rows)?;
            return Ok(Extent::Head);
        }
        room.check(columns::size_of(&batch))?;
        columns::read(&batch, num_read + 1, rows)?;
        num_read += batch.num_rows();
        if rows.is_closed() {
            return Ok(Extent::Head);
        }
    }
    // A stream may end without its mark, but a file that does is one whose writer was stopped, or of which a part is missing.
    if batches.get_ref().last != END {
        return Err(FaultKind::Damaged(format!(
            "ends after {} without the mark of its end; fetch or write it again",
            num_rows(num_read)
        )));
    }
    Ok(Extent::Whole)
}

/// Place of the first message. The file is read on from there.
fn begin_of(file: &mut File) -> Result<u64, FaultKind> {
    let mut begun = Vec::new();
    Read::by_ref(file).take(64).read_to_end(&mut begun)?;
    let begin = match begun.get(..8) {
        Some(first) if first == FILE_MAGIC => 8,
        Some([0xff, 0xff, 0xff, 0xff, ..]) => 0,
        _ if is_lfs_pointer(&begun) => return Err(FaultKind::OtherFormat { found: LFS }),
        Some([_, _, 0, 0, ..]) => 0, // a length alone, as before Arrow 0.15
        _ => {
            return Err(FaultKind::Damaged(
                "not an Arrow file, as its name says".to_owned(),
            ));
        }
    };
    file.seek(SeekFrom::Start(begin))?;
    Ok(begin)
}

/// A stream, with the last bytes that were read of it.
struct Tail {
    inner: BufReader<File>,
    last: [u8; 8],
}

impl Read for Tail {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out)?;
        let new = &out[read.saturating_sub(8)..read];
        self.last.rotate_left(new.len());
        self.last[8 - new.len()..].copy_from_slice(new);
        Ok(read)
    }
}

/// Runs the Arrow decoder and turns its panics into faults of the file. What a panic leaves half done is not used again.
fn guarded<T>(decode: impl FnOnce() -> Result<T, ArrowError>) -> Result<T, FaultKind> {
    let told = match panics::caught(decode) {
        Some(Ok(decoded)) => return Ok(decoded),
        Some(Err(ArrowError::IoError(_, error)))
            if error.kind() != io::ErrorKind::UnexpectedEof =>
        {
            return Err(FaultKind::Unreadable(error));
        }
        Some(Err(error)) => error.to_string(),
        None => "the Arrow decoder panics".to_owned(),
    };
    let codecs = ["lz4", "zstd"];
    let needs = |codec: &str| told.contains(codec) && told.contains("feature");
    if let Some(codec) = codecs.into_iter().find(|codec| needs(codec)) {
        return Err(FaultKind::Damaged(format!(
            "its buffers are compressed by {codec}, which is not built in; write it as Parquet, or without compression"
        )));
    }
    Err(FaultKind::Damaged(format!(
        "damaged Arrow file: {told}; fetch it again"
    )))
}
