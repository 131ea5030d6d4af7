//! Bytes of a file as they are read: unpacked if they are compressed.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::container::{Compression, LFS, is_lfs_pointer};
use super::fault::FaultKind;
use crate::files;
use crate::machine;

/// Largest ratio of text to its compressed bytes. Lines that all repeat one long prompt come to some hundreds.
const MAX_RATIO: u64 = 1_000;

/// Bytes up to which a file may unpack at any ratio.
const MIN_LIMIT: u64 = 1 << 30;

/// Bytes that are read at a time from the disk.
const BUFFER_BYTES: usize = 256 << 10;

/// A file that is read from its beginning to its end.
pub(super) struct FileStream {
    decoder: Decoder,
    compression: Compression,
    /// Bytes that may still be handed on, and the reason for that limit.
    left: u64,
    limit: Limit,
    is_over: bool,
}

enum Decoder {
    None(BufReader<Watched>),
    Gzip(Box<MultiGzDecoder<BufReader<Watched>>>),
    Zstd(zstd::Decoder<'static, BufReader<Watched>>),
}

/// Most bytes that a compressed file may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    bytes: u64,
    is_memory: bool,
}

impl Limit {
    fn of(packed_bytes: u64) -> Self {
        Self {
            bytes: packed_bytes.saturating_mul(MAX_RATIO).max(MIN_LIMIT),
            is_memory: false,
        }
    }

    #[cfg(test)]
    pub(super) fn of_bytes(bytes: u64, is_memory: bool) -> Self {
        Self { bytes, is_memory }
    }

    fn told(self) -> String {
        let mib = self.bytes >> 20;
        if self.is_memory {
            return format!(
                "unpacks to more than the {mib} MiB of memory that are free; name some of its texts, or use a machine with more memory"
            );
        }
        format!(
            "unpacks to more than {mib} MiB, over {MAX_RATIO} times its size, as no text does; unpack it and look at it before you name it"
        )
    }
}

impl FileStream {
    pub(super) fn open(path: &Path, compression: Compression) -> Result<Self, FaultKind> {
        let file = files::open(path)?;
        let limit = match compression {
            Compression::None => Limit {
                bytes: u64::MAX,
                is_memory: false,
            },
            _ => Limit::of(file.metadata()?.len()),
        };
        Self::with_limit(file, compression, limit)
    }

    pub(super) fn with_limit(
        file: File,
        compression: Compression,
        limit: Limit,
    ) -> Result<Self, FaultKind> {
        let raw = Watched {
            file,
            has_failed: false,
        };
        let mut raw = BufReader::with_capacity(BUFFER_BYTES, raw);
        let decoder = match compression {
            Compression::None => Decoder::None(raw),
            Compression::Gzip => {
                check_begin(&mut raw, |begun| begun.starts_with(b"\x1f\x8b"), "gzip")?;
                Decoder::Gzip(Box::new(MultiGzDecoder::new(raw)))
            }
            Compression::Zstd => {
                check_begin(&mut raw, is_zstd, "zstd")?;
                Decoder::Zstd(zstd::Decoder::with_buffer(raw)?)
            }
        };
        Ok(Self {
            decoder,
            compression,
            left: limit.bytes,
            limit,
            is_over: false,
        })
    }

    /// Lowers the limit to the memory that is free, for bytes that are all kept.
    pub(super) fn within_memory(mut self) -> Self {
        let free = machine::free_bytes().unwrap_or(u64::MAX);
        if self.is_packed() && free < self.limit.bytes {
            self.limit = Limit {
                bytes: free,
                is_memory: true,
            };
            self.left = free;
        }
        self
    }

    /// True if the bytes handed on are not those on disk.
    pub(super) fn is_packed(&self) -> bool {
        self.compression != Compression::None
    }

    /// Fault of an error that reading has returned.
    pub(super) fn fault(&mut self, error: io::Error) -> FaultKind {
        if self.is_over {
            return FaultKind::TooLarge(self.limit.told());
        }
        let name = match self.compression {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::None => return FaultKind::Unreadable(error),
        };
        if self.raw().get_ref().has_failed {
            return FaultKind::Unreadable(error);
        }
        FaultKind::Damaged(if self.is_behind(&error) {
            format!(
                "behind its {name} data stand bytes that are no {name} data; fetch it again, or cut them off"
            )
        } else if error.kind() == io::ErrorKind::UnexpectedEof {
            format!("ends in the middle of its {name} data; fetch it again")
        } else {
            format!("damaged {name} data: {error}; fetch it again")
        })
    }

    /// True for an error at bytes that follow data which are whole, and are no such data themselves.
    fn is_behind(&self, error: &io::Error) -> bool {
        match &self.decoder {
            Decoder::None(_) => false,
            // Between members, the header of none has been read.
            Decoder::Gzip(decoder) => decoder.header().is_none() && self.left < self.limit.bytes,
            // The first frame is one, so this is told of a later one. The decoder has no other kind for it.
            Decoder::Zstd(_) => error.to_string().contains("Unknown frame descriptor"),
        }
    }

    fn raw(&mut self) -> &mut BufReader<Watched> {
        match &mut self.decoder {
            Decoder::None(raw) => raw,
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Zstd(decoder) => decoder.get_mut(),
        }
    }
}

impl Read for FileStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.decoder {
            Decoder::None(raw) => raw.read(out)?,
            Decoder::Gzip(decoder) => decoder.read(out)?,
            Decoder::Zstd(decoder) => decoder.read(out)?,
        };
        let Some(left) = self.left.checked_sub(read as u64) else {
            self.is_over = true;
            return Err(io::Error::other("too large"));
        };
        self.left = left;
        Ok(read)
    }
}

/// Refuses a file that does not begin as its name says.
fn check_begin(
    raw: &mut BufReader<Watched>,
    is_right: impl Fn(&[u8]) -> bool,
    name: &'static str,
) -> Result<(), FaultKind> {
    let begun = io::BufRead::fill_buf(raw)?;
    if is_right(begun) {
        return Ok(());
    }
    if is_lfs_pointer(begun) {
        return Err(FaultKind::OtherFormat { found: LFS });
    }
    if begun.is_empty() {
        return Err(FaultKind::Damaged(format!(
            "an empty file, without even the beginning of {name} data; fetch it again, or remove it"
        )));
    }
    Err(FaultKind::Damaged(format!(
        "not compressed by {name}, as its name says; take the last ending off its name"
    )))
}

/// True for the first bytes of a frame, or of one that is skipped, with which `pzstd` begins.
fn is_zstd(begun: &[u8]) -> bool {
    match begun {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => true,
        [first, 0x2a, 0x4d, 0x18, ..] => first & 0xf0 == 0x50,
        _ => false,
    }
}

/// A file, with the hash of what has been read of it.
struct Watched {
    file: File,
    has_failed: bool,
}

impl Read for Watched {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.file.read(out) {
            Ok(read) => Ok(read),
            Err(error) => {
                self.has_failed |= error.kind() != io::ErrorKind::Interrupted;
                Err(error)
            }
        }
    }
}
