//! Rows as they are read: documents, faults, and what is skipped.

use std::path::Path;
use std::sync::Arc;

use super::container::other_format;
use super::fault::{FaultKind, Faults, MostlyBad, SkipReason, Skipped, SourceError};
use super::plan::{OnBadRow, SourcePlan};
use super::rows::{Layout, Outcome};
use super::text::{self, Extent};
use super::walk::SourceFile;
use super::{Content, Document};

/// Rows of all files.
pub(super) struct Collected {
    pub(super) documents: Vec<Document>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) faults: Faults,
    pub(super) bad_rows: Faults,
    pub(super) choices: Choices,
    /// Counts of the rows of each source, in their order.
    counts: Vec<Counts>,
    on_bad_row: OnBadRow,
}

/// Good and bad rows of a source.
struct Counts {
    of: MostlyBad,
    /// True if there are rows that were not looked at.
    is_partial: bool,
}

impl Collected {
    pub(super) fn new(sources: &[SourcePlan], on_bad_row: OnBadRow) -> Self {
        let counts = sources.iter().map(|source| Counts {
            of: MostlyBad {
                path: source.path.clone(),
                num_bad: 0,
                num_rows: 0,
                decided: None,
            },
            is_partial: false,
        });
        Self {
            documents: Vec::new(),
            skipped: Vec::new(),
            faults: Faults::default(),
            bad_rows: Faults::default(),
            choices: Choices::default(),
            counts: counts.collect(),
            on_bad_row,
        }
    }

    /// Says that not all rows of a source were looked at.
    pub(super) fn leave_rows(&mut self, source: usize) {
        if let Some(counts) = self.counts.get_mut(source) {
            counts.is_partial = true;
        }
    }

    /// Ends with all faults, or if most rows of a source are bad, or if there is no document.
    pub(super) fn check(
        &mut self,
        no_text: impl FnOnce() -> SourceError,
    ) -> Result<(), SourceError> {
        std::mem::take(&mut self.faults).finish()?;
        let is_mostly_bad = |counts: &&Counts| {
            let MostlyBad {
                num_bad, num_rows, ..
            } = counts.of;
            !counts.is_partial && num_bad > num_rows - num_bad
        };
        let sources = self.counts.iter().filter(is_mostly_bad);
        let sources: Vec<_> = sources.map(|counts| counts.of.clone()).collect();
        if !sources.is_empty() {
            let (faults, num_faults) = std::mem::take(&mut self.bad_rows).into_parts();
            return Err(SourceError::MostlyBad {
                sources,
                faults,
                num_faults,
            });
        }
        if self.documents.is_empty() {
            return Err(no_text());
        }
        Ok(())
    }
}

/// Rows of one file.
pub(super) struct FileRows<'a> {
    path: Arc<Path>,
    /// Layout that the plan names, or that the first row has that says it.
    pub(super) layout: Option<Layout>,
    /// True if a row has said the layout.
    pub(super) is_by_row: bool,
    source: usize,
    has_rows: bool,
    found: &'a mut Collected,
}

impl<'a> FileRows<'a> {
    pub(super) fn new(file: &SourceFile, layout: Option<Layout>, found: &'a mut Collected) -> Self {
        Self {
            path: Arc::from(file.path.as_path()),
            layout,
            is_by_row: false,
            source: file.source,
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
            self.found.choices.add(read);
        }
        self.layout = Some(found.layout);
        Ok(true)
    }

    /// Takes a row.
    pub(super) fn add(&mut self, row: usize, outcome: Outcome) {
        self.has_rows = true;
        match outcome {
            Ok(Some(content)) => {
                self.count(false);
                self.push(Some(row), content);
            }
            Ok(None) => self.skip(Some(row)),
            Err(kind) => {
                self.count(true);
                let faults = match self.found.on_bad_row {
                    OnBadRow::Fail => &mut self.found.faults,
                    OnBadRow::Skip => &mut self.found.bad_rows,
                };
                faults.add(&self.path, Some(row), kind);
            }
        }
    }

    /// Counts a row that holds something.
    fn count(&mut self, is_bad: bool) {
        let Some(Counts { of, .. }) = self.found.counts.get_mut(self.source) else {
            return;
        };
        of.num_rows += 1;
        of.num_bad += usize::from(is_bad);
        if let Some(layout) = self.layout.as_ref().filter(|_| is_bad && self.is_by_row) {
            let decided = || (self.path.to_path_buf(), layout.format);
            of.decided.get_or_insert_with(decided);
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

/// Columns that are read where there is `text` beside them, which is then not read.
#[derive(Default)]
pub(super) struct Choices(Vec<&'static str>);

impl Choices {
    fn add(&mut self, read: &'static str) {
        if !self.0.contains(&read) {
            self.0.push(read);
        }
    }

    /// One note for each column. It names no file, so that it is the same for all splits of a data set.
    pub(super) fn into_notes(self) -> Vec<String> {
        let note =
            |read| format!("`{read}` is read, and not `text` beside it; `format: text` reads that");
        self.0.into_iter().map(note).collect()
    }
}
