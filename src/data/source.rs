//! Text files to documents, in one fixed order.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::fault::{FaultKind, Faults, PassedOver, SkipReason, Skipped, SourceError};
use super::jsonl::{check_beginning, text_of};
use crate::files;
use crate::hashes::Hashes;

/// Bytes that [`look_at`] reads of a file.
const HEAD_BYTES: u64 = 64 << 10;

/// Most files that [`look_at`] reads.
const MAX_HEADS: usize = 1_000;

/// First bytes of files that are often taken for text, and what is to be told.
const OTHER_FORMATS: [(&[u8], &str); 10] = [
    (b"\x1f\x8b", "compressed by gzip, not text; unpack it first"),
    (
        b"\x28\xb5\x2f\xfd",
        "compressed by zstd, not text; unpack it first",
    ),
    (b"\xfd7zXZ\0", "compressed by xz, not text; unpack it first"),
    (
        b"BZh91AY&SY",
        "compressed by bzip2, not text; unpack it first",
    ),
    (b"PK\x03\x04", "a zip file, not text; unpack it first"),
    (
        b"PAR1\x15",
        "a Parquet file, not text; write its texts as lines of `.jsonl`",
    ),
    (
        b"ARROW1\0\0",
        "an Arrow file, not text; write its texts as lines of `.jsonl`",
    ),
    (
        b"SQLite format 3\0",
        "an SQLite file, not text; write its texts as lines of `.jsonl`",
    ),
    (b"\xff\xfe", UTF_16),
    (b"\xfe\xff", UTF_16),
];

const UTF_16: &str = "UTF-16, not UTF-8; save it as UTF-8";

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
                reader.read(file, &bytes, Extent::Whole, &mut documents);
            }
            Err(error) => reader.faults.add(&file.path, None, error.into()),
        }
    }
    reader.faults.finish()?;
    let skipped = reader.skipped;
    if documents.is_empty() {
        return Err(no_text(paths, files.len(), reader.passed_over));
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
    reader.faults.finish()?;
    Ok(files.into_iter().map(|file| file.path).collect())
}

/// Looks at the beginning of every file that [`read_documents`] would read, and refuses what it would refuse there.
/// Returns the files of folders that it would pass over.
///
/// Paths that cannot be opened are not faults here: whoever needs the text opens them.
pub fn look_at(paths: &[PathBuf]) -> Result<Vec<PassedOver>, SourceError> {
    let mut reader = SourceReader::default();
    let files = reader.find(paths);
    let num_missing = reader.faults.count();
    reader.faults = Faults::default();
    let mut documents = Vec::new();
    let mut all_seen = num_missing == 0 && files.len() <= MAX_HEADS;
    for file in files.iter().take(MAX_HEADS) {
        match head(&file.path) {
            Ok((bytes, extent)) => {
                all_seen &= matches!(extent, Extent::Whole);
                reader.read(file, &bytes, extent, &mut documents);
            }
            Err(_) => all_seen = false,
        }
    }
    reader.faults.finish()?;
    if documents.is_empty() && all_seen {
        return Err(no_text(paths, files.len(), reader.passed_over));
    }
    Ok(reader.passed_over)
}

fn head(path: &Path) -> io::Result<(Vec<u8>, Extent)> {
    let mut bytes = Vec::new();
    files::open(path)?
        .take(HEAD_BYTES + 1)
        .read_to_end(&mut bytes)?;
    let extent = if bytes.len() as u64 > HEAD_BYTES {
        Extent::Head
    } else {
        Extent::Whole
    };
    Ok((bytes, extent))
}

