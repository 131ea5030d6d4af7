//! One stage: its key, the folder of its artifact, and why it runs again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::artifact::{self, Artifact, Damage, FileRecord, records};
use super::{CapturedFor, is_of_validation};
use crate::cache;
use crate::difference::Difference;
use crate::files;
use crate::hashes::Hashes;
use crate::opened::{ARTIFACT_FILE, STAGE_FILE};

/// Version of all stages; raised when one would write something else from the same inputs.
pub(super) const VERSION: u32 = 3;

/// One step of a run and the folder of its artifact.
///
/// The key is a hash of the stage's own block of the plan, the keys of its inputs, the content of the files it
/// reads and the format version: the same key means the same artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// Name in messages and folders, such as `01-distill`.
    pub name: String,
    /// BLAKE3, hex.
    pub key: String,
    /// Folder of the artifact.
    pub dir: PathBuf,
    /// Key of the artifact in the folder: the stage's own, unless it shares the folder of another.
    #[serde(skip)]
    pub(super) folder_key: String,
    /// Inputs that the key is a hash of, in words, as in `stage.json`.
    #[serde(skip)]
    pub(super) made_from: Value,
    /// Hash of what decides a pass beside its keys of training; `None` for other stages.
    #[serde(skip)]
    pub origin: Option<String>,
    /// Damage to a finished artifact, found when the stages were named.
    #[serde(skip)]
    pub(super) damage: Option<Damage>,
}

/// Contents of `stage.json`: written when a stage begins, for the message if it has to run again.
#[derive(Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) stage: String,
    pub(super) key: String,
    pub(super) made_from: Value,
}

impl Stage {
    pub(super) fn new(root: &Path, name: String, parts: &Value) -> Self {
        let key = files::hash_json(&json!({ "version": VERSION, "stage": name, "parts": parts }));
        let dir = root.join(format!("{name}-{}", &key[..8]));
        let made_from = parts.clone();
        Self {
            name,
            folder_key: key.clone(),
            key,
            dir,
            made_from,
            origin: None,
            damage: None,
        }
    }

    /// The same stage, with more facts about its inputs than their keys.
    pub(super) fn made_from(self, made_from: Value) -> Self {
        Self { made_from, ..self }
    }

    /// The same stage, with what decides it beside its keys of training.
    pub(super) fn of_origin(self, origin: &Value) -> Self {
        let origin = Some(files::hash_json(origin));
        Self { origin, ..self }
    }

    /// The same stage in the folder of another, whose artifact has what this one is to have.
    pub(super) fn in_folder_of(self, other: &Self) -> Self {
        Self {
            dir: other.dir.clone(),
            folder_key: other.folder_key.clone(),
            damage: other.damage.clone(),
            ..self
        }
    }

    /// True if it shares the folder of another stage.
    pub(super) fn is_shared(&self) -> bool {
        self.folder_key != self.key
    }

    /// Writes the inputs of the stage into the folder that it begins to fill.
    pub fn note(&self, dir: &Path) -> io::Result<()> {
        let note = Note {
            stage: self.name.clone(),
            key: self.key.clone(),
            made_from: self.made_from.clone(),
        };
        files::write_json(&dir.join(STAGE_FILE), &note)
    }

    /// Reason why the stage runs again: the first key that differs from an earlier run of this recipe, with both values, or the
    /// damage to its artifact. `None` if there was no such run, or if this very stage is done or begun.
    pub fn changed(&self) -> Option<String> {
        if let Some(damage) = &self.damage {
            return Some(damage.to_string());
        }
        if self.is_begun() || self.is_done() {
            return None;
        }
        let own: Option<Note> = files::read_json(&self.dir.join(STAGE_FILE)).ok().flatten();
        if own.is_some_and(|own| own.key == self.key) {
            return Some(Damage::of(ARTIFACT_FILE, true).to_string());
        }
        let last = self.earlier()?;
        Some(match Difference::first(&last.made_from, &self.made_from) {
            Some(difference) => describe(&difference),
            None => "another version of the program made it".to_owned(),
        })
    }

    /// True if its folder is being filled.
    pub(super) fn is_begun(&self) -> bool {
        files::UnfinishedDir::at(&self.dir).is_ok_and(|partial| partial.exists())
    }

