//! Files of every kind to documents, in one fixed order.
//!
//! A file is read by its kind ([`Container`]), and its rows by their format ([`RowFormat`]), which is that of the plan or the
//! one that the names of the columns say. Each kind hands its rows on in their order, block by block, so that beside the
//! documents no more than a block is in memory.

mod advice;
mod arrow;
mod collected;
mod columns;
mod compressed;
mod container;
mod fault;
mod fields;
mod hub;
mod json;
mod jsonl;
mod not_json;
mod parquet;
mod plan;
mod rows;
mod saved;
mod shards;
mod skipped;
mod stream;
mod text;
mod turns;
mod unique;
mod walk;

#[cfg(test)]
mod tests;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::chat::Conversation;
use crate::hashes::Hashes;

use self::collected::{Collected, FileRows};
use self::compressed::FileStream;
use self::container::Container;
pub(in crate::data) use self::fault::place;
pub use self::fault::{BadRows, Fault, FaultKind, FieldNames, SourceError};
pub use self::hub::{files_of_plan, with_rows};
pub(in crate::data) use self::plan::SOURCE;
pub use self::plan::{FieldsPlan, OnBadRow, RowField, RowFormat, SourcePlan};
use self::rows::Layout;
pub use self::skipped::{PassedOver, SkipReason, Skipped};
pub(in crate::data) use self::stream::ReadFacts;
pub use self::stream::{DocumentStream, SourceCount};
use self::text::Extent;
pub use self::text::TextFile;
pub(in crate::data) use self::text::TextReader;
pub(crate) use self::turns::is_learnt;
use self::walk::{SourceFile, Walk};

/// Bytes that [`look_at`] reads of a file, after unpacking.
const HEAD_BYTES: u64 = 64 << 10;

/// Most files that [`look_at`] reads.
const MAX_HEADS: usize = 1_000;

/// Result of reading sources.
#[derive(Debug)]
pub struct Documents {
    /// Documents with text, in the order of the sources given.
    pub documents: Vec<Document>,
    /// Files, rows and folders that were skipped, with the reasons.
    pub skipped: Vec<Skipped>,
    /// Rows that were left out by [`OnBadRow::Skip`].
    pub bad_rows: BadRows,
    /// Choices among several readings of a source; each deserves a note.
    pub notes: Vec<String>,
}

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// File that it was read from.
    pub path: Arc<Path>,
    /// Line of a `.jsonl` file or row of another, counted from 1; `None` for a whole file.
    pub row: Option<usize>,
    /// Content of the document.
    pub content: Content,
}

/// Content of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A text, never blank.
    Text(String),
    /// A text that is too long to be in memory.
    File(TextFile),
    /// A conversation of one message or more.
    Chat(Conversation),
    /// A text of which the first part is given.
    Completion {
        /// What is given; it may be empty.
        prompt: String,
        /// What follows, never blank.
        completion: String,
    },
}

impl From<&str> for Document {
    /// A text that is from no file.
    fn from(text: &str) -> Self {
        Self {
            path: Path::new("").into(),
            row: None,
            content: Content::Text(text.to_owned()),
        }
    }
}

impl Document {
    /// File, and row if it has one.
    pub fn place(&self) -> String {
        place(&self.path, self.row)
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            Content::File(_) | Content::Chat(_) | Content::Completion { .. } => None,
        }
    }

    /// Bytes of its text; of a conversation, those of what is said and called.
    pub fn num_bytes(&self) -> u64 {
        match &self.content {
            Content::Text(text) => text.len() as u64,
            Content::File(file) => file.num_bytes(),
            Content::Completion { prompt, completion } => (prompt.len() + completion.len()) as u64,
            Content::Chat(conversation) => {
                let messages = conversation.messages.iter();
                messages.flat_map(Map::values).map(bytes_of).sum()
            }
        }
    }
}

/// Bytes of all texts in a value.
fn bytes_of(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(values) => values.iter().map(bytes_of).sum(),
        Value::Object(entries) => entries.values().map(bytes_of).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// Result of a look at sources.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Files of folders that reading would pass over.
    pub passed_over: Vec<PassedOver>,
    /// Choices among several readings of a source; each deserves a note.
    pub notes: Vec<String>,
    /// The first conversation, if one is among what was read.
    pub conversation: Option<Document>,
}

