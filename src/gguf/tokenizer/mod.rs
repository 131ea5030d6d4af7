//! The tokenizer of a GGUF file, as the `tokenizer.json` that it was converted from.
//!
//! A file holds tokens, their types, merges or scores, and the *name* of the rule that splits text into words. The
//! rule itself, the normalizer and the decoder depend on the model family and are defined here for the known names.
//! A conversion loses some settings: white space that an added token absorbs beside it (`lstrip`, `rstrip`), and
//! whether it must be a separate word (`single_word`). No tokenizer of the supported families uses these.

mod byte_level;
mod ends;
mod sentencepiece;
mod write;

use serde_json::{Map, Value, json};

pub use self::byte_level::QWEN2;
pub use self::ends::Ends;
pub use self::write::{NoGgufForm, TokenizerSource, tokenizer_metadata};

use super::{GgufError, GgufFile};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MODEL: &str = "tokenizer.ggml.model";
const TEMPLATE: &str = "tokenizer.chat_template";
const TEMPLATE_NAMES: &str = "tokenizer.chat_templates";

/// Name of the chat template that is used by default.
pub const DEFAULT_TEMPLATE: &str = "default";

/// Contents of `tokenizer.json` and `tokenizer_config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`, for the tokenizers library.
    pub tokenizer: Value,
    /// `tokenizer_config.json`, for transformers: class, special tokens, chat template.
    pub config: Value,
}

/// Purpose of a token, numbered as in llama.cpp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// Tokens of a file, in order of their ids.
struct FileTokens {
    tokens: Vec<String>,
    kinds: Vec<TokenKind>,
}

/// The parts of a `tokenizer.json` that depend on the kind of tokenizer.
struct TokenizerParts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
    /// True if text begins with the first token unless the file says otherwise.
    adds_bos: bool,
}

/// Rebuilds the tokenizer of a file.
///
/// # Errors
///
/// Unknown kinds of tokenizers and unknown rules are refused by name: a substitute would give other ids, silently.
pub fn tokenizer_files(file: &GgufFile) -> Result<TokenizerFiles, GgufError> {
    let kind = file.text(MODEL)?;
    let kind = file.required(MODEL, kind)?;
    let vocabulary = FileTokens::read(file)?;
    let parts = match kind {
        "gpt2" => byte_level::parts(file, &vocabulary)?,
        "llama" => sentencepiece::parts(file, &vocabulary)?,
        _ => {
            return Err(file.wrong_value(
                MODEL,
                "`gpt2` (byte-level BPE) or `llama` (SentencePiece BPE)",
            ));
        }
    };
    let special = |name: &str| special_token(file, name, &vocabulary);
    let (bos, eos) = (special("bos")?, special("eos")?);
    let adds_bos = file.flag("tokenizer.ggml.add_bos_token")?;
    let adds_bos = bos.filter(|_| adds_bos.unwrap_or(parts.adds_bos));
    let adds_eos = file.flag("tokenizer.ggml.add_eos_token")?;
    let adds_eos = eos.filter(|_| adds_eos.unwrap_or(false));
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added_tokens(),
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": post_processor(adds_bos, adds_eos),
        "decoder": parts.decoder,
        "model": parts.model,
    });
    let mut config = Map::new();
    config.insert(
        "tokenizer_class".to_owned(),
        json!("PreTrainedTokenizerFast"),
    );
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    for (key, name) in [
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("unk_token", "unknown"),
        ("pad_token", "padding"),
    ] {
        if let Some((_, token)) = special(name)? {
            config.insert(key.to_owned(), json!(token));
        }
    }
    if let Some(templates) = chat_templates(file)? {
        config.insert("chat_template".to_owned(), templates);
    }
    Ok(TokenizerFiles {
        tokenizer,
        config: Value::Object(config),
    })
}

impl FileTokens {
    fn read(file: &GgufFile) -> Result<Self, GgufError> {
        let tokens = file.texts(TOKENS)?;
        let tokens = file.required(TOKENS, tokens)?;
        let kinds = file.unsigneds(TOKEN_TYPE)?;
        let kinds = file.required(TOKEN_TYPE, kinds)?;
        if kinds.len() != tokens.len() {
            return Err(file.wrong_value(TOKEN_TYPE, one_per_token(&tokens)));
        }
        let kinds = kinds.into_iter().map(|kind| {
            Some(match kind {
                1 => TokenKind::Normal,
                2 => TokenKind::Unknown,
                3 => TokenKind::Control,
                4 => TokenKind::UserDefined,
                5 => TokenKind::Unused,
                6 => TokenKind::Byte,
                _ => return None,
            })
        });
        let kinds: Option<Vec<_>> = kinds.collect();
        let want = "an array of numbers from 1 to 6";
        let kinds = kinds.ok_or_else(|| file.wrong_value(TOKEN_TYPE, want))?;
        Ok(Self { tokens, kinds })
    }

