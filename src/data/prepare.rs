//! The data stage: turns text and tokenizer into the token rows of both splits.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::encode::Encoder;
use super::pack::{Packing, pack};
use super::rows::TokenRows;
use super::source::{
    Content, Document, OnBadRow, SkipReason, Skipped, SourceError, SourcePlan, place,
    read_documents,
};
use super::store::Store;
use super::tokenizer::{Tokenizer, TokenizerError};
use crate::data::{DataPlan, TokenizerPlan, TrainTokenizer};
use crate::files;

/// Part of a tokenizer's key; raised when the same text would give another one (also by another `tokenizers` version).
const VERSION: u32 = 2;

/// Part of the key of rows; raised together with [`VERSION`], and when the byte format of rows changes.
const ROWS_VERSION: u32 = 3;

/// The two texts of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Text for training.
    Train,
    /// Text for evaluation.
    Validation,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
        })
    }
}

/// Result of the data stage.
#[derive(Debug)]
pub struct Prepared {
    /// The tokenizer that made the rows.
    pub tokenizer: Tokenizer,
    /// The token between documents.
    pub end_of_text: u32,
    /// Rows to train on.
    pub train: TokenRows,
    /// Rows to evaluate on.
    pub validation: TokenRows,
    /// [`content_hash`](super::content_hash) of the text that the training rows were made of.
    pub train_hash: String,
    /// The same hash for the validation rows.
    pub validation_hash: String,
    /// Files, lines and folders that were skipped; each deserves a warning.
    pub skipped: Vec<Skipped>,
    /// Stored files that were damaged and were made again; each deserves a warning.
    pub rebuilt: Vec<PathBuf>,
    /// Where the rows are stored.
    pub stored: StoredRows,
    /// True if all rows (and the tokenizer, if it is a trained one) come from an earlier run.
    pub from_cache: bool,
}

/// Rows as they are stored, to be read again without their text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRows {
    end_of_text: u32,
    train: RowsFile,
    validation: RowsFile,
}

/// File of the rows of a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RowsFile {
    key: String,
    num_documents: usize,
}

