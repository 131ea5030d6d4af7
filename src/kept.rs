//! Facts and small files that a cache keeps of its inputs: all but the teacher's weights and the text.
//!
//! A finished cache and the rows beside it are enough to train on. With these facts, stages have the same keys on a machine that
//! has neither teacher nor text, and what is exported has the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::chat::Learn;
use crate::checkpoint::Checkpoint;
use crate::data::{SourcePlan, StoredRows, Tokenizer, TokenizerPlan};
use crate::export::Ancestor;
use crate::files::{self, with_path};
use crate::formats::huggingface::tokenizer_files;
use crate::hub::{self, HubId};
use crate::model::DecoderConfig;
use crate::plan::{self, Plan};
use crate::recipe::RecipeFaults;

/// File of the facts in the folder of a cache; written last.
const FILE: &str = "inputs.json";

/// Folders beside it: tokenizer files of the teacher, and a tokenizer that was trained on the text.
const TEACHER: &str = "inputs/teacher";
const TRAINED: &str = "inputs/trained";

/// Key under which the file holds the hash of its other keys.
const SEAL: &str = "blake3";

/// Inputs of a cache, without the weights and the text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Folder of the cache.
    #[serde(skip)]
    dir: PathBuf,
    /// Settings that a recipe must have in common with the one that made the cache; see [`settings`].
    settings: Value,
    /// Parts of the text that recipes learn whose positions the cache has.
    learnt: Vec<Option<Learn>>,
    /// The teacher.
    pub teacher: KeptTeacher,
    /// Names of the files and folders of both texts.
    text_names: [Vec<String>; 2],
    /// BLAKE3 (hex) of both texts.
    pub texts: [String; 2],
    /// Files below the folder, with the BLAKE3 (hex) of each.
    files: BTreeMap<String, String>,
    /// Rows that were made of the texts, by the key of their stage.
    rows: BTreeMap<String, StoredRows>,
}

/// Facts about a teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptTeacher {
    /// Name of its folder or file in the recipe; see [`place_name`].
    pub file_name: String,
    /// True if it is a folder, whose tokenizer files an export copies.
    pub is_folder: bool,
    /// Hash of its weights and architecture.
    pub hash: String,
    /// Architecture.
    pub config: DecoderConfig,
    /// Sampling defaults.
    pub generation: Map<String, Value>,
    /// Rows of its embedding, as far as its headers promise them.
    pub promised_rows: Option<u64>,
    /// Name and licence, for the card of an export.
    pub ancestor: Ancestor,
}

/// Inputs of a recipe that are not on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away {
    /// True if the teacher is not here.
    pub teacher: bool,
    /// True if a file or folder of the text is not here.
    pub text: bool,
}

impl Away {
    /// Looks for the inputs of a plan.
    pub fn of(plan: &Plan) -> Self {
        let mut texts = plan.data.train.iter().chain(&plan.data.validation);
        let teacher = plan.teacher.as_ref();
        Self {
            teacher: teacher.is_some_and(|teacher| !teacher.checkpoint.exists()),
            text: texts.any(|source| !source.path.exists()),
        }
    }

    /// True if anything is not here.
    pub fn any(self) -> bool {
        self.teacher || self.text
    }
}

/// Loads the plan of a recipe, as [`plan::load`] does. If nothing else is wrong with it than that its teacher or its text is
/// not here, and a cache in its output folder keeps what is needed of them, it is a plan, too.
pub fn load_plan(path: &Path, overrides: &[String]) -> Result<Plan, RecipeFaults> {
    plan::load(path, overrides).or_else(|faults| {
        let plan = plan::load_without_inputs(path, overrides);
        let plan = plan.ok().filter(|plan| Kept::find(plan).is_some());
        plan.ok_or(faults)
    })
}

