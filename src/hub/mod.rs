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
mod place;
mod repo;
mod select;
mod settings;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::client::Client;
pub use self::error::HubError;
pub use self::id::{HubId, MAIN, NotAnId, RepoKind, is_commit};
pub use self::place::{origin, written};
use self::repo::Repo;
pub use self::settings::{Patience, Secret, Settings};
use crate::files;

/// Activity of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubEvent<'a> {
    /// Bytes on disk, of all files that are fetched together.
    Bytes {
        /// Number of those that are there.
        done: u64,
        /// Number of those that there will be, as far as the hub tells sizes.
        total: u64,
        /// Number of those that were there before.
        before: u64,
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
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    done: u64,
    total: u64,
    before: u64,
}

impl Tally {
    fn add(&mut self, num_bytes: u64) {
        self.done += num_bytes;
        self.total = self.total.max(self.done);
    }

    /// Adds bytes that were there before.
    fn find(&mut self, num_bytes: u64) {
        self.add(num_bytes);
        self.before += num_bytes;
    }

    fn take(&mut self, num_bytes: u64) {
        self.done = self.done.saturating_sub(num_bytes);
        self.before = self.before.min(self.done);
    }

    fn event(&self) -> HubEvent<'static> {
        HubEvent::Bytes {
            done: self.done,
            total: self.total,
            before: self.before,
        }
    }
}

/// A hub, and the cache of what has come from it.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    client: Client,
    /// False if what is missing is told, and not fetched.
    fetches: bool,
}

/// RepoPart of a repository that is wanted.
#[derive(Clone, Copy)]
pub enum RepoPart<'a> {
    /// A model: its GGUF file if one is named, else configuration, tokenizer, templates and weights.
    Model,
    /// A tokenizer: a GGUF file if one is named, else `tokenizer.json` with the small files beside it.
    Tokenizer,
    /// Data: the files that a function chooses.
    Data(Choose<'a>),
}

/// Chooses files of data, given the folder that has the README if there is one, and all files of the repository.
pub type Choose<'a> = &'a dyn Fn(&Path, &[HubFile]) -> Result<Vec<String>, HubError>;

impl RepoPart<'_> {
    /// Kind of the repository.
    pub fn kind(&self) -> RepoKind {
        match self {
            Self::Model | Self::Tokenizer => RepoKind::Model,
            Self::Data(_) => RepoKind::Dataset,
        }
    }
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Path in the repository.
    pub path: String,
    /// Size in bytes, if the hub tells it.
    pub num_bytes: Option<u64>,
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

/// A part of a repository whose files are known, and may be missing.
#[derive(Debug)]
pub struct WantedFiles<'a> {
    repo: Repo<'a>,
    names: Vec<String>,
    /// The file that is meant, if it is one.
    file: Option<String>,
    fetches: bool,
}

impl Hub {
    /// A hub with the settings of the environment.
    pub fn from_env() -> Result<Self, HubError> {
        Self::new(Settings::from_env()?)
    }

    /// A hub with these settings.
    pub fn new(settings: Settings) -> Result<Self, HubError> {
        let client = Client::new(&settings)?;
        Ok(Self {
            settings,
            client,
            fetches: true,
        })
    }

    /// The same hub, of which no more than the README of data is fetched: [`WantedFiles::fetch`] refuses what is not in the cache.
    #[must_use]
    pub fn looking(self) -> Self {
        Self {
            fetches: false,
            ..self
        }
    }

    /// Finds out which files a part has, and fetches those that tell it: all but the large ones.
    pub fn open(
        &self,
        reference: &HubId,
        part: RepoPart<'_>,
        watch: Watch<'_>,
    ) -> Result<WantedFiles<'_>, HubError> {
        let offline = self.settings.offline;
        let repo = Repo::open(self, reference, part.kind(), offline, &mut *watch)?;
        self.wanted(repo, reference, part, watch)
    }

    /// The part as it is in the cache, without asking anybody; `None` if a file of it is missing.
    pub fn here(
        &self,
        reference: &HubId,
        part: RepoPart<'_>,
    ) -> Result<Option<Snapshot>, HubError> {
        let mut on = |_: HubEvent<'_>| ControlFlow::Continue(());
        let found = Repo::open(self, reference, part.kind(), true, &mut on)
            .and_then(|repo| self.wanted(repo, reference, part, &mut on)?.fetch(&mut on));
        match found {
            Err(HubError::Offline { .. }) => Ok(None),
            found => found.map(Some),
        }
    }

    /// A model; see [`RepoPart::Model`].
    pub fn model(&self, reference: &HubId, watch: Watch<'_>) -> Result<Snapshot, HubError> {
        self.open(reference, RepoPart::Model, &mut *watch)?
            .fetch(watch)
    }

    fn wanted<'a>(
        &self,
        repo: Repo<'a>,
        reference: &HubId,
        part: RepoPart<'_>,
        watch: Watch<'_>,
    ) -> Result<WantedFiles<'a>, HubError> {
        let mut wanted = WantedFiles {
            repo,
            names: Vec::new(),
            file: None,
            fetches: self.fetches,
        };
        match (part, reference.file.as_deref()) {
            (RepoPart::Model, None) => wanted.find_model(watch)?,
            (RepoPart::Tokenizer, None | Some(select::TOKENIZER)) => wanted.find_tokenizer()?,
            (RepoPart::Model | RepoPart::Tokenizer, Some(file)) => {
                let file = select::gguf(&reference.id, &wanted.paths(), file)?;
                wanted.names = vec![file.clone()];
                wanted.file = Some(file);
            }
            (RepoPart::Data(_), Some(file)) => {
                return Err(HubError::Choice {
                    repo: reference.id.clone(),
                    fact: format!("is data, of which `:{file}` picks nothing"),
                    help: format!("take `:{file}` out; `config` and `split` pick parts of data"),
                });
            }
            (RepoPart::Data(choose), None) => wanted.find_data(choose, watch)?,
        }
        wanted.repo.check(&wanted.names)?;
        Ok(wanted)
    }
}

