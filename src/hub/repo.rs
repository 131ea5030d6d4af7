//! A repository at one commit: its files listed, those that the cache lacks downloaded, its commit stored.

use std::fs;
use std::path::PathBuf;

use rustix::fs::statvfs;
use serde::Deserialize;

use super::cache::{Listed, Listing, RepoCache, etag_name};
use super::client::{About, Client};
use super::download::{self, Blob};
use super::error::{HubError, short};
use super::id::is_inside;
use super::{Hub, HubFile, HubId, RepoKind, Snapshot, Tally, Watch, is_commit};

/// Most files of a repository that the hub lists in one answer.
const MAX_FILES: usize = 50_000;

/// Digits of a SHA-256.
const SHA256_DIGITS: usize = 64;

/// A repository at one commit.
#[derive(Debug)]
pub(super) struct Repo<'a> {
    pub(super) reference: HubId,
    pub(super) kind: RepoKind,
    pub(super) commit: String,
    pub(super) listing: Listing,
    /// False if the hub's list of files is not known, but only what is in the cache.
    pub(super) is_listed: bool,
    pub(super) source: Supplier<'a>,
    pub(super) cache: RepoCache,
    pub(super) notes: Vec<String>,
    /// Bytes of all files that are fetched.
    tally: Tally,
}

/// Place that missing files come from.
#[derive(Debug)]
pub(super) enum Supplier<'a> {
    Hub(&'a Client),
    /// The network is not to be used.
    Offline,
    /// The hub could not be asked; its error, until it is handed on.
    Failed(HubError),
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

impl<'a> Repo<'a> {
    /// A repository at the commit that its revision has now. The hub is asked, unless the revision is a commit whose files
    /// are known; if it cannot answer, what the cache has stands in for it, with a note.
    pub(super) fn open(
        hub: &'a Hub,
        reference: &HubId,
        kind: RepoKind,
        offline: bool,
        watch: Watch<'_>,
    ) -> Result<Self, HubError> {
        let cache = RepoCache::new(&hub.settings.cache, kind, &reference.id);
        let revision = reference.revision();
        let known = cache.commit_of(revision)?;
        let mut repo = Self {
            reference: reference.clone(),
            kind,
            commit: known.clone().unwrap_or_default(),
            listing: Listing::new(),
            is_listed: false,
            source: Supplier::Hub(&hub.client),
            cache,
            notes: Vec::new(),
            tally: Tally::default(),
        };
        if offline {
            repo.source = Supplier::Offline;
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
            Some(_) => hub.client.hasty().info(about, watch),
            None => hub.client.info(about, watch),
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
                repo.source = Supplier::Failed(error);
                repo.list_from_cache()?;
                Ok(repo)
            }
        }
    }

    /// All files, in the byte order of their paths.
    pub(super) fn files(&self) -> Vec<HubFile> {
        let file = |(path, listed): (&String, &Listed)| HubFile {
            path: path.clone(),
            num_bytes: listed.size,
        };
        self.listing.iter().map(file).collect()
    }

    /// Folder that the files are in, or will be.
    pub(super) fn folder(&self) -> PathBuf {
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
                "`{revision}` of `{repo}` has moved from commit {} to {}: stages that its changes reach run again; write `{pinned}` to stay",
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
    pub(super) fn require(&mut self, file: &str) -> Result<(), HubError> {
        if self.is_listed || self.listing.contains_key(file) {
            return Ok(());
        }
        Err(self.unavailable(format!("`{file}` is missing")))
    }

    /// Those of these files that the cache lacks.
    fn missing<'b>(&self, names: &'b [String]) -> Vec<&'b String> {
        let is_missing = |name: &&String| !self.cache.has(&self.commit, name);
        names.iter().filter(is_missing).collect()
    }

    /// Number and bytes of those of these files that the cache lacks, as far as the hub tells sizes. What is begun counts as
    /// fetched.
    pub(super) fn left(&self, names: &[String]) -> (usize, u64) {
        let missing = self.missing(names);
        let bytes = missing.iter().map(|name| self.left_of(name));
        (missing.len(), bytes.fold(0, u64::saturating_add))
    }

    /// Bytes of a file that are neither in the cache, under whatever name, nor in a part.
    fn left_of(&self, name: &str) -> u64 {
        let listed = self.listing.get(name).cloned().unwrap_or_default();
        let size = listed.size.unwrap_or_default();
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
        size.saturating_sub(there)
    }

    /// Refuses what cannot be had for a reason that is known before anything is asked for: no network, no such file, no room.
    pub(super) fn check(&mut self, names: &[String]) -> Result<(), HubError> {
        let missing = self.missing(names);
        let Some(first) = missing.first() else {
            return Ok(());
        };
        let Supplier::Hub(_) = self.source else {
            let more = if missing.len() > 1 {
                format!(" and {} more", missing.len() - 1)
            } else {
                String::new()
            };
            return Err(self.unavailable(format!("`{first}`{more} is missing")));
        };
        let mut missing = missing.into_iter();
        if let Some(absent) = missing.find(|name| !self.listing.contains_key(*name)) {
            let (repo, commit) = (self.reference.id.clone(), self.commit.clone());
            return Err(HubError::EntryNotFound {
                repo,
                file: absent.clone(),
                commit,
            });
        }
        self.check_space(self.left(names).1)
    }

    /// Refuses a download that the disk has no room for.
    fn check_space(&self, needed_bytes: u64) -> Result<(), HubError> {
        let dir = self.cache.cache();
        let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
        let Ok(disk) = statvfs(there) else {
            return Ok(());
        };
        let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
        if needed_bytes <= free_bytes {
            return Ok(());
        }
        Err(HubError::NoSpace {
            needed_bytes,
            free_bytes,
            dir: dir.to_path_buf(),
        })
    }

    /// Begins to count the bytes of these files.
    pub(super) fn begin(&mut self, names: &[String]) {
        let size = |name: &String| self.listing.get(name).and_then(|listed| listed.size);
        let sizes = self.missing(names).into_iter().filter_map(size);
        self.tally = Tally {
            total: sizes.fold(0, u64::saturating_add),
            ..Tally::default()
        };
    }

    /// Downloads those of these files that the cache lacks.
    pub(super) fn fetch(&mut self, names: &[String], watch: Watch<'_>) -> Result<(), HubError> {
        self.check(names)?;
        let missing = self.missing(names);
        let (Supplier::Hub(client), false) = (&self.source, missing.is_empty()) else {
            return Ok(());
        };
        let client: &Client = client;
        self.cache.prepare(&self.commit)?;
        self.cache.write_listing(&self.commit, &self.listing)?;
        let mut tally = self.tally;
        let fetched = missing
            .into_iter()
            .try_for_each(|name| self.fetch_file(client, name, &mut tally, &mut *watch));
        self.tally = tally;
        fetched
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
            tally.find(fs::metadata(&path).map_or(0, |found| found.len()));
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

    /// Stores the commit of the revision if `is_fetched`, now that its files are there. `file` is the one that was asked for,
    /// if it was one.
    pub(super) fn finish(
        mut self,
        file: Option<&str>,
        is_fetched: bool,
    ) -> Result<Snapshot, HubError> {
        if let (Supplier::Hub(_), true) = (&self.source, is_fetched) {
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
    pub(super) fn unavailable(&mut self, missing: String) -> HubError {
        match std::mem::replace(&mut self.source, Supplier::Offline) {
            Supplier::Failed(error) => error,
            Supplier::Hub(_) | Supplier::Offline => self.incomplete(missing),
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
