//! Errors of the hub: each says what was asked, where, and how to mend it.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::id::{NotAnId, RepoKind};
use crate::progress::bytes_text;

/// Reason why a model or data cannot be had from a hub. No message holds a token.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum HubError {
    #[error("`{repo}` is gated: {}", if *has_token { "the account of this token has not been let in" } else { "its owner lets in accounts that ask, and no token is set" })]
    Gated {
        repo: String,
        page: String,
        has_token: bool,
    },
    #[error("{endpoint} refuses the token: it is wrong, or no longer valid")]
    BadToken { endpoint: String },
    #[error("{endpoint} has no {kind} `{repo}`{}", if *has_token { " that this token may read" } else { ", or it is private" })]
    RepoNotFound {
        repo: String,
        kind: &'static str,
        endpoint: String,
        has_token: bool,
    },
    #[error("{endpoint} has closed access to `{repo}`")]
    Disabled { repo: String, endpoint: String },
    #[error("{endpoint} does not let this token read `{repo}`{}", said(told))]
    Forbidden {
        repo: String,
        endpoint: String,
        told: String,
    },
    #[error("`{repo}` has no revision `{revision}`")]
    RevisionNotFound { repo: String, revision: String },
    #[error("`{repo}` has no file `{file}` at commit {}", short(commit))]
    EntryNotFound {
        repo: String,
        file: String,
        commit: String,
    },
    #[error("{url} does not answer as a hub does: {why}")]
    NotAHub { url: String, why: String },
    #[error("{url} has had too many requests{}", wait.map_or_else(String::new, |secs| format!(", and takes none for {secs} s")))]
    TooManyRequests { url: String, wait: Option<u64> },
    #[error("{url} answers with status {status}{}", said(told))]
    Status {
        url: String,
        status: u16,
        told: String,
    },
    #[error("{url} cannot be reached: {why}")]
    Unreachable { url: String, why: String },
    #[error(
        "`{file}` was cut short: {got_bytes} of {want_bytes} bytes came{}",
        said(why)
    )]
    CutShort {
        file: String,
        got_bytes: u64,
        want_bytes: u64,
        why: String,
    },
    #[error("`{file}` did not arrive as the hub has it: {why}")]
    Damaged { file: String, why: String },
    #[error("`{repo}` cannot be listed: {why}")]
    Listing { repo: String, why: String },
    #[error("`{repo}` is not complete in the cache `{}`: {missing}", cache.display())]
    Offline {
        repo: String,
        cache: PathBuf,
        missing: String,
    },
    #[error("the download takes {}, but the disk of `{}` has {} free", bytes_text(*needed_bytes), dir.display(), bytes_text(*free_bytes))]
    NoSpace {
        needed_bytes: u64,
        free_bytes: u64,
        dir: PathBuf,
    },
    #[error("the disk is full: {} of `{file}` are written, and {} are missing", bytes_text(*done_bytes), bytes_text(*left_bytes))]
    DiskFull {
        file: String,
        done_bytes: u64,
        left_bytes: u64,
        part: PathBuf,
    },
    #[error("`{}` cannot be written{}", path.display(), owner.as_ref().map_or_else(String::new, |owner| format!(": {owner}")))]
    NotWritable {
        path: PathBuf,
        owner: Option<String>,
    },
    #[error("`{}`: {source}", path.display())]
    Cache { path: PathBuf, source: io::Error },
    #[error("`{name}` is set to something that cannot be used: {why}")]
    Setting { name: &'static str, why: String },
    #[error("`{text}`: {why}")]
    NoId { text: String, why: NotAnId },
    #[error("`{repo}` {fact}")]
    Choice {
        repo: String,
        fact: String,
        help: String,
    },
    /// Parts of data that are not there, or that have to be named.
    #[error("`{repo}`: {fact}")]
    Rows { repo: String, fact: String },
    #[error("`{reference}` is not on this machine: {num_files} {} of {} would be fetched", if *num_files == 1 { "file" } else { "files" }, bytes_text(*num_bytes))]
    NotFetched {
        reference: String,
        kind: RepoKind,
        num_files: usize,
        num_bytes: u64,
    },
    #[error("stopped while downloading")]
    Stopped,
}

