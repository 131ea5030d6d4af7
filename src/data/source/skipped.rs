//! Files, rows and folders that are not read.

use std::fmt;
use std::path::{Path, PathBuf};

use super::fault::{more_rows, names, place};

/// Most files of a folder that [`PassedOver`] names.
const MAX_NAMED_FILES: usize = 5;

/// A file, line or folder that was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// File or folder.
    pub path: PathBuf,
    /// Line of a `.jsonl` file or row of another, counted from 1.
    pub row: Option<usize>,
    /// Reason for skipping it.
    pub reason: SkipReason,
    /// Number of further rows of this file behind it that were skipped for the same reason.
    pub num_more: usize,
}

/// Reasons for skipping a file, line or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// No text, or only white space.
    Empty,
    /// The tokenizer makes no token of it, so there is no position to predict.
    NoTokens,
    /// A folder that was read before, under this or another name (a symbolic link, perhaps to a parent folder).
    ReadBefore,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.reason {
            SkipReason::Empty => "no text",
            SkipReason::NoTokens => "too short: the tokenizer gives no tokens for it",
            SkipReason::ReadBefore => "this folder has already been read",
        };
        write!(f, "{}: {reason}; skipped", place(&self.path, self.row))
    }
}

impl Skipped {
    /// Adds a file or row to a list. Further rows of a file are counted with the first.
    pub(in crate::data) fn add(
        skipped: &mut Vec<Self>,
        path: &Path,
        row: Option<usize>,
        reason: SkipReason,
    ) {
        let is_alike = |last: &&mut Self| {
            last.path == path && last.reason == reason && last.row.is_some() && row.is_some()
        };
        match skipped.last_mut().filter(is_alike) {
            Some(last) => last.num_more += 1,
            None => skipped.push(Self {
                path: path.to_path_buf(),
                row,
                reason,
                num_more: 0,
            }),
        }
    }

    /// One sentence for each file and reason, however many rows of the file were skipped.
    pub fn sentences(skipped: &[Self]) -> Vec<String> {
        let sentence = |skipped: &Self| match skipped.num_more {
            0 => skipped.to_string(),
            more => format!("{skipped}, as are {}", more_rows(&skipped.path, more)),
        };
        skipped.iter().map(sentence).collect()
    }
}

/// Files of a folder that are not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Folder that was named.
    pub folder: PathBuf,
    /// Reason for passing over them, as `neither `.txt` nor `.jsonl``.
    pub reason: String,
    /// The first of these files, relative to the folder.
    pub first: Vec<PathBuf>,
    /// Number of these files.
    pub num_files: usize,
}

impl PassedOver {
    pub(super) fn new(folder: &Path, reason: impl Into<String>) -> Self {
        Self {
            folder: folder.to_path_buf(),
            reason: reason.into(),
            first: Vec::new(),
            num_files: 0,
        }
    }

    pub(super) fn add(&mut self, path: &Path) {
        self.num_files += 1;
        if self.first.len() < MAX_NAMED_FILES {
            let inside = path.strip_prefix(&self.folder).unwrap_or(path);
            self.first.push(inside.to_path_buf());
        }
    }
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, are) = match self.num_files {
            1 => ("file", "is"),
            _ => ("files", "are"),
        };
        write!(
            f,
            "{} {files} in `{}` {are} passed over, {}: {}",
            self.num_files,
            self.folder.display(),
            self.reason,
            names(&self.first)
        )?;
        match self.num_files - self.first.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