    /// Ids and tokens that can occur in text or ids: all except the padding up to the size of the embedding.
    fn used(&self) -> impl Iterator<Item = (usize, &str, TokenKind)> {
        let all = self.tokens.iter().zip(&self.kinds).enumerate();
        all.filter(|(id, (token, kind))| {
            **kind != TokenKind::Unused || **token != format!("[PAD{id}]")
        })
        .map(|(id, (token, kind))| (id, token.as_str(), *kind))
    }

    /// Mapping from tokens to ids.
    fn ids(&self, file: &GgufFile) -> Result<Map<String, Value>, GgufError> {
        let mut ids = Map::new();
        for (id, token, _) in self.used() {
            if ids.insert(token.to_owned(), json!(id)).is_some() {
                let want = format!("different texts, but `{token}` occurs twice");
                return Err(file.wrong_value(TOKENS, want));
            }
        }
        Ok(ids)
    }

    /// Tokens that are cut out of text before it is split: control tokens and user-defined ones.
    fn added_tokens(&self) -> Vec<Value> {
        let added = self.used().filter_map(|(id, token, kind)| {
            let special = match kind {
                TokenKind::Control | TokenKind::Unknown => true,
                TokenKind::UserDefined => false,
                TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => return None,
            };
            Some(added_token(id, token, special))
        });
        added.collect()
    }
}

/// Entry of a token among `added_tokens` of `tokenizer.json`, cut out of text as it is written.
pub fn added_token(id: usize, content: &str, special: bool) -> Value {
    json!({
        "id": id,
        "content": content,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": special,
    })
}

/// `chat_template` of `tokenizer_config.json`: only the default, or a list with the named ones.
fn chat_templates(file: &GgufFile) -> Result<Option<Value>, GgufError> {
    let prefix = format!("{TEMPLATE}.");
    let keys = file.metadata().map(|(key, _)| key);
    let named = keys.filter_map(|key| Some((key.strip_prefix(&prefix)?, key)));
    let default = file.text(TEMPLATE)?;
    let entry = |name: &str, template: &str| json!({ "name": name, "template": template });
    let mut list: Vec<Value> = Vec::new();
    for (name, key) in named {
        list.extend(file.text(key)?.map(|template| entry(name, template)));
    }
    if list.is_empty() {
        return Ok(default.map(Value::from));
    }
    list.splice(
        0..0,
        default.map(|template| entry(DEFAULT_TEMPLATE, template)),
    );
    Ok(Some(Value::Array(list)))
}

fn one_per_token(tokens: &[String]) -> String {
    format!("an array of {} values, one per token", tokens.len())
}

/// Id and text of the `bos`, `eos`, `unknown` or `padding` token.
fn special_token<'a>(
    file: &GgufFile,
    name: &str,
    vocabulary: &'a FileTokens,
) -> Result<Option<(u64, &'a str)>, GgufError> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let Some(id) = file.unsigned(&key)? else {
        return Ok(None);
    };
    let token = usize::try_from(id).ok();
    let token = token.and_then(|id| vocabulary.tokens.get(id));
    let Some(token) = token else {
        let want = format!("below {}, the number of tokens", vocabulary.tokens.len());
        return Err(file.wrong_value(&key, want));
    };
    Ok(Some((id, token)))
}

/// Post-processor that adds the first and last token around a text, which transformers runs on request.
fn post_processor(bos: Option<(u64, &str)>, eos: Option<(u64, &str)>) -> Value {
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let sequence = |name: &str, type_id: u8| {
        let special = |(_, token): (u64, &str)| json!({ "SpecialToken": { "id": token, "type_id": type_id } });
        let text = json!({ "Sequence": { "id": name, "type_id": type_id } });
        let parts = bos.map(special).into_iter().chain([text]);
        parts.chain(eos.map(special)).collect::<Vec<_>>()
    };
    let tokens = bos.into_iter().chain(eos).map(|(id, token)| {
        let token = token.to_owned();
        let entry = json!({ "id": token, "ids": [id], "tokens": [token] });
        (token, entry)
    });
    let pair = [sequence("A", 0), sequence("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": pair,
        "special_tokens": tokens.collect::<Map<_, _>>(),
    })
}
