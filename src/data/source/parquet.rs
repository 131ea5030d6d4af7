//! Parquet files to rows, batch by batch, of the columns that are read.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::collected::FileRows;
use super::columns;
use super::container::{LFS, is_lfs_pointer};
use super::fault::FaultKind;
use super::text::Extent;
use crate::files;
use crate::machine;
use crate::panics;

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 512;

/// Rows at the beginning of a file that a look at it reads.
pub(super) const HEAD_ROWS: usize = 16;

/// Reads a file, or its first rows; returns which of both it was.
pub(super) fn read(
    path: &Path,
    extent: Extent,
    rows: &mut FileRows<'_>,
) -> Result<Extent, FaultKind> {
    let file = files::open(path)?;
    check_begin(&file)?;
    let options = ArrowReaderOptions::new();
    let metadata = guarded(|| ArrowReaderMetadata::load(&file, options))?;
    let num_rows = usize::try_from(metadata.metadata().file_metadata().num_rows()).unwrap_or(0);
    let read = columns::choose(metadata.schema(), rows)?;
    let mask = ProjectionMask::roots(metadata.parquet_schema(), read);
    check_codecs(metadata.metadata(), &mask)?;
    let wanted = match extent {
        Extent::Whole => num_rows,
        Extent::Head => num_rows.min(HEAD_ROWS),
    };
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS.min(wanted.max(1)))
        .with_limit(wanted);
    let mut batches = guarded(|| builder.build())?;
    let room = Room::now();
    let mut num_read = 0;
    while let Some(batch) =
        guarded(|| batches.next().transpose()).map_err(|fault| explained(fault, path))?
    {
        room.check(columns::size_of(&batch))?;
        columns::read(&batch, num_read + 1, rows)?;
        num_read += batch.num_rows();
        if rows.is_closed() {
            return Ok(Extent::Head);
        }
    }
    if num_read != wanted {
        return Err(FaultKind::Damaged(format!(
            "damaged Parquet file: {num_read} rows instead of {wanted}; fetch it again"
        )));
    }
    Ok(if wanted < num_rows {
        Extent::Head
    } else {
        Extent::Whole
    })
}

/// Memory that a batch may fill: a few bytes of Parquet can be gigabytes of repeated text.
pub(super) struct Room {
    free: u64,
}

impl Room {
    pub(super) fn now() -> Self {
        let free = machine::free_bytes().unwrap_or(u64::MAX);
        Self { free }
    }

    pub(super) fn check(&self, bytes: u64) -> Result<(), FaultKind> {
        if bytes <= self.free {
            return Ok(());
        }
        Err(FaultKind::TooLarge(format!(
            "a few of its rows need more than the {} MiB of memory that are free; name other files, or use a machine with more memory",
            self.free >> 20
        )))
    }
}

/// Words for an encrypted file.
const ENCRYPTED: &str =
    "an encrypted Parquet file, which cannot be read here; write it again without encryption";

/// Words for what to do about a codec.
const OTHER_CODECS: &str = "write it again with snappy, zstd, gzip, lz4 or brotli";

/// Bytes of a signature, which stands behind a footer that is no secret where columns are: a nonce and a tag of AES-GCM.
const SIGNATURE_BYTES: usize = 28;

/// The fault of a page, or that its column is encrypted: pages of such are no pages to the decoder.
fn explained(fault: FaultKind, path: &Path) -> FaultKind {
    if is_signed(path).unwrap_or(false) {
        FaultKind::Damaged(ENCRYPTED.to_owned())
    } else {
        fault
    }
}

/// True if the footer of a file is whole without its last bytes, which are a signature then.
fn is_signed(path: &Path) -> Result<bool, FaultKind> {
    let mut file = files::open(path)?;
    let mut end = [0; 8];
    file.seek(SeekFrom::End(-8))?;
    file.read_exact(&mut end)?;
    let [a, b, c, d, ..] = end;
    let num_bytes = u32::from_le_bytes([a, b, c, d]);
    let begin = file.metadata()?.len().checked_sub(8 + u64::from(num_bytes));
    let Some(begin) = begin else {
        return Ok(false);
    };
    file.seek(SeekFrom::Start(begin))?;
    let mut footer = Vec::new();
    file.take(u64::from(num_bytes)).read_to_end(&mut footer)?;
    let unsigned = footer.len().checked_sub(SIGNATURE_BYTES);
    let unsigned = unsigned.and_then(|len| footer.get(..len));
    Ok(unsigned
        .is_some_and(|footer| guarded(|| ParquetMetaDataReader::decode_metadata(footer)).is_ok()))
}

/// Refuses a file that is something else from its first byte.
fn check_begin(file: &File) -> Result<(), FaultKind> {
    let mut begun = [0; 64];
    let read = std::os::unix::fs::FileExt::read_at(file, &mut begun, 0)?;
    let begun = begun.get(..read).unwrap_or_default();
    if begun.starts_with(b"PAR1") {
        return Ok(());
    }
    if is_lfs_pointer(begun) {
        return Err(FaultKind::OtherFormat { found: LFS });
    }
    let told = match begun {
        [] => "an empty file, not Parquet",
        [b'P', b'A', b'R', b'E', ..] => ENCRYPTED,
        _ => "not a Parquet file, as its name says",
    };
    Err(FaultKind::Damaged(told.to_owned()))
}

/// Refuses codecs that the library does not have, before it comes upon them in the middle of a file.
fn check_codecs(metadata: &ParquetMetaData, mask: &ProjectionMask) -> Result<(), FaultKind> {
    for group in metadata.row_groups() {
        for (index, column) in group.columns().iter().enumerate() {
            if mask.leaf_included(index) {
                check_codec(column.compression())?;
            }
        }
    }
    Ok(())
}

fn check_codec(codec: Compression) -> Result<(), FaultKind> {
    match codec {
        Compression::LZO => Err(FaultKind::Damaged(format!(
            "compressed by LZO, which is not built in; {OTHER_CODECS}"
        ))),
        _ => Ok(()),
    }
}

/// Runs the Parquet decoder and turns its panics into faults of the file: it panics on some files that no writer makes.
/// What a panic leaves half done is not used again.
fn guarded<T, E: Into<ParquetError>>(
    decode: impl FnOnce() -> Result<T, E>,
) -> Result<T, FaultKind> {
    let decoded = panics::caught(decode);
    let told = match decoded {
        Some(Ok(decoded)) => return Ok(decoded),
        Some(Err(error)) => error.into().to_string(),
        None => "the Parquet decoder panics".to_owned(),
    };
    if told.contains("CompressionCodec") {
        return Err(FaultKind::Damaged(format!(
            "compressed by a codec that is not known here ({told}); {OTHER_CODECS}"
        )));
    }
    Err(FaultKind::Damaged(format!(
        "damaged Parquet file: {told}; fetch it again"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_larger_than_the_free_memory_are_refused() {
        let room = Room { free: 3 << 20 };
        assert!(room.check(2 << 20).is_ok() && room.check(2 << 20).is_ok());
        let told = room.check(4 << 20).unwrap_err().to_string();
        assert!(told.contains("more than the 3 MiB of memory"), "{told}");
    }
}
