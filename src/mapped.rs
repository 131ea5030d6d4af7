//! Memory-mapped files, which need no copy in memory.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::files::{self, with_path};
use crate::hashes::Identity;

/// Bytes of a file, read on first access.
///
/// The file must not change during the lifetime of this value: rewriting it in place gives mixed bytes, truncating it
/// ends the process (`SIGBUS`). Files that alambic writes are renamed into place, which does not affect a mapped file.
#[derive(Debug)]
pub struct Mapped {
    map: Mmap,
    file: File,
    path: PathBuf,
}

impl Mapped {
    /// Maps a file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = files::open(path).map_err(|error| with_path(error, path))?;
        #[expect(
            unsafe_code,
            reason = "a copy of the weights would double the memory of a run"
        )]
        // SAFETY: the map is read-only and bytes of any value are valid; the docs require of the caller that nobody
        // truncates the file.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| with_path(error, path))?;
        Ok(Self {
            map,
            file,
            path: path.to_path_buf(),
        })
    }

    /// Returns the opened path and the current identity of the mapped file, even if another file now has its name.
    pub fn identity(&self) -> io::Result<(PathBuf, Identity)> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|error| with_path(error, &self.path))?;
        Ok((self.path.clone(), Identity::of(&metadata)))
    }

    /// Frees the pages of a range that has been read, so that a model is not in memory twice; a later access
    /// reads them again.
    #[cfg(unix)]
    pub fn release(&self, range: &Range<usize>) {
        #[expect(unsafe_code, reason = "nothing else takes mapped pages out of memory")]
        // SAFETY: the map is read-only and backed by a file, so a page that is read again holds the same bytes.
        let advised = unsafe {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            self.map
                .unchecked_advise_range(advice, range.start, range.len())
        };
        let _ = advised; // a system that ignores the advice keeps the pages, which is harmless
    }

    /// Does nothing: only Unix can release pages.
    #[cfg(not(unix))]
    pub fn release(&self, _: &Range<usize>) {}
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
