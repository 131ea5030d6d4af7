//! Faults of sources: what cannot be read, where and why, and what was skipped.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::advice::Advice;
use super::container::Container;
use super::plan::RowFormat;
use super::skipped::PassedOver;

/// Most faults that [`SourceError::Faults`] lists, and most files that a note names.
const MAX_NAMED: usize = 20;

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
    /// Sources of which more rows are bad than good, although the plan says to leave bad rows out.
    #[error("{}\n  {}", told_mostly(.sources), list(.faults, *.num_faults))]
    MostlyBad {
        /// These sources.
        sources: Vec<MostlyBad>,
        /// The first kinds of faults of bad rows, at most 20.
        faults: Vec<Fault>,
        /// Number of all bad rows.
        num_faults: usize,
    },
    /// There is no document with text.
    #[error("no text in {}: {num_files} {}, none with text{}", names(.paths), if *.num_files == 1 { "file of text or data" } else { "files of text or data" }, told_files(.passed_over))]
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
    /// The one fault of a file.
    pub(super) fn of_file(path: &Path, row: Option<usize>, kind: FaultKind) -> Self {
        let fault = Fault {
            path: path.to_path_buf(),
            row,
            kind,
            num_more: 0,
        };
        Self::Faults {
            faults: vec![fault],
            num_faults: 1,
        }
    }

    /// The edit to make; `key` is where the paths were written, such as `data.train`.
    pub fn help(&self, key: &str) -> Option<String> {
        match self {
            Self::NoText { .. } => {
                Some(format!("name files with text or conversations in `{key}`"))
            }
            Self::MostlyBad { faults, .. } => Some(Advice::of(faults).map_or_else(
                || format!("fix these places or remove the files from `{key}`"),
                |advice| format!("say in `{key}` which fields are meant: `{advice}`"),
            )),
            Self::Faults { faults, .. } => {
                let is_about_columns = |fault: &Fault| fault.kind.fields().is_some();
                Some(if faults.iter().all(is_about_columns) {
                    let advice = Advice::of(faults).unwrap_or_default();
                    format!(
                        "name rows with such fields in `{key}`, or say which fields are meant: `{advice}`"
                    )
                } else {
                    format!("fix these places or remove the files from `{key}`")
                })
            }
            Self::Io(_) => None,
        }
    }
}

/// A source of which more rows are bad than good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MostlyBad {
    /// Path that was named.
    pub path: PathBuf,
    /// Number of its bad rows.
    pub num_bad: usize,
    /// Number of its rows, without those that hold nothing.
    pub num_rows: usize,
    /// File whose first row decided the format of its rows, and that format, if one did.
    pub decided: Option<(PathBuf, RowFormat)>,
}

impl fmt::Display for MostlyBad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} rows of `{}` are bad, and `on_bad_row: skip` leaves out half of a source at most",
            self.num_bad,
            self.num_rows,
            self.path.display()
        )?;
        match &self.decided {
            None => Ok(()),
            Some((path, format)) => write!(
                f,
                "; the first row of {} decided that its rows are `{}`",
                path.display(),
                format.word()
            ),
        }
    }
}

fn told_mostly(sources: &[MostlyBad]) -> String {
    let told: Vec<_> = sources.iter().map(ToString::to_string).collect();
    told.join("\n")
}

/// Rows that were bad and were left out, because the plan says so.
#[derive(Debug, Default)]
pub struct BadRows {
    /// The first kinds of faults, at most 20.
    pub faults: Vec<Fault>,
    /// Number of all bad rows.
    pub num_rows: usize,
}

impl fmt::Display for BadRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rows, are) = match self.num_rows {
            1 => ("row", "is"),
            _ => ("rows", "are"),
        };
        let list = list(&self.faults, self.num_rows);
        write!(
            f,
            "{} {rows} {are} bad and left out\n  {list}",
            self.num_rows
        )
    }
}

/// One unusable path or row, and how many rows of the same file are like it.
#[derive(Debug, Error)]
#[error("{}", self.sentence())]
pub struct Fault {
    /// File or folder.
    pub path: PathBuf,
    /// Line or row, counted from 1, if the fault has one.
    pub row: Option<usize>,
    /// Kind of fault.
    pub kind: FaultKind,
    /// Further rows of the file with this kind of fault.
    pub num_more: usize,
}

