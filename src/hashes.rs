//! Store of content hashes: a file that was hashed once is not read again unless its metadata show a change.
//!
//! A file is identified by device, inode, length, and the times of its last change of content and of status. Only the
//! kernel sets the last: it changes when a file is written to, replaced by a rename, or given an older time.

use std::collections::BTreeMap;
use std::fs::{self, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::files::{self, with_path};

/// File in the output folder.
const FILE: &str = "hashes.json";

/// Version of the format; raised when the meaning of an entry changes.
const VERSION: u32 = 1;

/// Kind of the hashes of whole files.
const BYTES: &str = "bytes";

/// Shortest age at which a hash is stored: a file that changed just before could change again, unnoticed, within the
/// same tick of the file system's clock. FAT and some network file systems tick every two seconds.
const TICK_NS: i64 = 2_000_000_000;

/// Metadata that distinguish a file from others, and from its own earlier versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i64,
    changed_ns: i64,
}

impl Identity {
    /// Reads it from the metadata of an open file or of a path.
    pub fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |secs: i64, rest: i64| secs.saturating_mul(1_000_000_000) + rest;
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A hash and its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct HashOfFiles {
    /// Kind of the hash: of the files' bytes, or of the tensors in them.
    of: String,
    files: Vec<(PathBuf, Identity)>,
    blake3: String,
}

type FilesKey = (String, Vec<Identity>);

impl HashOfFiles {
    fn key(&self) -> FilesKey {
        let identities = self.files.iter().map(|(_, identity)| *identity);
        (self.of.clone(), identities.collect())
    }

    /// True if none of its files has changed.
    fn is_current(&self) -> bool {
        let is_same = |(path, identity): &(PathBuf, Identity)| {
            fs::metadata(path).is_ok_and(|metadata| Identity::of(&metadata) == *identity)
        };
        self.files.iter().all(is_same)
    }
}

#[derive(Serialize, Deserialize)]
struct StoredHashes {
    version: u32,
    entries: Vec<HashOfFiles>,
}

/// Hashes by the identities of files.
#[derive(Debug)]
pub struct Hashes {
    /// Folder of the stored hashes; `None` keeps them only for this process.
    dir: Option<PathBuf>,
    /// Start of the process, on the clock of the file system.
    begun_ns: i64,
    entries: Mutex<BTreeMap<FilesKey, HashOfFiles>>,
}

impl Hashes {
    /// Loads the hashes that earlier runs stored in this output folder; none with `verify`, to read all content again.
    ///
    /// `now` is the start of the process, in seconds since 1970. An unreadable store counts as empty.
    pub fn open(output: &Path, now: f64, verify: bool) -> Self {
        let hashes = Self {
            dir: Some(output.to_path_buf()),
            ..Self::of_this_process(now)
        };
        if !verify {
            let entries = stored(output).into_iter().map(|entry| (entry.key(), entry));
            *hashes.entries() = entries.collect();
        }
        hashes
    }

