//! The stages of a run: their keys, the folders of their artifacts, and which are done.

mod artifact;
mod inputs;
mod more;
mod parts;
mod shared_cache;
mod stage;

use std::io;
use std::path::{Path, PathBuf};
use std::{fs, iter};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

pub use self::artifact::{Artifact, Damage, FileRecord, LOCK_FILE};
pub use self::inputs::{Inputs, Model};
use self::more::without_training;
pub use self::more::{MoreSteps, more_steps};
pub use self::parts::model_hash;
use self::parts::{data_parts, student_parts, tokenizer_files};
use self::shared_cache::{cache_stage, is_captured_for, other_cache_stages};
use self::stage::VERSION;
pub use self::stage::{Stage, is_noted_as, stage_of};
use crate::checkpoint::CheckpointError;
use crate::data::SourceError;
use crate::files;
use crate::hashes::Hashes;
use crate::opened::{Lineup, Opened, STAGE_FILE};
use crate::plan::Plan;
use crate::vocabulary::VocabularyError;

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
    /// Rows are needed, and neither they nor their text are here.
    #[error("the text is not here, nor are the rows that were made of it for this recipe: `{}` is not complete", dir.display())]
    NoText {
        /// Folder of the rows.
        dir: PathBuf,
    },
    /// The teacher is needed, but only what a cache keeps of it is here.
    #[error("the weights of the teacher are needed, and the teacher is not here: {} has only what the cache keeps of it", path.display())]
    NoWeights {
        /// Folder of what is kept.
        path: PathBuf,
    },
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

/// Suffix of the data's key in [`CapturedFor`] if only the validation rows were captured.
const OF_VALIDATION: &str = ", validation";

fn is_of_validation(key: &str) -> bool {
    key.ends_with(OF_VALIDATION)
}

/// Key that a cache records if it has the validation rows of a data stage alone.
fn validation_key(data: &Stage) -> String {
    format!("{}{OF_VALIDATION}", data.key)
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
    /// Cache stages of recipes that learn another part of the same text.
    other_caches: Vec<Stage>,
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
        let other_caches = other_cache_stages(plan, &inputs);
        let mut keys = vec![data.key.clone()];
        keys.extend(Some(validation_key(&data)).filter(|_| !plan.reads_cache()));
        let whole = |stage: Stage| stage.checked(hashes)?.with_whole_shards(hashes);
        let cache = cache_stage(plan, &inputs).map(|cache| {
            let of_folder = iter::once(&cache).chain(&other_caches);
            let mut captured = of_folder.filter(|stage| is_captured_for(stage, &keys));
            let folder = captured.next().unwrap_or(&cache);
            let folder = whole(folder.clone())?;
            Ok::<_, io::Error>(cache.in_folder_of(&folder))
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
            let parts = json!({ "student": last, "pass": pass });
            let origin = json!([VERSION, MEASURES_VERSION, name, without_training(&parts)]);
            let stage = Stage::new(&run_dir, name, &parts).made_from(made_from);
            let stage = stage.of_origin(&origin).checked(hashes)?;
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
            other_caches,
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
        let mut keys = vec![self.data.key.clone()];
        keys.extend(Some(validation_key(&self.data)).filter(|_| !self.captures_train));
        stage.is_some_and(|stage| is_captured_for(stage, &keys))
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
            validation_key(&self.data)
        };
        if !captured.data_keys.contains(&key) {
            captured.data_keys.push(key);
        }
        stage.seal_in_place(secs_before + secs, captured)
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

    /// Messages for each stage that has to run again, with the difference from an earlier run; and for each pass whose steps were
    /// raised, where it begins.
    pub fn changes(&self, plan: &Plan) -> Vec<String> {
        let again = self.all().filter_map(|stage| {
            let changed = stage.changed()?;
            Some(format!("{} runs again, because {changed}", stage.name))
        });
        let passes = plan.passes.iter().zip(&self.passes);
        let more = passes.filter_map(|(pass, stage)| {
            let more = more_steps(stage, pass)?;
            Some(format!("{} {more}", stage.name))
        });
        self.shared().into_iter().chain(again).chain(more).collect()
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
