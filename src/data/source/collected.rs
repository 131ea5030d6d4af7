//! Rows as they are read: documents, faults, and what is skipped.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::container::other_format;
use super::fault::{FaultKind, Faults, MostlyBad, SourceError};
use super::plan::{OnBadRow, SourcePlan};
use super::rows::{Layout, Outcome};
use super::skipped::{SkipReason, Skipped};
use super::text::{self, Extent, TextFile};
use super::walk::SourceFile;
use super::{Content, Document};

/// Bytes of documents that are handed on at a time.
const BLOCK_BYTES: u64 = 256 << 10;

/// Rows of all files.
pub(super) struct Collected {
    /// Documents that are not handed on yet; all of them, if nobody takes them.
    pub(super) documents: Vec<Document>,
    num_documents: usize,
    /// Bytes of text in the documents that are not handed on yet.
    num_bytes: u64,
    taker: Option<SyncSender<Vec<Document>>>,
    /// True if no more documents are wanted.
    is_closed: bool,
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
            num_documents: 0,
            num_bytes: 0,
            taker: None,
            is_closed: false,
            skipped: Vec::new(),
            faults: Faults::default(),
            bad_rows: Faults::default(),
            choices: Choices::default(),
            counts: counts.collect(),
            on_bad_row,
        }
    }

    /// Hands documents on, block by block, instead of keeping them.
    pub(super) fn to(self, taker: SyncSender<Vec<Document>>) -> Self {
        Self {
            taker: Some(taker),
            ..self
        }
    }

    /// True if no more documents are wanted.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn add(&mut self, document: Document) {
        self.num_documents += 1;
        if self.taker.is_none() {
            return self.documents.push(document);
        }
        self.num_bytes += document.num_bytes();
        self.documents.push(document);
        if self.num_bytes >= BLOCK_BYTES {
            self.hand_on();
        }
    }

    /// Hands on what is there, unless there are faults: then nobody needs it.
    pub(super) fn hand_on(&mut self) {
        let Some(taker) = &self.taker else {
            return;
        };
        self.num_bytes = 0;
        let block = std::mem::take(&mut self.documents);
        if self.faults.count() == 0 && !block.is_empty() {
            self.is_closed |= taker.send(block).is_err();
        }
    }

    /// Hands on what is left, and nothing more.
    pub(super) fn end(mut self) -> Self {
        self.hand_on();
        self.taker = None;
        if self.is_closed {
            for counts in &mut self.counts {
                counts.is_partial = true;
            }
        }
        self
    }

    /// Joins what the readers of sources have found, in the order of these; each has read its own.
    pub(super) fn joined(read: Vec<Self>) -> Self {
        let mut all = Self::new(&[], OnBadRow::Fail);
        for one in read {
            all.num_documents += one.num_documents;
            all.skipped.extend(one.skipped);
            all.faults.append(one.faults);
            all.bad_rows.append(one.bad_rows);
            all.choices.append(one.choices);
            all.counts.extend(one.counts);
        }
        all
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
        if self.num_documents == 0 {
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

    /// True if no more rows are wanted.
    pub(super) fn is_closed(&self) -> bool {
        self.found.is_closed()
    }

    /// Takes a file that is one text, too long to be in memory.
    pub(super) fn add_file(&mut self, text: TextFile) {
        self.has_rows = true;
        self.push(None, Content::File(text));
    }

    /// Path of the file.
    pub(super) fn path(&self) -> &Arc<Path> {
        &self.path
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
        self.found.add(Document {
            path: self.path.clone(),
            row,
            content,
        });
    }

    fn skip(&mut self, row: Option<usize>) {
        Skipped::add(&mut self.found.skipped, &self.path, row, SkipReason::Empty);
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

    fn append(&mut self, other: Self) {
        for read in other.0 {
            self.add(read);
        }
    }

    /// One note for each column. It names no file, so that it is the same for all splits of a data set.
    pub(super) fn into_notes(self) -> Vec<String> {
        let note =
            |read| format!("`{read}` is read, and not `text` beside it; `format: text` reads that");
        self.0.into_iter().map(note).collect()
    }
}
