//! Results of `prepare` on disk: files named by the hash of their inputs, and checked when they are read.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::files;

const MAGIC: &[u8] = b"alambic data 1\n";
const HASH_BYTES: usize = blake3::OUT_LEN;

/// A folder of stored results.
#[derive(Debug)]
pub(super) struct Store<'a> {
    dir: &'a Path,
    /// Files that were damaged and have been replaced.
    pub(super) rebuilt: Vec<PathBuf>,
    /// True if every requested file was there.
    pub(super) all_found: bool,
}

impl<'a> Store<'a> {
    pub(super) fn open(dir: &'a Path) -> io::Result<Self> {
        fs::create_dir_all(dir).map_err(|error| files::with_path(error, dir))?;
        Ok(Self {
            dir,
            rebuilt: Vec::new(),
            all_found: true,
        })
    }

    pub(super) fn dir(&self) -> &'a Path {
        self.dir
    }

    /// Returns the payload stored under a name and key, or makes it with `make` and stores it.
    ///
    /// The file consists of `MAGIC`, key, payload and a BLAKE3 hash of all these. A file with a wrong hash, or one that
    /// `read` refuses, is replaced: it is a copy of data that can be made again.
    pub(super) fn get_or_make<T, E: From<io::Error>>(
        &mut self,
        name: &str,
        key: &str,
        read: impl Fn(&[u8]) -> Option<T>,
        make: impl FnOnce() -> Result<(Vec<u8>, T), E>,
    ) -> Result<T, E> {
        let path = self.dir.join(format!("{name}-{key}"));
        match files::read(&path) {
            Ok(bytes) => match payload(&bytes, key).and_then(read) {
                Some(value) => return Ok(value),
                None => self.rebuilt.push(path.clone()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(files::with_path(error, &path).into()),
        }
        self.all_found = false;
        let (payload, value) = make()?;
        files::write_atomically(&path, |out| write(out, key, &payload))?;
        Ok(value)
    }
}

fn write(out: &mut dyn Write, key: &str, payload: &[u8]) -> io::Result<()> {
    let mut hasher = blake3::Hasher::new();
    for part in [MAGIC, key.as_bytes(), payload] {
        hasher.update(part);
        out.write_all(part)?;
    }
    out.write_all(hasher.finalize().as_bytes())
}

fn payload<'b>(bytes: &'b [u8], key: &str) -> Option<&'b [u8]> {
    let (content, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
    let payload = content.strip_prefix(MAGIC)?.strip_prefix(key.as_bytes())?;
    (blake3::hash(content).as_bytes().as_slice() == hash).then_some(payload)
}