impl Fault {
    fn sentence(&self) -> String {
        let Self {
            path,
            row,
            kind,
            num_more,
        } = self;
        match (kind, num_more) {
            (_, 0) => format!("{}: {kind}", place(path, *row)),
            (FaultKind::NoField { names, fields }, more) => format!(
                "{}: {} {} without {names}, the first is {} {}{}",
                path.display(),
                more + 1,
                nouns(path).1,
                nouns(path).0,
                row.unwrap_or(1),
                fields.told("; they have ")
            ),
            (_, more) => {
                let place = place(path, *row);
                format!("{place}: {kind}; the same on {}", more_rows(path, *more))
            }
        }
    }
}

/// Kinds of faults of a path, a file or a row.
#[derive(Debug, Error)]
pub enum FaultKind {
    /// The operating system reports an error.
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    /// A path that was named directly but is not a supported kind of file.
    #[error(
        "neither a folder nor a file that can be read: `.txt`, `.jsonl`, `.json` (also with `.gz` or `.zst`), `.parquet`, `.arrow`"
    )]
    UnknownFormat,
    /// A file whose first bytes are those of another format.
    #[error("{found}")]
    OtherFormat {
        /// The format, and what to do.
        found: &'static str,
    },
    /// A file that breaks the rules of its format, or ends too early.
    #[error("{0}")]
    Damaged(String),
    /// A file whose texts need more memory than there is, or that unpacks to more than any text does.
    #[error("{0}")]
    TooLarge(String),
    /// Files that others of the same data say there are.
    #[error("{0}")]
    Missing(String),
    /// A column, a split, a configuration or a field that the plan names or would have to name.
    #[error("{0}")]
    Choice(String),
    /// Bytes that are not UTF-8.
    #[error("not UTF-8 at byte {offset} of the {}", if *.is_packed { "unpacked file" } else { "file" })]
    NotUtf8 {
        /// First invalid byte, counted from 0.
        offset: u64,
        /// True if the byte is counted in what a compressed file holds.
        is_packed: bool,
    },
    /// A row that is not JSON.
    #[error("not JSON at {}column {column}: {reason}", .line.map(|line| format!("line {line}, ")).unwrap_or_default())]
    NotJson {
        /// Line of the file, counted from 1, where a row is not a line.
        line: Option<usize>,
        /// Column, counted in bytes from 1.
        column: usize,
        /// Reason for refusing the row.
        reason: String,
    },
    /// A row whose values cannot be what its format says.
    #[error("{}{what}", .turn.map(|turn| format!("message {turn}: ")).unwrap_or_default())]
    Wrong {
        /// Message of the row, counted from 1, if the fault is one's.
        turn: Option<usize>,
        /// The fact.
        what: String,
    },
    /// A file with columns of which none says what its rows hold.
    #[error("no column that says what its rows hold, such as `text` or `messages`{}", .fields.told("; it has "))]
    NoColumn {
        /// Columns that it has.
        fields: FieldNames,
    },
    /// A row without the fields that its format needs.
    #[error("an object without {names}{}", .fields.told("; it has "))]
    NoField {
        /// Fields that are missing, as messages give them.
        names: String,
        /// Fields that it has.
        fields: FieldNames,
    },
}

impl FaultKind {
    pub(super) fn wrong(what: impl Into<String>) -> Self {
        let what = what.into();
        Self::Wrong { turn: None, what }
    }

    /// Columns that are there, if the fault is that others are not.
    pub(super) fn fields(&self) -> Option<&FieldNames> {
        match self {
            Self::NoField { fields, .. } | Self::NoColumn { fields } => Some(fields),
            _ => None,
        }
    }

    /// True if one row may stand for both: the reason is one, wherever in the row it is.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Wrong { what, .. }, Self::Wrong { what: other, .. }) => what == other,
            (
                Self::NoField { names, fields },
                Self::NoField {
                    names: other,
                    fields: others,
                },
            ) => names == other && fields == others,
            (Self::NotJson { reason, .. }, Self::NotJson { reason: other, .. }) => {
                without_escape(reason) == without_escape(other)
            }
            (Self::NotUtf8 { .. }, Self::NotUtf8 { .. }) => true,
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
    /// Most names that are kept: enough to know a format by them.
    const MAX: usize = 20;

    /// Most names that are told.
    const MAX_TOLD: usize = 5;

