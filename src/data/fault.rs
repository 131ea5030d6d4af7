//! Faults of texts: what cannot be read, where and why, and what was skipped.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Most faults that [`SourceError::Faults`] lists, and most files that a note names.
const MAX_NAMED: usize = 20;

/// Most files of a folder that [`PassedOver`] names.
const MAX_NAMED_FILES: usize = 5;

/// A file, line or folder that was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// File or folder.
    pub path: PathBuf,
    /// Line of a `.jsonl` file, counted from 1.
    pub line: Option<usize>,
    /// Reason for skipping it.
    pub reason: SkipReason,
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
        write!(f, "{}: {reason}; skipped", place(&self.path, self.line))
    }
}

impl Skipped {
    /// One sentence for each file and reason, however many lines of the file were skipped.
    pub fn sentences(skipped: &[Self]) -> Vec<String> {
        let alike = skipped.chunk_by(|one, other| {
            (&one.path, one.reason, one.line.is_some())
                == (&other.path, other.reason, other.line.is_some())
        });
        let sentence = |alike: &[Self]| match alike {
            [] => String::new(),
            [one] => one.to_string(),
            [first, others @ ..] => format!("{first}, as are {}", more_lines(others.len())),
        };
        alike.map(sentence).collect()
    }
}

/// Files of a folder that are neither `.txt` nor `.jsonl`, and so not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Folder that was named.
    pub folder: PathBuf,
    /// The first of these files, relative to the folder.
    pub first: Vec<PathBuf>,
    /// Number of these files.
    pub num_files: usize,
}

impl PassedOver {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_path_buf(),
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
            "{} {files} in `{}` {are} passed over, neither `.txt` nor `.jsonl`: {}",
            self.num_files,
            self.folder.display(),
            names(&self.first)
        )?;
        match self.num_files - self.first.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Errors of reading documents.
#[derive(Debug, Error)]
pub enum SourceError {
    /// Unusable paths or contents: all are counted, the first 20 kinds of a file are kept.
    #[error("{num_faults} {} in the text\n  {}", if *.num_faults == 1 { "fault" } else { "faults" }, list(.faults, *.num_faults))]
    Faults {
        /// The first faults: those of paths, then those of contents, each in reading order.
        faults: Vec<Fault>,
        /// Number of all faults.
        num_faults: usize,
    },
    /// There is no document with text.
    #[error("no text in {}: {num_files} `.txt` and `.jsonl` files, none with text{}", names(.paths), told_files(.passed_over))]
    NoText {
        /// Paths that were searched.
        paths: Vec<PathBuf>,
        /// Files that were found there.
        num_files: usize,
        /// Other files that were found there.
        passed_over: Vec<PassedOver>,
    },
    /// A file became unreadable while it was hashed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl SourceError {
    /// The edit to make; `key` is where the paths were written, such as `data.train`.
    pub fn help(&self, key: &str) -> Option<String> {
        match self {
            Self::NoText { .. } => Some(format!(
                "name `.txt` or `.jsonl` files with text in `{key}`"
            )),
            Self::Faults { .. } => {
                Some(format!("fix these places or remove the files from `{key}`"))
            }
            Self::Io(_) => None,
        }
    }
}

/// One unusable path or line, and how many lines of the same file are like it.
#[derive(Debug, Error)]
#[error("{}", self.sentence())]
pub struct Fault {
    /// File or folder.
    pub path: PathBuf,
    /// Line, counted from 1, if the fault has one.
    pub line: Option<usize>,
    /// Kind of fault.
    pub kind: FaultKind,
    /// Further lines of the file with this kind of fault.
    pub num_more: usize,
}

impl Fault {
    fn sentence(&self) -> String {
        let Self {
            path,
            line,
            kind,
            num_more,
        } = self;
        match (kind, num_more) {
            (_, 0) => format!("{}: {kind}", place(path, *line)),
            (FaultKind::NoText { fields }, more) => format!(
                "{}: {} lines without `text`, the first is line {}{}",
                path.display(),
                more + 1,
                line.unwrap_or(1),
                fields.told("; they have ")
            ),
            (_, more) => {
                let place = place(path, *line);
                format!("{place}: {kind}; the same on {}", more_lines(*more))
            }
        }
    }
}

