//! Text files to documents, in one fixed order.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

use crate::files;
use crate::hashes::Hashes;

/// Most faults that [`SourceError::Faults`] lists; a fault that occurs a thousand times has one cause.
const MAX_NAMED_FAULTS: usize = 20;

/// Result of reading text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// Documents with text, in the order of the paths given.
    pub documents: Vec<Document>,
    /// Files, lines and folders that were skipped, with the reasons.
    pub skipped: Vec<Skipped>,
    /// The [`content_hash`] of the files.
    pub content_hash: String,
}

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// File that it was read from.
    pub path: PathBuf,
    /// Line of a `.jsonl` file, counted from 1.
    pub line: Option<usize>,
    /// Its text, never blank.
    pub text: String,
}

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

/// Errors of reading documents.
#[derive(Debug, Error)]
pub enum SourceError {
    /// Unusable paths or contents: all are counted, the first 20 are kept.
    #[error("{num_faults} {} in the text\n  {}", if *.num_faults == 1 { "fault" } else { "faults" }, list(.faults, *.num_faults))]
    Faults {
        /// The first faults: those of paths, then those of contents, each in reading order.
        faults: Vec<Fault>,
        /// Number of all faults.
        num_faults: usize,
    },
    /// There is no document with text.
    #[error("no text in {}: {num_files} `.txt` and `.jsonl` files, none with text", names(.paths))]
    NoText {
        /// Paths that were searched.
        paths: Vec<PathBuf>,
        /// Files that were found there.
        num_files: usize,
    },
    /// A file became unreadable while it was hashed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One unusable path or line.
#[derive(Debug, Error)]
#[error("{}: {kind}", place(.path, *.line))]
pub struct Fault {
    /// File or folder.
    pub path: PathBuf,
    /// Line, counted from 1, if the fault has one.
    pub line: Option<usize>,
    /// Kind of fault.
    pub kind: FaultKind,
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
    /// Bytes that are not UTF-8.
    #[error("not UTF-8 at byte {offset} of the file")]
    NotUtf8 {
        /// First invalid byte, counted from 0.
        offset: usize,
    },
    /// A line that is not JSON.
    #[error("not JSON at column {column}: {reason}")]
    NotJson {
        /// Column, counted from 1.
        column: usize,
        /// Message of the parser.
        reason: String,
    },
    /// JSON, but not an object with a string `text`.
    #[error("{0}")]
    NoTextField(&'static str),
}

/// Reads the documents of files and folders, in the order of `paths`.
///
/// A `.txt` file is one document; each line of a `.jsonl` file is one, its string `text`. A folder means all
/// such files below it, in the byte order of their relative paths, so the order is the same on every machine.
/// Other files and names that begin with a dot are ignored, and a folder is entered once however many links
/// lead to it. A leading byte-order mark is dropped; nothing else is changed.
pub fn read_documents(paths: &[PathBuf]) -> Result<Documents, SourceError> {
    let mut reader = SourceReader::default();
    let files = reader.find(paths);
    let mut documents = Vec::new();
    let mut hasher = blake3::Hasher::new();
    for file in &files {
        match files::read(&file.path) {
            Ok(bytes) => {
                hash_file(&mut hasher, file, blake3::hash(&bytes).to_hex().as_str());
                reader.read(file, &bytes, &mut documents);
            }
            Err(error) => reader.fault(&file.path, None, error.into()),
        }
    }
    let skipped = reader.finish()?;
    if documents.is_empty() {
        return Err(no_text(paths, files.len()));
    }
    Ok(Documents {
        documents,
        skipped,
        content_hash: hasher.finalize().to_hex().to_string(),
    })
}

/// Paths of the files that [`read_documents`] would read, in its order.
pub fn text_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, SourceError> {
    let mut reader = SourceReader::default();
    let files = reader.find(paths);
    reader.finish()?;
    Ok(files.into_iter().map(|file| file.path).collect())
}

/// BLAKE3 (hex) over format and bytes of the files that [`read_documents`] would read, in its order.
///
/// Names are not hashed: a renamed folder keeps its hash, unless the order of the files changes.
pub fn content_hash(paths: &[PathBuf], hashes: &Hashes) -> Result<String, SourceError> {
    let mut reader = SourceReader::default();
    let files = reader.find(paths);
    reader.finish()?;
    if files.is_empty() {
        return Err(no_text(paths, 0));
    }
    let mut hasher = blake3::Hasher::new();
    for file in files {
        hash_file(&mut hasher, &file, &hashes.of_file(&file.path)?);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn hash_file(hasher: &mut blake3::Hasher, file: &SourceFile, hash: &str) {
    hasher.update(match file.format {
        TextFormat::Text => b"t",
        TextFormat::JsonLines => b"j",
    });
    hasher.update(hash.as_bytes());
}

fn no_text(paths: &[PathBuf], num_files: usize) -> SourceError {
    SourceError::NoText {
        paths: paths.to_vec(),
        num_files,
    }
}

#[derive(Clone, Copy)]
enum TextFormat {
    Text,
    JsonLines,
}

impl TextFormat {
    fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?;
        if extension.eq_ignore_ascii_case("txt") {
            Some(Self::Text)
        } else if extension.eq_ignore_ascii_case("jsonl") {
            Some(Self::JsonLines)
        } else {
            None
        }
    }
}

struct SourceFile {
    path: PathBuf,
    format: TextFormat,
}

/// Collects faults and skipped files, so that all of them are reported at once.
#[derive(Default)]
struct SourceReader {
    folders: HashSet<PathBuf>,
    faults: Vec<Fault>,
    num_faults: usize,
    skipped: Vec<Skipped>,
}

impl SourceReader {
    fn find(&mut self, paths: &[PathBuf]) -> Vec<SourceFile> {
        let mut files = Vec::new();
        for path in paths {
            match (fs::metadata(path), TextFormat::of(path)) {
                (Err(error), _) => self.fault(path, None, error.into()),
                (Ok(metadata), _) if metadata.is_dir() => {
                    let start = files.len();
                    self.walk(path, &mut files);
                    // Sorted by the whole relative path: `a-b/x.txt` comes before `a/x.txt`.
                    files[start..].sort_by(|a: &SourceFile, b| path_bytes(a).cmp(path_bytes(b)));
                }
                (Ok(metadata), Some(format)) if metadata.is_file() => files.push(SourceFile {
                    path: path.clone(),
                    format,
                }),
                (Ok(_), _) => self.fault(path, None, FaultKind::UnknownFormat),
            }
        }
        files
    }

    fn walk(&mut self, folder: &Path, files: &mut Vec<SourceFile>) {
        match fs::canonicalize(folder) {
            Err(error) => return self.fault(folder, None, error.into()),
            Ok(real) => {
                if !self.folders.insert(real) {
                    return self.skip(folder, None, SkipReason::ReadBefore);
                }
            }
        }
        let entries = fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
        let mut entries: Vec<PathBuf> = match entries {
            Ok(entries) => entries,
            Err(error) => return self.fault(folder, None, error.into()),
        };
        entries.sort(); // decides under which name a linked folder is entered
        for path in entries.into_iter().filter(|path| !is_hidden(path)) {
            match (fs::metadata(&path), TextFormat::of(&path)) {
                (Ok(metadata), _) if metadata.is_dir() => self.walk(&path, files),
                (Ok(metadata), Some(format)) if metadata.is_file() => {
                    files.push(SourceFile { path, format });
                }
                (Err(error), Some(_)) => self.fault(&path, None, error.into()),
                (Ok(_), _) | (Err(_), None) => {}
            }
        }
    }

    fn read(&mut self, file: &SourceFile, bytes: &[u8], documents: &mut Vec<Document>) {
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut offset = bytes.len() - text.len();
        let path = &file.path;
        let document = |line, text| Document {
            path: path.clone(),
            line,
            text,
        };
        if let TextFormat::Text = file.format {
            if let Some(text) = self.utf8(path, None, text, offset) {
                self.add(document(None, text.to_owned()), documents);
            }
            return;
        }
        if text.trim_ascii().is_empty() {
            return self.skip(path, None, SkipReason::Empty);
        }
        for (index, bytes) in text.split(|&byte| byte == b'\n').enumerate() {
            let line = Some(index + 1);
            if let Some(text) = self.utf8(path, line, bytes, offset)
                && !text.trim().is_empty()
            {
                match text_field(text) {
                    Ok(text) => self.add(document(line, text), documents),
                    Err(kind) => self.fault(path, line, kind),
                }
            }
            offset += bytes.len() + 1;
        }
    }

    fn add(&mut self, document: Document, documents: &mut Vec<Document>) {
        if document.text.trim().is_empty() {
            self.skip(&document.path, document.line, SkipReason::Empty);
        } else {
            documents.push(document);
        }
    }

    /// Decodes `bytes`, which begin at `offset` of the file; in a `.txt` file (no `line`) finds the line of a fault.
    fn utf8<'a>(
        &mut self,
        path: &Path,
        line: Option<usize>,
        bytes: &'a [u8],
        offset: usize,
    ) -> Option<&'a str> {
        std::str::from_utf8(bytes)
            .map_err(|error| {
                let valid = &bytes[..error.valid_up_to()];
                let line = line.unwrap_or_else(|| valid.split(|&b| b == b'\n').count());
                let offset = offset + valid.len();
                self.fault(path, Some(line), FaultKind::NotUtf8 { offset });
            })
            .ok()
    }