impl Kept {
    /// What the one cache in the output folder keeps that was made from inputs of these names with these settings. `None` if
    /// there is none, or if there are several: nothing tells then which teacher or text is meant.
    pub fn find(plan: &Plan) -> Option<Self> {
        let entries = fs::read_dir(&plan.output).ok()?.flatten();
        let caches = entries.map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().unwrap_or_default();
            name.as_encoded_bytes().starts_with(b"cache-")
        });
        let kept = caches.filter_map(|dir| Self::read(&dir));
        let mut fitting: Vec<Self> = kept.filter(|kept| kept.fits(plan)).collect();
        let found = fitting.pop();
        found.filter(|_| fitting.is_empty())
    }

    fn fits(&self, plan: &Plan) -> bool {
        let teacher = plan.teacher.as_ref();
        teacher.is_some_and(|teacher| is_named(&self.teacher.file_name, &teacher.checkpoint))
            && self
                .text_names
                .iter()
                .zip(texts(plan))
                .all(|(names, sources)| {
                    let mut pairs = names.iter().zip(sources);
                    names.len() == sources.len()
                        && pairs.all(|(name, source)| is_named(name, &source.path))
                })
            && self.settings == settings(plan)
            && self.learnt.contains(&plan.data.learn)
    }

    /// Reads the facts of a cache; `None` if they, or the files beside them, are not as they were written.
    fn read(dir: &Path) -> Option<Self> {
        let mut value: Value = files::read_json(&dir.join(FILE)).ok().flatten()?;
        let seal = value.as_object_mut()?.shift_remove(SEAL)?;
        if seal != files::hash_json(&value) {
            return None;
        }
        let kept: Self = serde_json::from_value(value).ok()?;
        let is_whole = |(path, hash): (&String, &String)| {
            files::hash_file(&dir.join(path)).is_ok_and(|found| found == *hash)
        };
        kept.files.iter().all(is_whole).then(|| Self {
            dir: dir.to_path_buf(),
            ..kept
        })
    }

    /// Keeps the inputs of a finished cache: the teacher, with the folder or file that its tokenizer is read from, and the rows of the data stage of this key, unless it is done already. The
    /// caller holds the lock on the folder.
    pub fn keep(
        plan: &Plan,
        dir: &Path,
        teacher: (KeptTeacher, &Path),
        texts: &[String; 2],
        rows: (&str, &StoredRows, &Tokenizer),
    ) -> io::Result<()> {
        let (teacher, path) = teacher;
        let (data_key, stored, tokenizer) = rows;
        let before = Self::read(dir);
        let kept_files = match &before {
            Some(before) => before.files.clone(),
            None => keep_files(plan, dir, path, tokenizer)?,
        };
        let mut rows = before
            .as_ref()
            .map_or_else(BTreeMap::new, |before| before.rows.clone());
        rows.insert(data_key.to_owned(), stored.clone());
        let mut learnt = before
            .as_ref()
            .map_or_else(Vec::new, |before| before.learnt.clone());
        if !learnt.contains(&plan.data.learn) {
            learnt.push(plan.data.learn);
        }
        let kept = Self {
            dir: dir.to_path_buf(),
            settings: settings(plan),
            learnt,
            teacher,
            text_names: text_names(plan),
            texts: texts.clone(),
            files: kept_files,
            rows,
        };
        if before.as_ref() == Some(&kept) {
            return Ok(());
        }
        let mut value = serde_json::to_value(&kept)?;
        let seal = files::hash_json(&value);
        if let Some(entries) = value.as_object_mut() {
            entries.insert(SEAL.to_owned(), Value::from(seal));
        }
        files::write_json(&dir.join(FILE), &value)
    }

    /// Pins the ids of the teacher and the texts that were left in a plan to the commits that were kept.
    pub fn pin(&self, plan: &mut Plan) {
        let pin = |path: &mut PathBuf, name: &String| {
            if let (Some(_), Ok(kept)) = (HubId::of_path(path), HubId::parse(name)) {
                *path = kept.to_path();
            }
        };
        if let Some(teacher) = &mut plan.teacher {
            pin(&mut teacher.checkpoint, &self.teacher.file_name);
        }
        let sources = [&mut plan.data.train, &mut plan.data.validation];
        for (sources, names) in sources.into_iter().zip(&self.text_names) {
            for (source, name) in sources.iter_mut().zip(names) {
                pin(&mut source.path, name);
            }
        }
    }

    /// Folder of the cache.
    pub fn cache_dir(&self) -> &Path {
        &self.dir
    }

    /// The teacher without its weights.
    pub fn checkpoint(&self) -> Checkpoint {
        let teacher = &self.teacher;
        Checkpoint::without_weights(
            &self.dir.join(TEACHER),
            teacher.config.clone(),
            teacher.generation.clone(),
            teacher.promised_rows,
        )
    }

    /// Folder whose tokenizer files an export copies as the teacher's; `None` if the teacher was a GGUF file.
    pub fn tokenizer_dir(&self) -> Option<PathBuf> {
        self.teacher.is_folder.then(|| self.dir.join(TEACHER))
    }

    /// File of the tokenizer that was trained on the text.
    pub fn trained_tokenizer(&self) -> PathBuf {
        self.dir.join(TRAINED).join("tokenizer.json")
    }

    /// Rows of the data stage of this key.
    pub fn rows(&self, data_key: &str) -> Option<&StoredRows> {
        self.rows.get(data_key)
    }
}

