//! What will fail, fails here: a look at headers before any work.

use std::io;
use std::path::Path;

use rustix::fs::{Access, access, statvfs};

use crate::checkpoint::Checkpoint;
use crate::data::Tokenizer;
use crate::diag::Diagnostic;
use crate::estimate::{StageEstimate, size_of};
use crate::files::PartialDir;
use crate::model::grid::Grid;
use crate::model::{DecoderConfig, ParameterKind, parameter_specs};
use crate::progress::{bytes_text, thousands};
use crate::recipe::{
    PassPlan, Plan, RecipeFaults, StudentPlan, SupportPlan, TokenizerPlan, fault_at,
};
use crate::stages::Stage;

/// Checks a plan against the headers of the files it names; writes nothing.
///
/// # Errors
///
/// The first fault found, pointed at the recipe's line.
pub fn check(plan: &Plan, overrides: &[String]) -> Result<(), RecipeFaults> {
    let preflight = Preflight { plan, overrides };
    preflight.output()?;
    let teacher = match &plan.teacher {
        Some(teacher) => Some(preflight.checkpoint("teacher.checkpoint", &teacher.checkpoint)?),
        None => None,
    };
    preflight.vocabulary(teacher.as_ref())?;
    preflight.support(teacher.as_ref())?;
    preflight.student(teacher.as_ref())
}

/// Refuses a run whose estimated artifacts do not fit on the disk that `output` is on.
///
/// # Errors
///
/// Pointed at `output`. A system that does not tell its free space is taken at its word.
pub fn check_disk(
    plan: &Plan,
    estimates: &[StageEstimate],
    overrides: &[String],
) -> Result<(), RecipeFaults> {
    let needed: u64 = estimates
        .iter()
        .filter(|estimate| !estimate.done)
        .map(|estimate| {
            let Stage { dir, .. } = &estimate.stage;
            let there = PartialDir::at(dir).map_or(0, |partial| size_of(&partial)) + size_of(dir);
            estimate.disk_bytes.saturating_sub(there)
        })
        .sum();
    let Ok(disk) = statvfs(nearest_folder(&plan.output)) else {
        return Ok(());
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if needed <= free {
        return Ok(());
    }
    let fact = format!(
        "the run needs about {}, but the disk has {} free",
        bytes_text(needed),
        bytes_text(free)
    );
    let fault =
        Diagnostic::new("run/disk", fact).help("free some space, or name a folder on another disk");
    Err(Preflight { plan, overrides }.fault("output", "on this disk", fault))
}

/// The path, or the nearest one above it that is there: where it is about to be made.
fn nearest_folder(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(path)
}

struct Preflight<'a> {
    plan: &'a Plan,
    overrides: &'a [String],
}