    /// Folders beside its own.
    pub(super) fn siblings(&self) -> Vec<PathBuf> {
        let entries = self.dir.parent().map(fs::read_dir);
        let entries = entries.into_iter().flatten().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// Note of the last other run of this stage.
    pub(super) fn earlier(&self) -> Option<Note> {
        let note = |dir: PathBuf| {
            let path = dir.join(STAGE_FILE);
            let note: Note = serde_json::from_slice(&files::read(&path).ok()?).ok()?;
            let written = path.metadata().ok()?.modified().ok()?;
            (note.stage == self.name && note.key != self.key).then_some((written, note))
        };
        let mut earlier: Vec<_> = self.siblings().into_iter().filter_map(note).collect();
        earlier.sort_by_key(|(written, _)| *written);
        earlier.pop().map(|(_, note)| note)
    }

    /// Folder of the same stage, finished and sound, of another recipe with the same output folder.
    pub fn twin(&self, output: &Path, hashes: &Hashes) -> Option<PathBuf> {
        let name = self.dir.file_name()?;
        let entries = fs::read_dir(output).ok()?.flatten();
        let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path().join(name)).collect();
        folders.sort();
        folders.into_iter().find(|dir| {
            let artifact = Artifact::<Value>::read(dir).ok().flatten();
            let is_same = artifact.is_some_and(|artifact| artifact.key == self.key);
            is_same && artifact::damage(dir, hashes).is_ok_and(|damage| damage.is_none())
        })
    }

    /// Artifact of a finished run of this stage, if it exists and is complete.
    pub fn artifact<T: DeserializeOwned>(&self) -> io::Result<Option<Artifact<T>>> {
        let artifact = Artifact::read(&self.dir)?;
        Ok(artifact.filter(|artifact: &Artifact<T>| artifact.key == self.folder_key))
    }

    /// True if its artifact is complete. Whatever replaces a stage that is not done reads the artifact itself, since one that
    /// cannot be read may be complete.
    pub fn is_done(&self) -> bool {
        self.artifact::<Value>()
            .is_ok_and(|artifact| artifact.is_some())
    }

    /// True if its artifact is complete and, when the stages were named, all its files were as written.
    pub fn is_sound(&self) -> bool {
        self.damage.is_none() && self.is_done()
    }

    /// True if its artifact was finished and, when the stages were named, a file of it was not as written.
    pub fn is_damaged(&self) -> bool {
        self.damage.is_some()
    }

    /// Writes `artifact.json` into the folder that will be published as this stage's, with a hash of every file in it.
    pub fn seal<T: Serialize>(
        &self,
        dir: &Path,
        secs: f64,
        result: T,
        hashes: &Hashes,
    ) -> io::Result<()> {
        let files = records(dir, &self.dir, hashes)?;
        self.artifact_of(secs, result, files).write(dir)
    }

    /// Seals, as [`Stage::seal`] does, a stage that fills its own folder with files that check themselves.
    pub fn seal_in_place<T: Serialize>(&self, secs: f64, result: T) -> io::Result<()> {
        self.artifact_of(secs, result, Vec::new()).write(&self.dir)
    }

    fn artifact_of<T>(&self, secs: f64, result: T, files: Vec<FileRecord>) -> Artifact<T> {
        Artifact {
            stage: self.name.clone(),
            key: self.folder_key.clone(),
            secs,
            result,
            files,
        }
    }

    pub(super) fn drop_artifact(&self) -> io::Result<()> {
        let path = self.dir.join(ARTIFACT_FILE);
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(files::with_path(error, &path))
            }
            _ => Ok(()),
        }
    }

    /// Looks for damage in the shards of the texts that a cache was captured for.
    pub(super) fn with_whole_shards(self, hashes: &Hashes) -> io::Result<Self> {
        let Some(captured) = self.artifact::<CapturedFor>()? else {
            return Ok(self);
        };
        let has_train = captured
            .result
            .data_keys
            .iter()
            .any(|key| !is_of_validation(key));
        for split in ["train", "validation"] {
            if split == "train" && !has_train {
                continue;
            }
            if let Some((file, is_gone)) = cache::first_damage(&self.dir.join(split), hashes)? {
                let damage = Some(Damage::of(format!("{split}/{file}"), is_gone));
                return Ok(Self { damage, ..self });
            }
        }
        Ok(self)
    }

    /// Looks for damage in its artifact.
    pub(super) fn checked(self, hashes: &Hashes) -> io::Result<Self> {
        let damage = artifact::damage(&self.dir, hashes)?;
        Ok(Self { damage, ..self })
    }
}

