//! The data stage: turns text and tokenizer into the token rows of both splits.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::chat_templates::ChatTemplates;
use super::error::{DataError, Split};
use super::fill::{RowFacts, RowSettings};
use super::pack::Packing;
use super::plan::{Longer, PackingKind};
use super::rows::{self, RowsBuilder, TokenRows};
use super::source::{
    Document, DocumentStream, OnBadRow, SourceCount, SourcePlan, content_hash, source_files,
};
use super::store::Store;
use super::templates::Renderer;
use super::tokenizer::Tokenizer;
use super::tokenizer_change::TokenizerChange;
use crate::chat::Learn;
use crate::data::{DataPlan, TokenizerPlan, TrainTokenizer};
use crate::files;
use crate::hashes::Hashes;
use crate::progress::Progress;

/// Part of a tokenizer's key; raised when the same text would give another one (also by another `tokenizers` version).
const VERSION: u32 = 2;

/// Part of the key of rows; raised together with [`VERSION`], and when the same text would give other rows or other bytes.
pub(crate) const ROWS_VERSION: u32 = 5;

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
    /// Files, rows and folders that were skipped; each deserves a warning.
    pub skipped: Vec<String>,
    /// What else deserves a note: choices among several readings, rows that were left out, what is not learnt.
    pub notes: Vec<String>,
    /// What was taken of each source of the training text, if they were mixed.
    pub mixed: Vec<SourceCount>,
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
    /// Key of the training rows.
    train: String,
    /// Key of the validation rows.
    validation: String,
}

impl Prepared {
    /// Rows of a split.
    pub fn rows(&self, split: Split) -> &TokenRows {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        }
    }
}

/// Reads both texts, trains the tokenizer unless it is given, and returns the rows of both splits.
///
/// Rows, and a trained tokenizer, are stored in `cache_dir` under a key of all that decides their content, so a second
/// run neither reads the text nor tokenises it. A trained tokenizer is changed afterwards. `eos` is the token between documents; by default the
/// tokenizer's own ([`Tokenizer::end_of_text`]); `ends` are the model's tokens at which generation stops. Documents are cut only where their
/// parts have the tokens of the whole, and those beyond the limits of a plan are not read.
pub fn prepare(
    plan: &DataPlan,
    given: Option<&Tokenizer>,
    change: &TokenizerChange,
    cache_dir: &Path,
    (eos, ends): (Option<u32>, &[u32]),
    (hashes, stop): (&Hashes, &AtomicBool),
) -> Result<Prepared, DataError> {
    let hash = |split, sources: &[SourcePlan]| {
        content_hash(sources, hashes).map_err(|source| DataError::Source { split, source })
    };
    let train_hash = hash(Split::Train, &plan.train)?;
    let validation_hash = hash(Split::Validation, &plan.validation)?;
    let mut store = Store::open(cache_dir)?;
    let tokenizer = match (given, &plan.tokenizer) {
        (Some(tokenizer), _) => tokenizer.clone(),
        (None, TokenizerPlan::Train(TrainTokenizer { vocab_size })) => {
            train_tokenizer(&mut store, plan, (&train_hash, *vocab_size), stop)?.changed(change)?
        }
        (None, TokenizerPlan::File(_) | TokenizerPlan::Teacher) => {
            return Err(DataError::NoTokenizer);
        }
    };
    let settings = TextSettings {
        settings: RowSettings {
            packing: plan.packing,
            longer: plan.longer,
            ..RowSettings::new(&tokenizer, plan.sequence_length, eos, ends, plan.learn)?
        },
        on_bad_row: plan.on_bad_row,
        stop,
    };
    let mut rows = |split, sources: &[SourcePlan], text_hash: &str, limit| {
        let key = settings.key(text_hash, limit);
        let made = settings.stored(&mut store, split, sources, (&key, limit), hashes)?;
        if hash(split, sources)? != text_hash {
            return Err(DataError::TextChanged { split });
        }
        Ok::<_, DataError>((key, made))
    };
    let (train_key, train) = rows(Split::Train, &plan.train, &train_hash, plan.train_tokens)?;
    let (validation_key, validation) = rows(
        Split::Validation,
        &plan.validation,
        &validation_hash,
        plan.validation_tokens,
    )?;
    let notes = settings.notes(&train.facts, &validation.facts);
    Ok(Prepared {
        end_of_text: settings.settings.end_of_text,
        train: train.rows,
        validation: validation.rows,
        train_hash,
        validation_hash,
        skipped: distinct(train.facts.skipped, validation.facts.skipped),
        notes,
        mixed: train.facts.mixed,
        rebuilt: store.rebuilt,
        stored: StoredRows {
            end_of_text: settings.settings.end_of_text,
            train: train_key,
            validation: validation_key,
        },
        from_cache: store.all_found,
        tokenizer,
    })
}

