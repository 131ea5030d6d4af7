//! Files in memory without a copy of them.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::files::{self, with_path};
use crate::hashes::Identity;

/// A file's bytes, read when they are first looked at.
///
/// The file must not change while this lives: one that is rewritten in place gives mixed bytes, and one that is truncated
/// ends the process (`SIGBUS`). What alambic writes is renamed into place, which leaves a mapped file as it was.
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
        // SAFETY: the map is read-only and bytes of any value are valid; that nobody truncates the file under us is
        // asked of the caller in the docs.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| with_path(error, path))?;
        Ok(Self {
            map,
            file,
            path: path.to_path_buf(),
        })
    }

    /// The path that was opened, and what tells the file as it is now: the one that is mapped, even if another has its name.
    pub fn identity(&self) -> io::Result<(PathBuf, Identity)> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|error| with_path(error, &self.path))?;
        Ok((self.path.clone(), Identity::of(&metadata)))
    }

    /// Lets go of the pages of a range that was read through, so that a model is not in memory twice; whoever looks at them
    /// again reads them again.
    #[cfg(unix)]
    pub fn release(&self, range: &Range<usize>) {
        #[expect(unsafe_code, reason = "nothing else takes mapped pages out of memory")]
        // SAFETY: the map is read-only and of a file, so that a page which is touched again holds the same bytes again.
        let advised = unsafe {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            self.map
                .unchecked_advise_range(advice, range.start, range.len())
        };
        let _ = advised; // a system that does not take the advice keeps the pages, and nothing else changes
    }

    /// Only Unix can be asked to let go of pages.
    #[cfg(not(unix))]
    pub fn release(&self, _: &Range<usize>) {}
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