impl HubError {
    /// Id of the error for messages, such as `hub/gated`.
    pub fn id(&self) -> &'static str {
        match self {
            Self::Gated { .. } => "hub/gated",
            Self::BadToken { .. } => "hub/bad-token",
            Self::RepoNotFound { .. } => "hub/not-found",
            Self::Disabled { .. } | Self::Forbidden { .. } => "hub/forbidden",
            Self::RevisionNotFound { .. } => "hub/no-revision",
            Self::EntryNotFound { .. } => "hub/no-file",
            Self::NotAHub { .. } => "hub/not-a-hub",
            Self::TooManyRequests { .. } => "hub/too-many-requests",
            Self::Status { .. } => "hub/status",
            Self::Unreachable { .. } => "hub/unreachable",
            Self::CutShort { .. } => "hub/cut-short",
            Self::Damaged { .. } => "hub/damaged",
            Self::Listing { .. } => "hub/listing",
            Self::Offline { .. } => "hub/offline",
            Self::NoSpace { .. } | Self::DiskFull { .. } => "hub/disk",
            Self::NotWritable { .. } => "hub/not-writable",
            Self::Cache { .. } => "hub/cache",
            Self::Setting { .. } => "hub/setting",
            Self::Choice { .. } | Self::Rows { .. } => "hub/choice",
            Self::NotFetched { .. } => "hub/not-fetched",
            Self::NoId { .. } => "hub/id",
            Self::Stopped => "hub/stopped",
        }
    }

    /// Advice on how to mend it.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Gated { page, has_token, .. } => {
                let token = if *has_token { "" } else { ", then run `hf auth login` or set `HF_TOKEN`" };
                format!("ask for access at {page}{token}")
            }
            Self::BadToken { .. } => {
                "take a new one from the settings of your account, and run `hf auth login` or set `HF_TOKEN`".to_owned()
            }
            Self::RepoNotFound { has_token, .. } => {
                let token = if *has_token { "check that the token may read it" } else { "if it is private, run `hf auth login` or set `HF_TOKEN`" };
                format!("check the spelling of the id; {token}")
            }
            Self::Forbidden { .. } => {
                "give the token the right to read this repository, in the settings of its account".to_owned()
            }
            Self::RevisionNotFound { .. } => {
                "name a branch, a tag or a commit that the repository has, or take `@…` out".to_owned()
            }
            Self::NotAHub { .. } => {
                "check `HF_ENDPOINT`, and that no proxy or sign-in page of the network stands between".to_owned()
            }
            Self::TooManyRequests { .. } => "wait, then run the same command again; with a token the hub allows more".to_owned(),
            Self::Status { status, .. } if *status >= 500 => "the hub has a fault of its own: run the same command again later".to_owned(),
            Self::Unreachable { .. } => "check the network, `HF_ENDPOINT` and `HTTPS_PROXY`; what is in the cache is used with `HF_HUB_OFFLINE=1`".to_owned(),
            Self::CutShort { .. } => "run the same command again: it goes on where it stopped".to_owned(),
            Self::Damaged { .. } => "nothing of it was kept: run the same command again".to_owned(),
            Self::Offline { .. } => "take `HF_HUB_OFFLINE` away, or fetch it where there is a network".to_owned(),
            Self::NoSpace { .. } => "free some space, or set `HF_HOME` to a folder on another disk".to_owned(),
            Self::DiskFull { part, .. } => format!(
                "free some space and run the same command again: it goes on with `{}`, which may also be deleted",
                part.display()
            ),
            Self::NotWritable { .. } => "set `HF_HOME` to a folder of your own".to_owned(),
            Self::Choice { help, .. } => help.clone(),
            Self::NotFetched { reference, kind, .. } => {
                let option = if *kind == RepoKind::Dataset { " --dataset" } else { "" };
                format!("`alambic fetch {reference}{option}` fetches it")
            }
            Self::Disabled { .. } | Self::EntryNotFound { .. } | Self::Status { .. } | Self::Listing { .. }
            | Self::Rows { .. } | Self::NoId { .. } | Self::Cache { .. } | Self::Setting { .. } | Self::Stopped => return None,
        })
    }

    /// Wraps an error of the file system at a path of the cache.
    pub(super) fn of_cache(path: &Path, error: io::Error) -> Self {
        let path = path.to_path_buf();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NotWritable {
                owner: owner(&path),
                path,
            },
            io::ErrorKind::ReadOnlyFilesystem => Self::NotWritable {
                path,
                owner: Some("it is on a disk that is mounted read-only".to_owned()),
            },
            _ => Self::Cache {
                path,
                source: error,
            },
        }
    }
}

/// Owner and permissions of the nearest folder or file that exists.
fn owner(path: &Path) -> Option<String> {
    let (there, found) = path
        .ancestors()
        .find_map(|path| Some((path, path.metadata().ok()?)))?;
    let mode = found.permissions().mode() & 0o7777;
    Some(format!(
        "`{}` belongs to user {} with permissions {mode:o}",
        there.display(),
        found.uid()
    ))
}

/// First letters of a commit, enough for people.
pub(super) fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

/// Words of a server beside its status, on one line and without control characters.
fn said(told: &str) -> String {
    if told.is_empty() {
        return String::new();
    }
    format!(": {told}")
}
