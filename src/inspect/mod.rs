//! Facts about a checkpoint, a cache or a run, read from its own files.

mod model;
mod run;
mod text;

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thiserror::Error;

pub use self::text::text;
use crate::cache::{Cache, CacheError};
use crate::checkpoint::CheckpointError;
use crate::files::{self, with_path};
use crate::gguf::is_gguf;
use crate::opened::{ARTIFACT_FILE, ModelPath, RunFolder, StoredModel};
use crate::student::STUDENT_FILE;
use crate::vocabulary::{Vocabulary, VocabularyError};

/// Error of inspecting a path.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum InspectError {
    #[error("`{}` is neither a checkpoint (config.json or a `.gguf` file), a cache (manifest.json), a run nor one of its stages", path.display())]
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
        return model::facts(&StoredModel::open(path)?);
    }
    if path.join("manifest.json").exists() {
        let cache = Cache::open_any(path)?;
        return Ok(json!({ "kind": "cache", "manifest": cache.manifest() }));
    }
    if let Some(run) = RunFolder::at(path) {
        return run::facts(&run);
    }
    if path.join(ARTIFACT_FILE).exists() {
        let mut facts = json!({ "kind": "artifact", "facts": read(&path.join(ARTIFACT_FILE))? });
        let place = ModelPath::of(path)?;
        if place.note.is_some() || path.join(STUDENT_FILE).exists() {
            facts["removed"] = run::removed(path)?;
            facts["model"] = model::facts(&StoredModel::open(path)?)?;
        }
        return Ok(facts);
    }
    if path.join(STUDENT_FILE).exists() {
        return model::facts(&StoredModel::open(path)?);
    }
    Err(match StoredModel::open(path) {
        Err(
            hint @ (CheckpointError::IsAGgufFile { .. } | CheckpointError::UnfinishedStage { .. }),
        ) => hint.into(),
        _ => InspectError::Unknown {
            path: path.to_path_buf(),
        },
    })
}

/// A JSON file that must be there.
fn read(path: &Path) -> Result<Value, InspectError> {
    let text = files::read(path).map_err(|error| with_path(error, path))?;
    serde_json::from_slice(&text).map_err(|source| InspectError::Json {
        path: path.to_path_buf(),
        source,
    })
}

/// Comparison of two vocabularies: as text, and as one JSON object.
pub fn against(path: &Path, other: &Path) -> Result<(String, Value), InspectError> {
    let found = vocabulary(path)?.compare(&vocabulary(other)?);
    let facts = serde_json::to_value(&found).map_err(io::Error::other)?;
    Ok((found.text(), facts))
}

/// Tokens of a model, or of a `tokenizer.json` alone.
fn vocabulary(path: &Path) -> Result<Vocabulary, InspectError> {
    let is_json = path
        .extension()
        .is_some_and(|extension| extension == "json");
    if is_json && path.is_file() {
        return Ok(Vocabulary::of_tokenizer(path)?);
    }
    Ok(StoredModel::open(path)?.vocabulary()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_none_of_ours_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let message = inspect(dir.path()).unwrap_err().to_string();
        assert!(
            message.contains(&dir.path().display().to_string()),
            "{message}"
        );
    }
}
