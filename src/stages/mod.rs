//! The stages of a run: their keys, where their artifacts live, and which are done.

mod parts;

use std::io;
use std::path::{Path, PathBuf};
use std::{fs, iter};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

pub use self::parts::model_hash;
use self::parts::{data_parts, student_parts, tokenizer_hashes, without_limits};
use crate::cache::Fingerprint;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::data::{SourceError, TokenizerError};
use crate::difference::Difference;
use crate::files;
use crate::passes;
use crate::recipe::Plan;

/// File that makes a folder an artifact; written last.
pub const ARTIFACT_FILE: &str = "artifact.json";

/// File that tells what a stage is made from; written first.
const NOTE_FILE: &str = "stage.json";

/// Raised when a stage would write something else from the same inputs.
const VERSION: u32 = 2;

/// Why the stages cannot be named.
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
    Tokenizer(#[from] TokenizerError),
    /// A file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
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
    /// What the key is a hash of, in words: what stands in `stage.json`.
    #[serde(skip)]
    made_from: Value,
}

/// What `stage.json` says: written when a stage begins, for the message should it have to run anew.
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
        }
    }

    /// The same stage, telling of its inputs more than their keys.
    fn made_from(self, made_from: Value) -> Self {
        Self { made_from, ..self }
    }

    /// Writes what the stage is made from into the folder that it begins to fill.
    pub fn note(&self, dir: &Path) -> io::Result<()> {
        let note = Note {
            stage: self.name.clone(),
            key: self.key.clone(),
            made_from: self.made_from.clone(),
        };
        files::write_json(&dir.join(NOTE_FILE), &note)
    }

    /// What was otherwise when an earlier run of this recipe came to this stage: the first key that differs, with both
    /// values. `None` if there was no such run, or if this very stage is done or begun.
    pub fn changed(&self) -> Option<String> {
        let is_begun = files::PartialDir::at(&self.dir).is_ok_and(|partial| partial.exists());
        if is_begun || self.is_done() {
            return None;
        }
        let mut earlier: Vec<_> = fs::read_dir(self.dir.parent()?)
            .ok()?
            .flatten()
            .filter_map(|entry| {
                let path = entry.path().join(NOTE_FILE);
                let note: Note = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
                let written = path.metadata().ok()?.modified().ok()?;
                (note.stage == self.name && note.key != self.key).then_some((written, note))
            })
            .collect();
        earlier.sort_by_key(|(written, _)| *written);
        let (_, last) = earlier.pop()?;
        Some(match Difference::first(&last.made_from, &self.made_from) {
            Some(difference) => told(&difference),
            None => "another version of the program made it".to_owned(),
        })
    }

    /// What a finished run of this stage wrote down, if it is there and complete.
    pub fn artifact<T: DeserializeOwned>(&self) -> Option<Artifact<T>> {
        let text = fs::read(self.dir.join(ARTIFACT_FILE)).ok()?;
        let artifact: Artifact<T> = serde_json::from_slice(&text).ok()?;
        (artifact.key == self.key).then_some(artifact)
    }

    /// Whether its artifact is complete.
    pub fn is_done(&self) -> bool {
        self.artifact::<Value>().is_some()
    }

    /// Writes `artifact.json` into the folder that will be published as this stage's.
    pub fn seal<T: Serialize>(&self, dir: &Path, secs: f64, result: &T) -> io::Result<()> {
        let artifact = Artifact {
            stage: self.name.clone(),
            key: self.key.clone(),
            secs,
            result,
        };
        files::write_json(&dir.join(ARTIFACT_FILE), &artifact)
    }
}

/// A difference as a user would name it: without the blocks that hold a key, and keys of stages by what they stand for.
fn told(difference: &Difference) -> String {
    let holders = [
        "pass", "distill", "prune", "shrink", "quantize", "method", "qat", "ptq", "gptq",
    ];
    let path: Vec<&str> = difference.path.iter().map(String::as_str).collect();
    match path.as_slice() {
        [stage] if stage.starts_with(|first: char| first.is_ascii_digit()) => {
            format!("{stage}, which it goes on from, has changed")
        }
        [.., "teacher_hash" | "teacher"] => "the teacher has changed".to_owned(),
        [.., "checkpoint"] => "the checkpoint of the student has changed".to_owned(),
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
            format!("`{}` {}", names.join("."), difference.told("not set"))
        }
        [] => "its inputs have changed".to_owned(),
    }
}

/// What `artifact.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Artifact<T> {
    /// Name of the stage.
    pub stage: String,
    /// Key of the stage.
    pub key: String,
    /// Seconds the stage took, of the process that finished it.
    pub secs: f64,
    /// What it measured.
    pub result: T,
}

/// What the artifact of a cache says: the data stages whose rows it has.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct CapturedFor {
    data_keys: Vec<String>,
}

