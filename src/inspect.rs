//! Facts about a checkpoint, a cache or a run, read from its own files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thiserror::Error;

use crate::cache::{Cache, CacheError};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::files::{self, with_path};
use crate::gguf::is_gguf;
use crate::model::parameter_specs;
use crate::progress::{bytes_text, decimals, exponential, thousands};
use crate::vocabulary::{Vocabulary, VocabularyError};

/// Error of inspecting a path.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum InspectError {
    #[error("`{}` is neither a checkpoint (config.json or a `.gguf` file), a cache (manifest.json) nor a run (report.json)", path.display())]
    Unknown { path: PathBuf },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("`{}` is not JSON: {source}", path.display())]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Facts about a path, as one JSON object.
pub fn inspect(path: &Path) -> Result<Value, InspectError> {
    if is_gguf(path) || path.join("config.json").exists() {
        return checkpoint(path);
    }
    if path.join("manifest.json").exists() {
        let cache = Cache::open_any(path)?;
        return Ok(json!({ "kind": "cache", "manifest": cache.manifest() }));
    }
    for (name, kind) in [("report.json", "run"), ("artifact.json", "artifact")] {
        let file = path.join(name);
        if file.exists() {
            let text = files::read(&file).map_err(|error| with_path(error, &file))?;
            let facts: Value = serde_json::from_slice(&text)
                .map_err(|source| InspectError::Json { path: file, source })?;
            return Ok(json!({ "kind": kind, "facts": facts }));
        }
    }
    Err(match Checkpoint::open(path) {
        Err(hint @ CheckpointError::IsAGgufFile { .. }) => hint.into(),
        _ => InspectError::Unknown {
            path: path.to_path_buf(),
        },
    })
}

/// Comparison of two vocabularies: as text, and as one JSON object.
pub fn against(path: &Path, other: &Path) -> Result<(String, Value), InspectError> {
    let found = Vocabulary::open(path)?.compare(&Vocabulary::open(other)?);
    let facts = serde_json::to_value(&found).map_err(io::Error::other)?;
    Ok((found.text(), facts))
}

fn checkpoint(path: &Path) -> Result<Value, InspectError> {
    let checkpoint = Checkpoint::open(path)?;
    let num_parameters: usize = parameter_specs(checkpoint.config())
        .iter()
        .map(|spec| spec.shape[0] * spec.shape[1])
        .sum();
    let mut schemes: BTreeMap<String, usize> = BTreeMap::new();
    for scheme in checkpoint.schemes().values() {
        *schemes.entry(scheme.to_string()).or_insert(0) += 1;
    }
    let quantization = (!schemes.is_empty()).then_some(schemes);
    let mut facts = json!({
        "kind": "checkpoint",
        "parameters": num_parameters,
        "weights_bytes": checkpoint.num_bytes(),
        "tensors": checkpoint.num_tensors(),
        "quantization": quantization,
        "content_blake3": checkpoint.content_hash(),
        "config": checkpoint.config(),
    });
    let notes = checkpoint.notes();
    if !notes.is_empty() {
        facts["notes"] = json!(notes);
    }
    Ok(facts)
}

/// The same facts as text: one line per entry, nested entries indented.
pub fn text(facts: &Value) -> String {
    let mut lines = Vec::new();
    add_lines(facts, 0, &mut lines);
    lines.join("\n")
}

fn add_lines(facts: &Value, depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    match facts {
        Value::Object(entries) => {
            for (key, value) in entries {
                match value {
                    Value::Object(_) => {
                        lines.push(format!("{indent}{key}:"));
                        add_lines(value, depth + 1, lines);
                    }
                    Value::Array(items) if items.iter().any(Value::is_object) => {
                        lines.push(format!(
                            "{indent}{key}: {} entries",
                            thousands(items.len() as u64)
                        ));
                        for item in items {
                            add_lines(item, depth + 1, lines);
                        }
                    }
                    value => lines.push(format!("{indent}{key}: {}", scalar(key, value))),
                }
            }
        }
        value => lines.push(format!("{indent}{}", scalar("", value))),
    }
}

/// A fraction for people: four decimals, or four digits with an exponent, without zeros at the end. JSON has all digits.
fn float(value: f64) -> String {
    if value == 0.0 || (1e-3..1e7).contains(&value.abs()) {
        let text = decimals(value, 4);
        let text = text.trim_end_matches('0');
        return if text.ends_with('.') {
            format!("{text}0")
        } else {
            text.to_owned()
        };
    }
    let text = exponential(value, 3);
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let digits = digits.trim_end_matches('0').trim_end_matches('.');
            format!("{digits}e{exponent}")
        }
        None => text, // not finite
    }
}

fn scalar(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_u64() {
            Some(bytes) if key.ends_with("bytes") => {
                format!("{} ({})", thousands(bytes), bytes_text(bytes))
            }
            Some(count) => thousands(count),
            None => number.as_f64().map_or_else(|| number.to_string(), float),
        },
        Value::Null => "-".to_owned(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_lines_with_units_and_nested_entries_indented() {
        let facts = json!({ "kind": "cache", "total_bytes": 2048, "inner": { "rows": 1200, "none": null } });
        assert_eq!(
            text(&facts),
            "kind: cache\ntotal_bytes: 2,048 (2.0 KiB)\ninner:\n  rows: 1,200\n  none: -"
        );
    }

    #[test]
    fn a_folder_that_is_none_of_ours_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let message = inspect(dir.path()).unwrap_err().to_string();
        assert!(
            message.contains(&dir.path().display().to_string()),
            "{message}"
        );
    }

    #[test]
    fn fractions_are_short_and_keep_their_size() {
        for (value, want) in [
            (4.084_695_938_391_689, "4.0847"),
            (10_000.0, "10000.0"),
            (0.0, "0.0"),
            (-0.25, "-0.25"),
            (1e-5, "1e-5"),
            (0.000_123_456, "1.235e-4"),
            (12_345_678.0, "1.235e7"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(float(value), want);
        }
    }
}