impl WantedFiles<'_> {
    /// Number and bytes of the files that are not in the cache.
    pub fn left(&self) -> (usize, u64) {
        self.repo.left(&self.names)
    }

    /// Owner and name of the repository.
    pub fn id(&self) -> &str {
        &self.repo.reference.id
    }

    /// Refuses what [`WantedFiles::fetch`] would refuse before it asks for anything.
    pub fn check(&self) -> Result<(), HubError> {
        match self.left() {
            (num_files, num_bytes) if num_files > 0 && !self.fetches => Err(HubError::NotFetched {
                reference: self.repo.reference.to_string(),
                kind: self.repo.kind,
                num_files,
                num_bytes,
            }),
            _ => Ok(()),
        }
    }

    /// Commit that the files are of.
    pub fn commit(&self) -> &str {
        &self.repo.commit
    }

    /// Fetches what is missing, and stores the commit of the revision.
    pub fn fetch(mut self, watch: Watch<'_>) -> Result<Snapshot, HubError> {
        self.check()?;
        self.repo.begin(&self.names);
        self.repo.fetch(&self.names, watch)?;
        self.repo.finish(self.file.as_deref(), self.fetches)
    }

    /// Paths of all files of the repository.
    fn paths(&self) -> Vec<String> {
        self.repo
            .files()
            .into_iter()
            .map(|file| file.path)
            .collect()
    }

    fn find_model(&mut self, watch: Watch<'_>) -> Result<(), HubError> {
        self.repo.require("config.json")?;
        let (id, paths) = (self.repo.reference.id.clone(), self.paths());
        let beside = select::beside_weights(&paths);
        if self.fetches {
            self.repo.begin(&beside);
            self.repo.fetch(&beside, watch)?;
        }
        let index = self.repo.folder().join(select::INDEX);
        let index = if index.is_file() {
            Some(files::read(&index).map_err(|error| HubError::of_cache(&index, error))?)
        } else {
            None
        };
        // The weights last: where they are, all else is.
        match select::weights(&id, &paths, index.as_deref()) {
            Ok(weights) => self.names = [beside, weights].concat(),
            Err(error) if self.repo.is_listed => return Err(error),
            Err(_) => return Err(self.repo.unavailable("its weights are missing".to_owned())),
        }
        Ok(())
    }

    fn find_tokenizer(&mut self) -> Result<(), HubError> {
        self.repo.require(select::TOKENIZER)?;
        let paths = self.paths();
        if !paths.iter().any(|path| path == select::TOKENIZER) {
            return Err(select::no_tokenizer(&self.repo.reference.id));
        }
        let mut names = select::beside_weights(&paths);
        names.retain(|name| name != select::INDEX);
        self.names = names;
        self.file = Some(select::TOKENIZER.to_owned());
        Ok(())
    }

    fn find_data(&mut self, choose: Choose<'_>, watch: Watch<'_>) -> Result<(), HubError> {
        let is_visible = |file: &HubFile| !file.path.split('/').any(|part| part.starts_with('.'));
        let mut all = self.repo.files();
        all.retain(is_visible);
        let readme = all.iter().filter(|file| file.path == select::README);
        let readme: Vec<String> = readme.map(|file| file.path.clone()).collect();
        self.repo.begin(&readme);
        self.repo.fetch(&readme, watch)?;
        let chosen = choose(&self.repo.folder(), &all)?;
        if chosen.is_empty() {
            return Err(select::no_rows(&self.repo.reference.id));
        }
        self.names = [readme, chosen].concat();
        Ok(())
    }
}