    /// Creates a store that ends with the process.
    pub fn of_this_process(now: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "seconds since 1970, to the second"
        )]
        let now_secs = now as i64;
        Self {
            dir: None,
            begun_ns: now_secs.saturating_mul(1_000_000_000),
            entries: Mutex::default(),
        }
    }

    /// BLAKE3 (hex) of a file's bytes.
    pub fn of_file(&self, path: &Path) -> io::Result<String> {
        let hash = || {
            let file = files::open(path)?;
            let identity = || Ok::<_, io::Error>(Identity::of(&file.metadata()?));
            let before = [(path.to_path_buf(), identity()?)];
            self.of(BYTES, &before, || {
                let hash = files::hash_reader(&file)?;
                Ok((hash, identity()? == before[0].1))
            })
        };
        hash().map_err(|error| with_path(error, path))
    }

    /// Returns the hash of some content of these files, computed by `hash` unless it is stored.
    ///
    /// `kind` names the hashed content. `hash` also returns whether the files stayed unchanged while it read them; the
    /// hash of changing files is not stored.
    pub fn of<E>(
        &self,
        kind: &str,
        files: &[(PathBuf, Identity)],
        hash: impl FnOnce() -> Result<(String, bool), E>,
    ) -> Result<String, E> {
        let mut entry = HashOfFiles {
            of: kind.to_owned(),
            files: files.to_vec(),
            blake3: String::new(),
        };
        if let Some(known) = self.entries().get(&entry.key()) {
            return Ok(known.blake3.clone());
        }
        let (hash, stayed) = hash()?;
        let is_settled = |(_, identity): &(PathBuf, Identity)| {
            identity.changed_ns < self.begun_ns.saturating_sub(TICK_NS)
        };
        if stayed && files.iter().all(is_settled) {
            entry.blake3.clone_from(&hash);
            self.remember(entry);
        }
        Ok(hash)
    }

    /// Stores the hash of a file that this process has written and whose folder it holds; `path` is its final path.
    pub fn record(&self, written: &Path, path: PathBuf, blake3: &str) -> io::Result<()> {
        let metadata = fs::metadata(written).map_err(|error| with_path(error, written))?;
        self.remember(HashOfFiles {
            of: BYTES.to_owned(),
            files: vec![(path, Identity::of(&metadata))],
            blake3: blake3.to_owned(),
        });
        Ok(())
    }

    /// Writes the current hashes to disk, merged with those that other processes have written meanwhile.
    pub fn save(&self) -> io::Result<()> {
        let Some(dir) = &self.dir else {
            return Ok(());
        };
        let lock = files::open_folder(dir)?;
        match lock.try_lock() {
            Ok(()) | Err(TryLockError::Error(_)) => {} // on a file system without locks, nothing is checked
            Err(TryLockError::WouldBlock) => return Ok(()), // another process writes: missing hashes are computed again
        }
        let before = stored(dir);
        let mut entries = self.entries().clone();
        for entry in &before {
            entries.entry(entry.key()).or_insert_with(|| entry.clone());
        }
        let entries: Vec<HashOfFiles> = entries
            .into_values()
            .filter(HashOfFiles::is_current)
            .collect();
        if entries == before {
            return Ok(()); // a run without new hashes writes nothing
        }
        let stored = StoredHashes {
            version: VERSION,
            entries,
        };
        let path = dir.join(FILE);
        files::remove_parts_of(&path)?;
        files::write_atomically(&path, |out| {
            serde_json::to_writer(&mut *out, &stored)?;
            out.write_all(b"\n")
        })
    }

    fn remember(&self, entry: HashOfFiles) {
        self.entries().insert(entry.key(), entry);
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<FilesKey, HashOfFiles>> {
        let entries = self.entries.lock();
        entries.unwrap_or_else(std::sync::PoisonError::into_inner) // a map of copies is always consistent
    }
}

fn stored(dir: &Path) -> Vec<HashOfFiles> {
    let stored: Option<StoredHashes> = files::read_json(&dir.join(FILE)).ok().flatten();
    stored
        .filter(|stored| stored.version == VERSION)
        .map_or_else(Vec::new, |stored| stored.entries)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};
    use std::time::{Duration, SystemTime};

    use super::*;

    /// A time long after every file of a test was written.
    const LATER: f64 = 4e9;

    fn write(path: &Path, text: &str) {
        files::write_atomically(path, |out| out.write_all(text.as_bytes())).unwrap();
    }

    #[test]
    fn a_hash_is_remembered_until_the_file_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        write(&path, "one");
        let one = files::hash_file(&path).unwrap();
        let hashes = Hashes::open(dir.path(), LATER, false);
        assert_eq!(hashes.of_file(&path).unwrap(), one);
        hashes.save().unwrap();

        // A store with a false hash is believed, so the file was not read again.
        let memory = dir.path().join(FILE);
        let text = fs::read_to_string(&memory).unwrap();
        write(&memory, &text.replace(&one, "believed"));
        let again = || Hashes::open(dir.path(), LATER, false);
        assert_eq!(again().of_file(&path).unwrap(), "believed");
        let verified = Hashes::open(dir.path(), LATER, true);
        assert_eq!(verified.of_file(&path).unwrap(), one);

        // Same length and modification time as before: only the kernel's own time shows the change.
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        write(&path, "two");
        let times = FileTimes::new().set_modified(modified);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_times(times).unwrap();
        assert_eq!(
            again().of_file(&path).unwrap(),
            files::hash_file(&path).unwrap()
        );
        again().save().unwrap();
        let text = fs::read_to_string(&memory).unwrap();
        assert!(!text.contains("believed"), "of a file that is gone: {text}");
        write(&memory, "no JSON");
        assert_ne!(again().of_file(&path).unwrap(), one);
    }

    #[test]
    fn a_file_that_has_just_changed_is_hashed_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        write(&path, "one");
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let hashes = Hashes::open(dir.path(), now, false);
        hashes.of_file(&path).unwrap();
        assert!(hashes.entries().is_empty());
        hashes.record(&path, path.clone(), "ours").unwrap();
        assert_eq!(hashes.of_file(&path).unwrap(), "ours");
    }
}
