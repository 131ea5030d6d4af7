//! The stages of a run: their keys, where their artifacts live, and which are done.

use std::io;
use std::path::{Path, PathBuf};
use std::{fs, iter};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use crate::cache::Fingerprint;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::data::{self, SourceError, Tokenizer, TokenizerError};
use crate::export::huggingface::tokenizer_files;
use crate::files;
use crate::gguf::is_gguf;
use crate::passes;
use crate::recipe::{Plan, StudentPlan, TokenizerPlan};

/// File that makes a folder an artifact; written last.
pub const ARTIFACT_FILE: &str = "artifact.json";

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
}

impl Stage {
    fn new(root: &Path, name: String, parts: &Value) -> Self {
        let key = files::hash_json(&json!({ "version": VERSION, "stage": name, "parts": parts }));
        let dir = root.join(format!("{name}-{}", &key[..8]));
        Self { name, key, dir }
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
        let text = without_limits(data_parts, plan);
        let cache = plan.cache.as_ref().map(|cache| {
            let parts = json!({
                "text": text, "teacher_hash": teacher_hash, "plan": cache, "teacher": plan.teacher,
                "format": Fingerprint::VERSION,
            });
            Stage::new(&plan.output, "cache".to_owned(), &parts)
        });
        // The teacher's own figures are taken against its cache.
        let teacher = cache.as_ref().map(|cache| {
            Stage::new(
                &run_dir,
                "00-teacher".to_owned(),
                &json!({ "cache": cache.key, "data": data.key }),
            )
        });

        let student = match &plan.student {
            StudentPlan::Checkpoint(dir) => {
                json!({ "checkpoint": model_hash(&Checkpoint::open(dir)?) })
            }
            StudentPlan::FromTeacher { .. } => {
                json!({ "plan": plan.student, "teacher": teacher_hash })
            }
            StudentPlan::Architecture(_) => json!({ "plan": plan.student }),
        };
        let mut last = json!({
            "student": student, "seed": plan.seed, "data": data.key, "cache": cache.as_ref().map(|cache| &cache.key),
        });
        let mut stages = Vec::new();
        for (pass_idx, pass) in plan.passes.iter().enumerate() {
            let name = format!("{:02}-{}", pass_idx + 1, passes::name(pass));
            let stage = Stage::new(&run_dir, name, &json!({ "student": last, "pass": pass }));
            last = json!(stage.key);
            stages.push(stage);
        }
        let export_name = format!("{:02}-export", plan.passes.len() + 1);
        let parts = json!({
            "student": last, "export": plan.export, "tokenizer": tokenizer_hashes(plan)?,
        });
        let export = Stage::new(&run_dir, export_name, &parts);
        Ok(Self {
            run_dir,
            teacher_hash,
            data,
            teacher,
            cache,
            passes: stages,
            export,
        })
    }

    /// Whether the cache has all rows that this plan asks for.
    pub fn cache_is_done(&self) -> bool {
        let captured = self.cache.as_ref().and_then(Stage::artifact::<CapturedFor>);
        captured.is_some_and(|artifact| artifact.result.data_keys.contains(&self.data.key))
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
        captured.data_keys.push(self.data.key.clone());
        stage.seal(&stage.dir, secs_before + secs, &captured)
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

/// Hashes of the tokenizer files that an export copies or, out of a GGUF file, makes.
fn tokenizer_hashes(plan: &Plan) -> Result<Vec<(String, String)>, StagesError> {
    let Some(teacher) = plan
        .teacher
        .as_ref()
        .filter(|_| plan.data.tokenizer == TokenizerPlan::Teacher)
    else {
        return Ok(Vec::new());
    };
    if is_gguf(&teacher.checkpoint) {
        let tokenizer = Tokenizer::of_model(&teacher.checkpoint)?;
        let hash = |(name, bytes): (&str, &[u8])| {
            (name.to_owned(), blake3::hash(bytes).to_hex().to_string())
        };
        return Ok(tokenizer.files().map(hash).to_vec());
    }
    let files = tokenizer_files(&teacher.checkpoint);
    files
        .into_iter()
        .map(|(name, path)| Ok((name.to_owned(), files::hash_file(&path)?)))
        .collect()
}

/// BLAKE3 (hex) of a model: its tensors and its architecture, without which the same tensors compute another thing.
pub fn model_hash(checkpoint: &Checkpoint) -> String {
    files::hash_json(&(checkpoint.content_hash(), checkpoint.config()))
}

/// The text without how much of it is used: one cache serves recipes that want more or less of the same.
///
/// Limits cut at the end of a row, so that rows are the same under each; only a limit below one row, which pads it, makes
/// another.
fn without_limits(mut data_parts: Value, plan: &Plan) -> Value {
    let data = &plan.data;
    for (name, limit) in [
        ("train_tokens", data.train_tokens),
        ("validation_tokens", data.validation_tokens),
    ] {
        let cuts_a_row = limit.filter(|&limit| limit < data.sequence_length as u64);
        if let Some(value) = data_parts.pointer_mut(&format!("/plan/{name}")) {
            *value = json!(cuts_a_row);
        }
    }
    data_parts
}

fn data_parts(plan: &Plan) -> Result<Value, StagesError> {
    let tokenizer = match (&plan.data.tokenizer, &plan.teacher) {
        (TokenizerPlan::Teacher, Some(teacher)) => {
            Some(Tokenizer::of_model(&teacher.checkpoint)?.hash())
        }
        (TokenizerPlan::File(path), _) => Some(Tokenizer::open(path)?.hash()),
        (TokenizerPlan::Train { .. } | TokenizerPlan::Teacher, _) => None,
    };
    Ok(json!({
        "plan": plan.data,
        "train": data::content_hash(&plan.data.train)?,
        "validation": data::content_hash(&plan.data.validation)?,
        "tokenizer": tokenizer,
    }))
}