/// Kinds of faults of a path or a line.
#[derive(Debug, Error)]
pub enum FaultKind {
    /// The operating system reports an error.
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    /// A path that was named directly but is not a supported kind of file.
    #[error("not a `.txt` or `.jsonl` file, nor a folder")]
    UnknownFormat,
    /// A file whose first bytes are those of another format.
    #[error("{found}")]
    OtherFormat {
        /// The format, and what to do.
        found: &'static str,
    },
    /// Bytes that are not UTF-8.
    #[error("not UTF-8 at byte {offset} of the file")]
    NotUtf8 {
        /// First invalid byte, counted from 0.
        offset: usize,
    },
    /// A line that is not JSON.
    #[error("not JSON at column {column}: {reason}")]
    NotJson {
        /// Column, counted in bytes from 1.
        column: usize,
        /// Reason for refusing the line.
        reason: String,
    },
    /// JSON, but not an object, or one whose `text` is no text.
    #[error("{0}")]
    NotText(&'static str),
    /// An object without `text`.
    #[error("an object without `text`{}", .fields.told("; it has "))]
    NoText {
        /// Fields that it has.
        fields: FieldNames,
    },
}

impl FaultKind {
    /// True if one line may stand for both. In a file that is not JSON, a reason may differ from line to line.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::NotText(one), Self::NotText(other)) => one == other,
            (Self::NoText { fields }, Self::NoText { fields: others }) => fields == others,
            (Self::NotJson { .. }, Self::NotJson { .. })
            | (Self::NotUtf8 { .. }, Self::NotUtf8 { .. }) => true,
            _ => false,
        }
    }
}

/// Names of an object's fields, for messages: the first few, and long ones cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldNames {
    first: Vec<String>,
    num_more: usize,
}

impl FieldNames {
    const MAX: usize = 5;
    const MAX_CHARS: usize = 40;

    pub(super) fn add(&mut self, name: &str) {
        if self.first.len() < Self::MAX {
            let name = name.chars().map(|c| if c.is_control() { ' ' } else { c });
            self.first.push(name.take(Self::MAX_CHARS).collect());
        } else {
            self.num_more += 1;
        }
    }

    /// The names after some words; empty if there are none.
    fn told(&self, before: &str) -> String {
        if self.first.is_empty() {
            return String::new();
        }
        let names: Vec<_> = self.first.iter().map(|name| format!("`{name}`")).collect();
        let more = match self.num_more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{before}{}{more}", names.join(", "))
    }
}

/// Collects faults, so that all of them are reported at once and those that repeat in one line.
#[derive(Debug, Default)]
pub(super) struct Faults {
    faults: Vec<Fault>,
    num_faults: usize,
}

impl Faults {
    pub(super) fn add(&mut self, path: &Path, line: Option<usize>, kind: FaultKind) {
        self.num_faults += 1;
        let of_file = self.faults.iter_mut().rev();
        let mut of_file = of_file.take_while(|fault| fault.path == path);
        if let Some(like) = of_file.find(|fault| fault.line.is_some() && fault.kind.is_like(&kind))
        {
            like.num_more += 1;
        } else if self.faults.len() < MAX_NAMED {
            self.faults.push(Fault {
                path: path.to_path_buf(),
                line,
                kind,
                num_more: 0,
            });
        }
    }

    pub(super) fn count(&self) -> usize {
        self.num_faults
    }

    pub(super) fn finish(self) -> Result<(), SourceError> {
        let Self { faults, num_faults } = self;
        if num_faults == 0 {
            return Ok(());
        }
        Err(SourceError::Faults { faults, num_faults })
    }
}

/// Path and line as messages give them.
pub(super) fn place(path: &Path, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{}:{line}", path.display()),
        None => path.display().to_string(),
    }
}

fn more_lines(count: usize) -> String {
    match count {
        1 => "1 more line of this file".to_owned(),
        count => format!("{count} more lines of this file"),
    }
}

fn list(faults: &[Fault], num_faults: usize) -> String {
    let mut lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    let num_told: usize = faults.iter().map(|fault| 1 + fault.num_more).sum();
    if num_faults > num_told {
        lines.push(format!("and {} more", num_faults - num_told));
    }
    lines.join("\n  ")
}

fn told_files(found: &[PassedOver]) -> String {
    let found: Vec<_> = found.iter().map(|found| format!("; {found}")).collect();
    found.concat()
}

fn names(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths
        .iter()
        .map(|path| format!("`{}`", path.display()))
        .collect();
    names.join(", ")
}
