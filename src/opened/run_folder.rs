//! What a run leaves in its folder, and which model is meant by the path of such a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::checkpoint::CheckpointError;
use crate::files::{self, UnfinishedDir};
use crate::formats::Format;
use crate::gguf::is_gguf;
use crate::student::STUDENT_FILE;

/// File that makes a folder an artifact; written last.
pub const ARTIFACT_FILE: &str = "artifact.json";

/// File that lists the inputs of a stage; written first.
pub const STAGE_FILE: &str = "stage.json";

/// File of a run's folder that lists the folders of its stages; see [`Lineup`].
const LINEUP_FILE: &str = "run.json";

/// File of a finished run.
const REPORT_FILE: &str = "report.json";

/// End of the name of the stage that writes models, before its key.
const EXPORT: &str = "-export-";

/// Stages of a run as its recipe was when it ran last; older folders of other settings may lie beside theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineup {
    /// Names of the folders of the passes and the export, in order.
    pub stages: Vec<String>,
}

impl Lineup {
    /// Writes the file into the folder of a run that begins, unless it is there.
    pub fn write(&self, run_dir: &Path) -> io::Result<()> {
        if Self::read(run_dir).as_ref() == Some(self) {
            return Ok(());
        }
        files::write_json(&run_dir.join(LINEUP_FILE), self)
    }

    fn read(run_dir: &Path) -> Option<Self> {
        files::read_json(&run_dir.join(LINEUP_FILE)).ok().flatten()
    }

    /// Stages of a run of a version that wrote no such file: of those that are there, the latest of each number.
    fn found(run_dir: &Path) -> Self {
        let time = |path: &Path| path.metadata().ok()?.modified().ok();
        let mut folders: Vec<(Option<SystemTime>, String)> = stage_folders(run_dir)
            .into_iter()
            .map(|name| {
                let dir = run_dir.join(&name);
                let begun = UnfinishedDir::at(&dir).ok();
                let begun = begun.and_then(|dir| time(&dir.join(STAGE_FILE)));
                (time(&dir.join(ARTIFACT_FILE)).max(begun), name)
            })
            .collect();
        folders.sort();
        let mut stages: Vec<String> = Vec::new();
        for (_, name) in folders {
            stages.retain(|stage| number_of(stage) != number_of(&name));
            stages.push(name);
        }
        stages.sort();
        // A recipe that lost a pass left folders with higher numbers.
        let last = stages.iter().position(|stage| stage.contains(EXPORT));
        stages.truncate(last.map_or(stages.len(), |last| last + 1));
        Self { stages }
    }
}

/// A stage of a run and whether it is finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageState {
    /// Name of its folder.
    pub folder: String,
    /// State of its artifact.
    pub state: Finished,
}

/// State of a stage's artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finished {
    /// Complete.
    Finished,
    /// Begun.
    Unfinished,
    /// Not begun.
    Missing,
}

/// The folder of a run.
#[derive(Debug, Clone)]
pub struct RunFolder {
    /// Path.
    pub dir: PathBuf,
    /// Its passes and its export, in order.
    pub stages: Vec<StageState>,
    /// True if the report of these stages was written.
    pub is_finished: bool,
}

impl RunFolder {
    /// Looks at a folder; `None` if no run has written it.
    pub fn at(dir: &Path) -> Option<Self> {
        let lineup = match Lineup::read(dir) {
            Some(lineup) => lineup,
            None if dir.join(REPORT_FILE).exists() || !stage_folders(dir).is_empty() => {
                Lineup::found(dir)
            }
            None => return None,
        };
        let stages: Vec<StageState> = lineup
            .stages
            .into_iter()
            .filter(|folder| is_a_name(folder))
            .map(|folder| {
                let path = dir.join(&folder);
                let state = if path.join(ARTIFACT_FILE).exists() {
                    Finished::Finished
                } else if path.exists() || UnfinishedDir::at(&path).is_ok_and(|path| path.exists())
                {
                    Finished::Unfinished
                } else {
                    Finished::Missing
                };
                StageState { folder, state }
            })
            .collect();
        let mut all = stages.iter();
        let is_finished = all.all(|stage| stage.state == Finished::Finished)
            && stages.last().is_some_and(|last| is_export(&last.folder))
            && dir.join(REPORT_FILE).exists();
        Some(Self {
            dir: dir.to_path_buf(),
            stages,
            is_finished,
        })
    }

    /// Name of the run: that of its folder.
    pub fn name(&self) -> String {
        name_of(&self.dir)
    }

