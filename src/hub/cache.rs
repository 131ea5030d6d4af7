//! Folder of one repository in the cache that all programs of the hub share.
//!
//! The layout is that of `huggingface_hub` (2.4): the content of each file once, in `blobs/<etag>`; a relative link to it in
//! `snapshots/<commit>/<file>`; the commit of a branch or tag in `refs/<revision>`; locks beside all of them.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::HubError;
use super::id::{RepoKind, is_commit, is_inside};
use super::{HubEvent, Watch};
use crate::files::{self, PARTIAL_PREFIX, write_atomically};

/// Format of the lists of files that `huggingface_hub` writes.
const LISTING_VERSION: u64 = 1;

/// Folder of its lists.
const THEIR_LISTINGS: &str = "trees";

/// Folder of ours. Not the same: `snapshot_download` takes a folder with a list of its own for broken unless every file of
/// the list is there, and alambic fetches no more than it reads.
const OUR_LISTINGS: &str = "alambic-trees";

/// Mark of folders that backups may leave out, see <https://bford.info/cachedir/>.
const CACHEDIR_TAG: &str = "CACHEDIR.TAG";

/// First line of that mark, and who made it.
const CACHEDIR_TEXT: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55\n# This file is a cache directory tag created by huggingface_hub.\n# For information about cache directory tags, see:\n#\thttps://bford.info/cachedir/\n";

/// Longest entity tag that names a file; hubs have digests of 40 and 64 digits.
const MAX_ETAG: usize = 128;

/// Longest commit of a `refs` file that is read.
const MAX_REF_BYTES: u64 = 256;

/// Time between two looks at a lock that another process holds.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);

/// Folder of a repository.
#[derive(Debug)]
pub(super) struct RepoCache {
    cache: PathBuf,
    folder: PathBuf,
    name: String,
}

/// A file of a repository at a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    /// Size in bytes, if the hub tells it.
    pub(super) size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) blob_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lfs_sha256: Option<String>,
}

/// Files of a repository at a commit, by their paths.
pub(super) type Listing = BTreeMap<String, Listed>;

