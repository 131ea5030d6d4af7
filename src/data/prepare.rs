//! The data stage: turns text and tokenizer into the token rows of both splits.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::chat_templates::ChatTemplates;
use super::conversations::{TurnCounts, Turning};
use super::encode::Encoder;
use super::error::{DataError, Split};
use super::pack::{Packing, pack};
use super::rows::{ConversationRow, TokenRows};
use super::source::{
    BadRows, Content, Document, OnBadRow, SkipReason, Skipped, SourcePlan, read_documents,
};
use super::store::Store;
use super::templates::Renderer;
use super::tokenizer::Tokenizer;
use super::tokenizer_change::TokenizerChange;
use crate::chat::{Conversation, Learn, TemplateError};
use crate::data::{DataPlan, TokenizerPlan, TrainTokenizer};
use crate::files;

/// Part of a tokenizer's key; raised when the same text would give another one (also by another `tokenizers` version).
const VERSION: u32 = 2;

/// Part of the key of rows; raised together with [`VERSION`], and when the byte format of rows changes.
const ROWS_VERSION: u32 = 4;

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
    /// What else deserves a note: choices among several readings, rows that were left out, what is not learnt.
    pub notes: Vec<String>,
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
/// run neither trains nor tokenises. A trained tokenizer is changed afterwards. `eos` is the token between documents; by default the tokenizer's own
/// ([`Tokenizer::end_of_text`]); `ends` are the model's tokens at which generation stops. Documents are cut only where their
/// parts have the tokens of the whole, and those beyond the limits of a plan are not tokenised.
pub fn prepare(
    plan: &DataPlan,
    given: Option<&Tokenizer>,
    change: &TokenizerChange,
    cache_dir: &Path,
    eos: Option<u32>,
    ends: &[u32],
) -> Result<Prepared, DataError> {
    let read = |split, sources: &[SourcePlan]| {
        read_documents(sources, plan.on_bad_row)
            .map_err(|source| DataError::Source { split, source })
    };
    let train = read(Split::Train, &plan.train)?;
    let validation = read(Split::Validation, &plan.validation)?;

    let mut store = Store::open(cache_dir)?;
    let tokenizer = match (given, &plan.tokenizer) {
        (Some(tokenizer), _) => tokenizer.clone(),
        (None, TokenizerPlan::Train(TrainTokenizer { vocab_size })) => {
            train_tokenizer(&mut store, &train.documents, *vocab_size)?.changed(change)?
        }
        (None, TokenizerPlan::File(_) | TokenizerPlan::Teacher) => {
            return Err(DataError::NoTokenizer);
        }
    };
    let settings = RowSettings {
        on_bad_row: plan.on_bad_row,
        ..RowSettings::new(&tokenizer, plan.sequence_length, eos, ends, plan.learn)?
    };
    let (train_hash, validation_hash) = (train.content_hash, validation.content_hash);
    let mut skipped: Vec<_> = [train.skipped, validation.skipped].concat();
    let mut notes = distinct(train.notes, validation.notes);
    let bad_rows = [train.bad_rows, validation.bad_rows];
    let bad_rows = bad_rows.iter().filter(|bad| bad.num_rows > 0);
    notes.extend(bad_rows.map(BadRows::to_string));
    let mut rows = |split, documents: &[Document], limit| {
        let made = settings.stored(&mut store, split, documents, limit)?;
        skipped.extend(made.too_short);
        notes.extend(made.turns.notes(split));
        Ok::<_, DataError>((made.file, made.rows, made.turns))
    };
    let (train_file, train, turns) = rows(Split::Train, &train.documents, plan.train_tokens)?;
    let (validation_file, validation, _) = rows(
        Split::Validation,
        &validation.documents,
        plan.validation_tokens,
    )?;
    if turns.rows > 0 && settings.prints_a_date() {
        notes.push(Renderer::DATE_NOTE.to_owned());
    }
    Ok(Prepared {
        end_of_text: settings.end_of_text,
        train,
        validation,
        train_hash,
        validation_hash,
        skipped,
        notes,
        rebuilt: store.rebuilt,
        stored: StoredRows {
            end_of_text: settings.end_of_text,
            train: train_file,
            validation: validation_file,
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
    let split = Split::Validation;
    let documents = read_documents(sources, OnBadRow::Fail)
        .map_err(|source| DataError::Source { split, source })?
        .documents;
    let settings = RowSettings::new(tokenizer, sequence_length, eos, ends, None)?;
    Ok(settings.make(split, &documents, None)?.rows)
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
    let settings = RowSettings::new(tokenizer, sequence_length, Some(end_of_text), &[], None)?;
    Ok(settings.make(Split::Validation, &[document], None)?.rows)
}

/// Everything but the documents that decides their rows.
struct RowSettings<'a> {
    tokenizer: &'a Tokenizer,
    sequence_length: usize,
    end_of_text: u32,
    /// Tokens that end a turn.
    ends: Vec<u32>,
    learn: Option<Learn>,
    on_bad_row: OnBadRow,
    /// The chat template, which matters only if there are conversations.
    renderer: OnceCell<Result<Option<Renderer>, TemplateError>>,
}

/// Rows of documents, and what became of these.
struct MadeRows {
    rows: TokenRows,
    turns: TurnCounts,
    /// One entry for each document: 1 if the tokenizer gives no tokens for it.
    is_empty: Vec<u8>,
}

/// Rows that are stored.
struct Stored {
    file: RowsFile,
    rows: TokenRows,
    turns: TurnCounts,
    /// Documents that gave no tokens.
    too_short: Vec<Skipped>,
}

impl<'a> RowSettings<'a> {
    fn new(
        tokenizer: &'a Tokenizer,
        sequence_length: usize,
        eos: Option<u32>,
        ends: &[u32],
        learn: Option<Learn>,
    ) -> Result<Self, DataError> {
        let end_of_text = eos
            .or(tokenizer.end_of_text())
            .ok_or(DataError::NoEndOfText)?;
        check_end_of_text(end_of_text, tokenizer)?;
        Ok(Self {
            tokenizer,
            sequence_length,
            end_of_text,
            ends: tokenizer.ends(ends),
            learn,
            on_bad_row: OnBadRow::Fail,
            renderer: OnceCell::new(),
        })
    }

    /// The chat template, compiled when it is first asked for: prose needs none.
    fn renderer(&self) -> &Result<Option<Renderer>, TemplateError> {
        self.renderer.get_or_init(|| self.tokenizer.renderer())
    }

    fn prints_a_date(&self) -> bool {
        let renderer = self.renderer().as_ref().ok().and_then(Option::as_ref);
        renderer.is_some_and(Renderer::prints_a_date)
    }

    /// Rows of documents that are no plain text, up to a number of positions.
    fn turns(
        &self,
        documents: &[&Document],
        encoder: &Encoder<'_>,
        limit: Option<u64>,
    ) -> Result<(Vec<ConversationRow>, TurnCounts), DataError> {
        let is_chat = |document: &&&Document| matches!(document.content, Content::Chat(_));
        let renderer = match (self.renderer(), documents.iter().find(is_chat)) {
            (Ok(renderer), _) => renderer.as_ref(),
            (Err(_), None) => None,
            (Err(error), Some(_)) => return Err(DataError::BadTemplate(error.clone())),
        };
        let turning = Turning {
            renderer,
            learn: self.learn,
            ends: &self.ends,
            sequence_length: self.sequence_length,
            beginning_of_text: self.tokenizer.beginning_of_text(),
            end_of_turn: self.tokenizer.eos_token().unwrap_or(self.end_of_text),
            skips_refused: self.on_bad_row == OnBadRow::Skip,
        };
        turning.rows(documents, encoder, limit)
    }

    fn make(
        &self,
        split: Split,
        documents: &[Document],
        limit: Option<u64>,
    ) -> Result<MadeRows, DataError> {
        let encoder = Encoder::new(self.tokenizer);
        let is_text = |document: &&Document| document.text().is_some();
        let (texts, others): (Vec<&Document>, Vec<&Document>) = documents.iter().partition(is_text);
        let encoded = encoder.encode(&texts, limit)?;
        let mut flags = encoded.iter().map(|text| u8::from(text.ids.is_empty()));
        // Documents beyond the limit were not looked at.
        let flag = |document| {
            if is_text(&document) {
                flags.next().unwrap_or(0)
            } else {
                0
            }
        };
        let is_empty = documents.iter().map(flag).collect();
        let packing = Packing {
            sequence_length: self.sequence_length,
            beginning_of_text: self.tokenizer.beginning_of_text(),
            end_of_text: self.end_of_text,
            limit,
        };
        let mut rows = pack(&encoded, packing);
        let left = limit.map(|limit| limit.saturating_sub(rows.num_positions()));
        let mut turns = TurnCounts::default();
        if !others.is_empty() && left != Some(0) {
            let (of_turns, counts) = self.turns(&others, &encoder, left)?;
            turns = counts;
            for row in of_turns {
                rows.push_conversation(row, self.end_of_text);
            }
        }
        if rows.num_rows() == 0 {
            return Err(if turns.conversations == 0 {
                DataError::NoTokens { split }
            } else {
                let why = turns.why_nothing();
                DataError::NothingLearnt { split, why }
            });
        }
        Ok(MadeRows {
            rows,
            turns,
            is_empty,
        })
    }

    /// Rows of a split, kept in a store.
    fn stored(
        &self,
        store: &mut Store<'_>,
        split: Split,
        documents: &[Document],
        limit: Option<u64>,
    ) -> Result<Stored, DataError> {
        let all_text = documents.iter().all(|document| document.text().is_some());
        let turning = || TurningKey {
            templates: self.tokenizer.templates(),
            special_tokens: self.tokenizer.special_token_names(),
            ends: &self.ends,
            learn: self.learn,
            on_bad_row: self.on_bad_row,
        };
        let key = files::hash_json(&RowsKey {
            version: ROWS_VERSION,
            texts: hash_documents(documents),
            tokenizer: self.tokenizer.hash(),
            packing: Packing {
                sequence_length: self.sequence_length,
                beginning_of_text: self.tokenizer.beginning_of_text(),
                end_of_text: self.end_of_text,
                limit,
            },
            turning: (!all_text).then(turning),
        });
        let num_documents = documents.len();
        let made = store.get_or_make(
            "rows",
            &key,
            |bytes| MadeRows::read(bytes, num_documents),
            || {
                let made = self.make(split, documents, limit)?;
                Ok::<_, DataError>((made.write()?, made))
            },
        )?;
        let too_short = documents
            .iter()
            .zip(made.is_empty)
            .filter(|(_, empty)| *empty == 1);
        let too_short = too_short.map(|(document, _)| Skipped {
            path: document.path.to_path_buf(),
            row: document.row,
            reason: SkipReason::NoTokens,
        });
        Ok(Stored {
            file: RowsFile { key, num_documents },
            rows: made.rows,
            turns: made.turns,
            too_short: too_short.collect(),
        })
    }
}

impl MadeRows {
    /// Counts as a line of JSON, one flag for each document, then the rows: warnings must not depend on what is stored.
    fn write(&self) -> io::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(&self.turns)?;
        bytes.push(b'\n');
        bytes.extend(&self.is_empty);
        bytes.extend(self.rows.to_bytes());
        Ok(bytes)
    }

    fn read(bytes: &[u8], num_documents: usize) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let turns = serde_json::from_slice(&bytes[..end]).ok()?;
        let (is_empty, rows) = bytes[end + 1..].split_at_checked(num_documents)?;
        Some(Self {
            rows: TokenRows::from_bytes(rows)?,
            turns,
            is_empty: is_empty.to_vec(),
        })
    }
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

fn train_tokenizer(
    store: &mut Store<'_>,
    documents: &[Document],
    vocab_size: usize,
) -> Result<Tokenizer, DataError> {
    let key = files::hash_json(&(VERSION, hash_documents(documents), vocab_size));
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
struct RowsKey<'a> {
    version: u32,
    texts: String,
    tokenizer: String,
    #[serde(flatten)]
    packing: Packing,
    /// `None` if all documents are texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    turning: Option<TurningKey<'a>>,
}

/// Everything that decides what is learnt of conversations.
#[derive(Serialize)]
struct TurningKey<'a> {
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
) -> Result<Option<Prepared>, DataError> {
    check_end_of_text(stored.end_of_text, tokenizer)?;
    let store = Store::open(dir)?;
    let rows = |file: &RowsFile| {
        let read = |bytes: &[u8]| MadeRows::read(bytes, file.num_documents);
        store.get("rows", &file.key, read)
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
        rebuilt: Vec::new(),
        stored: stored.clone(),
        from_cache: true,
    }))
}

/// BLAKE3 (hex) over the documents with their lengths, independent of their paths.
fn hash_documents(documents: &[Document]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |kind: &[u8], text: &str| {
        hasher.update(kind);
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    for document in documents {
        match &document.content {
            Content::Text(text) => add(b"t", text),
            Content::Completion { prompt, completion } => {
                add(b"p", prompt);
                add(b"c", completion);
            }
            Content::Chat(Conversation {
                messages,
                tools,
                variables,
                num_prompt,
                unlearnt,
            }) => {
                add(
                    b"m",
                    &json!([messages, tools, variables, num_prompt, unlearnt]).to_string(),
                );
            }
        }
    }
    hasher.finalize().to_hex().to_string()
}