    pub(super) fn add(&mut self, name: &str) {
        if self.first.len() < Self::MAX {
            self.first.push(shown(name));
        } else {
            self.num_more += 1;
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.first.iter().any(|other| other == name)
    }

    /// The names after some words; empty if there are none.
    pub(super) fn told(&self, before: &str) -> String {
        if self.first.is_empty() {
            return String::new();
        }
        let names = self.first.iter().take(Self::MAX_TOLD);
        let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
        let more = match self.first.len() + self.num_more - names.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{before}{}{more}", names.join(", "))
    }
}

/// Collects faults, so that all of them are reported at once and those that repeat in one line.
#[derive(Debug, Default)]
pub(super) struct Faults {
    first: Vec<Fault>,
    count: usize,
    /// Number of those whose path cannot be opened.
    num_unreadable: usize,
}

impl Faults {
    pub(super) fn add(&mut self, path: &Path, row: Option<usize>, kind: FaultKind) {
        self.count += 1;
        self.num_unreadable += usize::from(matches!(kind, FaultKind::Unreadable(_)));
        let of_file = self.first.iter_mut().rev();
        let mut of_file = of_file.take_while(|fault| fault.path == path);
        if let Some(like) = of_file.find(|fault| fault.row.is_some() && fault.kind.is_like(&kind)) {
            like.num_more += 1;
        } else if self.first.len() < MAX_NAMED {
            self.first.push(Fault {
                path: path.to_path_buf(),
                row,
                kind,
                num_more: 0,
            });
        }
    }

    /// Adds those of another list behind these.
    pub(super) fn append(&mut self, other: Self) {
        self.count += other.count;
        self.num_unreadable += other.num_unreadable;
        let room = MAX_NAMED.saturating_sub(self.first.len());
        self.first.extend(other.first.into_iter().take(room));
    }

    /// Drops the faults of paths that cannot be opened, and returns their number.
    pub(super) fn drop_unreadable(&mut self) -> usize {
        let is_kept = |fault: &Fault| !matches!(fault.kind, FaultKind::Unreadable(_));
        self.first.retain(is_kept);
        self.count -= self.num_unreadable;
        std::mem::take(&mut self.num_unreadable)
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn finish(self) -> Result<(), SourceError> {
        if self.count == 0 {
            return Ok(());
        }
        Err(SourceError::Faults {
            faults: self.first,
            num_faults: self.count,
        })
    }

    /// The first faults and the number of all.
    pub(super) fn into_parts(self) -> (Vec<Fault>, usize) {
        (self.first, self.count)
    }

    pub(super) fn into_bad_rows(self) -> BadRows {
        BadRows {
            faults: self.first,
            num_rows: self.count,
        }
    }
}

/// A reason without the escape that it begins with: each emoji that was cut has its own.
fn without_escape(reason: &str) -> &str {
    let behind = reason.strip_prefix("`\\u").and_then(|rest| rest.get(4..));
    behind.unwrap_or(reason)
}

/// Path and line or row as messages give them.
pub(in crate::data) fn place(path: &Path, row: Option<usize>) -> String {
    match row {
        Some(row) => format!("{}:{row}", path.display()),
        None => path.display().to_string(),
    }
}

/// A name from outside as messages give it: on one line and short.
pub(super) fn shown(name: &str) -> String {
    const MAX_CHARS: usize = 40;
    let name = name.chars().map(|c| if c.is_control() { ' ' } else { c });
    name.take(MAX_CHARS).collect()
}

/// A number of rows in words.
pub(super) fn num_rows(count: usize) -> String {
    match count {
        1 => "1 row".to_owned(),
        count => format!("{count} rows"),
    }
}

/// One row of a file and several, in words.
fn nouns(path: &Path) -> (&'static str, &'static str) {
    match Container::of(path) {
        Some((Container::Text | Container::JsonLines, _)) => ("line", "lines"),
        _ => ("row", "rows"),
    }
}

pub(super) fn more_rows(path: &Path, count: usize) -> String {
    let (row, rows) = nouns(path);
    match count {
        1 => format!("1 more {row} of this file"),
        count => format!("{count} more {rows} of this file"),
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

pub(super) fn names(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths
        .iter()
        .map(|path| format!("`{}`", path.display()))
        .collect();
    names.join(", ")
}