    fn fault(&mut self, path: &Path, line: Option<usize>, kind: FaultKind) {
        self.num_faults += 1;
        if self.faults.len() < MAX_NAMED_FAULTS {
            let path = path.to_path_buf();
            self.faults.push(Fault { path, line, kind });
        }
    }

    fn skip(&mut self, path: &Path, line: Option<usize>, reason: SkipReason) {
        let path = path.to_path_buf();
        self.skipped.push(Skipped { path, line, reason });
    }

    fn finish(self) -> Result<Vec<Skipped>, SourceError> {
        if self.num_faults == 0 {
            return Ok(self.skipped);
        }
        Err(SourceError::Faults {
            faults: self.faults,
            num_faults: self.num_faults,
        })
    }
}

fn path_bytes(file: &SourceFile) -> &[u8] {
    file.path.as_os_str().as_encoded_bytes()
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn text_field(line: &str) -> Result<String, FaultKind> {
    let value = serde_json::from_str(line).map_err(|error| FaultKind::NotJson {
        column: error.column(),
        reason: match error.to_string().split_once(" at line ") {
            Some((reason, _)) => reason.to_owned(),
            None => error.to_string(),
        },
    })?;
    match value {
        Value::Object(mut object) => match object.remove("text") {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(FaultKind::NoTextField("`text` is not a string")),
            None => Err(FaultKind::NoTextField("an object without `text`")),
        },
        _ => Err(FaultKind::NoTextField("not an object with a string `text`")),
    }
}

fn place(path: &Path, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{}:{line}", path.display()),
        None => path.display().to_string(),
    }
}

fn list(faults: &[Fault], num_faults: usize) -> String {
    let mut lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    if num_faults > faults.len() {
        lines.push(format!("and {} more", num_faults - faults.len()));
    }
    lines.join("\n  ")
}

fn names(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths
        .iter()
        .map(|path| format!("`{}`", path.display()))
        .collect();
    names.join(", ")
}
