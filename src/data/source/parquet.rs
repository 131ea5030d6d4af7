//! Parquet files to rows, batch by batch, of the columns that are read.

use std::fs::File;
use std::path::Path;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

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
    let mut room = Room::now();
    let mut num_read = 0;
    while let Some(batch) = guarded(|| batches.next().transpose())? {
        room.take(columns::size_of(&batch))?;
        columns::read(&batch, num_read + 1, rows)?;
        num_read += batch.num_rows();
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

/// Memory that batches may still fill: a few bytes of Parquet can be gigabytes of repeated text.
pub(super) struct Room {
    left: u64,
    free: u64,
}

impl Room {
    pub(super) fn now() -> Self {
        let free = machine::free_bytes().unwrap_or(u64::MAX);
        Self { left: free, free }
    }

    pub(super) fn take(&mut self, bytes: u64) -> Result<(), FaultKind> {
        let left = self.left.checked_sub(bytes).ok_or_else(|| {
            FaultKind::TooLarge(format!(
                "its texts need more than the {} MiB of memory that are free; name some of its files, or use a machine with more memory",
                self.free >> 20
            ))
        })?;
        self.left = left;
        Ok(())
    }
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
        [b'P', b'A', b'R', b'E', ..] => "an encrypted Parquet file, which cannot be read here",
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
        Compression::LZO => Err(FaultKind::Damaged(
            "compressed by LZO, which is not built in; write it again with snappy, zstd, gzip, lz4 or brotli".to_owned(),
        )),
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
    Err(FaultKind::Damaged(format!(
        "damaged Parquet file: {told}; fetch it again"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_codec_that_is_not_built_in_is_named() {
        let told = check_codec(Compression::LZO).unwrap_err().to_string();
        assert!(told.starts_with("compressed by LZO, which is not built in"));
        assert!(check_codec(Compression::SNAPPY).is_ok());
    }

    #[test]
    fn texts_larger_than_the_free_memory_are_refused() {
        let mut room = Room {
            left: 3 << 20,
            free: 3 << 20,
        };
        assert!(room.take(2 << 20).is_ok());
        let told = room.take(2 << 20).unwrap_err().to_string();
        assert!(told.contains("more than the 3 MiB of memory"), "{told}");
    }
}