/// Errors of the data stage.
#[derive(Debug, Error)]
pub enum DataError {
    /// A split's text cannot be read.
    #[error("{split} text: {source}")]
    Source {
        /// The split.
        split: Split,
        /// The cause.
        source: SourceError,
    },
    /// The tokenizer cannot be read, trained or used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The plan does not train the tokenizer, and none was given.
    #[error("the plan's tokenizer is not trained on its text, and none was given")]
    NoTokenizer,
    /// No token separates documents.
    #[error("the tokenizer has no end-of-text token: none of `{}`, and no model names one by `eos_token_id` in its `config.json`", Tokenizer::end_of_text_names().join("`, `"))]
    NoEndOfText,
    /// The end-of-text id is not one of the tokenizer's.
    #[error("end-of-text id {id} is outside the tokenizer's {vocab_size} tokens")]
    EndOfTextRange {
        /// The id.
        id: u32,
        /// Number of ids that the tokenizer has.
        vocab_size: usize,
    },
    /// The tokenizer makes no token of a whole split.
    #[error("{split} text: the tokenizer gives no tokens for it")]
    NoTokens {
        /// The split.
        split: Split,
    },
    /// The folder of stored rows cannot be used.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads both texts, trains the tokenizer unless it is given, and returns the rows of both splits.
///
/// Rows, and a trained tokenizer, are stored in `cache_dir` under a key of all that decides their content, so a second
/// run neither trains nor tokenises. `eos` is the token between documents; by default the tokenizer's own
/// ([`Tokenizer::end_of_text`]). Documents are cut only where their parts have the tokens of the whole, and those beyond
/// the limits of a plan are not tokenised.
pub fn prepare(
    plan: &DataPlan,
    given: Option<&Tokenizer>,
    cache_dir: &Path,
    eos: Option<u32>,
) -> Result<Prepared, DataError> {
    let read = |split, paths: &[PathBuf]| {
        let read = read_documents(&SourcePlan::of_paths(paths), OnBadRow::Fail);
        let read = read.map_err(|source| DataError::Source { split, source })?;
        check_texts(&read.documents)?;
        Ok::<_, DataError>(read)
    };
    let train = read(Split::Train, &plan.train)?;
    let validation = read(Split::Validation, &plan.validation)?;

    let mut store = Store::open(cache_dir)?;
    let tokenizer = match (given, &plan.tokenizer) {
        (Some(tokenizer), _) => tokenizer.clone(),
        (None, TokenizerPlan::Train(TrainTokenizer { vocab_size })) => {
            train_tokenizer(&mut store, &train.documents, *vocab_size)?
        }
        (None, TokenizerPlan::File(_) | TokenizerPlan::Teacher) => {
            return Err(DataError::NoTokenizer);
        }
    };
    let end_of_text = eos
        .or(tokenizer.end_of_text())
        .ok_or(DataError::NoEndOfText)?;
    check_end_of_text(end_of_text, &tokenizer)?;

    let (train_hash, validation_hash) = (train.content_hash, validation.content_hash);
    let mut skipped: Vec<_> = [train.skipped, validation.skipped].concat();
    let mut rows = |split, documents: &[Document], limit| {
        let packing = Packing {
            sequence_length: plan.sequence_length,
            beginning_of_text: tokenizer.beginning_of_text(),
            end_of_text,
            limit,
        };
        let (file, rows, too_short) = rows_of(&tokenizer, packing, &mut store, split, documents)?;
        skipped.extend(too_short);
        Ok::<_, DataError>((file, rows))
    };
    let (train_file, train) = rows(Split::Train, &train.documents, plan.train_tokens)?;
    let (validation_file, validation) = rows(
        Split::Validation,
        &validation.documents,
        plan.validation_tokens,
    )?;
    Ok(Prepared {
        end_of_text,
        train,
        validation,
        train_hash,
        validation_hash,
        skipped,
        rebuilt: store.rebuilt,
        stored: StoredRows {
            end_of_text,
            train: train_file,
            validation: validation_file,
        },
        from_cache: store.all_found,
        tokenizer,
    })
}

/// Rows of a text for an existing tokenizer; nothing is stored on disk.
pub fn read_rows(
    paths: &[PathBuf],
    tokenizer: &Tokenizer,
    sequence_length: usize,
    end_of_text: u32,
) -> Result<TokenRows, DataError> {
    let split = Split::Validation;
    let documents = read_documents(&SourcePlan::of_paths(paths), OnBadRow::Fail)
        .map_err(|source| DataError::Source { split, source })?
        .documents;
    check_texts(&documents)?;
    rows_of_documents(&documents, tokenizer, sequence_length, end_of_text)
}

/// Rows of one text in memory.
pub fn rows_of_text(
    text: &str,
    tokenizer: &Tokenizer,
    sequence_length: usize,
    end_of_text: u32,
) -> Result<TokenRows, DataError> {
    let document = Document {
        path: Path::new("").into(),
        row: None,
        content: Content::Text(text.to_owned()),
    };
    rows_of_documents(&[document], tokenizer, sequence_length, end_of_text)
}

fn rows_of_documents(
    documents: &[Document],
    tokenizer: &Tokenizer,
    sequence_length: usize,
    end_of_text: u32,
) -> Result<TokenRows, DataError> {
    check_end_of_text(end_of_text, tokenizer)?;
    let texts = Encoder::new(tokenizer).encode(documents, None)?;
    let packing = Packing {
        sequence_length,
        beginning_of_text: tokenizer.beginning_of_text(),
        end_of_text,
        limit: None,
    };
    let rows = pack(&texts, packing);
    if rows.num_rows() == 0 {
        let split = Split::Validation;
        return Err(DataError::NoTokens { split });
    }
    Ok(rows)
}

/// Checks the id, which may come from a model with another tokenizer.
fn check_end_of_text(id: u32, tokenizer: &Tokenizer) -> Result<(), DataError> {
    let vocab_size = tokenizer.vocab_size();
    if (id as usize) < vocab_size {
        Ok(())
    } else {
        Err(DataError::EndOfTextRange { id, vocab_size })
    }
}

/// Checks that all documents are texts, which is all that is packed into rows so far.
fn check_texts(documents: &[Document]) -> Result<(), DataError> {
    match documents.iter().find(|document| document.text().is_none()) {
        None => Ok(()),
        Some(document) => Err(TokenizerError::NotText {
            place: place(&document.path, document.row),
        }
        .into()),
    }
}

fn train_tokenizer(
    store: &mut Store<'_>,
    documents: &[Document],
    vocab_size: usize,
) -> Result<Tokenizer, DataError> {
    let key = files::hash_json(&(VERSION, hash_texts(documents), vocab_size));
    let read = |bytes: &[u8]| {
        let path = Path::new("the kept tokenizer");
        Tokenizer::from_bytes(bytes.to_vec(), None, path).ok()
    };
    store.get_or_make("tokenizer", &key, read, || {
        let texts = documents.iter().filter_map(Document::text);
        let tokenizer = Tokenizer::train(texts, vocab_size)?;
        Ok((tokenizer.bytes().to_vec(), tokenizer))
    })
}

/// Everything that decides the rows of a text.
#[derive(Serialize)]
struct RowsKey {
    version: u32,
    texts: String,
    tokenizer: String,
    #[serde(flatten)]
    packing: Packing,
}

/// Rows of a split, and the documents that gave no tokens.
fn rows_of(
    tokenizer: &Tokenizer,
    packing: Packing,
    store: &mut Store<'_>,
    split: Split,
    documents: &[Document],
) -> Result<(RowsFile, TokenRows, Vec<Skipped>), DataError> {
    let key = files::hash_json(&RowsKey {
        version: ROWS_VERSION,
        texts: hash_texts(documents),
        tokenizer: tokenizer.hash(),
        packing,
    });
    let make = || {
        let texts = Encoder::new(tokenizer).encode(documents, packing.limit)?;
        let mut is_empty: Vec<u8> = texts
            .iter()
            .map(|text| u8::from(text.ids.is_empty()))
            .collect();
        is_empty.resize(documents.len(), 0); // what is beyond the limit was not looked at
        let rows = pack(&texts, packing);
        if rows.num_rows() == 0 {
            return Err(DataError::NoTokens { split });
        }
        // One flag per document, then the rows: the warning must not depend on what is stored.
        Ok((
            [is_empty.clone(), rows.to_bytes()].concat(),
            (rows, is_empty),
        ))
    };
    let num_documents = documents.len();
    let read = |bytes: &[u8]| rows_and_flags(bytes, num_documents);
    let (rows, is_empty) = store.get_or_make("rows", &key, read, make)?;
    let too_short = documents
        .iter()
        .zip(is_empty)
        .filter(|(_, empty)| *empty == 1);
    let too_short = too_short.map(|(document, _)| Skipped {
        path: document.path.to_path_buf(),
        row: document.row,
        reason: SkipReason::NoTokens,
    });
    let file = RowsFile { key, num_documents };
    Ok((file, rows, too_short.collect()))
}

fn rows_and_flags(stored: &[u8], num_documents: usize) -> Option<(TokenRows, Vec<u8>)> {
    let (is_empty, rows) = stored.split_at_checked(num_documents)?;
    Some((TokenRows::from_bytes(rows)?, is_empty.to_vec()))
}

/// Rows that an earlier run has stored in `dir`, without their text, of which `texts` are the hashes; `None` if a file of
/// them is not there, or is damaged.
pub fn prepared_before(
    tokenizer: &Tokenizer,
    dir: &Path,
    stored: &StoredRows,
    texts: &[String; 2],
) -> Result<Option<Prepared>, DataError> {
    check_end_of_text(stored.end_of_text, tokenizer)?;
    let store = Store::open(dir)?;
    let rows = |file: &RowsFile| {
        let read = |bytes: &[u8]| rows_and_flags(bytes, file.num_documents);
        store.get("rows", &file.key, read)
    };
    let (Some((train, _)), Some((validation, _))) =
        (rows(&stored.train)?, rows(&stored.validation)?)
    else {
        return Ok(None);
    };
    let [train_hash, validation_hash] = texts.clone();
    Ok(Some(Prepared {
        tokenizer: tokenizer.clone(),
        end_of_text: stored.end_of_text,
        train,
        validation,
        train_hash,
        validation_hash,
        skipped: Vec::new(),
        rebuilt: Vec::new(),
        stored: stored.clone(),
        from_cache: true,
    }))
}

/// BLAKE3 (hex) over the texts with their lengths, independent of their paths.
fn hash_texts(documents: &[Document]) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in documents.iter().filter_map(Document::text) {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