/// Reads the documents of files and folders, in the order of `sources`.
///
/// A `.txt` file is one document; in other files each row is one. A folder means all files of one kind below it, in the byte
/// order of their relative paths, so the order is the same on every machine. Other files and names that begin with a dot are
/// ignored, and a folder is entered once however many links lead to it. A leading byte-order mark is dropped; nothing else
/// of a text is changed.
pub fn read_documents(
    sources: &[SourcePlan],
    on_bad_row: OnBadRow,
) -> Result<Documents, SourceError> {
    let mut stream = DocumentStream::open(sources, on_bad_row);
    let documents: Vec<Document> = stream.by_ref().collect();
    let read = stream.finish()?;
    Ok(Documents {
        documents,
        skipped: read.skipped,
        bad_rows: read.bad_rows,
        notes: read.notes,
    })
}

/// Paths of the files that [`read_documents`] would read, in its order.
pub fn source_files(sources: &[SourcePlan]) -> Result<Vec<PathBuf>, SourceError> {
    let mut walk = Walk::default();
    let files = walk.find(sources);
    walk.faults.finish()?;
    Ok(files.into_iter().map(|file| file.path).collect())
}

/// Looks at the beginning of every file that [`read_documents`] would read, and refuses what it would refuse there. Of files
/// of columns, that is the schema and the first rows.
///
/// Paths that cannot be opened are not faults here: whoever needs the text opens them.
pub fn look_at(sources: &[SourcePlan], on_bad_row: OnBadRow) -> Result<Looked, SourceError> {
    let mut reader = Reader::new(sources, on_bad_row);
    let files = reader.find();
    let num_missing = reader.found.faults.drop_unreadable();
    let mut all_seen = num_missing == 0 && files.len() <= MAX_HEADS;
    for file in files.iter().take(MAX_HEADS) {
        match reader.read_head(file) {
            Ok(Extent::Whole) => {}
            Ok(Extent::Head) | Err(FaultKind::Unreadable(_)) => {
                all_seen = false;
                reader.found.leave_rows(file.source);
            }
            Err(kind) => reader.found.faults.add(&file.path, None, kind),
        }
    }
    for file in files.iter().skip(MAX_HEADS) {
        reader.found.leave_rows(file.source);
    }
    let Reader {
        mut found, walk, ..
    } = reader;
    if all_seen || !found.documents.is_empty() || found.faults.count() > 0 {
        found.check(|| no_text(sources, files.len(), walk.passed_over.clone()))?;
    }
    let is_chat = |document: &Document| matches!(document.content, Content::Chat(_));
    Ok(Looked {
        passed_over: walk.passed_over,
        conversation: found.documents.into_iter().find(is_chat),
        notes: [walk.notes, found.choices.into_notes()].concat(),
    })
}

