//! Training state: all that an interrupted pass needs to end with the same weights as an uninterrupted one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use super::average::averaged;
use super::optim::{AdamW, Moments};
use super::validation::Validation;
use crate::difference::Difference;
use crate::files::with_path;
use crate::model::{DecoderConfig, parameter_specs};
use crate::progress;
use crate::student::{Student, TrainedSpec, mask_fault};
use crate::tensors::{self, TensorsError};
use crate::train::FitPlan;

/// Format of a state; raised when it holds something else, or the same with another meaning.
const VERSION: u64 = 2;

/// Prefix of states, `state-<updates>.safetensors`; the best measured weights are in `best-<updates>.safetensors`.
const STATE_PREFIX: &str = "state-";
const BEST_PREFIX: &str = "best-";
/// Prefix of a state that stays when the pass is finished, for one of more steps: `more-<updates>.safetensors`.
const MORE_PREFIX: &str = "more-";
const SUFFIX: &str = ".safetensors";

/// The one file of version 1, which did not store its version.
const FIRST_VERSION_FILE: &str = "state.safetensors";

/// Everything that changes during a pass; a training state saves all of it.
///
/// Nothing else changes: grids and the weights under an adapter come with the student. The learning rate, the weights
/// of the loss terms, the temperature and the order of rows are functions of the step; there is no other randomness.
#[derive(Debug, Clone)]
pub struct Training {
    /// Student with the trained matrices ([`Student::trained`]) after `optimizer.num_updates` steps.
    pub student: Student,
    /// Optimizer with its moments.
    pub optimizer: AdamW,
    /// Moving average of the trained matrices, if the plan asks for one.
    pub average: Option<Vec<Tensor<2>>>,
    /// Measurements so far.
    pub validation: Validation,
}

impl Training {
    /// State before the first step.
    pub fn new(student: Student, has_average: bool) -> Self {
        Self {
            optimizer: AdamW::new(&student.trained()),
            average: has_average.then(|| student.trained_matrices()),
            validation: Validation::default(),
            student,
        }
    }

    /// Takes a step along the gradients of the trained matrices: an update, and then the average.
    pub fn update(&mut self, gradients: Vec<Tensor<2>>, rate: f64, plan: &FitPlan) {
        let optimizer = &mut self.optimizer;
        let updated = optimizer.step(self.student.trained(), gradients, rate, plan);
        if let (Some(average), Some(ema)) = (&mut self.average, plan.ema) {
            *average = averaged(average, &updated, ema, optimizer.num_updates);
        }
        self.student = self.student.with_trained(updated);
    }

    /// Weights that would be handed on now: the average, if there is one.
    pub fn handed_on(&self) -> Vec<Tensor<2>> {
        let average = self.average.clone();
        average.unwrap_or_else(|| self.student.trained_matrices())
    }
}

/// Reasons not to resume a training state.
#[derive(Debug, Error)]
pub enum StateError {
    /// It cannot be read, and no readable one is before it.
    #[error(transparent)]
    Tensors(#[from] TensorsError),
    /// The folder cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another version of the program wrote it.
    #[error("{} is a training state of format {found}, and this program reads format {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The format it names.
        found: u64,
    },
    /// It belongs to another architecture.
    #[error("{} is the training state of another architecture: {difference}", path.display())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// The first key of the architecture that differs, and how.
        difference: String,
    },
    /// It belongs to another pass.
    #[error("{} is the training state of another pass: it was made under the key {found}, and this one has {wanted}", path.display())]
    Pass {
        /// The file.
        path: PathBuf,
        /// Key of the pass that made it.
        found: String,
        /// Key of this pass.
        wanted: String,
    },
    /// It is past the end of the pass.
    #[error("{} is the training state after {found} updates, and the pass has {steps}", path.display())]
    Past {
        /// The file.
        path: PathBuf,
        /// Updates that it names.
        found: usize,
        /// Steps of the pass.
        steps: usize,
    },
}

impl StateError {
    /// Help, if the message does not contain it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Tensors(_) | Self::Io(_) => None,
            Self::Version { path, .. } => Some(format!(
                "delete `{}` to start the pass again, or finish it with the version of alambic that started it",
                path.display()
            )),
            Self::Architecture { path, .. } | Self::Pass { path, .. } | Self::Past { path, .. } => {
                Some(format!(
                    "the file was moved here by hand: move `{}` back, or delete it to start the pass again",
                    path.display()
                ))
            }
        }
    }
}

/// Facts of a state beside its tensors.
#[derive(Serialize, Deserialize)]
struct StateFacts {
    version: u64,
    /// Key of the stage that made the state.
    made_by: String,
    config: DecoderConfig,
    num_updates: usize,
    validation: Validation,
}

