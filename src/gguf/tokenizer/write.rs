//! Metadata for a tokenizer: the inverse of [`super::tokenizer_files`].

use std::collections::HashMap;

use serde_json::Value;
use thiserror::Error;

use super::super::NewValue;
use super::ends::Ends;
use super::{
    DEFAULT_TEMPLATE, MODEL, TEMPLATE, TEMPLATE_NAMES, TOKEN_TYPE, TOKENS, TokenKind, byte_level,
    sentencepiece,
};

/// Reason why a tokenizer cannot be written to a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("this tokenizer cannot be written to a GGUF file: {fact}")]
pub struct NoGgufForm {
    /// Property of the tokenizer that llama.cpp's tokenizers lack.
    pub fact: String,
}

/// A tokenizer and the model's settings for its tokens.
#[derive(Debug, Clone, Copy)]
pub struct TokenizerSource<'a> {
    /// Contents of `tokenizer.json`.
    pub tokenizer: &'a Value,
    /// Rows of the embedding; tokens are padded to this number.
    pub num_rows: usize,
    /// First token of a text, whether or not it is added.
    pub bos: Option<u32>,
    /// True if it is added.
    pub adds_bos: bool,
    /// True if the first of `eos` is added after each text.
    pub adds_eos: bool,
    /// Tokens that end a text, likeliest first.
    pub eos: &'a [u32],
    /// Padding token of batches.
    pub padding: Option<u32>,
    /// Jinja templates of a chat by name; one of them is `default`.
    pub chat_templates: &'a [(String, String)],
}

/// Keys and values of a tokenizer.
///
/// # Errors
///
/// A model other than BPE, a splitting rule that llama.cpp has no name for, or more tokens than rows. The caller
/// should read the tokenizer back and compare ids: a file holds less than a `tokenizer.json`.
pub fn tokenizer_metadata(
    source: TokenizerSource<'_>,
) -> Result<Vec<(String, NewValue)>, NoGgufForm> {
    let refuse = |fact: String| NoGgufForm { fact };
    let json = source.tokenizer;
    let model = &json["model"];
    let kind = model["type"].as_str().unwrap_or_default();
    if kind != "BPE" {
        return Err(refuse(format!("its model is `{kind}`, not `BPE`")));
    }
    let merges =
        merges(model).ok_or_else(|| refuse("its merges are not pairs of tokens".to_owned()))?;
    // transformers writes `byte_fallback` also for byte-level tokenizers that it has read from a GGUF file.
    let is_sentencepiece = model["byte_fallback"] == true && byte_level::name_of(json).is_none();
    let (tokens, kinds) = vocabulary(json, source.num_rows, is_sentencepiece)?;

    let mut metadata = if is_sentencepiece {
        sentencepiece_keys(json, &tokens, &merges)
    } else {
        byte_level_keys(json, &merges)?
    };
    let kinds = kinds.into_iter().map(TokenKind::number).collect();
    let special = special_keys(source, &tokens);
    metadata.push((TOKENS.to_owned(), NewValue::Texts(tokens)));
    metadata.push((TOKEN_TYPE.to_owned(), NewValue::I32s(kinds)));
    metadata.extend(special);
    metadata.extend(template_keys(source.chat_templates));
    Ok(metadata)
}

fn sentencepiece_keys(
    json: &Value,
    tokens: &[String],
    merges: &[[String; 2]],
) -> Vec<(String, NewValue)> {
    let unknown = json.pointer("/model/unk_token").and_then(Value::as_str);
    let unknown = tokens
        .iter()
        .position(|token| Some(token.as_str()) == unknown);
    let unknown = unknown.and_then(|id| u32::try_from(id).ok());
    let keys = [
        (MODEL, Some(NewValue::Text("llama".to_owned()))),
        (
            sentencepiece::SCORES,
            Some(NewValue::F32s(sentencepiece::scores(tokens, merges))),
        ),
        (
            "tokenizer.ggml.add_space_prefix",
            Some(NewValue::Bool(sentencepiece::adds_space(json))),
        ),
        (sentencepiece::UNKNOWN, unknown.map(NewValue::U32)),
    ];
    let keys = keys.into_iter();
    keys.filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
}

fn byte_level_keys(
    json: &Value,
    merges: &[[String; 2]],
) -> Result<Vec<(String, NewValue)>, NoGgufForm> {
    let rule = byte_level::name_of(json).ok_or_else(|| NoGgufForm {
        fact: format!(
            "llama.cpp has no name for its text splitting rule (known: `{}`)",
            byte_level::names().join("`, `")
        ),
    })?;
    let pairs = merges.iter().map(|[left, right]| format!("{left} {right}"));
    let keys = [
        (MODEL, NewValue::Text("gpt2".to_owned())),
        (byte_level::PRE, NewValue::Text(rule.to_owned())),
        (byte_level::MERGES, NewValue::Texts(pairs.collect())),
    ];
    Ok(keys.map(|(key, value)| (key.to_owned(), value)).into())
}

