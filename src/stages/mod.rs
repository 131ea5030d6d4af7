//! The stages of a run: their keys, the folders of their artifacts, and which are done.

mod artifact;
mod inputs;
mod parts;

use std::io;
use std::path::{Path, PathBuf};
use std::{fs, iter};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use self::artifact::records;
pub use self::artifact::{Artifact, Damage, FileRecord, LOCK_FILE};
pub use self::inputs::{Inputs, Model};
pub use self::parts::model_hash;
use self::parts::{data_parts, student_parts, tokenizer_files, without_limits};
use crate::cache::{self, Fingerprint};
use crate::checkpoint::CheckpointError;
use crate::data::SourceError;
use crate::difference::Difference;
use crate::files;
use crate::hashes::Hashes;
use crate::opened::{ARTIFACT_FILE, Lineup, Opened, STAGE_FILE};
use crate::plan::Plan;
use crate::vocabulary::VocabularyError;

/// Version of all stages; raised when one would write something else from the same inputs.
const VERSION: u32 = 2;

/// Version of measurements, by which passes may end or hand on; raised when a model would have other figures on a text.
const MEASURES_VERSION: u32 = 2;
/// Version of exports; raised when an export alone would write something else from the same inputs.
const EXPORT_VERSION: u32 = 2;

/// Error of naming the stages.
#[derive(Debug, Error)]
pub enum StagesError {
    /// A text cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer cannot be read.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// A file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// An input is not the one that the keys were made of.
    #[error(transparent)]
    Changed(Changed),
}

/// Input that changed while a run was reading it. Nothing made of it is kept.
#[derive(Debug, Error)]
pub enum Changed {
    /// Weights of a model.
    #[error("`{}` was written to while its weights were read", path.display())]
    Model {
        /// Model folder or `.gguf` file.
        path: PathBuf,
    },
    /// A text.
    #[error("the {split} text was written to while it was read")]
    Text {
        /// Name of the split, such as `training`.
        split: &'static str,
    },
    /// The tokenizer, or a file beside it.
    #[error("the files of the tokenizer were written to while they were read")]
    Tokenizer,
}

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
    /// Inputs that the key is a hash of, in words, as in `stage.json`.
    #[serde(skip)]
    made_from: Value,
    /// Damage to a finished artifact, found when the stages were named.
    #[serde(skip)]
    damage: Option<Damage>,
}

/// Contents of `stage.json`: written when a stage begins, for the message if it has to run again.
#[derive(Serialize, Deserialize)]
struct Note {
    stage: String,
    key: String,
    made_from: Value,
}

impl Stage {
    fn new(root: &Path, name: String, parts: &Value) -> Self {
        let key = files::hash_json(&json!({ "version": VERSION, "stage": name, "parts": parts }));
        let dir = root.join(format!("{name}-{}", &key[..8]));
        let made_from = parts.clone();
        Self {
            name,
            key,
            dir,
            made_from,
            damage: None,
        }
    }

    /// The same stage, with more facts about its inputs than their keys.
    fn made_from(self, made_from: Value) -> Self {
        Self { made_from, ..self }
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
        let is_begun = files::UnfinishedDir::at(&self.dir).is_ok_and(|partial| partial.exists());
        if is_begun || self.is_done() {
            return None;
        }
        let own: Option<Note> = files::read_json(&self.dir.join(STAGE_FILE)).ok().flatten();
        if own.is_some_and(|own| own.key == self.key) {
            return Some(Damage::of(ARTIFACT_FILE, true).to_string());
        }
        let mut earlier: Vec<_> = fs::read_dir(self.dir.parent()?)
            .ok()?
            .flatten()
            .filter_map(|entry| {
                let path = entry.path().join(STAGE_FILE);
                let note: Note = serde_json::from_slice(&files::read(&path).ok()?).ok()?;
                let written = path.metadata().ok()?.modified().ok()?;
                (note.stage == self.name && note.key != self.key).then_some((written, note))
            })
            .collect();
        earlier.sort_by_key(|(written, _)| *written);
        let (_, last) = earlier.pop()?;
        Some(match Difference::first(&last.made_from, &self.made_from) {
            Some(difference) => describe(&difference),
            None => "another version of the program made it".to_owned(),
        })
    }

