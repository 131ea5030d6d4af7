//! Conversion of text to token ids and back.

use std::collections::BTreeMap;
use std::io;
use std::iter;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use chrono::NaiveDateTime;
use serde_json::{Map, Value};
use thiserror::Error;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, ModelWrapper, NormalizerWrapper, PaddingParams, PostProcessorWrapper,
    TokenizerBuilder, TruncationParams,
};

use super::TextStream;
use super::bounds::{AddedToken as WrittenToken, TokenizerFile};
use super::chat_templates::{ChatTemplates, chat_templates};
use super::cut::Splitting;
use super::encode::TokensSoFar;
use super::source::{Content, Document};
use super::special_tokens::{
    END_OF_TEXT, END_OF_TEXT_NAMES, default_config, end_of_text, round_text,
};
use super::templates::{Renderer, special_tokens};
use crate::chat::TemplateError;
use crate::files;
use crate::gguf::tokenizer::{TokenizerFiles, tokenizer_files};
use crate::gguf::{GgufError, GgufFile, is_gguf};
use crate::panics;
use crate::progress::bytes_text;

pub(super) const TOKENIZER_FILE: &str = "tokenizer.json";

/// Size of the smallest byte-level vocabulary: one token per byte, and end-of-text.
const MIN_VOCAB_SIZE: usize = 257;

/// Bytes of text that are given to the training of a tokenizer at a time.
const TRAINING_PART_BYTES: usize = 64 << 10;

/// Bytes of a word from which on the training of a tokenizer takes it as several.
const MAX_WORD_BYTES: usize = 512;

/// Errors of opening, training or using a tokenizer.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A folder has no `tokenizer.json`.
    #[error("`{}` has no `{TOKENIZER_FILE}`: {}", .dir.display(), instead(.found))]
    Missing {
        /// The folder.
        dir: PathBuf,
        /// Files of a tokenizer of another kind that it has.
        found: Vec<&'static str>,
    },
    /// A GGUF file cannot be read, or its tokenizer is of an unknown kind.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A file's content is not a tokenizer.
    #[error("{}: not a tokenizer: {reason}", .path.display())]
    NotATokenizer {
        /// The file.
        path: PathBuf,
        /// Message of the parser.
        reason: String,
    },
    /// The settings beside a tokenizer are not a JSON object.
    #[error("{}: not the settings of a tokenizer: {reason}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Message of the parser.
        reason: String,
    },
    /// The library gives an added token another id than the file does: its ids would be wrong.
    #[error("{}: added token `{token}` has id {written} in the file, but would be read as {given}", .path.display())]
    AddedTokenId {
        /// The file.
        path: PathBuf,
        /// The token.
        token: String,
        /// Its id in the file.
        written: u32,
        /// The id that the library would give it.
        given: u32,
    },
    /// A byte-level vocabulary cannot be this small.
    #[error(
        "a byte-level vocabulary has at least {MIN_VOCAB_SIZE} tokens, but {vocab_size} were requested"
    )]
    VocabularyTooSmall {
        /// The requested size.
        vocab_size: usize,
    },
    /// A text that has to be tokenised at once, and is too long for the memory that is free.
    #[error(
        "{place}: {} of text have to be tokenised at once, which takes about {} of memory, but {} are free",
        bytes_text(*bytes), bytes_text(*needed), bytes_text(*free)
    )]
    TooLong {
        /// File and line.
        place: String,
        /// Length of the text, or of the part that has no place to cut it.
        bytes: u64,
        /// Bytes of memory for it.
        needed: u64,
        /// Bytes of memory that are free.
        free: u64,
        /// Bytes of the longest text that fits.
        max: u64,
    },
    /// A token that ends turns does not exist.
    #[error("the tokenizer has no token `{token}`")]
    NoSuchToken {
        /// The token.
        token: String,
    },
    /// The library failed.
    #[error("{doing}: {reason}")]
    Library {
        /// The operation that failed.
        doing: &'static str,
        /// The library's message.
        reason: String,
    },
}