/// Stage of a finished folder: `None` unless the folder has the facts of a stage, and the name that it gives to such a folder.
pub fn stage_of(dir: &Path) -> Option<String> {
    let name = dir.file_name()?.to_str()?;
    let artifact = Artifact::<Value>::read(dir).ok().flatten();
    let artifact = artifact.map(|artifact| (artifact.stage, artifact.key));
    let note = || {
        files::read_json::<Note>(&dir.join(STAGE_FILE))
            .ok()
            .flatten()
    };
    let (stage, key) = artifact.or_else(|| note().map(|note| (note.stage, note.key)))?;
    (folder_name(&stage, &key)? == name).then_some(stage)
}

/// True if a folder was begun as the stage of a folder with this name.
pub fn is_noted_as(dir: &Path, name: &str) -> bool {
    let note = files::read_json::<Note>(&dir.join(STAGE_FILE))
        .ok()
        .flatten();
    note.is_some_and(|note| folder_name(&note.stage, &note.key).is_some_and(|its| its == name))
}

fn folder_name(stage: &str, key: &str) -> Option<String> {
    Some(format!("{stage}-{}", key.get(..8)?))
}

/// A difference in the user's words: without the blocks that hold a key, and with keys of stages replaced by their meaning.
fn describe(difference: &Difference) -> String {
    let holders = [
        "pass", "distill", "prune", "shrink", "quantize", "method", "qat", "ptq", "gptq",
    ];
    let path: Vec<&str> = difference.path.iter().map(String::as_str).collect();
    match path.as_slice() {
        [stage] if stage.starts_with(|first: char| first.is_ascii_digit()) => {
            format!("{stage}, which it starts from, has changed")
        }
        [.., "teacher_hash" | "teacher"] => "the teacher has changed".to_owned(),
        [.., "checkpoint"] => "the checkpoint of the student has changed".to_owned(),
        ["version"] => "another version of the program made it".to_owned(),
        [.., "tokenizer"] => "the tokenizer has changed".to_owned(),
        ["data", "train"] => "the training text has changed".to_owned(),
        ["data", "validation"] => "the validation text has changed".to_owned(),
        [holders_and_key @ .., last] => {
            let first = holders_and_key
                .iter()
                .position(|name| !holders.contains(name))
                .unwrap_or(holders_and_key.len());
            let inner = &holders_and_key[first..];
            let names = inner.iter().chain([last]).copied();
            let names: Vec<&str> = names.filter(|name| *name != "plan").collect();
            let name = match names.join(".").as_str() {
                "ptq" | "qat" => "method".to_owned(), // one side has another method
                "data.train_tokens" => "cache.tokens".to_owned(),
                "cache.teacher.batch_size" => "teacher.batch_size".to_owned(),
                name => name.to_owned(),
            };
            let is_block = |value: &Option<Value>| matches!(value, Some(Value::Object(_)));
            if is_block(&difference.was) || is_block(&difference.is) {
                return format!("`{name}` has changed"); // all its keys would hide the line that was edited
            }
            format!("`{name}` {}", difference.describe("not set"))
        }
        [] => "its inputs have changed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_the_key_that_a_user_writes() {
        let told = |was: Value, is: Value| describe(&Difference::first(&was, &is).unwrap());
        let quantize = |method: Value| json!({ "pass": { "quantize": { "method": method } } });
        let gptq = json!({ "ptq": { "awq": false, "clip": true } });
        assert_eq!(
            told(quantize(json!("round_to_nearest")), quantize(gptq.clone())),
            "`method` has changed"
        );
        let qat = json!({ "qat": { "steps": 100 } });
        assert_eq!(
            told(quantize(qat.clone()), quantize(gptq)),
            "`method` has changed"
        );
        let longer = json!({ "qat": { "steps": 200 } });
        assert_eq!(
            told(quantize(qat), quantize(longer)),
            "`steps` changed from 100 to 200"
        );
        let tokens = |count: u64| json!({ "data": { "train_tokens": count } });
        assert_eq!(
            told(tokens(1), tokens(2)),
            "`cache.tokens` changed from 1 to 2"
        );
        let measured = json!({ "pass": { "quantize": { "sensitivity": { "tokens": 2048 } } } });
        assert_eq!(
            told(
                json!({ "pass": { "quantize": { "sensitivity": null } } }),
                measured
            ),
            "`sensitivity` has changed"
        );
    }
}