impl Preflight<'_> {
    fn fault(&self, key: &str, label: &str, fault: Diagnostic) -> RecipeFaults {
        fault_at(self.plan, self.overrides, key, label, fault)
    }

    /// The output folder, or the nearest folder above it that is there, can be written to.
    fn output(&self) -> Result<(), RecipeFaults> {
        let dir = &self.plan.output;
        // `.` is found in a folder only.
        let place = nearest_folder(dir).join(".");
        let attempt = access(place, Access::WRITE_OK | Access::EXEC_OK);
        attempt.map_err(|errno| {
            let error = io::Error::from(errno);
            let fact = format!("`{}` cannot be written to: {error}", dir.display());
            let fault =
                Diagnostic::new("run/read-only", fact).help("name another folder in `output`");
            self.fault("output", "runs and caches go here", fault)
        })
    }

    fn checkpoint(&self, key: &str, dir: &Path) -> Result<DecoderConfig, RecipeFaults> {
        let checkpoint = Checkpoint::open(dir).map_err(|error| {
            let fault = Diagnostic::new("checkpoint/unreadable", error.to_string())
                .help("name a model folder in Hugging Face layout whose files are whole");
            self.fault(key, "this folder", fault)
        })?;
        Ok(checkpoint.config().clone())
    }

    /// Every id of the tokenizer has a row in the embedding of the teacher, if there is one.
    fn vocabulary(&self, teacher: Option<&DecoderConfig>) -> Result<(), RecipeFaults> {
        let (Some(config), Some(plan)) = (teacher, &self.plan.teacher) else {
            return Ok(());
        };
        let (key, path) = match &self.plan.data.tokenizer {
            TokenizerPlan::File(path) => ("data.tokenizer.file", path.clone()),
            TokenizerPlan::Teacher | TokenizerPlan::Train { .. } => {
                ("teacher.checkpoint", plan.checkpoint.join("tokenizer.json"))
            }
        };
        self.ids_fit(key, self.tokenizer_size(key, &path)?, "teacher", config)?;
        self.same_tokens(key, &path)
    }

    /// Every id of the tokenizer has a row in the embedding of a given student that learns without a teacher.
    fn vocabulary_alone(&self, student: &DecoderConfig) -> Result<(), RecipeFaults> {
        let (key, size) = match &self.plan.data.tokenizer {
            TokenizerPlan::File(path) => {
                let key = "data.tokenizer.file";
                (key, self.tokenizer_size(key, path)?)
            }
            TokenizerPlan::Train { vocab_size } => ("data.tokenizer.train.vocab_size", *vocab_size),
            TokenizerPlan::Teacher => return Ok(()), // refused with the recipe
        };
        self.ids_fit(key, size, "student", student)
    }

    fn tokenizer_size(&self, key: &str, path: &Path) -> Result<usize, RecipeFaults> {
        Ok(self.tokenizer(key, path)?.vocab_size())
    }

    fn tokenizer(&self, key: &str, path: &Path) -> Result<Tokenizer, RecipeFaults> {
        Tokenizer::open(path).map_err(|error| {
            let fault = Diagnostic::new("data/tokenizer", error.to_string())
                .help("put a `tokenizer.json` there that the tokenizers library reads");
            self.fault(key, "its tokenizer", fault)
        })
    }

    /// The tokenizer at `path` gives every id the meaning that the teacher's own gives it. A folder without a
    /// `tokenizer.json` tells nothing and is taken at its word.
    fn same_tokens(&self, key: &str, path: &Path) -> Result<(), RecipeFaults> {
        let teacher = self
            .plan
            .teacher
            .as_ref()
            .map(|teacher| teacher.checkpoint.join("tokenizer.json"));
        let Some(teacher) = teacher.filter(|teacher| teacher.exists() && path.exists()) else {
            return Ok(());
        };
        let ours = self.tokenizer(key, path)?;
        let theirs = self.tokenizer("teacher.checkpoint", &teacher)?;
        let Some((id, ours, theirs)) = ours.first_difference(&theirs) else {
            return Ok(());
        };
        let fact = format!("token {id} is `{ours}` here and `{theirs}` to the teacher");
        let fault =
            Diagnostic::new("data/other-tokenizer", fact).help("use the teacher's own tokenizer");
        Err(self.fault(key, "another vocabulary", fault))
    }

    fn ids_fit(
        &self,
        key: &str,
        size: usize,
        whose: &str,
        config: &DecoderConfig,
    ) -> Result<(), RecipeFaults> {
        if size <= config.vocab_size {
            return Ok(());
        }
        let fact = format!(
            "the tokenizer has {} tokens, but the {whose} knows {}",
            thousands(size as u64),
            thousands(config.vocab_size as u64)
        );
        let help = format!("use the {whose}'s own tokenizer");
        let fault = Diagnostic::new("data/vocabulary", fact).help(help);
        let label = format!("ids beyond the {whose}'s embedding");
        Err(self.fault(key, &label, fault))
    }

    fn support(&self, teacher: Option<&DecoderConfig>) -> Result<(), RecipeFaults> {
        let (Some(config), Some(cache)) = (teacher, &self.plan.cache) else {
            return Ok(());
        };
        let SupportPlan::TopK(top_k) = cache.support else {
            return Ok(());
        };
        if top_k <= config.vocab_size {
            return Ok(());
        }
        let fact = format!(
            "`top_k` is {top_k}, but the teacher has {} tokens",
            config.vocab_size
        );
        let help = format!("write at most {}", config.vocab_size);
        let fault = Diagnostic::new("cache/top-k", fact).help(help);
        Err(self.fault("cache.support.top_k", "more than there are", fault))
    }

    /// The student's layers exist, its vocabulary is the teacher's, and its rows fall into whole groups.
    fn student(&self, teacher: Option<&DecoderConfig>) -> Result<(), RecipeFaults> {
        let config = match (&self.plan.student, teacher) {
            (StudentPlan::Checkpoint(dir), _) => {
                let config = self.checkpoint("student.checkpoint", dir)?;
                match teacher {
                    Some(teacher) => self.same_vocabulary(&config, teacher)?,
                    None => self.vocabulary_alone(&config)?,
                }
                config
            }
            (StudentPlan::FromTeacher { layers }, Some(teacher)) => {
                if let Some(layer) = layers
                    .iter()
                    .find(|&&layer| layer >= teacher.num_hidden_layers)
                {
                    let fact = format!(
                        "layer {layer} does not exist: the teacher has {}",
                        teacher.num_hidden_layers
                    );
                    let help = format!("layers count from 0 to {}", teacher.num_hidden_layers - 1);
                    let fault = Diagnostic::new("student/layers", fact).help(help);
                    return Err(self.fault(
                        "student.from_teacher.layers",
                        "past the last layer",
                        fault,
                    ));
                }
                DecoderConfig {
                    num_hidden_layers: layers.len(),
                    ..teacher.clone()
                }
            }
            // Sizes in the recipe were checked with it.
            (StudentPlan::FromTeacher { .. } | StudentPlan::Architecture(_), _) => return Ok(()),
        };
        self.groups(&config)
    }

    fn same_vocabulary(
        &self,
        student: &DecoderConfig,
        teacher: &DecoderConfig,
    ) -> Result<(), RecipeFaults> {
        if teacher.vocab_size == student.vocab_size {
            return Ok(());
        }
        let (student, teacher) = (
            thousands(student.vocab_size as u64),
            thousands(teacher.vocab_size as u64),
        );
        let fact = format!("the student has {student} tokens, but the teacher has {teacher}");
        let fault = Diagnostic::new("student/vocabulary", fact)
            .help("teacher and student must share one tokenizer");
        Err(self.fault("student.checkpoint", "another vocabulary", fault))
    }

    fn groups(&self, config: &DecoderConfig) -> Result<(), RecipeFaults> {
        for (pass_idx, pass) in self.plan.passes.iter().enumerate() {
            let PassPlan::Quantize(plan) = pass else {
                continue;
            };
            let grid = Grid {
                bits: plan.bits,
                group_size: plan.group_size,
            };
            let specs = parameter_specs(config);
            let uneven = specs
                .iter()
                .find(|spec| spec.kind == ParameterKind::Linear && !grid.divides(spec.shape[1]));
            if let (Some(spec), Some(group_size)) = (uneven, plan.group_size) {
                let columns = spec.shape[1];
                let fact = format!(
                    "`group_size` {group_size} does not divide the {columns} columns of `{}`",
                    spec.name
                );
                let fault = Diagnostic::new("quantize/uneven-groups", fact)
                    .help("use a divisor, or `channel`");
                let label = format!(
                    "{columns} / {group_size} leaves {} over",
                    columns % group_size
                );
                return Err(self.fault(
                    &format!("passes.{pass_idx}.quantize.group_size"),
                    &label,
                    fault,
                ));
            }
        }
        Ok(())
    }
}