    /// Artifact of a finished run of this stage, if it exists and is complete.
    pub fn artifact<T: DeserializeOwned>(&self) -> io::Result<Option<Artifact<T>>> {
        let artifact = Artifact::read(&self.dir)?;
        Ok(artifact.filter(|artifact: &Artifact<T>| artifact.key == self.key))
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
            key: self.key.clone(),
            secs,
            result,
            files,
        }
    }

    fn drop_artifact(&self) -> io::Result<()> {
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
    fn with_whole_shards(self, hashes: &Hashes) -> io::Result<Self> {
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
    fn checked(self, hashes: &Hashes) -> io::Result<Self> {
        let damage = artifact::damage(&self.dir, hashes)?;
        Ok(Self { damage, ..self })
    }
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

/// Suffix of the data's key in [`CapturedFor`] if only the validation rows were captured.
const OF_VALIDATION: &str = ", validation";

fn is_of_validation(key: &str) -> bool {
    key.ends_with(OF_VALIDATION)
}

/// Result in the artifact of a cache: keys of the data stages whose rows it has.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct CapturedFor {
    data_keys: Vec<String>,
}

/// All stages of a plan, in order.
#[derive(Debug)]
pub struct Stages {
    /// Folder of the recipe's own artifacts.
    pub run_dir: PathBuf,
    /// Inputs that the keys were made of.
    pub inputs: Inputs,
    /// Token rows of both texts.
    pub data: Stage,
    /// Measurement of the teacher on the validation text.
    pub teacher: Option<Stage>,
    /// Predictions of the teacher for both texts.
    pub cache: Option<Stage>,
    /// True if the cache is for the training text, too, and not for the validation text alone.
    pub captures_train: bool,
    /// One stage per pass.
    pub passes: Vec<Stage>,
    /// The exported folders.
    pub export: Stage,
}

impl Stages {
    /// Names all stages and checks whether their artifacts are intact. Reads texts, weights and artifacts whose hashes are not
    /// remembered, and writes nothing.
    pub fn of(plan: &Plan, opened: Opened, hashes: &Hashes) -> Result<Self, StagesError> {
        let run_dir = plan.output.join(&plan.name);
        let inputs = Inputs::of(plan, opened, hashes)?;
        let teacher_hash = inputs.teacher.as_ref().map(Model::hash);
        let data_parts = data_parts(plan, &inputs);
        let data = Stage::new(&plan.output, "data".to_owned(), &data_parts).checked(hashes)?;
        let text = without_limits(data_parts.clone(), plan);
        let cache = plan.cache.as_ref().map(|cache| {
            let parts = json!({
                "text": text, "teacher_hash": teacher_hash, "plan": cache, "teacher": plan.teacher,
                "format": Fingerprint::VERSION,
            });
            let stage = Stage::new(&plan.output, "cache".to_owned(), &parts).checked(hashes)?;
            stage.with_whole_shards(hashes)
        });
        let cache = cache.transpose()?;
        let captured = json!({
            "plan": plan.cache, "teacher": plan.teacher, "teacher_hash": teacher_hash,
        });
        // The teacher is measured against its own cache.
        let teacher = cache.as_ref().map(|cache| {
            let parts =
                json!({ "cache": cache.key, "data": data.key, "measures": MEASURES_VERSION });
            Stage::new(&run_dir, "00-teacher".to_owned(), &parts)
                .made_from(json!({ "data": data_parts, "cache": captured }))
                .checked(hashes)
        });

        let student = student_parts(plan, &inputs);
        let mut last = json!({
            "student": student, "seed": plan.seed, "data": data.key, "cache": cache.as_ref().map(|cache| &cache.key),
            "measures": MEASURES_VERSION,
        });
        let mut made_from = json!({
            "student": last["student"], "seed": plan.seed, "data": data_parts, "cache": captured,
        });
        let mut stages = Vec::new();
        for (pass_idx, pass) in plan.passes.iter().enumerate() {
            let name = format!("{:02}-{}", pass_idx + 1, pass.name());
            made_from["pass"] = json!(pass);
            let stage = Stage::new(&run_dir, name, &json!({ "student": last, "pass": pass }))
                .made_from(made_from)
                .checked(hashes)?;
            last = json!(stage.key);
            made_from = json!({ &stage.name: stage.key });
            stages.push(stage);
        }
        let export = Self::export(plan, &inputs, &run_dir, &last, made_from);
        let export = export.checked(hashes)?;
        Ok(Self {
            run_dir,
            inputs,
            data,
            teacher: teacher.transpose()?,
            cache,
            captures_train: plan.reads_cache(),
            passes: stages,
            export,
        })
    }

    /// Removes the unfinished folders of this recipe that hold nothing but the note of what they would be made from.
    pub fn discard_begun(&self) {
        let stages = self.teacher.iter().chain(&self.passes);
        for stage in stages.chain([&self.export]) {
            let Ok(partial) = files::UnfinishedDir::at(&stage.dir) else {
                continue;
            };
            let Ok(mut entries) = fs::read_dir(&partial) else {
                continue;
            };
            if entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == STAGE_FILE)) {
                let _ = fs::remove_dir_all(&partial); // what is left of it does no harm
            }
        }
    }

    /// Stage that writes a student; `last` is the key of what made the student, and `made_from` describes it in words.
    fn export(
        plan: &Plan,
        inputs: &Inputs,
        run_dir: &Path,
        last: &Value,
        mut made_from: Value,
    ) -> Stage {
        let name = format!("{:02}-export", plan.passes.len() + 1);
        let generation = inputs.generation(plan);
        let generation = generation.map(|model| model.config().generation_json(model.generation()));
        let parts = json!({
            "student": last, "export": plan.export, "tokenizer": tokenizer_files(plan, inputs),
            "generation": generation, "version": EXPORT_VERSION,
        });
        for key in ["export", "tokenizer", "generation", "version"] {
            made_from[key] = parts[key].clone();
        }
        Stage::new(run_dir, name, &parts).made_from(made_from)
    }

    /// Folders of the passes and of the export.
    pub fn lineup(&self) -> Lineup {
        let stages = self.passes.iter().chain(iter::once(&self.export));
        let names = stages.filter_map(|stage| stage.dir.file_name());
        let stages = names
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        Lineup { stages }
    }

    /// True if the cache has all rows that this plan asks for.
    pub fn cache_is_done(&self) -> bool {
        let stage = self.cache.as_ref().filter(|stage| stage.damage.is_none());
        let captured = stage.map(Stage::artifact::<CapturedFor>);
        let captured = captured.and_then(|artifact| artifact.ok().flatten());
        captured.is_some_and(|artifact| {
            let has = |key: &String| artifact.result.data_keys.contains(key);
            has(&self.data.key) || !self.captures_train && has(&self.validation_key())
        })
    }

    /// Records that the cache has all rows that this plan asks for.
    pub fn seal_cache(&self, secs: f64) -> io::Result<()> {
        let Some(stage) = self.cache.as_ref().filter(|_| !self.cache_is_done()) else {
            return Ok(());
        };
        // What was damaged may have been mended for this plan alone.
        let before = match stage.damage {
            Some(_) => None,
            None => stage.artifact::<CapturedFor>()?,
        };
        let (mut captured, secs_before) = before.map_or_else(Default::default, |artifact| {
            (artifact.result, artifact.secs)
        });
        let key = if self.captures_train {
            self.data.key.clone()
        } else {
            self.validation_key()
        };
        if !captured.data_keys.contains(&key) {
            captured.data_keys.push(key);
        }
        stage.seal_in_place(secs_before + secs, captured)
    }

    /// Key that a cache records if it has the validation rows alone.
    fn validation_key(&self) -> String {
        format!("{}{OF_VALIDATION}", self.data.key)
    }

    /// Marks the damaged artifacts of the recipe's own folder as not done, so that they are made again. The caller holds the
    /// lock on that folder.
    pub fn drop_damaged(&self) -> io::Result<()> {
        let own = self.teacher.iter().chain(&self.passes);
        let damaged = own.chain([&self.export]);
        damaged
            .filter(|stage| stage.damage.is_some())
            .try_for_each(Stage::drop_artifact)
    }

    /// Marks the rows as not done if they are damaged. The caller holds the lock on their folder: until now, another run may
    /// have made them again.
    pub fn drop_damaged_data(&self, hashes: &Hashes) -> io::Result<()> {
        match self.data.damage {
            Some(_) if artifact::damage(&self.data.dir, hashes)?.is_some() => {
                self.data.drop_artifact()
            }
            _ => Ok(()),
        }
    }

    /// Messages for each stage that has to run again, with the difference from an earlier run.
    pub fn changes(&self) -> impl Iterator<Item = String> {
        self.all().filter_map(|stage| {
            Some(format!(
                "{} runs again, because {}",
                stage.name,
                stage.changed()?
            ))
        })
    }

    /// All stages, in the order in which they run.
    pub fn all(&self) -> impl Iterator<Item = &Stage> {
        iter::once(&self.data)
            .chain(&self.teacher)
            .chain(&self.cache)
            .chain(&self.passes)
            .chain(iter::once(&self.export))
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
