//! Folders that are filled under a temporary name and renamed when they are complete.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::{is_a_link, open, parent, remove_parts, sync_folder, with_path};

/// Prefix of a folder that is being filled. No dot: `cp *` copies such a folder too, so a moved run can be resumed.
const PREFIX: &str = "unfinished-";

/// A folder that is filled under an unfinished name and renamed when it is complete.
///
/// [`UnfinishedDir::resume`] keeps the files of an earlier process, [`UnfinishedDir::create`] deletes them. Both refuse
/// a link: the name can be guessed, and writing through a link would change files elsewhere.
#[derive(Debug)]
pub struct UnfinishedDir {
    path: PathBuf,
    target: PathBuf,
}

impl UnfinishedDir {
    /// Creates an empty unfinished folder; the files of an earlier process are deleted.
    pub fn create(target: &Path) -> io::Result<Self> {
        let left = Self::resume(target)?;
        left.discard()?;
        Self::resume(target)
    }

    /// Opens the unfinished folder of an earlier process, or creates an empty one.
    pub fn resume(target: &Path) -> io::Result<Self> {
        let path = Self::at(target)?;
        if fs::symlink_metadata(target).is_ok_and(|found| !found.is_dir()) {
            let fact = "there is already something here that is not a folder; remove it";
            let error = io::Error::new(io::ErrorKind::InvalidInput, fact);
            return Err(with_path(error, target));
        }
        if fs::symlink_metadata(&path).is_err() {
            fs::create_dir_all(&path).map_err(|error| with_path(error, &path))?;
        }
        check_folder(&path)?;
        Ok(Self {
            path,
            target: target.to_path_buf(),
        })
    }

    /// Path of the unfinished folder of `target`.
    pub fn at(target: &Path) -> io::Result<PathBuf> {
        let name = target.file_name().ok_or_else(|| {
            let fact = format!("{}: no file name", target.display());
            io::Error::new(io::ErrorKind::InvalidInput, fact)
        })?;
        let mut unfinished = OsString::from(PREFIX);
        unfinished.push(name);
        Ok(target.with_file_name(unfinished))
    }

    /// Name that an unfinished folder will have when it is complete; `None` for another folder's name.
    pub fn target_name(name: &str) -> Option<&str> {
        name.strip_prefix(PREFIX)
    }

    /// Path of the unfinished folder, to write into.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Deletes temporary files that a killed process left inside; called once this process holds the folder. A link
    /// inside is refused, because alambic writes none.
    pub fn remove_parts(&self) -> io::Result<()> {
        remove_parts_below(&self.path)
    }

    /// Flushes every file to disk and gives the folder its final name.
    ///
    /// Temporary files that an earlier process left inside are deleted.
    pub fn publish(self) -> io::Result<PathBuf> {
        remove_parts_below(&self.path)?;
        sync_tree(&self.path)?;
        if self.target.exists() {
            fs::remove_dir_all(&self.target).map_err(|error| with_path(error, &self.target))?;
        }
        fs::rename(&self.path, &self.target).map_err(|error| with_path(error, &self.target))?;
        sync_folder(parent(&self.target))?;
        Ok(self.target)
    }

    /// Flushes one folder inside to disk, gives it the target's name, and deletes the rest. Nothing is replaced.
    pub fn publish_only(&self, inside: &Path) -> io::Result<PathBuf> {
        remove_parts_below(inside)?;
        sync_tree(inside)?;
        if self.target.exists() {
            let error = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(with_path(error, &self.target));
        }
        fs::rename(inside, &self.target).map_err(|error| with_path(error, &self.target))?;
        sync_folder(parent(&self.target))?;
        self.discard()?;
        Ok(self.target.clone())
    }

    /// Deletes the unfinished folder.
    pub fn discard(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.path).map_err(|error| with_path(error, &self.path))
    }
}

/// Checks that the path is a folder, and not a link to one.
fn check_folder(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(CWD, path, flags, Mode::empty()).map_err(io::Error::from);
    let opened = opened.map_err(|error| match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => is_a_link(),
        _ => error,
    });
    opened.map(drop).map_err(|error| with_path(error, path))
}

fn remove_parts_below(dir: &Path) -> io::Result<()> {
    remove_parts(dir)?;
    for entry in fs::read_dir(dir).map_err(|error| with_path(error, dir))? {
        let entry = entry.map_err(|error| with_path(error, dir))?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_symlink() {
            return Err(with_path(is_a_link(), &path));
        }
        if kind.is_dir() {
            remove_parts_below(&path)?;
        }
    }
    Ok(())
}

fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir).map_err(|error| with_path(error, dir))? {
        let entry = entry.map_err(|error| with_path(error, dir))?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            sync_tree(&path)?;
        } else {
            let synced = open(&path).and_then(|file| File::sync_all(&file));
            synced.map_err(|error| with_path(error, &path))?;
        }
    }
    sync_folder(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::write_atomically;
    use super::*;

    #[test]
    fn a_folder_appears_under_its_name_only_when_published() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("artifact");
        let unfinished = UnfinishedDir::create(&target).unwrap();
        write_atomically(&unfinished.path().join("a"), |out| out.write_all(b"1")).unwrap();
        fs::create_dir(unfinished.path().join("inside")).unwrap();
        for part in [".partial-b", "inside/.partial-c"] {
            write_atomically(&unfinished.path().join(part), |out| out.write_all(b"2")).unwrap();
        }
        assert!(!target.exists());
        let resumed = UnfinishedDir::resume(&target).unwrap();
        assert!(
            resumed.path().join("a").exists(),
            "resume keeps what is there"
        );
        resumed.publish().unwrap();
        assert_eq!(fs::read(target.join("a")).unwrap(), b"1");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 2);
        assert_eq!(fs::read_dir(target.join("inside")).unwrap().count(), 0);
        let afresh = UnfinishedDir::create(&target).unwrap();
        assert_eq!(fs::read_dir(afresh.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_in_the_place_of_an_unfinished_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (target, elsewhere) = (dir.path().join("artifact"), dir.path().join("elsewhere"));
        fs::create_dir(&elsewhere).unwrap();
        write_atomically(&elsewhere.join("precious"), |out| out.write_all(b"1")).unwrap();
        symlink(&elsewhere, dir.path().join("unfinished-artifact")).unwrap();
        for refused in [
            UnfinishedDir::resume(&target),
            UnfinishedDir::create(&target),
        ] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("symbolic link"), "{error}");
            assert!(error.contains("unfinished-artifact"), "{error}");
        }
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
    }
}
