//! Models and data by their ids on the Hugging Face hub, in the cache that Python programs use, too.
//!
//! A [`HubId`] is told apart from a path. A [`Hub`] gives a folder on disk for it, with the commit that it is of. What
//! is in the cache is used; what is not is downloaded over plain HTTP, file by file, resumed and checked. This module does
//! not know recipes, and prints nothing: whoever calls it is told of progress, and may stop it.

mod cache;
mod client;
mod download;
mod error;
mod id;
mod select;
mod settings;
#[cfg(test)]
mod tests;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::statvfs;
use serde::Deserialize;

use self::cache::{Listed, Listing, RepoCache, etag_name};
use self::client::{About, Client};
use self::download::Blob;
pub use self::error::HubError;
use self::error::short;
use self::id::is_inside;
pub use self::id::{HubId, MAIN, NotAnId, RepoKind, is_commit};
pub use self::settings::{Patience, Secret, Settings};
use crate::files;

/// Most files of a repository that the hub lists in one answer.
const MAX_FILES: usize = 50_000;

/// Digits of a SHA-256.
const SHA256_DIGITS: usize = 64;

/// Activity of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubEvent<'a> {
    /// Bytes on disk, of all files that are fetched together.
    Bytes {
        /// Number of those that are there.
        done: u64,
        /// Number of those that there will be, as far as the hub tells sizes.
        total: u64,
    },
    /// A request is repeated after a wait; sent ten times a second.
    Waits {
        /// Rest of the wait.
        left: Duration,
        /// Message of the error.
        why: &'a str,
    },
    /// Another process downloads this file; sent ten times a second.
    Locked {
        /// Path in the repository.
        file: &'a str,
    },
}

/// Is told of progress; [`ControlFlow::Break`] stops the download, which a later one resumes.
pub type Watch<'a> = &'a mut dyn FnMut(HubEvent<'_>) -> ControlFlow<()>;

/// Bytes of a download.
#[derive(Debug, Default)]
struct Tally {
    done: u64,
    total: u64,
}

impl Tally {
    fn add(&mut self, num_bytes: u64) {
        self.done += num_bytes;
        self.total = self.total.max(self.done);
    }

    fn take(&mut self, num_bytes: u64) {
        self.done = self.done.saturating_sub(num_bytes);
    }

    fn event(&self) -> HubEvent<'static> {
        HubEvent::Bytes {
            done: self.done,
            total: self.total,
        }
    }
}

/// A hub, and the cache of what has come from it.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    client: Client,
}

/// Files of a repository on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Folder of the files, or the GGUF file that was named.
    pub path: PathBuf,
    /// Commit that they are of: 40 hexadecimal digits.
    pub commit: String,
    /// Remarks for the user: a revision that has moved, a cache that stands in for the hub.
    pub notes: Vec<String>,
}

/// A repository at one commit.
#[derive(Debug)]
struct Repo<'a> {
    reference: HubId,
    kind: RepoKind,
    commit: String,
    listing: Listing,
    /// False if the hub's list of files is not known, but only what is in the cache.
    is_listed: bool,
    source: Source<'a>,
    cache: RepoCache,
    notes: Vec<String>,
}

/// Place that missing files come from.
#[derive(Debug)]
enum Source<'a> {
    Hub(&'a Client),
    /// The network is not to be used.
    Offline,
    /// The hub could not be asked; its error, until it is handed on.
    Failed(HubError),
}

impl Hub {
    /// A hub with the settings of the environment.
    pub fn from_env() -> Result<Self, HubError> {
        Self::new(Settings::from_env()?)
    }

    /// A hub with these settings.
    pub fn new(settings: Settings) -> Result<Self, HubError> {
        let client = Client::new(&settings)?;
        Ok(Self { settings, client })
    }