/// BLAKE3 (hex) over format and bytes of the files that [`read_documents`] would read, in its order, and over what a plan
/// says about their rows.
///
/// Names are not hashed: a renamed folder keeps its hash, unless the order of the files changes.
pub fn content_hash(sources: &[SourcePlan], hashes: &Hashes) -> Result<String, SourceError> {
    let mut walk = Walk::default();
    let files = walk.find(sources);
    walk.faults.finish()?;
    if files.is_empty() {
        return Err(no_text(sources, 0, walk.passed_over));
    }
    let mut hasher = blake3::Hasher::new();
    for file in &files {
        hash_file(&mut hasher, sources, file, &hashes.of_file(&file.path)?);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn hash_file(hasher: &mut blake3::Hasher, sources: &[SourcePlan], file: &SourceFile, hash: &str) {
    hasher.update(file.container.tag());
    hasher.update(file.compression.tag());
    hasher.update(hash.as_bytes());
    let key = sources.get(file.source).map(SourcePlan::key);
    hasher.update(&key.unwrap_or_default());
}

fn no_text(sources: &[SourcePlan], num_files: usize, passed_over: Vec<PassedOver>) -> SourceError {
    SourceError::NoText {
        paths: sources.iter().map(|source| source.path.clone()).collect(),
        num_files,
        passed_over,
    }
}

/// Reader of sources, which collects faults and skipped files, so that all of them are reported at once.
struct Reader<'a> {
    sources: &'a [SourcePlan],
    /// Layout that each source names.
    layouts: Vec<Option<Layout>>,
    walk: Walk,
    found: Collected,
}

impl<'a> Reader<'a> {
    fn new(sources: &'a [SourcePlan], on_bad_row: OnBadRow) -> Self {
        let mut found = Collected::new(sources, on_bad_row);
        let mut layout = |source: &SourcePlan| match Layout::named(source) {
            Ok(layout) => layout,
            Err(kind) => {
                found.faults.add(&source.path, None, kind);
                None
            }
        };
        Self {
            sources,
            layouts: sources.iter().map(&mut layout).collect(),
            walk: Walk::default(),
            found,
        }
    }

    fn find(&mut self) -> Vec<SourceFile> {
        let files = self.walk.find(self.sources);
        self.found
            .faults
            .append(std::mem::take(&mut self.walk.faults));
        files
    }

    /// Reads a file to its end, or until no more rows are wanted.
    fn read_whole(&mut self, file: &SourceFile) -> Result<(), FaultKind> {
        let path = &file.path;
        let mut rows = self.rows(file)?;
        let open = || FileStream::open(path, file.compression);
        match file.container {
            Container::Text => {
                if let Some(text) = TextFile::of_long(rows.path(), file.compression)? {
                    rows.add_file(text);
                } else {
                    let mut stream = open()?.within_memory();
                    let mut bytes = Vec::new();
                    let read = stream.read_to_end(&mut bytes);
                    read.map_err(|error| stream.fault(error))?;
                    rows.add_text(bytes, Extent::Whole, stream.is_packed())?;
                }
            }
            Container::JsonLines => jsonl::read(open()?, &mut rows)?,
            Container::Json => json::read(open()?, &mut rows)?,
            Container::Parquet => drop(parquet::read(path, Extent::Whole, &mut rows)?),
            Container::Arrow => drop(arrow::read(path, Extent::Whole, &mut rows)?),
        }
        rows.finish();
        Ok(())
    }

    /// Reads the beginning of a file, and returns whether it was the whole.
    fn read_head(&mut self, file: &SourceFile) -> Result<Extent, FaultKind> {
        let path = &file.path;
        let mut rows = self.rows(file)?;
        let extent = match file.container {
            Container::Parquet => parquet::read(path, Extent::Head, &mut rows)?,
            Container::Arrow => arrow::read(path, Extent::Head, &mut rows)?,
            Container::Text | Container::JsonLines | Container::Json => {
                let mut stream = FileStream::open(path, file.compression)?;
                let is_packed = stream.is_packed();
                let mut head = Vec::new();
                let read = (&mut stream).take(HEAD_BYTES + 1).read_to_end(&mut head);
                read.map_err(|error| stream.fault(error))?;
                let extent = if head.len() as u64 > HEAD_BYTES {
                    Extent::Head
                } else {
                    Extent::Whole
                };
                match file.container {
                    Container::JsonLines => {
                        jsonl::read_head(&head, extent, is_packed, &mut rows)?;
                    }
                    Container::Json => json::read_head(&head, extent, is_packed, &mut rows)?,
                    _ => rows.add_text(head, extent, is_packed)?,
                }
                extent
            }
        };
        if extent == Extent::Whole {
            rows.finish();
        }
        Ok(extent)
    }

    fn rows<'b>(&'b mut self, file: &SourceFile) -> Result<FileRows<'b>, FaultKind> {
        let layout = self.layouts.get(file.source).cloned().flatten();
        let needs_rows = layout
            .as_ref()
            .filter(|layout| layout.format != RowFormat::Text);
        if let (Container::Text, Some(layout)) = (file.container, needs_rows) {
            return Err(FaultKind::Choice(format!(
                "a text file, which has no rows for `format: {}`",
                layout.format.word()
            )));
        }
        Ok(FileRows::new(file, layout, &mut self.found))
    }
}