    /// The last finished export that can be read, or else the last finished pass, with a note that says which it is.
    pub fn model(&self) -> Result<ModelPath, CheckpointError> {
        let name = self.name();
        let done = |stage: &&StageState| stage.state == Finished::Finished;
        let mut finished = self.stages.iter().rev().filter(done);
        let mut exports = finished.clone().filter(|stage| is_export(&stage.folder));
        let model = exports.find_map(|stage| model_of_export(&self.dir.join(&stage.folder)));
        if let Some(model) = model {
            let inside = model.strip_prefix(&self.dir).unwrap_or(&model);
            let note = format!("run `{name}`: reading its export `{}`", inside.display());
            return Ok(ModelPath::inside(model, name, note));
        }
        let pass = finished.find(|stage| self.dir.join(&stage.folder).join(STUDENT_FILE).exists());
        if let Some(StageState { folder, .. }) = pass {
            let note =
                format!("run `{name}` is unfinished: reading its last finished pass `{folder}`");
            return Ok(ModelPath::inside(self.dir.join(folder), name, note));
        }
        let begun = |stage: &&StageState| stage.state == Finished::Unfinished;
        let begun = self.stages.iter().find(begun);
        Err(CheckpointError::UnfinishedRun {
            dir: self.dir.clone(),
            begun: begun.map(|stage| stage.folder.clone()),
        })
    }
}

/// Folder or file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPath {
    /// The folder or file.
    pub path: PathBuf,
    /// Name of the model, if it is that of another folder: a run's.
    pub name: Option<String>,
    /// Message that says which folder was taken, if another was named.
    pub note: Option<String>,
}

impl ModelPath {
    fn inside(path: PathBuf, name: String, note: String) -> Self {
        Self {
            path,
            name: Some(name),
            note: Some(note),
        }
    }

    /// Finds the model that a path means: a run means a folder inside it, and an export the model in the first format that can be
    /// read. Any other path means itself.
    pub fn of(path: &Path) -> Result<Self, CheckpointError> {
        let itself = Self {
            path: path.to_path_buf(),
            name: None,
            note: None,
        };
        let has = |name: &str| path.join(name).exists();
        if UnfinishedDir::target_name(&name_of(path)).is_some() && has(STAGE_FILE) {
            return Err(CheckpointError::UnfinishedStage { dir: itself.path });
        }
        if is_gguf(path) || has("config.json") || has(STUDENT_FILE) {
            return Ok(itself);
        }
        if let Some(run) = RunFolder::at(path) {
            return run.model();
        }
        match model_of_export(path).filter(|_| has(ARTIFACT_FILE)) {
            None => Ok(itself),
            Some(model) => {
                let inside = model.strip_prefix(path).unwrap_or(&model);
                let note = format!("export `{}`: reading `{}`", name_of(path), inside.display());
                Ok(Self::inside(model, name_of(files::parent(path)), note))
            }
        }
    }
}

/// Model in the folder of an export, in the format that holds most of the student.
fn model_of_export(dir: &Path) -> Option<PathBuf> {
    Format::fullest_first().into_iter().find_map(|format| {
        let folder = dir.join(format.word());
        if format == Format::Gguf {
            let entries = fs::read_dir(&folder).ok()?.flatten();
            return entries
                .map(|entry| entry.path())
                .filter(|path| is_gguf(path))
                .min();
        }
        folder.join("config.json").exists().then_some(folder)
    })
}

/// Number of a stage, with which the name of its folder begins.
fn number_of(folder: &str) -> Option<&str> {
    Some(folder.split_once('-')?.0)
}

fn is_export(folder: &str) -> bool {
    folder.contains(EXPORT)
}

/// Names of the folders of finished or begun passes and exports: a number, a name and a key.
fn stage_folders(run_dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(run_dir) else {
        return Vec::new();
    };
    let names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let name = UnfinishedDir::target_name(&name)
            .unwrap_or(&name)
            .to_owned();
        let (number, rest) = name.split_once('-')?;
        let (_, key) = rest.rsplit_once('-')?;
        let is_number =
            number.len() >= 2 && number != "00" && number.bytes().all(|byte| byte.is_ascii_digit());
        let is_key = key.len() == 8 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_number && is_key && entry.path().is_dir()).then_some(name)
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    names
}

/// True for the name of a folder inside another: the list may have been written by anybody.
fn is_a_name(name: &str) -> bool {
    let path = Path::new(name);
    path.file_name().is_some_and(|found| found == name)
}

fn name_of(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let name = whole.file_name().unwrap_or(whole.as_os_str());
    name.to_string_lossy().into_owned()
}