/// The model's settings for its tokens.
fn special_keys(source: TokenizerSource<'_>, tokens: &[String]) -> Vec<(String, NewValue)> {
    let token = |id: u32| tokens.get(id as usize).map(String::as_str);
    let ends = Ends::of(source.eos, token);
    let named = [
        ("bos", source.bos),
        ("eos", ends.eos),
        ("eot", ends.eot),
        ("eom", ends.eom),
        ("padding", source.padding),
    ];
    let mut keys: Vec<(String, NewValue)> = named
        .into_iter()
        .filter_map(|(name, id)| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            Some((key, NewValue::U32(id?)))
        })
        .collect();
    let adds_bos = NewValue::Bool(source.adds_bos);
    keys.push(("tokenizer.ggml.add_bos_token".to_owned(), adds_bos));
    if source.adds_eos {
        let key = "tokenizer.ggml.add_eos_token".to_owned();
        keys.push((key, NewValue::Bool(true)));
    }
    keys
}

/// Templates, each under its name; llama.cpp's converter keeps only letters and digits of names.
fn template_keys(templates: &[(String, String)]) -> Vec<(String, NewValue)> {
    let mut keys = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for (name, template) in templates {
        let template = NewValue::Text(template.clone());
        if name == DEFAULT_TEMPLATE {
            keys.push((TEMPLATE.to_owned(), template));
            continue;
        }
        let is_kept = |letter: char| letter.is_ascii_alphanumeric();
        let mut name = name.replace(|letter| !is_kept(letter), "_");
        while names.contains(&name) {
            name.push('_');
        }
        keys.push((format!("{TEMPLATE}.{name}"), template));
        names.push(name);
    }
    if !names.is_empty() {
        keys.push((TEMPLATE_NAMES.to_owned(), NewValue::Texts(names)));
    }
    keys
}

impl TokenKind {
    fn number(self) -> i32 {
        match self {
            Self::Normal => 1,
            Self::Unknown => 2,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Unused => 5,
            Self::Byte => 6,
        }
    }
}

/// Pairs of tokens, in the order of merging; `tokenizer.json` writes them as lists or separated by a space.
fn merges(model: &Value) -> Option<Vec<[String; 2]>> {
    let merges = model.get("merges")?.as_array()?;
    let pair = |merge: &Value| match merge {
        Value::String(merge) => {
            let (left, right) = merge.split_once(' ')?;
            Some([left.to_owned(), right.to_owned()])
        }
        Value::Array(pair) => match pair.as_slice() {
            [left, right] => Some([left.as_str()?.to_owned(), right.as_str()?.to_owned()]),
            _ => None,
        },
        _ => None,
    };
    merges.iter().map(pair).collect()
}

/// Tokens by id with their purpose, padded to the rows of the embedding.
fn vocabulary(
    json: &Value,
    num_rows: usize,
    is_sentencepiece: bool,
) -> Result<(Vec<String>, Vec<TokenKind>), NoGgufForm> {
    let filling = |id: usize| (format!("[PAD{id}]"), TokenKind::Unused);
    let (mut tokens, mut kinds): (Vec<_>, Vec<_>) = (0..num_rows).map(filling).unzip();
    let unknown = json.pointer("/model/unk_token").and_then(Value::as_str);
    let mut put = |id: &Value, token: &str, kind: TokenKind| {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
        let place = id.and_then(|id| tokens.get_mut(id).zip(kinds.get_mut(id)));
        let (token_there, kind_there) = place.ok_or_else(|| NoGgufForm {
            fact: format!("`{token}` has no row among the {num_rows} of the embedding"),
        })?;
        token.clone_into(token_there);
        *kind_there = kind;
        Ok(())
    };
    let model = json.pointer("/model/vocab").and_then(Value::as_object);
    let lacks_tab = model.is_some_and(|vocab| !vocab.contains_key(sentencepiece::TAB));
    for (token, id) in model.into_iter().flatten() {
        let token = match token.as_str() {
            "\t" if is_sentencepiece && lacks_tab => sentencepiece::TAB,
            token => token,
        };
        let is_byte = is_sentencepiece
            && token.len() == sentencepiece::TAB.len()
            && token.starts_with("<0x")
            && token.ends_with('>');
        let kind = if is_byte {
            TokenKind::Byte
        } else {
            TokenKind::Normal
        };
        put(id, token, kind)?;
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let token = added["content"].as_str().unwrap_or_default();
        let kind = match added["special"].as_bool() {
            _ if is_sentencepiece && Some(token) == unknown => TokenKind::Unknown,
            Some(true) => TokenKind::Control,
            _ => TokenKind::UserDefined,
        };
        put(&added["id"], token, kind)?;
    }
    let mut seen = HashMap::new();
    for (id, token) in tokens.iter().enumerate() {
        if let Some(other) = seen.insert(token.as_str(), id) {
            let fact = format!("`{token}` is both token {other} and token {id}");
            return Err(NoGgufForm { fact });
        }
    }
    Ok((tokens, kinds))
}