/// All stages of a plan, in order.
#[derive(Debug, Clone, Serialize)]
pub struct Stages {
    /// Folder of the recipe's own artifacts.
    pub run_dir: PathBuf,
    /// BLAKE3 (hex) of the teacher's tensors and architecture, hashed once for all keys.
    pub teacher_hash: Option<String>,
    /// Token rows of both texts.
    pub data: Stage,
    /// The teacher, measured on the validation text.
    pub teacher: Option<Stage>,
    /// What the teacher says of both texts.
    pub cache: Option<Stage>,
    /// Whether the cache is for the training text, too, and not for the validation text alone.
    #[serde(skip)]
    pub captures_train: bool,
    /// One stage per pass.
    pub passes: Vec<Stage>,
    /// The exported folders.
    pub export: Stage,
}

impl Stages {
    /// Names all stages. Reads texts and weights to hash them, and writes nothing.
    pub fn of(plan: &Plan) -> Result<Self, StagesError> {
        let run_dir = plan.output.join(&plan.name);
        let teacher_hash = plan
            .teacher
            .as_ref()
            .map(|teacher| {
                Checkpoint::open(&teacher.checkpoint).map(|checkpoint| model_hash(&checkpoint))
            })
            .transpose()?;
        let data_parts = data_parts(plan)?;
        let data = Stage::new(&plan.output, "data".to_owned(), &data_parts);
        let text = without_limits(data_parts.clone(), plan);
        let cache = plan.cache.as_ref().map(|cache| {
            let parts = json!({
                "text": text, "teacher_hash": teacher_hash, "plan": cache, "teacher": plan.teacher,
                "format": Fingerprint::VERSION,
            });
            Stage::new(&plan.output, "cache".to_owned(), &parts)
        });
        let captured = json!({
            "plan": plan.cache, "teacher": plan.teacher, "teacher_hash": teacher_hash,
        });
        // The teacher's own figures are taken against its cache.
        let teacher = cache.as_ref().map(|cache| {
            let parts = json!({ "cache": cache.key, "data": data.key });
            Stage::new(&run_dir, "00-teacher".to_owned(), &parts)
                .made_from(json!({ "data": data_parts, "cache": captured }))
        });

        let student = student_parts(plan, teacher_hash.as_deref())?;
        let mut last = json!({
            "student": student, "seed": plan.seed, "data": data.key, "cache": cache.as_ref().map(|cache| &cache.key),
        });
        let mut made_from = json!({
            "student": last["student"], "seed": plan.seed, "data": data_parts, "cache": captured,
        });
        let mut stages = Vec::new();
        for (pass_idx, pass) in plan.passes.iter().enumerate() {
            let name = format!("{:02}-{}", pass_idx + 1, passes::name(pass));
            made_from["pass"] = json!(pass);
            let stage = Stage::new(&run_dir, name, &json!({ "student": last, "pass": pass }))
                .made_from(made_from);
            last = json!(stage.key);
            made_from = json!({ &stage.name: stage.key });
            stages.push(stage);
        }
        let export_name = format!("{:02}-export", plan.passes.len() + 1);
        let parts = json!({
            "student": last, "export": plan.export, "tokenizer": tokenizer_hashes(plan)?,
        });
        made_from["export"] = json!(plan.export);
        made_from["tokenizer"] = parts["tokenizer"].clone();
        let export = Stage::new(&run_dir, export_name, &parts).made_from(made_from);
        Ok(Self {
            run_dir,
            teacher_hash,
            data,
            teacher,
            cache,
            captures_train: plan.reads_cache(),
            passes: stages,
            export,
        })
    }

    /// Whether the cache has all rows that this plan asks for.
    pub fn cache_is_done(&self) -> bool {
        let captured = self.cache.as_ref().and_then(Stage::artifact::<CapturedFor>);
        captured.is_some_and(|artifact| {
            let has = |key: &String| artifact.result.data_keys.contains(key);
            has(&self.data.key) || !self.captures_train && has(&self.validation_key())
        })
    }

    /// Notes that the cache has all rows that this plan asks for.
    pub fn seal_cache(&self, secs: f64) -> io::Result<()> {
        let Some(stage) = self.cache.as_ref().filter(|_| !self.cache_is_done()) else {
            return Ok(());
        };
        let before = stage.artifact::<CapturedFor>();
        let (mut captured, secs_before) = before.map_or_else(Default::default, |artifact| {
            (artifact.result, artifact.secs)
        });
        captured.data_keys.push(if self.captures_train {
            self.data.key.clone()
        } else {
            self.validation_key()
        });
        stage.seal(&stage.dir, secs_before + secs, &captured)
    }

    /// What a cache notes that has the validation rows alone.
    fn validation_key(&self) -> String {
        format!("{}, validation", self.data.key)
    }

    /// What each stage of this recipe that has to run anew has that an earlier run of it had not.
    pub fn changes(&self) -> impl Iterator<Item = String> {
        let own = self
            .teacher
            .iter()
            .chain(&self.passes)
            .chain([&self.export]);
        own.filter_map(|stage| Some(format!("{} runs anew: {}", stage.name, stage.changed()?)))
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
