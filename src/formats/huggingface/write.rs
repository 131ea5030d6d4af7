//! Files beside the weights of a folder: `config.json`, `generation_config.json` and the tokenizer's files.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::{Map, Value, json};

use crate::data::{Rebuilt, UNCHANGED_CLASS, template_files};
use crate::files::{self, with_path, write_atomically, write_json};
use crate::formats::WriteError;
use crate::model::DecoderConfig;

/// Files that a tokenizer may consist of, besides its named chat templates; all but the first are optional.
const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// Writes `config.json` as given.
pub(in crate::formats) fn write_config(dir: &Path, json: &Value) -> Result<(), WriteError> {
    write_json(&dir.join("config.json"), json)?;
    Ok(())
}

/// Writes `generation_config.json`: the ids of the config, and the settings carried over from another file.
pub fn write_generation(
    dir: &Path,
    config: &DecoderConfig,
    carried: &Map<String, Value>,
) -> Result<(), WriteError> {
    let json = config.generation_json(carried);
    write_json(&dir.join("generation_config.json"), &json)?;
    Ok(())
}

/// Copies a tokenizer's files byte for byte; `source` is a model folder or a `tokenizer.json` file.
///
/// Returns a note on settings that are left out: `auto_map` names Python code to run, which an export does not have.
///
/// A source without `tokenizer_config.json` gets a small one, because transformers does not load a tokenizer without
/// it. It names the class that reads any `tokenizer.json`, and the special tokens that the config names by id.
pub fn write_tokenizer(
    dir: &Path,
    config: &DecoderConfig,
    source: &Path,
) -> Result<Option<String>, WriteError> {
    if source.is_file() {
        copy_file(source, &dir.join("tokenizer.json"))?;
    } else {
        let files = tokenizer_files(source)?;
        if files
            .first()
            .is_none_or(|(name, _)| name != TOKENIZER_FILES[0])
        {
            let source_dir = source.to_path_buf();
            return Err(WriteError::NoTokenizer { source_dir });
        }
        for (name, path) in files {
            copy_file(&path, &dir.join(name))?;
        }
    }
    let path = dir.join("tokenizer_config.json");
    if !path.exists() {
        write_json(&path, &tokenizer_config(dir, config)?)?;
    }
    let mut json = read(&path)?;
    let dropped = json
        .as_object_mut()
        .and_then(|json| json.shift_remove("auto_map"));
    if dropped.is_none() {
        return Ok(None);
    }
    write_json(&path, &json)?;
    let source = source.display();
    Ok(Some(format!(
        "`auto_map` in the `tokenizer_config.json` of `{source}` is left out: it names Python code, which is not part of \
         an export; `tokenizer.json` is the tokenizer"
    )))
}

/// Refuses a file of a tokenizer that its readers could not open: JSON that is none, or text that is not UTF-8.
pub fn check_tokenizer_file(path: &Path) -> io::Result<()> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    let fault = match ending {
        Some("json") => {
            let bytes = files::read(path).map_err(|error| with_path(error, path))?;
            let parsed = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes);
            parsed.err().map(|error| format!("not JSON: {error}"))
        }
        Some("jinja" | "txt") => {
            let bytes = files::read(path).map_err(|error| with_path(error, path))?;
            let parsed = std::str::from_utf8(&bytes);
            parsed
                .err()
                .map(|error| format!("not UTF-8 at byte {}", error.valid_up_to()))
        }
        _ => None, // SentencePiece's own format
    };
    match fault {
        None => Ok(()),
        Some(fault) => {
            let fault =
                format!("{fault}; an export would carry the file on: mend it or take it away");
            Err(with_path(
                io::Error::new(io::ErrorKind::InvalidData, fault),
                path,
            ))
        }
    }
}

/// Tokenizer files that a model folder has, by their paths inside it.
pub fn tokenizer_files(source: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let names = TOKENIZER_FILES.map(str::to_owned).into_iter();
    let names = names.chain(template_files(source)?);
    let files = names.map(|name| {
        let path = source.join(&name);
        (name, path)
    });
    Ok(files.filter(|(_, path)| path.exists()).collect())
}

fn copy_file(from: &Path, to: &Path) -> Result<(), WriteError> {
    check_tokenizer_file(from)?;
    let bytes = files::read(from).map_err(|error| with_path(error, from))?;
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).map_err(|error| with_path(error, dir))?;
    }
    write_atomically(to, |out| out.write_all(&bytes))?;
    Ok(())
}

/// A `tokenizer_config.json` for the `tokenizer.json` in `dir`.
fn tokenizer_config(dir: &Path, config: &DecoderConfig) -> Result<Value, WriteError> {
    let tokenizer = read(&dir.join("tokenizer.json"))?;
    let mut json = Map::new();
    json.insert(
        "model_max_length".to_owned(),
        config.max_position_embeddings.into(),
    );
    json.insert("tokenizer_class".to_owned(), json!(UNCHANGED_CLASS));
    name_specials(&mut json, &tokenizer, config);
    Ok(Value::Object(json))
}

/// Adds the special tokens that the config names by id and the file does not name yet.
fn name_specials(json: &mut Map<String, Value>, tokenizer: &Value, config: &DecoderConfig) {
    for (key, id) in [
        ("bos_token", config.bos_token_id),
        ("eos_token", config.eos_token_ids.first().copied()),
        ("pad_token", config.pad_token_id),
    ] {
        let token = id.and_then(|id| token_text(tokenizer, id));
        if let Some(token) = token.filter(|_| !json.contains_key(key)) {
            json.insert(key.to_owned(), json!(token));
        }
    }
}

/// Sets a tokenizer class that loads `dir`'s `tokenizer.json` unchanged, if transformers would rebuild the tokenizer.
///
/// Returns the rebuild that no class can prevent.
pub fn keep_tokenizer_class(
    dir: &Path,
    config: &DecoderConfig,
) -> Result<Option<Rebuilt>, WriteError> {
    let path = dir.join("tokenizer_config.json");
    let (tokenizer, mut json) = (read(&dir.join("tokenizer.json"))?, read(&path)?);
    let model_type = config.architecture.model_type();
    let Some(rebuilt) = Rebuilt::of(model_type, &json, &tokenizer) else {
        return Ok(None);
    };
    if let Value::Object(json) = &mut json {
        json.insert("tokenizer_class".to_owned(), json!(UNCHANGED_CLASS));
        name_specials(json, &tokenizer, config);
    }
    write_json(&path, &json)?;
    Ok(Some(rebuilt).filter(|rebuilt| !rebuilt.is_fixed_by_class))
}

fn read(path: &Path) -> Result<Value, WriteError> {
    let bytes = files::read(path).map_err(|error| with_path(error, path))?;
    serde_json::from_slice(&bytes).map_err(|source| WriteError::Json {
        path: path.to_path_buf(),
        source,
    })
}

/// Text of a special token, which `tokenizer.json` lists among `added_tokens`.
fn token_text(tokenizer: &Value, id: u32) -> Option<&str> {
    let added = tokenizer.get("added_tokens")?.as_array()?;
    let token = added
        .iter()
        .find(|token| token.get("id").and_then(Value::as_u64) == Some(id.into()))?;
    token.get("content")?.as_str()
}