/// BLAKE3 (hex) over format and bytes of the files that [`read_documents`] would read, in its order.
///
/// Names are not hashed: a renamed folder keeps its hash, unless the order of the files changes.
pub fn content_hash(paths: &[PathBuf], hashes: &Hashes) -> Result<String, SourceError> {
    let mut reader = SourceReader::default();
    let files = reader.find(paths);
    reader.faults.finish()?;
    if files.is_empty() {
        return Err(no_text(paths, 0, reader.passed_over));
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

fn no_text(paths: &[PathBuf], num_files: usize, passed_over: Vec<PassedOver>) -> SourceError {
    SourceError::NoText {
        paths: paths.to_vec(),
        num_files,
        passed_over,
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

/// Part of a file that was read.
#[derive(Clone, Copy)]
enum Extent {
    Whole,
    Head,
}

/// Collects faults and skipped files, so that all of them are reported at once.
#[derive(Default)]
struct SourceReader {
    folders: HashSet<PathBuf>,
    faults: Faults,
    skipped: Vec<Skipped>,
    passed_over: Vec<PassedOver>,
}

impl SourceReader {
    fn find(&mut self, paths: &[PathBuf]) -> Vec<SourceFile> {
        let mut files = Vec::new();
        for path in paths {
            match (fs::metadata(path), TextFormat::of(path)) {
                (Err(error), _) => self.faults.add(path, None, error.into()),
                (Ok(metadata), _) if metadata.is_dir() => {
                    let start = files.len();
                    let mut passed_over = PassedOver::new(path);
                    self.walk(path, &mut files, &mut passed_over);
                    self.passed_over
                        .extend(Some(passed_over).filter(|found| found.num_files > 0));
                    // Sorted by the whole relative path: `a-b/x.txt` comes before `a/x.txt`.
                    files[start..].sort_by(|a: &SourceFile, b| path_bytes(a).cmp(path_bytes(b)));
                }
                (Ok(metadata), Some(format)) if metadata.is_file() => files.push(SourceFile {
                    path: path.clone(),
                    format,
                }),
                (Ok(_), _) => self.faults.add(path, None, FaultKind::UnknownFormat),
            }
        }
        files
    }

    fn walk(&mut self, folder: &Path, files: &mut Vec<SourceFile>, passed_over: &mut PassedOver) {
        match fs::canonicalize(folder) {
            Err(error) => return self.faults.add(folder, None, error.into()),
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
            Err(error) => return self.faults.add(folder, None, error.into()),
        };
        entries.sort(); // decides under which name a linked folder is entered
        for path in entries.into_iter().filter(|path| !is_hidden(path)) {
            match (fs::metadata(&path), TextFormat::of(&path)) {
                (Ok(metadata), _) if metadata.is_dir() => self.walk(&path, files, passed_over),
                (Ok(metadata), Some(format)) if metadata.is_file() => {
                    files.push(SourceFile { path, format });
                }
                (Err(error), Some(_)) => self.faults.add(&path, None, error.into()),
                (Ok(_), _) | (Err(_), None) => passed_over.add(&path),
            }
        }
    }

    /// Reads the documents of a file, of which the end may be missing.
    fn read(
        &mut self,
        file: &SourceFile,
        bytes: &[u8],
        extent: Extent,
        documents: &mut Vec<Document>,
    ) {
        let path = &file.path;
        if let Some(found) = other_format(bytes) {
            return self
                .faults
                .add(path, None, FaultKind::OtherFormat { found });
        }
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut offset = bytes.len() - text.len();
        let document = |line, text| Document {
            path: path.clone(),
            line,
            text,
        };
        if let TextFormat::Text = file.format {
            if let Some(text) = self.utf8(path, None, text, offset, extent) {
                self.add(document(None, text.to_owned()), documents);
            }
            return;
        }
        if text.trim_ascii().is_empty() {
            return self.skip(path, None, SkipReason::Empty);
        }
        let mut lines = text.split(|&byte| byte == b'\n').enumerate().peekable();
        while let Some((index, bytes)) = lines.next() {
            let line = Some(index + 1);
            let extent = if lines.peek().is_some() {
                Extent::Whole
            } else {
                extent
            };
            if let Some(text) = self.utf8(path, line, bytes, offset, extent)
                && !text.trim().is_empty()
            {
                let found = match extent {
                    Extent::Whole => text_of(text).map(Option::unwrap_or_default),
                    // What matters is that there is a document, and this line may well be one.
                    Extent::Head => check_beginning(text).map(|()| text.to_owned()),
                };
                match found {
                    Ok(text) => self.add(document(line, text), documents),
                    Err(kind) => self.faults.add(path, line, kind),
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
        extent: Extent,
    ) -> Option<&'a str> {
        let error = match std::str::from_utf8(bytes) {
            Ok(text) => return Some(text),
            Err(error) => error,
        };
        let valid = &bytes[..error.valid_up_to()];
        let is_cut = error.error_len().is_none() && matches!(extent, Extent::Head);
        if is_cut {
            return std::str::from_utf8(valid).ok();
        }
        let line = line.unwrap_or_else(|| valid.split(|&b| b == b'\n').count());
        let offset = offset + valid.len();
        self.faults
            .add(path, Some(line), FaultKind::NotUtf8 { offset });
        None
    }

    fn skip(&mut self, path: &Path, line: Option<usize>, reason: SkipReason) {
        let path = path.to_path_buf();
        self.skipped.push(Skipped { path, line, reason });
    }
}

fn path_bytes(file: &SourceFile) -> &[u8] {
    file.path.as_os_str().as_encoded_bytes()
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Name of the format that begins with these bytes and is no text in UTF-8.
fn other_format(bytes: &[u8]) -> Option<&'static str> {
    let found = OTHER_FORMATS
        .iter()
        .find(|(magic, _)| bytes.starts_with(magic));
    if let Some((_, told)) = found {
        return Some(told);
    }
    // Letters of UTF-16 without a byte-order mark are UTF-8, too: each second byte is 0.
    let pairs = bytes.get(..32)?.as_chunks::<2>().0;
    let is_wide = |zero: usize| {
        pairs
            .iter()
            .all(|pair| pair[zero] == 0 && pair[1 - zero] != 0)
    };
    (is_wide(0) || is_wide(1)).then_some(UTF_16)
}
