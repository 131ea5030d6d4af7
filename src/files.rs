//! Files that appear whole or not at all, and hashes of what they hold.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Prefix of folders and files that a killed process may leave; nothing with it is ever read as complete.
pub const PARTIAL_PREFIX: &str = ".partial-";

/// Writes a file beside its final place, flushes it to disk and renames it.
///
/// A reader sees the old file or the new one, never a part. On any error the part is removed.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let partial = partial_path(path)?;
    let result = write_and_sync(&partial, write).and_then(|()| fs::rename(&partial, path));
    if let Err(error) = result {
        let _ = fs::remove_file(&partial); // the first error is the one to tell
        return Err(with_path(error, path));
    }
    sync_parent(path)
}

/// Whether [`write_atomically`] can write to this place, found out before there is anything to write.
pub fn check_place(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(with_path(io::ErrorKind::IsADirectory.into(), path));
    }
    let partial = partial_path(path)?;
    let probed = write_and_sync(&partial, |_| Ok(())).and_then(|()| fs::remove_file(&partial));
    probed.map_err(|error| with_path(error, path))
}

/// Writes a value as indented JSON; see [`write_atomically`].
pub fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write_atomically(path, |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    })
}

/// The value that [`write_json`] wrote, if there is a file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let value = match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
    };
    value.map(Some).map_err(|error| with_path(error, path))
}

/// BLAKE3 (hex) of a file's bytes.
pub fn hash_file(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(|error| with_path(error, path))?;
    hasher
        .update_reader(file)
        .map_err(|error| with_path(error, path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// BLAKE3 (hex) of a value's JSON.
///
/// # Panics
///
/// If the value has maps whose keys are not strings, which nothing that is hashed here has.
pub fn hash_json(value: &impl Serialize) -> String {
    let json = serde_json::to_vec(value)
        .expect("plans and fingerprints have string keys and no failing fields");
    blake3::hash(&json).to_hex().to_string()
}

/// Folder that is filled under a partial name and renamed when it is complete.
///
/// A partial folder that an earlier process left is kept by [`PartialDir::resume`] and emptied by
/// [`PartialDir::create`].
#[derive(Debug)]
pub struct PartialDir {
    partial: PathBuf,
    target: PathBuf,
}

impl PartialDir {
    /// Starts afresh: what an earlier process left is deleted.
    pub fn create(target: &Path) -> io::Result<Self> {
        let partial = partial_path(target)?;
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(|error| with_path(error, &partial))?;
        }
        Self::resume(target)
    }

    /// Goes on with what an earlier process left, if anything.
    pub fn resume(target: &Path) -> io::Result<Self> {
        let partial = partial_path(target)?;
        fs::create_dir_all(&partial).map_err(|error| with_path(error, &partial))?;
        Ok(Self {
            partial,
            target: target.to_path_buf(),
        })
    }

    /// Where an unfinished `target` is kept.
    pub fn at(target: &Path) -> io::Result<PathBuf> {
        partial_path(target)
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Flushes every file to disk and gives the folder its final name.
    ///
    /// Parts of files that an earlier process left inside are deleted.
    pub fn publish(self) -> io::Result<PathBuf> {
        remove_parts(&self.partial)?;
        sync_tree(&self.partial)?;
        if self.target.exists() {
            fs::remove_dir_all(&self.target).map_err(|error| with_path(error, &self.target))?;
        }
        fs::rename(&self.partial, &self.target).map_err(|error| with_path(error, &self.target))?;
        sync_parent(&self.target)?;
        Ok(self.target)
    }
}

impl PartialDir {
    /// Gives the target's name to one folder inside, whole and on disk, and deletes the rest. Nothing is replaced.
    pub fn publish_only(&self, inside: &Path) -> io::Result<PathBuf> {
        remove_parts(inside)?;
        sync_tree(inside)?;
        if self.target.exists() {
            let error = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(with_path(error, &self.target));
        }
        fs::rename(inside, &self.target).map_err(|error| with_path(error, &self.target))?;
        sync_parent(&self.target)?;
        self.discard()?;
        Ok(self.target.clone())
    }

    /// Deletes what was written.
    pub fn discard(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.partial).map_err(|error| with_path(error, &self.partial))
    }
}

/// Deletes the parts of files that a killed process left in a folder.
pub fn remove_parts(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir).map_err(|error| with_path(error, dir))? {
        let entry = entry.map_err(|error| with_path(error, dir))?;
        let path = entry.path();
        let is_part = entry
            .file_name()
            .to_string_lossy()
            .starts_with(PARTIAL_PREFIX);
        if is_part && path.is_file() {
            fs::remove_file(&path).map_err(|error| with_path(error, &path))?;
        }
    }
    Ok(())
}

/// Names the path in an I/O error, which the operating system does not.
pub fn with_path(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn partial_path(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{}: no file name", path.display()),
        )
    })?;
    let mut partial = std::ffi::OsString::from(PARTIAL_PREFIX);
    partial.push(name);
    Ok(path.with_file_name(partial))
}

fn write_and_sync(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the atomic writer itself"
    )]
    let mut out = BufWriter::new(File::create(path)?);
    write(&mut out)?;
    out.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.txt");
        write_atomically(&path, |out| out.write_all(b"old")).unwrap();
        let error = write_atomically(&path, |out| {
            out.write_all(b"new")?;
            Err(io::Error::other("disk full"))
        })
        .unwrap_err();
        assert!(
            error.to_string().contains("file.txt") && error.to_string().contains("disk full"),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_appears_under_its_name_only_when_published() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("artifact");
        let partial = PartialDir::create(&target).unwrap();
        write_atomically(&partial.path().join("a"), |out| out.write_all(b"1")).unwrap();
        write_atomically(&partial.path().join(".partial-b"), |out| {
            out.write_all(b"2")
        })
        .unwrap();
        assert!(!target.exists());
        let resumed = PartialDir::resume(&target).unwrap();
        assert!(
            resumed.path().join("a").exists(),
            "resume keeps what is there"
        );
        resumed.publish().unwrap();
        assert_eq!(fs::read(target.join("a")).unwrap(), b"1");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
        assert!(
            PartialDir::create(&target)
                .unwrap()
                .path()
                .read_dir()
                .unwrap()
                .next()
                .is_none()
        );
    }
}