    /// A model: its GGUF file if one is named, else a folder with configuration, tokenizer, templates and weights.
    pub fn model(&self, reference: &HubId, watch: Watch<'_>) -> Result<Snapshot, HubError> {
        let mut repo = self.open(reference, RepoKind::Model, &mut *watch)?;
        let names: Vec<String> = repo.files().map(str::to_owned).collect();
        if let Some(wanted) = &reference.file {
            let file = select::gguf(&reference.id, &names, wanted)?;
            repo.fetch(std::slice::from_ref(&file), watch)?;
            return repo.finish(Some(&file));
        }
        repo.require("config.json")?;
        repo.fetch(&select::beside_weights(&names), &mut *watch)?;
        let index = repo.folder().join(select::INDEX);
        let index = if index.is_file() {
            Some(files::read(&index).map_err(|error| HubError::of_cache(&index, error))?)
        } else {
            None
        };
        // The weights last: where they are, all else is.
        match select::weights(&reference.id, &names, index.as_deref()) {
            Ok(weights) => repo.fetch(&weights, watch)?,
            Err(error) if repo.is_listed => return Err(error),
            Err(_) => return Err(repo.unavailable("its weights are missing".to_owned())),
        }
        repo.finish(None)
    }

    /// A dataset: a folder with its README, and those of its files with rows that `choose` wants, given the folder with the
    /// README and the paths of all of them.
    pub fn dataset(
        &self,
        reference: &HubId,
        choose: impl FnOnce(&Path, Vec<String>) -> Result<Vec<String>, HubError>,
        watch: Watch<'_>,
    ) -> Result<Snapshot, HubError> {
        if let Some(file) = &reference.file {
            return Err(HubError::Choice {
                repo: reference.id.clone(),
                fact: format!("is data, of which `:{file}` picks nothing"),
                help: format!("take `:{file}` out; `config` and `split` pick parts of data"),
            });
        }
        let mut repo = self.open(reference, RepoKind::Dataset, &mut *watch)?;
        let names: Vec<String> = repo.files().map(str::to_owned).collect();
        let names = select::data_files(&names);
        let is_readme = |name: &String| name == select::README;
        let (readme, rows): (Vec<String>, Vec<String>) = names.into_iter().partition(is_readme);
        if rows.is_empty() {
            return Err(select::no_rows(&reference.id));
        }
        repo.fetch(&readme, &mut *watch)?;
        let chosen = choose(&repo.folder(), rows)?;
        repo.fetch(&chosen, watch)?;
        repo.finish(None)
    }

    /// A repository at the commit that its revision has now. The hub is asked, unless the revision is a commit whose files
    /// are known; if it cannot answer, what the cache has stands in for it, with a note.
    fn open(
        &self,
        reference: &HubId,
        kind: RepoKind,
        watch: Watch<'_>,
    ) -> Result<Repo<'_>, HubError> {
        let cache = RepoCache::new(&self.settings.cache, kind, &reference.id);
        let revision = reference.revision();
        let known = cache.commit_of(revision)?;
        let mut repo = Repo {
            reference: reference.clone(),
            kind,
            commit: known.clone().unwrap_or_default(),
            listing: Listing::new(),
            is_listed: false,
            source: Source::Hub(&self.client),
            cache,
            notes: Vec::new(),
        };
        if self.settings.offline {
            repo.source = Source::Offline;
            if known.is_none() {
                return Err(repo.incomplete(format!("the commit of `{revision}` is not known")));
            }
            repo.list_from_cache()?;
            return Ok(repo);
        }
        if is_commit(revision)
            && let Some(listing) = repo.cache.listing(revision)
        {
            (repo.listing, repo.is_listed) = (listing, true);
            return Ok(repo);
        }
        let about = repo.about(revision, "");
        let asked = match known {
            Some(_) => self.client.hasty().info(about, watch),
            None => self.client.info(about, watch),
        };
        match asked.and_then(|info: Info| repo.take(info, known.as_deref())) {
            Ok(()) => Ok(repo),
            Err(
                error @ (HubError::RevisionNotFound { .. }
                | HubError::Listing { .. }
                | HubError::Stopped),
            ) => Err(error),
            Err(error) if known.is_none() || !repo.folder().is_dir() => Err(error),
            Err(error) => {
                let commit = short(&repo.commit);
                repo.notes.push(format!(
                    "`{}` is taken from the cache, at commit {commit}: {error}",
                    reference.id
                ));
                repo.source = Source::Failed(error);
                repo.list_from_cache()?;
                Ok(repo)
            }
        }
    }
}

