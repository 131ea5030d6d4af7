//! Rows as they are read: documents, faults, and what is skipped.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::container::other_format;
use super::fault::{FaultKind, Faults, SkipReason, Skipped, SourceError};
use super::plan::OnBadRow;
use super::rows::{Layout, Outcome};
use super::text::{self, Extent};
use super::{Content, Document};

/// Rows of all files.
pub(super) struct Collected {
    pub(super) documents: Vec<Document>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) faults: Faults,
    pub(super) bad_rows: Faults,
    pub(super) choices: Choices,
    on_bad_row: OnBadRow,
}

impl Collected {
    pub(super) fn new(on_bad_row: OnBadRow) -> Self {
        Self {
            documents: Vec::new(),
            skipped: Vec::new(),
            faults: Faults::default(),
            bad_rows: Faults::default(),
            choices: Choices::default(),
            on_bad_row,
        }
    }

    /// Ends with all faults, or if there is no document.
    pub(super) fn check(
        &mut self,
        no_text: impl FnOnce() -> SourceError,
    ) -> Result<(), SourceError> {
        std::mem::take(&mut self.faults).finish()?;
        if !self.documents.is_empty() {
            return Ok(());
        }
        // Nothing is left: what was left out is what is wrong.
        std::mem::take(&mut self.bad_rows).finish()?;
        Err(no_text())
    }
}

/// Rows of one file.
pub(super) struct FileRows<'a> {
    path: Arc<Path>,
    /// Layout that the plan names, or that the first row has that says it.
    pub(super) layout: Option<Layout>,
    has_rows: bool,
    found: &'a mut Collected,
}

impl<'a> FileRows<'a> {
    pub(super) fn new(path: &Path, layout: Option<Layout>, found: &'a mut Collected) -> Self {
        Self {
            path: Arc::from(path),
            layout,
            has_rows: false,
            found,
        }
    }

    /// Finds the layout by the names of columns; false if they do not say it.
    pub(super) fn find_layout(&mut self, has: impl Fn(&str) -> bool) -> Result<bool, FaultKind> {
        let Some(found) = Layout::find(has)? else {
            return Ok(false);
        };
        if let Some(read) = found.instead_of_text {
            self.found.choices.add(read, &self.path);
        }
        self.layout = Some(found.layout);
        Ok(true)
    }

    /// Takes a row.
    pub(super) fn add(&mut self, row: usize, outcome: Outcome) {
        self.has_rows = true;
        match outcome {
            Ok(Some(content)) => self.push(Some(row), content),
            Ok(None) => self.skip(Some(row)),
            Err(kind) => {
                let faults = match self.found.on_bad_row {
                    OnBadRow::Fail => &mut self.found.faults,
                    OnBadRow::Skip => &mut self.found.bad_rows,
                };
                faults.add(&self.path, Some(row), kind);
            }
        }
    }

    /// Takes a file that is one text.
    pub(super) fn add_text(
        &mut self,
        bytes: Vec<u8>,
        extent: Extent,
        is_packed: bool,
    ) -> Result<(), FaultKind> {
        self.has_rows = true;
        if let Some(found) = other_format(&bytes) {
            return Err(FaultKind::OtherFormat { found });
        }
        match text::document(bytes, extent, is_packed) {
            Ok(text) if text.trim().is_empty() => self.skip(None),
            Ok(text) => self.push(None, Content::Text(text)),
            Err((line, kind)) => self.found.faults.add(&self.path, Some(line), kind),
        }
        Ok(())
    }

    /// Ends a file, which is skipped if it has no rows.
    pub(super) fn finish(mut self) {
        if !self.has_rows {
            self.skip(None);
        }
    }

    fn push(&mut self, row: Option<usize>, content: Content) {
        self.found.documents.push(Document {
            path: self.path.clone(),
            row,
            content,
        });
    }

    fn skip(&mut self, row: Option<usize>) {
        self.found.skipped.push(Skipped {
            path: self.path.to_path_buf(),
            row,
            reason: SkipReason::Empty,
        });
    }
}

/// Files whose rows have turns beside a `text`, which is then not read.
#[derive(Default)]
pub(super) struct Choices {
    /// Column that is read, the first file and the number of further ones.
    made: Vec<(&'static str, PathBuf, usize)>,
}

impl Choices {
    fn add(&mut self, read: &'static str, path: &Path) {
        match self.made.iter_mut().find(|(other, ..)| *other == read) {
            Some((_, _, num_more)) => *num_more += 1,
            None => self.made.push((read, path.to_path_buf(), 0)),
        }
    }

    pub(super) fn into_notes(self) -> Vec<String> {
        let note = |(read, path, num_more): (&str, PathBuf, usize)| {
            let more = match num_more {
                0 => String::new(),
                1 => " and 1 more file".to_owned(),
                more => format!(" and {more} more files"),
            };
            format!(
                "{}{more}: `{read}` is read, and not `text` beside it; `format: text` reads that",
                path.display()
            )
        };
        self.made.into_iter().map(note).collect()
    }
}