/// Notes on both texts, which may be alike.
fn distinct(mut notes: Vec<String>, others: Vec<String>) -> Vec<String> {
    for note in others {
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}

/// Rows of a text for an existing tokenizer; nothing is stored on disk. `eos` and `ends` are those of [`prepare`].
pub fn read_rows(
    sources: &[SourcePlan],
    tokenizer: &Tokenizer,
    sequence_length: usize,
    eos: Option<u32>,
    ends: &[u32],
) -> Result<TokenRows, DataError> {
    let settings = TextSettings {
        settings: RowSettings::new(tokenizer, sequence_length, eos, ends, None)?,
        on_bad_row: OnBadRow::Fail,
        stop: &AtomicBool::new(false),
    };
    let rows = RowsBuilder::in_memory(sequence_length, settings.settings.end_of_text);
    let (rows, _) = settings.read(Split::Validation, sources, None, rows)?;
    Ok(rows.into_rows())
}

/// Rows of one text in memory.
pub fn rows_of_text(
    text: &str,
    tokenizer: &Tokenizer,
    sequence_length: usize,
    end_of_text: u32,
) -> Result<TokenRows, DataError> {
    let document = Document::from(text);
    let settings = RowSettings::new(tokenizer, sequence_length, Some(end_of_text), &[], None)?;
    let rows = RowsBuilder::in_memory(sequence_length, end_of_text);
    let (rows, _) = settings.fill(
        Split::Validation,
        &mut iter::once(document),
        None,
        rows,
        &mut |_| true,
    )?;
    RowSettings::check(Split::Validation, &rows, &RowFacts::default())?;
    Ok(rows.into_rows())
}

/// Everything but the documents that decides their rows.
struct TextSettings<'a> {
    settings: RowSettings<'a>,
    on_bad_row: OnBadRow,
    /// Set by the first signal.
    stop: &'a AtomicBool,
}

/// Bytes of a text from which on its progress is told.
const LONG_BYTES: u64 = 32 << 20;

impl TextSettings<'_> {
    /// Key of the rows of a text.
    fn key(&self, text_hash: &str, limit: Option<u64>) -> String {
        let RowSettings {
            tokenizer,
            sequence_length,
            end_of_text,
            ..
        } = self.settings;
        files::hash_json(&RowsKey {
            version: ROWS_VERSION,
            text: text_hash,
            tokenizer: tokenizer.hash(),
            packing: Packing {
                sequence_length,
                beginning_of_text: tokenizer.beginning_of_text(),
                end_of_text,
                limit,
            },
            kind: self.settings.packing,
            longer: self.settings.longer,
            templates: tokenizer.templates(),
            special_tokens: tokenizer.special_token_names(),
            ends: &self.settings.ends,
            learn: self.settings.learn,
            on_bad_row: self.on_bad_row,
        })
    }

    /// Notes on both texts.
    fn notes(&self, train: &RowFacts, validation: &RowFacts) -> Vec<String> {
        let mut notes = distinct(train.notes.clone(), validation.notes.clone());
        notes.extend(self.settings.notes(Split::Train, train));
        notes.extend(self.settings.notes(Split::Validation, validation));
        if train.turns.texts > 0 && self.settings.prints_a_date() {
            notes.push(Renderer::DATE_NOTE.to_owned());
        }
        notes
    }

    /// Reads sources into rows, up to a number of positions.
    fn read(
        &self,
        split: Split,
        sources: &[SourcePlan],
        limit: Option<u64>,
        rows: RowsBuilder,
    ) -> Result<(RowsBuilder, RowFacts), DataError> {
        let mut documents = DocumentStream::open(sources, self.on_bad_row);
        let settings = RowSettings {
            skips_refused: self.on_bad_row == OnBadRow::Skip,
            renderer: OnceCell::new(),
            ends: self.settings.ends.clone(),
            ..self.settings
        };
        let total = bytes_of(sources);
        let label = format!("data, {split}");
        let mut progress = (total > LONG_BYTES).then(|| Progress::of_bytes(&label, total));
        let mut watch = |num_bytes| {
            if let Some(progress) = &mut progress {
                progress.advance(num_bytes);
            }
            !self.stop.load(Ordering::Relaxed)
        };
        let filled = settings.fill(split, &mut documents, limit, rows, &mut watch)?;
        if let Some(progress) = progress {
            progress.finish();
        }
        let (rows, mut facts) = filled;
        let read = documents
            .finish()
            .map_err(|source| DataError::Source { split, source })?;
        facts.add(read);
        RowSettings::check(split, &rows, &facts)?;
        Ok((rows, facts))
    }

    /// Rows of a split, kept in a store under a key.
    fn stored(
        &self,
        store: &mut Store<'_>,
        split: Split,
        sources: &[SourcePlan],
        (key, limit): (&str, Option<u64>),
        hashes: &Hashes,
    ) -> Result<rows::RowsFile<RowFacts>, DataError> {
        let path = rows_path(store.dir(), key);
        match rows::read(&path, key, hashes) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => store.rebuilt.push(path.clone()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        store.all_found = false;
        let RowSettings {
            sequence_length,
            end_of_text,
            ..
        } = self.settings;
        let rows = RowsBuilder::in_folder(sequence_length, end_of_text, store.dir())
            .map_err(|error| files::with_path(error, store.dir()))?;
        let (rows, facts) = self.read(split, sources, limit, rows)?;
        rows::write(&path, key, rows, &facts)?;
        let written = rows::read(&path, key, hashes)?;
        let changed = || files::with_path(io::ErrorKind::InvalidData.into(), &path);
        Ok(written.ok_or_else(changed)?)
    }
}

