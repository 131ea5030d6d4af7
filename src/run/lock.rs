//! Locks of folders that runs share. A folder that a lock had to make goes with it, unless something was put into it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::{RunError, check_stop};
use crate::cache::CacheError;
use crate::files::{self, with_path};
use crate::progress;
use crate::stages::{LOCK_FILE, Stage};
use crate::teacher::CaptureError;

/// Pause between two attempts at a lock that another process holds.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Lock of a folder for this process, until it is dropped.
///
/// A run that ends before it has anything to keep leaves no folders: those that were made for the lock are removed
/// again if nothing but its file is in them.
#[derive(Debug)]
pub(crate) struct FolderLock {
    file: File,
    dir: PathBuf,
    /// Folders that were made for the lock, the innermost first.
    made: Vec<PathBuf>,
}

impl FolderLock {
    fn of(dir: &Path) -> io::Result<Self> {
        let missing = dir.ancestors().take_while(|dir| fs::metadata(dir).is_err());
        let made = missing.map(Path::to_path_buf).collect();
        fs::create_dir_all(dir).map_err(|error| with_path(error, dir))?;
        let path = dir.join(LOCK_FILE);
        let file = files::open_to_append(&path).map_err(|error| with_path(error, &path))?;
        let dir = dir.to_path_buf();
        Ok(Self { file, dir, made })
    }

    /// True if the locked file is still the one in the folder: the process that held it before may have removed both.
    fn is_in_its_place(&self) -> bool {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let there = fs::symlink_metadata(self.dir.join(LOCK_FILE)).map(identity);
        let held = self.file.metadata().map(identity);
        matches!((there, held), (Ok(there), Ok(held)) if there == held)
    }

    fn holds_nothing_else(&self) -> bool {
        let Ok(mut entries) = fs::read_dir(&self.dir) else {
            return false;
        };
        entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOCK_FILE))
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        if self.made.is_empty() || !self.is_in_its_place() || !self.holds_nothing_else() {
            return;
        }
        // The file goes while it is locked, so whoever waits for it sees that it is another one.
        let removed = fs::remove_file(self.dir.join(LOCK_FILE));
        let mut made = self.made.iter().map(fs::remove_dir); // a folder with anything in it stays
        let _ = removed.and_then(|()| made.try_for_each(|removed| removed));
    }
}

/// Locks a folder, which is made if it does not exist.
pub(crate) fn lock(dir: &Path) -> Result<FolderLock, RunError> {
    let lock = match FolderLock::of(dir) {
        Ok(lock) => lock,
        // Between the two steps, the process that held it has removed the folder.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let dir = dir.to_path_buf();
            return Err(RunError::Locked { dir });
        }
        Err(error) => return Err(error.into()),
    };
    let locked = || RunError::Locked {
        dir: dir.to_path_buf(),
    };
    match lock.file.try_lock() {
        Ok(()) if lock.is_in_its_place() => Ok(lock),
        Ok(()) | Err(TryLockError::WouldBlock) => Err(without_folders(lock, locked())),
        Err(TryLockError::Error(error)) => Err(without_folders(lock, with_path(error, dir).into())),
    }
}

/// The error, after a lock that is not held was let go: its folders are another's.
fn without_folders(mut lock: FolderLock, error: RunError) -> RunError {
    lock.made.clear();
    error
}

/// Locks the folder of a stage as [`lock`] does, but waits for another process until a signal asks to stop.
pub(super) fn wait_for_lock(stage: &Stage, stop: &AtomicBool) -> Result<FolderLock, RunError> {
    while_locked(stage, stop, || lock(&stage.dir))
}

/// Tries again as long as another run holds the lock, until a signal asks to stop.
pub(super) fn while_locked<T>(
    stage: &Stage,
    stop: &AtomicBool,
    mut attempt: impl FnMut() -> Result<T, RunError>,
) -> Result<T, RunError> {
    let mut has_logged = false;
    loop {
        match attempt() {
            Err(
                RunError::Locked { dir }
                | RunError::Cache(CacheError::Locked { dir })
                | RunError::Capture(CaptureError::Cache(CacheError::Locked { dir })),
            ) => {
                if !std::mem::replace(&mut has_logged, true) {
                    let dir = dir.display();
                    progress::log(&format!("waiting for another run that uses `{dir}`"));
                }
            }
            outcome => return outcome,
        }
        check_stop(stage, stop)?;
        std::thread::sleep(LOCK_POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_made_for_a_lock_goes_with_it_unless_something_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let (own, inner) = (dir.path().join("own"), dir.path().join("a/b/c"));
        fs::create_dir(&own).unwrap();
        for path in [&own, &inner] {
            let held = lock(path).unwrap();
            assert!(matches!(lock(path), Err(RunError::Locked { .. })));
            assert!(path.join(LOCK_FILE).exists());
            drop(held);
        }
        assert!(own.exists(), "it was there before");
        assert!(!dir.path().join("a").exists());

        let outer = lock(&dir.path().join("a/b")).unwrap();
        drop(lock(&inner).unwrap());
        assert!(!inner.exists());
        let kept = lock(&inner).unwrap();
        files::write_atomically(&inner.join("rows"), |out| out.write_all(b"1")).unwrap();
        drop(kept);
        drop(outer);
        assert!(inner.join("rows").exists());
    }

    #[test]
    fn a_lock_on_a_file_that_was_removed_meanwhile_is_not_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let first = lock(&path).unwrap();
        let waits = FolderLock::of(&path).unwrap();
        drop(first);
        assert!(!path.exists());
        waits.file.try_lock().unwrap();
        assert!(!waits.is_in_its_place());
        let second = lock(&path).unwrap();
        drop(waits);
        assert!(
            second.is_in_its_place(),
            "nothing of the second was removed"
        );
    }
}