/// Files of tokenizers that are not read: of GPT-2's kind, of SentencePiece, and of BERT's.
const OTHER_FILES: [&str; 5] = [
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "vocab.txt",
];

impl TokenizerError {
    /// Error for a folder without `tokenizer.json`.
    pub fn missing(dir: &Path) -> Self {
        let mut found = Vec::from(OTHER_FILES);
        found.retain(|name| dir.join(name).exists());
        let dir = dir.to_path_buf();
        Self::Missing { dir, found }
    }

    /// The edit to make, if it is one to the text.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::TooLong { max, .. } => Some(format!(
                "this tokenizer does not split text into words, or the text has none: divide it into texts of at most {}, \
                 such as one for each paragraph",
                bytes_text(*max)
            )),
            _ => None,
        }
    }
}

/// What to do about a missing `tokenizer.json`.
fn instead(found: &[&str]) -> String {
    if found.is_empty() {
        return "copy it from the model that this one was made of, with the files beside it"
            .to_owned();
    }
    let found: Vec<String> = found.iter().map(|name| format!("`{name}`")).collect();
    format!(
        "it has {}, which alambic does not read; transformers makes the file of them: \
         `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`",
        found.join(" and ")
    )
}

/// Text as tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizedText {
    /// Token ids, without added special tokens.
    pub ids: Vec<u32>,
    /// Bytes of text that each token covers; they sum to the length of the text.
    ///
    /// A token covers the text from the furthest end before it to its own end. So white space that a normalizer
    /// drops is counted for the next token (or the last), and a character that is split over tokens for the first
    /// of them.
    pub num_bytes: Vec<u32>,
}