/// Answer of the API about a revision.
#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Repo<'_> {
    /// Paths of all files, in byte order.
    fn files(&self) -> impl Iterator<Item = &str> {
        self.listing.keys().map(String::as_str)
    }

    /// Folder that the files are in, or will be.
    fn folder(&self) -> PathBuf {
        self.cache.snapshot(&self.commit)
    }

    fn about<'b>(&'b self, revision: &'b str, file: &'b str) -> About<'b> {
        About {
            id: &self.reference.id,
            kind: self.kind,
            revision,
            file,
        }
    }

    /// Takes the hub's answer. `known` is the commit that the revision had when the cache was filled last.
    fn take(&mut self, info: Info, known: Option<&str>) -> Result<(), HubError> {
        let repo = self.reference.id.clone();
        let refused = |why: String| HubError::Listing {
            repo: repo.clone(),
            why,
        };
        if !is_commit(&info.sha) {
            return Err(refused("the hub names no commit".to_owned()));
        }
        if info.siblings.len() >= MAX_FILES {
            let help = format!(
                "it has {MAX_FILES} files or more, and the hub lists no more; fetch it with `hf download` and give the path of that folder"
            );
            return Err(refused(help));
        }
        if let Some(file) = info
            .siblings
            .iter()
            .find(|file| !is_inside(&file.rfilename))
        {
            return Err(refused(format!(
                "{:?} is no path inside a folder",
                file.rfilename
            )));
        }
        if let Some(known) = known.filter(|known| *known != info.sha) {
            let (revision, pinned) = (self.reference.revision(), self.reference.pinned(known));
            self.notes.push(format!(
                "`{revision}` of `{repo}` has moved from commit {} to {}: what was made from it is made again; write `{pinned}` to stay",
                short(known),
                short(&info.sha)
            ));
        }
        self.commit = info.sha;
        let listed = info
            .siblings
            .into_iter()
            .map(|file| (file.rfilename.clone(), file.into()));
        (self.listing, self.is_listed) = (listed.collect(), true);
        Ok(())
    }

    /// Takes what the cache has: the list of a hub, or else the files that are there.
    fn list_from_cache(&mut self) -> Result<(), HubError> {
        if let Some(listing) = self.cache.listing(&self.commit) {
            (self.listing, self.is_listed) = (listing, true);
            return Ok(());
        }
        let present = self.cache.present(&self.commit)?.into_iter();
        self.listing = present.map(|name| (name, Listed::default())).collect();
        if self.listing.is_empty() {
            return Err(self.unavailable(format!(
                "nothing of commit {} is there",
                short(&self.commit)
            )));
        }
        self.notes.push(format!(
            "the cache has no list of the files of `{}`: those that are there are taken for all of them",
            self.reference.id
        ));
        Ok(())
    }

    /// Refuses a repository without a file that every one of its kind has, if the reason is that only the cache is known.
    fn require(&mut self, file: &str) -> Result<(), HubError> {
        if self.is_listed || self.listing.contains_key(file) {
            return Ok(());
        }
        Err(self.unavailable(format!("`{file}` is missing")))
    }

    /// Downloads those of these files that the cache has not.
    fn fetch(&mut self, names: &[String], watch: Watch<'_>) -> Result<(), HubError> {
        let missing: Vec<&String> = names
            .iter()
            .filter(|name| !self.cache.has(&self.commit, name))
            .collect();
        let Some(first) = missing.first() else {
            return Ok(());
        };
        let Source::Hub(client) = self.source else {
            let more = if missing.len() > 1 {
                format!(" and {} more", missing.len() - 1)
            } else {
                String::new()
            };
            return Err(self.unavailable(format!("`{first}`{more} is missing")));
        };
        if let Some(absent) = missing
            .iter()
            .find(|name| !self.listing.contains_key(**name))
        {
            let (repo, commit) = (self.reference.id.clone(), self.commit.clone());
            return Err(HubError::EntryNotFound {
                repo,
                file: (*absent).clone(),
                commit,
            });
        }
        let mut tally = self.check_space(&missing)?;
        self.cache.prepare(&self.commit)?;
        self.cache.write_listing(&self.commit, &self.listing)?;
        for name in missing {
            self.fetch_file(client, name, &mut tally, &mut *watch)?;
        }
        Ok(())
    }

    /// Refuses a download that the disk has no room for, and begins to count its bytes.
    fn check_space(&self, names: &[&String]) -> Result<Tally, HubError> {
        let mut tally = Tally::default();
        let mut needed_bytes = 0_u64;
        for name in names {
            let listed = self.listing.get(*name).cloned().unwrap_or_default();
            let size = listed.size.unwrap_or_default();
            tally.total = tally.total.saturating_add(size);
            let sha256 = listed.lfs_sha256.as_deref();
            let etag = sha256.or(listed.blob_id.as_deref()).and_then(etag_name);
            let there = etag.map_or(0, |etag| {
                let blob = self.cache.blob(&etag);
                if blob.is_file() {
                    size
                } else {
                    download::left(&blob, listed.size, sha256)
                }
            });
            needed_bytes = needed_bytes.saturating_add(size.saturating_sub(there));
        }
        let dir = self.cache.cache();
        let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
        if let Ok(disk) = statvfs(there) {
            let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
            if needed_bytes > free_bytes {
                let dir = dir.to_path_buf();
                return Err(HubError::NoSpace {
                    needed_bytes,
                    free_bytes,
                    dir,
                });
            }
        }
        Ok(tally)
    }

    fn fetch_file(
        &self,
        client: &Client,
        name: &str,
        tally: &mut Tally,
        watch: Watch<'_>,
    ) -> Result<(), HubError> {
        let about = self.about(&self.commit, name);
        let head = client.head(about, &mut *watch)?;
        let refused = |why: String| HubError::NotAHub {
            url: head.url.clone(),
            why,
        };
        match head.commit() {
            Some(commit) if commit == self.commit => {}
            Some(commit) => {
                return Err(refused(format!(
                    "it has `{name}` of commit {} instead of {}",
                    short(&commit),
                    short(&self.commit)
                )));
            }
            None if head.is_page() => {
                return Err(refused("it sends a web page instead of a file".to_owned()));
            }
            None => {
                return Err(refused(format!(
                    "it does not tell the commit of `{name}` (`X-Repo-Commit`)"
                )));
            }
        }
        let etag = head.header("x-linked-etag").or_else(|| head.header("etag"));
        let etag = etag.as_deref().and_then(etag_name);
        let etag = etag.ok_or_else(|| {
            refused(format!(
                "it gives no entity tag for `{name}` that can name a file (`ETag`)"
            ))
        })?;
        let is_sent_on = head.header("location").is_some();
        let own_size = || head.number("content-length").filter(|_| !is_sent_on);
        let size = head.number("x-linked-size").or_else(own_size);
        let lock = self.cache.lock(&etag, name, &mut *watch)?;
        let path = self.cache.blob(&etag);
        if path.is_file() {
            tally.add(fs::metadata(&path).map_or(0, |found| found.len()));
        } else {
            let is_sha256 =
                etag.len() == SHA256_DIGITS && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
            let content = Blob {
                about,
                size,
                sha256: Some(etag.as_str()).filter(|_| is_sha256),
                path,
            };
            download::fetch(client, &content, tally, watch)?;
        }
        let linked = self.cache.link(&self.commit, name, &etag);
        drop(lock);
        linked
    }

    /// Stores the commit of the revision, now that its files are there. `file` is the one that was asked for, if it was one.
    fn finish(mut self, file: Option<&str>) -> Result<Snapshot, HubError> {
        if let Source::Hub(_) = self.source {
            match self
                .cache
                .write_ref(self.reference.revision(), &self.commit)
            {
                // All files are there, in a cache that is another user's: only a later run without a network misses it.
                Err(error @ HubError::NotWritable { .. }) => self.notes.push(error.to_string()),
                written => written?,
            }
        }
        let folder = self.folder();
        Ok(Snapshot {
            path: file.map_or_else(|| folder.clone(), |file| folder.join(file)),
            commit: self.commit,
            notes: self.notes,
        })
    }

    /// Error for what is missing: why the hub could not be asked, or that it is not to be.
    fn unavailable(&mut self, missing: String) -> HubError {
        match std::mem::replace(&mut self.source, Source::Offline) {
            Source::Failed(error) => error,
            Source::Hub(_) | Source::Offline => self.incomplete(missing),
        }
    }

    fn incomplete(&self, missing: String) -> HubError {
        HubError::Offline {
            repo: self.reference.id.clone(),
            cache: self.cache.cache().to_path_buf(),
            missing,
        }
    }
}

impl From<Sibling> for Listed {
    fn from(file: Sibling) -> Self {
        let (lfs_sha256, lfs_size) = file.lfs.map_or((None, None), |lfs| (lfs.sha256, lfs.size));
        Self {
            size: file.size.or(lfs_size),
            blob_id: file.blob_id,
            lfs_sha256,
        }
    }
}