/// Folder of the states of a pass, and facts about the pass.
#[derive(Debug, Clone, Copy)]
pub struct States<'a> {
    /// Folder of the unfinished pass.
    pub dir: &'a Path,
    /// Key of its stage.
    pub made_by: &'a str,
    /// Number of newest states that are kept when another is saved.
    pub keep: usize,
    /// True if masks grow during the pass, so that a state holds them; else those of the given student apply.
    pub has_masks: bool,
    /// True if learned scales begin during the pass, so that a state holds their first values; else those of the
    /// student apply.
    pub has_scales: bool,
}

impl States<'_> {
    /// Writes a state, whole or not at all, and then deletes the ones that are no longer kept.
    pub fn save(&self, training: &Training) -> io::Result<()> {
        let num_updates = training.optimizer.num_updates;
        self.write(&file(self.dir, STATE_PREFIX, num_updates), training)?;
        self.discard_old(num_updates)
    }

    /// Writes a state that stays for a pass of more steps, unless it is there; `course` is that of its steps
    /// ([`course`](crate::train::course)).
    pub fn keep_for_more(&self, training: &Training, course: &str) -> io::Result<()> {
        let path = file(self.dir, MORE_PREFIX, training.optimizer.num_updates);
        if maker(&path).is_some_and(|maker| maker == course) {
            return Ok(());
        }
        let made_by = course;
        States { made_by, ..*self }.write(&path, training)
    }

    /// State that a shorter pass has kept; `None`, with a warning, if it cannot be used.
    pub fn load_kept(&self, path: &Path, course: &str, given: &Training) -> Option<Training> {
        let made_by = course;
        let read = States { made_by, ..*self }.read(path, given);
        let warn = |error: &StateError| {
            progress::log(&format!(
                "warning: {error}: the pass begins at its first step"
            ));
        };
        read.inspect_err(warn).ok()
    }

    fn write(&self, path: &Path, training: &Training) -> io::Result<()> {
        let Training {
            student,
            optimizer,
            average,
            validation,
        } = training;
        let mut matrices = Vec::new();
        for ((spec, weight), moments) in student.trained().into_iter().zip(&optimizer.moments) {
            let name = spec.name;
            matrices.push((format!("first.{name}"), moments.first.clone()));
            matrices.push((format!("second.{name}"), moments.second.clone()));
            matrices.push((name, weight));
        }
        for (name, weight) in names(student).iter().zip(average.iter().flatten()) {
            matrices.push((format!("average.{name}"), weight.clone()));
        }
        let name_of = |id| student.decoder.config.family().name_of(id);
        if self.has_masks {
            let masks = student.masks.iter();
            let named = masks.map(|(&id, mask)| (format!("mask.{}", name_of(id)), mask.clone()));
            matrices.extend(named);
        }
        if self.has_scales {
            let scales = student.scales.iter();
            let named = scales.map(|(&id, kept)| (format!("began.{}", name_of(id)), kept.first()));
            matrices.extend(named);
        }
        let facts = StateFacts {
            version: VERSION,
            made_by: self.made_by.to_owned(),
            config: student.decoder.config.clone(),
            num_updates: optimizer.num_updates,
            validation: *validation,
        };
        tensors::save(path, &matrices, &facts)
    }

    /// Newest state that an interrupted run left, if any; `given` is the state at the start of the pass.
    ///
    /// A damaged state is skipped with a warning if there is one before it. If there is none, this is an error and
    /// not a fresh start: hours of training may depend on it.
    pub fn load(&self, given: &Training) -> Result<Option<Training>, StateError> {
        let first_version = self.dir.join(FIRST_VERSION_FILE);
        let found = files(self.dir, STATE_PREFIX)?;
        if found.is_empty() && first_version.exists() {
            return Err(StateError::Version {
                path: first_version,
                found: 1,
            });
        }
        let mut damage = Vec::new();
        for (num_updates, path) in found.into_iter().rev() {
            match self.read(&path, given) {
                Ok(training) => {
                    for (path, fact) in damage {
                        progress::log(&format!(
                            "warning: {path} is damaged ({fact}): resuming from the state before it, after {num_updates} steps"
                        ));
                    }
                    let best = training.validation.best;
                    self.discard_best_after(best.map(|best| best.step))?;
                    return Ok(Some(training));
                }
                Err(StateError::Tensors(TensorsError::Damaged { path, fact })) => {
                    damage.push((path, fact));
                }
                Err(error) => return Err(error),
            }
        }
        match damage.into_iter().next() {
            Some((path, fact)) => Err(TensorsError::Damaged { path, fact }.into()),
            None => Ok(None),
        }
    }

    /// Saves the trained matrices as the best measured ones.
    pub fn save_best(&self, step: usize, training: &Training) -> io::Result<()> {
        let names = names(&training.student).into_iter();
        let matrices = names.zip(training.handed_on());
        let matrices: Vec<(String, Tensor<2>)> = matrices.collect();
        tensors::save(&file(self.dir, BEST_PREFIX, step), &matrices, &self.made_by)
    }

    /// Matrices that [`States::save_best`] saved.
    pub fn load_best(&self, step: usize, like: &Student) -> Result<Vec<Tensor<2>>, StateError> {
        let path = file(self.dir, BEST_PREFIX, step);
        let (mut matrices, _): (_, String) = tensors::load(&path, &like.decoder.device())?;
        Ok(take(&path, &like.trained(), "", &mut matrices)?)
    }

    fn read(&self, path: &Path, given: &Training) -> Result<Training, StateError> {
        let like = &given.student;
        let device: Device = like.decoder.device();
        let (mut matrices, facts): (_, Value) = tensors::load(path, &device)?;
        let facts = self.check(path, facts, &like.decoder.config)?;
        let trained = like.trained();
        let weights = take(path, &trained, "", &mut matrices)?;
        let first = take(path, &trained, "first.", &mut matrices)?;
        let second = take(path, &trained, "second.", &mut matrices)?;
        let average = given.average.as_ref();
        let average = average.map(|_| take(path, &trained, "average.", &mut matrices));
        let mut student = like.with_trained(weights);
        let mut began = BTreeMap::new();
        for spec in parameter_specs(&like.decoder.config) {
            let mask = matrices.remove(&format!("mask.{}", spec.name));
            let fault = mask.as_ref().and_then(|mask| mask_fault(mask, spec.shape));
            if let Some(fault) = fault {
                let fact = format!("the mask of `{}` {fault}", spec.name);
                return Err(TensorsError::damaged(path, fact).into());
            }
            student.masks.extend(mask.map(|mask| (spec.id, mask)));
            let first = matrices.remove(&format!("began.{}", spec.name));
            let shape = like.scales.get(&spec.id).map(|scale| scale.first().dims());
            let shapes = [first.as_ref().map(Tensor::dims), shape];
            if let [Some(first), Some(kept)] = shapes
                && first != kept
            {
                let fact = format!(
                    "the first scales of `{}` have shape {first:?}, not {kept:?}",
                    spec.name
                );
                return Err(TensorsError::damaged(path, fact).into());
            }
            let first = first.filter(|_| shape.is_some());
            began.extend(first.map(|first| (spec.id, first)));
        }
        student.begin_scales(&began);
        let moments = first.into_iter().zip(second);
        let moments = moments.map(|(first, second)| Moments { first, second });
        Ok(Training {
            student,
            optimizer: AdamW {
                moments: moments.collect(),
                num_updates: facts.num_updates,
            },
            average: average.transpose()?,
            validation: facts.validation,
        })
    }

    /// Refuses a state of another version, architecture or pass, in this order.
    fn check(
        &self,
        path: &Path,
        facts: Value,
        config: &DecoderConfig,
    ) -> Result<StateFacts, StateError> {
        let found = facts.get("version").and_then(Value::as_u64).unwrap_or(1);
        if found != VERSION {
            return Err(StateError::Version {
                path: path.to_path_buf(),
                found,
            });
        }
        let facts: StateFacts = serde_json::from_value(facts)
            .map_err(|error| TensorsError::damaged(path, error.to_string()))?;
        if let Some(difference) = Difference::first(&json!(facts.config), &json!(config)) {
            let key = difference.path.join(".");
            return Err(StateError::Architecture {
                path: path.to_path_buf(),
                difference: format!("its `{key}` {}", difference.describe("absent")),
            });
        }
        if facts.made_by != self.made_by {
            return Err(StateError::Pass {
                path: path.to_path_buf(),
                found: facts.made_by,
                wanted: self.made_by.to_owned(),
            });
        }
        if num_updates(path) != Some(facts.num_updates) {
            let fact = format!("it is the state after {} updates", facts.num_updates);
            return Err(TensorsError::damaged(path, fact).into());
        }
        Ok(facts)
    }

    /// Deletes best weights past those that the resumed state names: the run has not measured them yet.
    fn discard_best_after(&self, step: Option<usize>) -> io::Result<()> {
        for (best, path) in files(self.dir, BEST_PREFIX)? {
            if Some(best) > step {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Deletes all states but the newest up to this one. States past it are also deleted: a run leaves them that
    /// resumes from an earlier one. Deletes all best weights but those that a kept state may name.
    fn discard_old(&self, num_updates: usize) -> io::Result<()> {
        let states = files(self.dir, STATE_PREFIX)?;
        let upto = states.partition_point(|(step, _)| *step <= num_updates);
        let kept = upto.saturating_sub(self.keep)..upto;
        let mut oldest_kept = num_updates;
        for (place, (step, path)) in states.into_iter().enumerate() {
            if kept.contains(&place) {
                oldest_kept = oldest_kept.min(step);
            } else {
                remove(&path)?;
            }
        }
        // The oldest state names the last best before its step, or at its step if it was saved after the measurement.
        let best = files(self.dir, BEST_PREFIX)?;
        let before = best.partition_point(|(step, _)| *step < oldest_kept);
        for (_, path) in best.into_iter().take(before.saturating_sub(1)) {
            remove(&path)?;
        }
        Ok(())
    }
}

/// The newest state in the folder of an unfinished pass.
pub fn newest(dir: &Path) -> Option<PathBuf> {
    let mut found = files(dir, STATE_PREFIX).ok()?;
    found.pop().map(|(_, path)| path)
}

/// Steps taken in the newest state in the folder of an unfinished pass.
pub fn newest_step(dir: &Path) -> Option<usize> {
    let found = files(dir, STATE_PREFIX).ok()?;
    found.last().map(|(step, _)| *step)
}

/// States that a pass has kept for one of more steps, with their numbers of updates.
pub fn kept(dir: &Path) -> io::Result<Vec<(usize, PathBuf)>> {
    files(dir, MORE_PREFIX)
}

/// Number of updates of a state, from its name.
pub fn num_updates(path: &Path) -> Option<usize> {
    let name = path.file_name()?.to_str()?;
    [STATE_PREFIX, MORE_PREFIX]
        .into_iter()
        .find_map(|prefix| step_of(name, prefix))
}

/// What a state was made by: the key of a stage or, for one that [`kept`] finds, its course.
pub fn maker(path: &Path) -> Option<String> {
    let facts: Result<(_, StateFacts), _> = tensors::facts(path);
    facts.ok().map(|(_, facts)| facts.made_by)
}

/// Deletes the files that only an unfinished pass needs.
pub fn discard(dir: &Path) -> io::Result<()> {
    for prefix in [STATE_PREFIX, BEST_PREFIX] {
        for (_, path) in files(dir, prefix)? {
            remove(&path)?;
        }
    }
    Ok(())
}

/// True if the file at this path inside the folder is no result of a pass, but something to go on from.
pub fn is_state(inside: &Path) -> bool {
    let prefixes = [STATE_PREFIX, BEST_PREFIX, MORE_PREFIX].into_iter();
    let mut steps = prefixes.map(|prefix| step_of(inside.to_str()?, prefix));
    steps.any(|step| step.is_some())
}

fn file(dir: &Path, prefix: &str, step: usize) -> PathBuf {
    dir.join(format!("{prefix}{step:010}{SUFFIX}"))
}

/// Files of one kind with their steps, ascending.
fn files(dir: &Path, prefix: &str) -> io::Result<Vec<(usize, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| with_path(error, dir))? {
        let entry = entry.map_err(|error| with_path(error, dir))?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| step_of(name, prefix));
        found.extend(step.map(|step| (step, entry.path())));
    }
    found.sort();
    Ok(found)
}

fn step_of(name: &str, prefix: &str) -> Option<usize> {
    let step = name.strip_prefix(prefix)?.strip_suffix(SUFFIX)?;
    step.parse().ok()
}

fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).map_err(|error| with_path(error, path))
}

fn names(student: &Student) -> Vec<String> {
    let trained = student.trained().into_iter();
    trained.map(|(spec, _)| spec.name).collect()
}

/// Takes the trained matrices out of those of a file, by name after a prefix.
fn take(
    path: &Path,
    trained: &[(TrainedSpec, Tensor<2>)],
    prefix: &str,
    matrices: &mut BTreeMap<String, Tensor<2>>,
) -> Result<Vec<Tensor<2>>, TensorsError> {
    let one = |(spec, _): &(TrainedSpec, Tensor<2>)| {
        let name = format!("{prefix}{}", spec.name);
        let matrix = matrices.remove(&name);
        let fact = || format!("no matrix `{name}` of shape {:?}", spec.shape);
        matrix
            .filter(|matrix| matrix.dims() == spec.shape)
            .ok_or_else(|| TensorsError::damaged(path, fact()))
    };
    trained.iter().map(one).collect()
}