/// Conversion of text to token ids and back, defined by a `tokenizer.json` or a GGUF file.
///
/// Three settings in such files are ignored, because they would make rows that are not the text:
/// truncation, padding, and BPE dropout (which is random). Special tokens are never added, but special
/// tokens that are written in the text are recognised, as in `transformers`.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bytes: Vec<u8>,
    config: Vec<u8>,
    templates: ChatTemplates,
    vocab_size: usize,
    beginning_of_text: Option<u32>,
    after_text: Option<u32>,
    end_of_text: Option<u32>,
    pub(super) num_without_row: usize,
    /// Tokens that the last change added, behind all others.
    pub(super) num_new: usize,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, and the `tokenizer_config.json` beside it if there is one; or the tokenizer in a
    /// `.gguf` file.
    pub fn open(path: &Path) -> Result<Self, TokenizerError> {
        if is_gguf(path) {
            return Self::of_gguf(&GgufFile::open(path)?);
        }
        let is_in_a_folder = path.file_name().is_some_and(|name| name == TOKENIZER_FILE)
            && files::parent(path).is_dir();
        if is_in_a_folder && !path.exists() {
            return Err(TokenizerError::missing(files::parent(path)));
        }
        let read = |path: &Path| files::read(path).map_err(|error| files::with_path(error, path));
        let config_path = path.with_file_name("tokenizer_config.json");
        let config = config_path
            .exists()
            .then(|| read(&config_path))
            .transpose()?;
        if let Some(config) = &config {
            let parsed = serde_json::from_slice::<Map<String, Value>>(config);
            parsed.map_err(|error| TokenizerError::Config {
                path: config_path,
                reason: error.to_string(),
            })?;
        }
        let parsed = config.as_deref().map(parsed_config).unwrap_or_default();
        let templates = chat_templates(&parsed, Some(files::parent(path)))?;
        let tokenizer = Self::from_bytes(read(path)?, config, path)?;
        Ok(Self {
            templates,
            ..tokenizer
        })
    }

    /// Reads the tokenizer of an open GGUF file.
    pub fn of_gguf(file: &GgufFile) -> Result<Self, TokenizerError> {
        let TokenizerFiles { tokenizer, config } = tokenizer_files(file)?;
        let bytes = tokenizer.to_string().into_bytes();
        Self::from_bytes(bytes, Some(config.to_string().into_bytes()), file.path())
    }

    /// Trains a byte-level BPE with GPT-2's split into words and `<|endoftext|>` as token 0.
    ///
    /// A word of more than 512 bytes, as in a text without spaces, is taken as several: time grows with its square.
    /// The vocabulary is smaller than requested if the text runs out of pairs that occur twice. The same texts give
    /// the same bytes, for any number of threads.
    pub fn train(
        documents: impl Iterator<Item = Document> + Send,
        vocab_size: usize,
    ) -> Result<Self, TokenizerError> {
        if vocab_size < MIN_VOCAB_SIZE {
            return Err(TokenizerError::VocabularyTooSmall { vocab_size });
        }
        let byte_level = ByteLevel::new(false, false, true);
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .min_frequency(2)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .build();
        let json = guard("training a tokenizer", || {
            TokenizerBuilder::<_, NormalizerWrapper, _, _, _>::new()
                .with_model(BPE::default())
                .with_pre_tokenizer(Some(byte_level))
                .with_post_processor(Some(byte_level))
                .with_decoder(Some(byte_level))
                .build()?
                .train(&mut trainer, documents.flat_map(training_parts))?
                .to_string(false)
        })?;
        Self::from_bytes(json.into_bytes(), None, Path::new("the trained tokenizer"))
    }

    /// Builds a tokenizer from the bytes of its `tokenizer.json` and `tokenizer_config.json`; `path` is for messages.
    pub(super) fn from_bytes(
        bytes: Vec<u8>,
        config: Option<Vec<u8>>,
        path: &Path,
    ) -> Result<Self, TokenizerError> {
        let not_a_tokenizer = |reason: String| TokenizerError::NotATokenizer {
            path: path.to_path_buf(),
            reason,
        };
        let file = TokenizerFile::parse(&bytes, path)?;
        file.check(path)?;
        let mut round = [None; 2];
        let inner = guard("", || {
            let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)?;
            round = round_text(&inner, config.as_deref())?;
            inner.with_truncation(None::<TruncationParams>)?;
            inner.with_padding(None::<PaddingParams>);
            // It adds special tokens, which are unwanted, and trims offsets, which would misplace bytes.
            inner.with_post_processor(None::<PostProcessorWrapper>);
            if let ModelWrapper::BPE(bpe) = inner.get_model()
                && bpe.dropout.is_some()
            {
                let mut bpe = bpe.clone();
                bpe.dropout = None;
                inner.with_model(bpe);
            }
            Ok(inner)
        })
        .map_err(|error| match error {
            TokenizerError::Library { reason, .. } => not_a_tokenizer(reason),
            other => other,
        })?;
        check_added_tokens(&inner, file.added_tokens, path)?;
        let largest_id = inner.get_vocab(true).into_values().max();
        let largest_id = largest_id.ok_or_else(|| not_a_tokenizer("it has no tokens".into()))?;
        let end_of_text = end_of_text(&inner);
        let [beginning_of_text, after_text] = round;
        let parsed = config.as_deref().map(parsed_config).unwrap_or_default();
        Ok(Self {
            config: config.unwrap_or_else(|| default_config(&inner, end_of_text)),
            templates: chat_templates(&parsed, None)?,
            inner,
            bytes,
            vocab_size: largest_id as usize + 1,
            beginning_of_text,
            after_text,
            end_of_text,
            num_without_row: 0,
            num_new: 0,
        })
    }

    /// Token ids of a text; no special tokens are added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = guard("encoding text", || self.inner.encode_fast(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of a text, each with the bytes that it covers.
    pub fn encode_with_bytes(&self, text: &str) -> Result<TokenizedText, TokenizerError> {
        let mut encoded = TokensSoFar::default();
        self.encode_part(text, 0..text.len(), &mut encoded)?;
        Ok(encoded.finish(text.len()))
    }

    /// Adds the tokens of a part of a text to those of the parts before it.
    pub(super) fn encode_part(
        &self,
        text: &str,
        part: Range<usize>,
        encoded: &mut TokensSoFar,
    ) -> Result<(), TokenizerError> {
        let (start, end) = (part.start, part.end);
        let encoding = guard("encoding text", || self.inner.encode(&text[part], false))?;
        for (id, (_, token_end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            encoded.push(*id, (start + token_end).min(end));
        }
        Ok(())
    }

    /// The library's tokenizer, with the settings that rows are made with.
    pub(super) fn library(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// Text of token ids; special tokens and unknown ids are left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        guard("decoding tokens", || self.inner.decode(ids, true))
    }

    /// Decodes ids one by one, as they arrive.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// One more than the largest token id: the number of rows that an embedding needs.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Token that belongs before every text (`<bos>` of Llama and Gemma); `None` if this tokenizer adds none.
    pub fn beginning_of_text(&self) -> Option<u32> {
        self.beginning_of_text
    }

    /// Token that this tokenizer adds after every text, if any; rows do not contain it.
    pub fn after_text(&self) -> Option<u32> {
        self.after_text
    }

    /// Token that ends a document, found by its usual names.
    pub fn end_of_text(&self) -> Option<u32> {
        self.end_of_text
    }

    /// Names that [`Tokenizer::end_of_text`] looks for, in order.
    pub fn end_of_text_names() -> &'static [&'static str] {
        &END_OF_TEXT_NAMES
    }

    /// Token with this id; `None` if there is none.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Id of a token, written as the vocabulary has it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// True if the id is a special token, which is not text.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        let token = added.get_added_tokens_decoder().get(&id);
        token.is_some_and(|token| token.special)
    }

    /// Kind of the tokenizer's model, and whether it works on bytes.
    pub fn kind(&self) -> &'static str {
        let is_byte_level = self.inner.token_to_id("Ġ").is_some();
        match self.inner.get_model() {
            ModelWrapper::BPE(_) if is_byte_level => "byte-level BPE",
            ModelWrapper::BPE(_) => "BPE",
            ModelWrapper::Unigram(_) => "Unigram",
            ModelWrapper::WordPiece(_) => "WordPiece",
            ModelWrapper::WordLevel(_) => "WordLevel",
        }
    }

    /// Special tokens, ascending.
    pub fn special_tokens(&self) -> Vec<u32> {
        let added = self.inner.get_added_vocabulary();
        let tokens = added.get_added_tokens_decoder().iter();
        let special = tokens.filter(|(_, token)| token.special);
        let mut ids: Vec<u32> = special.map(|(&id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// Chat templates, by name; the default comes first.
    pub fn templates(&self) -> &ChatTemplates {
        &self.templates
    }

    pub(super) fn set_templates(&mut self, templates: ChatTemplates) {
        self.templates = templates;
    }

    /// The chat template, ready to render; `None` if the tokenizer has none.
    pub fn renderer(&self) -> Result<Option<Renderer>, TemplateError> {
        Renderer::new(&self.templates, &parsed_config(&self.config), None)
    }

    /// Same as [`Tokenizer::renderer`], for a template that prints the time.
    pub fn renderer_at(&self, now: NaiveDateTime) -> Result<Option<Renderer>, TemplateError> {
        Renderer::new(&self.templates, &parsed_config(&self.config), Some(now))
    }

    /// Special tokens by their names, as templates see them.
    pub(super) fn special_token_names(&self) -> BTreeMap<String, String> {
        special_tokens(&parsed_config(&self.config))
    }

    /// The `eos_token` of `tokenizer_config.json`.
    pub fn eos_token(&self) -> Option<u32> {
        let names = self.special_token_names();
        self.id(names.get("eos_token")?)
    }

    /// Tokens that end a turn of a model with these `eos_token_id`s: them, and the tokenizer's own `eos_token`. Ascending.
    pub fn ends(&self, of_model: &[u32]) -> Vec<u32> {
        let mut ends: Vec<u32> = of_model.iter().copied().chain(self.eos_token()).collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    /// BLAKE3 (hex) of the bytes of `tokenizer.json`.
    pub fn hash(&self) -> String {
        blake3::hash(&self.bytes).to_hex().to_string()
    }

    /// Bytes of `tokenizer.json`, as read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Names and bytes of `tokenizer.json` and `tokenizer_config.json`, as read.
    pub fn files(&self) -> [(&'static str, &[u8]); 2] {
        [
            (TOKENIZER_FILE, &self.bytes),
            ("tokenizer_config.json", &self.config),
        ]
    }

    /// Writes [`Tokenizer::files`] into a folder.
    pub fn save(&self, dir: &Path) -> Result<(), TokenizerError> {
        for (name, bytes) in self.files() {
            files::write_atomically(&dir.join(name), |out| out.write_all(bytes))?;
        }
        Ok(())
    }
}

/// Contents of `tokenizer_config.json`; null if it is no JSON, which is refused where the file is opened.
fn parsed_config(config: &[u8]) -> Value {
    serde_json::from_slice(config).unwrap_or_default()
}

/// Parts of a text, cut between words, and inside of those that are too long to be one. What is no text has none.
///
/// A file that cannot be read on has no more of them: whoever reads the text again tells why.
fn training_parts(document: Document) -> Box<dyn Iterator<Item = String> + Send> {
    static GPT_2: LazyLock<Splitting> = LazyLock::new(Splitting::of_gpt_2);
    let splitting = &*GPT_2;
    match document.content {
        Content::Text(text) => {
            let ranges = splitting.begun(&text, TRAINING_PART_BYTES, true);
            Box::new(words_of(splitting, &text, ranges).into_iter())
        }
        Content::File(file) => {
            let Ok(mut reader) = file.open() else {
                return Box::new(iter::empty());
            };
            let (mut text, mut is_end) = (String::new(), false);
            let windows = iter::from_fn(move || {
                let mut wanted = 64 * TRAINING_PART_BYTES;
                loop {
                    while !is_end && text.len() < wanted {
                        is_end = !reader.read(&mut text).unwrap_or(false);
                    }
                    let ranges = splitting.begun(&text, TRAINING_PART_BYTES, is_end);
                    let Some(end) = ranges.last().map(|last| last.end) else {
                        if is_end {
                            return None;
                        }
                        wanted = 2 * text.len();
                        continue;
                    };
                    let parts = words_of(splitting, &text, ranges);
                    text.drain(..end);
                    return Some(parts);
                }
            });
            Box::new(windows.flatten())
        }
        Content::Chat(_) | Content::Completion { .. } => Box::new(iter::empty()),
    }
}

fn words_of(splitting: &Splitting, text: &str, ranges: Vec<Range<usize>>) -> Vec<String> {
    let mut parts = Vec::new();
    for range in ranges {
        splitting.add_words(&text[range], MAX_WORD_BYTES, &mut parts);
    }
    parts.into_iter().map(str::to_owned).collect()
}

/// Runs the library and catches its panics, of which it has several for files that contradict themselves.
pub(super) fn guard<T>(
    doing: &'static str,
    run: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, TokenizerError> {
    let reason = match panics::caught(run) {
        Some(Ok(value)) => return Ok(value),
        Some(Err(error)) => error.to_string(),
        None => "the tokenizers library panicked on it".to_owned(),
    };
    Err(TokenizerError::Library { doing, reason })
}

/// Checks the ids of added tokens: the library renumbers them and only warns if the file has others.
fn check_added_tokens(
    inner: &tokenizers::Tokenizer,
    written: Vec<WrittenToken>,
    path: &Path,
) -> Result<(), TokenizerError> {
    for added in written {
        if let Some(given) = inner.token_to_id(&added.content)
            && given != added.id
        {
            return Err(TokenizerError::AddedTokenId {
                path: path.to_path_buf(),
                token: added.content,
                written: added.id,
                given,
            });
        }
    }
    Ok(())
}