/// Bytes of all files of sources.
fn bytes_of(sources: &[SourcePlan]) -> u64 {
    let files = source_files(sources).unwrap_or_default(); // what cannot be read is told when it is read
    let sizes = files
        .iter()
        .map(|path| fs::metadata(path).map_or(0, |file| file.len()));
    sizes.sum()
}

fn rows_path(dir: &Path, key: &str) -> PathBuf {
    dir.join(format!("rows-{key}"))
}

fn train_tokenizer(
    store: &mut Store<'_>,
    plan: &DataPlan,
    (text_hash, vocab_size): (&str, usize),
    stop: &AtomicBool,
) -> Result<Tokenizer, DataError> {
    let split = Split::Train;
    let key = files::hash_json(&(VERSION, text_hash, vocab_size));
    let read = |bytes: &[u8]| {
        let path = Path::new("the kept tokenizer");
        Tokenizer::from_bytes(bytes.to_vec(), None, path).ok()
    };
    store.get_or_make("tokenizer", &key, read, || {
        let mut documents = DocumentStream::open(&plan.train, plan.on_bad_row);
        let is_wanted = |_: &Document| !stop.load(Ordering::Relaxed);
        let trained = Tokenizer::train(documents.by_ref().take_while(is_wanted), vocab_size);
        if stop.load(Ordering::Relaxed) {
            return Err(DataError::Stopped { split });
        }
        let read = documents.finish();
        read.map_err(|source| DataError::Source { split, source })?;
        let tokenizer = trained?;
        Ok((tokenizer.bytes().to_vec(), tokenizer))
    })
}

/// Everything that decides the rows of a text.
#[derive(Serialize)]
struct RowsKey<'a> {
    version: u32,
    text: &'a str,
    tokenizer: String,
    #[serde(flatten)]
    packing: Packing,
    kind: Option<PackingKind>,
    longer: Option<Longer>,
    templates: &'a ChatTemplates,
    special_tokens: BTreeMap<String, String>,
    ends: &'a [u32],
    learn: Option<Learn>,
    on_bad_row: OnBadRow,
}

/// Rows that an earlier run has stored in `dir`, without their text, of which `texts` are the hashes; `None` if a file of
/// them is not there, or is damaged.
pub fn prepared_before(
    tokenizer: &Tokenizer,
    dir: &Path,
    stored: &StoredRows,
    texts: &[String; 2],
    hashes: &Hashes,
) -> Result<Option<Prepared>, DataError> {
    RowSettings::check_end_of_text(stored.end_of_text, tokenizer)?;
    let rows = |key: &str| match rows::read::<RowFacts>(&rows_path(dir, key), key, hashes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found,
    };
    let (Some(train), Some(validation)) = (rows(&stored.train)?, rows(&stored.validation)?) else {
        return Ok(None);
    };
    let [train_hash, validation_hash] = texts.clone();
    Ok(Some(Prepared {
        tokenizer: tokenizer.clone(),
        end_of_text: stored.end_of_text,
        train: train.rows,
        validation: validation.rows,
        train_hash,
        validation_hash,
        skipped: Vec::new(),
        notes: Vec::new(),
        mixed: train.facts.mixed,
        rebuilt: Vec::new(),
        stored: stored.clone(),
        from_cache: true,
    }))
}