#[derive(Serialize, Deserialize)]
struct ListingFile {
    format_version: u64,
    files: Listing,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, kind: RepoKind, id: &str) -> Self {
        let name = format!("{}--{}", kind.plural(), id.replace('/', "--"));
        Self {
            cache: cache.to_path_buf(),
            folder: cache.join(&name),
            name,
        }
    }

    /// Folder of all repositories.
    pub(super) fn cache(&self) -> &Path {
        &self.cache
    }

    /// Folder of the files of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Blob that has this entity tag.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Commit of a revision when the cache was filled last.
    pub(super) fn commit_of(&self, revision: &str) -> Result<Option<String>, HubError> {
        if is_commit(revision) {
            return Ok(Some(revision.to_owned()));
        }
        let path = self.folder.join("refs").join(revision);
        let text = match path.metadata() {
            Ok(found) if found.len() <= MAX_REF_BYTES => files::read_to_string(&path),
            Ok(_) => Ok(String::new()),
            Err(error) => Err(error),
        };
        match text {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| is_commit(text))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(HubError::of_cache(&path, error)),
        }
    }

    /// Stores the commit of a branch or tag.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit || self.commit_of(revision)?.as_deref() == Some(commit) {
            return Ok(()); // nothing to write: the folder may be another user's
        }
        let path = self.folder.join("refs").join(revision);
        create_folder(files::parent(&path))?;
        write_atomically(&path, |out| out.write_all(commit.as_bytes()))
            .map_err(|error| HubError::of_cache(&path, error))
    }

    /// Files of a commit, as a hub has listed them to this or another program; `None` if no list is there.
    pub(super) fn listing(&self, commit: &str) -> Option<Listing> {
        [OUR_LISTINGS, THEIR_LISTINGS]
            .into_iter()
            .find_map(|lists| {
                let path = self.folder.join(lists).join(format!("{commit}.json"));
                let file: ListingFile = serde_json::from_slice(&files::read(&path).ok()?).ok()?;
                let is_sound = file.format_version == LISTING_VERSION
                    && file.files.keys().all(|path| is_inside(path));
                is_sound.then_some(file.files)
            })
    }

    /// Stores the files of a commit, so that without a network a missing one is told from one that never was.
    pub(super) fn write_listing(&self, commit: &str, files: &Listing) -> Result<(), HubError> {
        if self.listing(commit).as_ref() == Some(files) {
            return Ok(());
        }
        let path = self
            .folder
            .join(OUR_LISTINGS)
            .join(format!("{commit}.json"));
        create_folder(files::parent(&path))?;
        let file = ListingFile {
            format_version: LISTING_VERSION,
            files: files.clone(),
        };
        files::write_json(&path, &file).map_err(|error| HubError::of_cache(&path, error))
    }

    /// Paths of all files of a commit that are there, in byte order.
    pub(super) fn present(&self, commit: &str) -> Result<Vec<String>, HubError> {
        let mut found = Vec::new();
        let snapshot = self.snapshot(commit);
        let mut folders = vec![snapshot.clone()];
        while let Some(folder) = folders.pop() {
            let wrap = |error| HubError::of_cache(&folder, error);
            let entries = match fs::read_dir(&folder) {
                Err(error) if is_absent(&error) => continue,
                entries => entries.map_err(wrap)?,
            };
            for entry in entries {
                let entry = entry.map_err(wrap)?;
                let path = entry.path();
                let inside = path.strip_prefix(&snapshot).ok().and_then(Path::to_str);
                if entry.file_type().map_err(wrap)?.is_dir() {
                    folders.push(path); // links to folders are none of ours
                } else if let Some(inside) =
                    inside.filter(|inside| path.is_file() && is_inside(inside))
                {
                    found.push(inside.to_owned());
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Tells whether a file of a commit is there, with its content.
    pub(super) fn has(&self, commit: &str, file: &str) -> bool {
        self.snapshot(commit).join(file).is_file()
    }

    /// Creates the folders of a first download.
    pub(super) fn prepare(&self, commit: &str) -> Result<(), HubError> {
        create_folder(&self.folder.join("blobs"))?;
        create_folder(&self.snapshot(commit))?;
        let tag = self.cache.join(CACHEDIR_TAG);
        if !tag.exists() {
            let _ = write_atomically(&tag, |out| out.write_all(CACHEDIR_TEXT)); // only backups miss it
        }
        Ok(())
    }

    /// Makes a file of a commit a relative link to its content, which must be there.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(file);
        if path.is_file() {
            return Ok(());
        }
        let folder = files::parent(&path);
        create_folder(folder)?;
        let depth = file.matches('/').count() + 2; // out of the folders of the file, the commit and `snapshots`
        let mut target = PathBuf::from("../".repeat(depth));
        target.extend(["blobs", etag]);
        let name = file.rsplit('/').next().unwrap_or_default();
        let temporary = folder.join(format!("{PARTIAL_PREFIX}{name}-{}", std::process::id()));
        let linked = remove(&temporary)
            .and_then(|()| symlink(&target, &temporary))
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| files::open_folder(folder)?.sync_all());
        linked.map_err(|error| HubError::of_cache(&path, error))
    }

    /// Waits for the lock of a content, which ends with the value. Python takes the same.
    pub(super) fn lock(&self, etag: &str, file: &str, watch: Watch<'_>) -> Result<File, HubError> {
        let path = self
            .cache
            .join(".locks")
            .join(&self.name)
            .join(format!("{etag}.lock"));
        create_folder(files::parent(&path))?;
        // A lock needs no permission to write: the file may be another user's.
        let opened =
            files::open_to_append(&path).or_else(|error| files::open(&path).map_err(|_| error));
        let lock = opened.map_err(|error| HubError::of_cache(&path, error))?;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) => {}
                // A file system without locks: contents are written at their places and checked, so that two processes
                // that write the same one do no harm.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    return Ok(lock);
                }
                Err(TryLockError::Error(error)) => return Err(HubError::of_cache(&path, error)),
            }
            if let ControlFlow::Break(()) = watch(HubEvent::Locked { file }) {
                return Err(HubError::Stopped);
            }
            thread::sleep(LOCK_INTERVAL);
        }
    }
}

/// Entity tag as the name of a content: without quotes and the mark of a weak one.
pub(super) fn etag_name(header: &str) -> Option<String> {
    let tag = header
        .strip_prefix("W/")
        .unwrap_or(header)
        .trim_matches('"');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name = !tag.is_empty() && tag.len() <= MAX_ETAG && !tag.starts_with('.');
    (is_name && tag.bytes().all(is_plain)).then(|| tag.to_owned())
}

/// Creates a folder and those above it.
fn create_folder(dir: &Path) -> Result<(), HubError> {
    fs::create_dir_all(dir).map_err(|error| HubError::of_cache(dir, error))
}

/// Removes a file that may be there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// True if nothing is at a path.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
