//! Sampling defaults of a model: `generation_config.json`, and the keys of a GGUF file with the same meaning.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::CheckpointError;
use crate::data::tokenizer_dir;
use crate::files::read_json;
use crate::gguf::sampling;
use crate::gguf::{GgufError, GgufFile, is_gguf};
use crate::model::ConfigError;

/// Name of the file in a folder.
pub(super) const FILE: &str = "generation_config.json";

/// The contents of `generation_config.json`; nothing if there is none.
pub(super) fn of_folder(dir: &Path) -> Result<Map<String, Value>, CheckpointError> {
    let path = dir.join(FILE);
    match read_json(&path)? {
        None => Ok(Map::new()),
        Some(Value::Object(json)) => Ok(json),
        Some(other) => Err(CheckpointError::Config {
            path,
            source: ConfigError::unexpected("the file", "a table", Some(&other)),
        }),
    }
}

/// Contents of `generation_config.json` for a GGUF file; its token ids are in the config.
pub(super) fn of_gguf(file: &GgufFile) -> Result<Map<String, Value>, GgufError> {
    let mut json = sampling::read(file)?;
    // llama.cpp samples unless its temperature is 0, transformers only if `do_sample` is true.
    if json.get("temperature").and_then(Value::as_f64) == Some(0.0) {
        json.shift_remove("temperature");
    } else if !json.is_empty() {
        json.insert("do_sample".to_owned(), json!(true));
    }
    Ok(json)
}

/// Sampling settings beside a tokenizer: in the tokenizer's folder, or in its GGUF file.
pub fn generation_of(path: &Path) -> Result<Map<String, Value>, CheckpointError> {
    if is_gguf(path) {
        return Ok(of_gguf(&GgufFile::open(path)?)?);
    }
    match tokenizer_dir(path) {
        Some(dir) => of_folder(&dir),
        None => Ok(Map::new()),
    }
}