/// Copies what a run reads of a teacher and a tokenizer beside weights. Returns the files with their hashes.
fn keep_files(
    plan: &Plan,
    dir: &Path,
    teacher: &Path,
    tokenizer: &Tokenizer,
) -> io::Result<BTreeMap<String, String>> {
    let mut contents: Vec<(String, Vec<u8>)> = Vec::new();
    if teacher.is_dir() {
        for (name, path) in tokenizer_files(teacher)? {
            let bytes = files::read(&path).map_err(|error| with_path(error, &path))?;
            contents.push((format!("{TEACHER}/{name}"), bytes));
        }
    }
    let folder = match plan.data.tokenizer {
        TokenizerPlan::Teacher => Some(TEACHER).filter(|_| !teacher.is_dir()),
        TokenizerPlan::Train(_) => Some(TRAINED),
        TokenizerPlan::File(_) => None,
    };
    if let Some(folder) = folder {
        for (name, bytes) in tokenizer.files() {
            contents.push((format!("{folder}/{name}"), bytes.to_vec()));
        }
    }
    let mut kept = BTreeMap::new();
    for (name, bytes) in contents {
        let path = dir.join(&name);
        let folder = files::parent(&path);
        fs::create_dir_all(folder).map_err(|error| with_path(error, folder))?;
        files::remove_parts_of(&path)?;
        files::write_atomically(&path, |out| out.write_all(&bytes))?;
        kept.insert(name, blake3::hash(&bytes).to_hex().to_string());
    }
    Ok(kept)
}

/// Settings of a plan that decide a cache, without limits of the text, which each of its recipes may set.
fn settings(plan: &Plan) -> Value {
    json!({
        "sequence_length": plan.data.sequence_length,
        "tokenizer": plan.data.tokenizer,
        "on_bad_row": plan.data.on_bad_row,
        "sources": [&plan.data.train, &plan.data.validation], // without their paths
        "teacher": plan.teacher,
        "cache": plan.cache,
    })
}

fn texts(plan: &Plan) -> [&Vec<SourcePlan>; 2] {
    [&plan.data.train, &plan.data.validation]
}

fn text_names(plan: &Plan) -> [Vec<String>; 2] {
    let names = |sources: &Vec<SourcePlan>| {
        let names = sources.iter().map(|source| place_name(&source.path));
        names.collect()
    };
    texts(plan).map(names)
}

/// Name of a path's folder or file that does not tell where it is: its id at its commit if it is the hub's, else its last
/// part.
pub fn place_name(path: &Path) -> String {
    let id = || hub::origin(path).map(|(_, id)| id.to_string());
    hub::written(path).or_else(id).unwrap_or_else(|| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    })
}

/// True if a path may mean what was kept under a name: an id without a commit means any commit.
fn is_named(name: &str, path: &Path) -> bool {
    let kept = || HubId::parse(name).ok();
    match HubId::of_path(path).zip(kept()) {
        Some((id, kept)) => id.may_mean(&kept),
        None => name == place_name(path),
    }
}
