//! Recipes to start from: a commented file that fits a teacher, a text and the memory of a machine.

mod paths;
mod text;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use self::paths::{quoted, relative};
use self::text::{Fit, Plain, RecipeDraft};
use crate::checkpoint::CheckpointError;
use crate::data::{SourceError, SourcePlan, source_files};
use crate::estimate::{Costs, costs};
use crate::files::{parent, write_atomically, write_json};
use crate::hub;
use crate::model::{DecoderConfig, num_parameters};
use crate::opened::Opened;
use crate::opened::StoredModel;
use crate::plan::{self, Plan};
use crate::preflight;
use crate::rates::{Rates, Secs};
use crate::recipe::RecipeFaults;

/// Name of the JSON Schema beside a recipe.
pub const SCHEMA_FILE: &str = "recipe.schema.json";

/// Positions of a row, unless the teacher has a shorter context.
const SEQUENCE_LENGTH: usize = 512;

/// Most training tokens of a first recipe: more take longer than a first look at a result should.
const MAX_TOKENS: u64 = 50_000_000;

/// Training tokens below which the recipe is not cut, however short the time is.
const MIN_TOKENS: u64 = 50_000;

/// Share of the machine's memory that a recipe may need by its estimate, which is good to about a fifth.
const MEMORY_SHARE: f64 = 0.8;

/// Size of a student.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Size {
    /// Share of the teacher's parameters, above 0 and at most 1.
    Share(f64),
    /// Number of parameters.
    Parameters(f64),
}

/// Wishes of a user.
#[derive(Debug)]
pub struct StarterRequest<'a> {
    /// Recipe to write.
    pub recipe: &'a Path,
    /// Checkpoint of the teacher.
    pub teacher: &'a Path,
    /// Files and folders to train on. A folder with `train` and `validation` in it is taken as these two.
    pub data: &'a [PathBuf],
    /// Files and folders to measure on; if there are none, a part of `data` is held out.
    pub validation: &'a [PathBuf],
    /// Size of the student.
    pub size: Size,
    /// True to end with a pass that quantises to 4 bits.
    pub quantize: bool,
    /// Hours that the run may take, by its estimate.
    pub hours: f64,
    /// Memory of this machine, if it is known.
    pub machine_bytes: Option<u64>,
    /// Speeds of this machine.
    pub rates: &'a Rates,
}

/// A recipe that was written.
#[derive(Debug)]
pub struct Starter {
    /// Remarks of the preflight.
    pub notes: Vec<String>,
    /// Estimated time of the whole run.
    pub time: Secs,
    /// Estimated peak memory.
    pub memory_bytes: u64,
}

/// Reasons why no recipe was written.
#[derive(Debug, Error)]
pub enum StarterError {
    /// The recipe is there already.
    #[error("{} exists", .0.display())]
    Exists(PathBuf),
    /// All text is in one file, and none of it can be held out.
    #[error("{} is one file: no text is left to measure on", .0.display())]
    OneFile(PathBuf),
    /// The student would be as large as the teacher.
    #[error("a student of {size} parameters is not smaller than the teacher, which has {teacher}")]
    NotSmaller {
        /// Parameters that were asked for.
        size: u64,
        /// Parameters of the teacher.
        teacher: u64,
    },
    /// Neither a smaller nor a quantised student is wanted.
    #[error("a student of the teacher's size that is not quantised is the teacher")]
    NothingToDo,
    /// No file or folder is at the path of the teacher.
    #[error("`{}` names no model folder or `.gguf` file", .0.display())]
    NoTeacher(PathBuf),
    /// The teacher cannot be read.
    #[error(transparent)]
    Teacher(#[from] CheckpointError),
    /// The text cannot be read.
    #[error(transparent)]
    Text(#[from] SourceError),
    /// The recipe does not suit the teacher or the text.
    #[error(transparent)]
    Recipe(#[from] RecipeFaults),
    /// A file could not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes a recipe that `plan` accepts, and the schema beside it.
///
/// The time is met by training on fewer tokens, the memory by smaller batches and then by gradient checkpointing.
pub fn write(request: &StarterRequest<'_>) -> Result<Starter, StarterError> {
    let path = request.recipe;
    if path.exists() {
        return Err(StarterError::Exists(path.to_owned()));
    }
    if !request.teacher.exists() {
        return Err(StarterError::NoTeacher(request.teacher.to_owned()));
    }
    let teacher = StoredModel::open(request.teacher)?;
    let texts = Texts::of(request.data, request.validation)?;
    let plain = plain(request, teacher.config(), &texts)?;
    let folder = parent(path);
    let is_new = !folder.exists();
    fs::create_dir_all(folder)?; // so that `..` in the paths below it leads back
    let accepted =
        fitted(&plain, teacher.config(), request).and_then(|draft| accepted(draft, path));
    if accepted.is_err() && is_new {
        fs::remove_dir(folder)?;
    }
    let (draft, plan, mut notes) = accepted?;
    let costs = costs_of(&plan, teacher.config());
    let (time, memory_bytes) = totals(&costs, request.rates);
    let mut text = draft.text(time, memory_bytes, request.machine_bytes);
    // What the hub has is named by its id, which is the same on every machine.
    let texts = texts.train.iter().chain(&texts.validation);
    for path in texts.map(PathBuf::as_path).chain([request.teacher]) {
        if let Some(id) = hub::written(path) {
            text = text.replace(&relative(path, folder), &quoted(&id));
        }
    }
    if time.likely > 3600.0 * request.hours {
        notes.push(format!(
            "the shortest recipe takes about {time}, more than the {} hours asked for",
            request.hours
        ));
    }
    write_json(&folder.join(SCHEMA_FILE), &plan::schema())?;
    write_atomically(path, |out| out.write_all(text.as_bytes()))?;
    Ok(Starter {
        notes,
        time,
        memory_bytes,
    })
}

/// Files and folders of the two texts.
struct Texts {
    train: Vec<PathBuf>,
    validation: Vec<PathBuf>,
}

impl Texts {
    /// Takes the texts as they are named; otherwise the folders `train` and `validation` of one folder; otherwise holds out
    /// the last file.
    fn of(data: &[PathBuf], validation: &[PathBuf]) -> Result<Self, StarterError> {
        if !validation.is_empty() {
            return Ok(Self {
                train: data.to_owned(),
                validation: validation.to_owned(),
            });
        }
        if let [folder] = data {
            let parts = ["train", "validation"].map(|name| folder.join(name));
            if parts.iter().all(|part| part.is_dir()) {
                let [train, validation] = parts.map(|part| vec![part]);
                return Ok(Self { train, validation });
            }
        }
        let mut train = source_files(&SourcePlan::of_paths(data))?;
        match train.pop() {
            Some(last) if !train.is_empty() => Ok(Self {
                train,
                validation: vec![last],
            }),
            Some(only) => Err(StarterError::OneFile(only)),
            None => Err(SourceError::NoText {
                paths: data.to_owned(),
                num_files: 0,
                passed_over: Vec::new(),
            }
            .into()),
        }
    }
}

fn plain(
    request: &StarterRequest<'_>,
    teacher: &DecoderConfig,
    texts: &Texts,
) -> Result<Plain, StarterError> {
    let folder = parent(request.recipe);
    let all = num_parameters(teacher);
    let share = match request.size {
        Size::Share(share) if share >= 1.0 && !request.quantize => {
            return Err(StarterError::NothingToDo);
        }
        Size::Share(share) => share,
        Size::Parameters(count) if count < all as f64 => count / all as f64,
        Size::Parameters(count) => {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count for a message"
            )]
            let size = count as u64;
            return Err(StarterError::NotSmaller { size, teacher: all });
        }
    };
    let shown = |paths: &[PathBuf]| paths.iter().map(|path| relative(path, folder)).collect();
    let name = request.recipe.file_stem().unwrap_or_default();
    let context = teacher.max_position_embeddings.max(2);
    let power_of_two = 1 << context.ilog2(); // so that it divides the positions of a step
    Ok(Plain {
        name: name.to_string_lossy().into_owned(),
        file: request.recipe.display().to_string(),
        teacher: relative(request.teacher, folder),
        teacher_parameters: all,
        train: shown(&texts.train),
        validation: shown(&texts.validation),
        sequence_length: SEQUENCE_LENGTH.min(power_of_two),
        share: (share < 1.0).then_some((1e3 * share).ceil() / 1e3),
        hidden_size: teacher.hidden_size,
        output: relative(Path::new("checkpoints"), folder),
        quantize: request.quantize,
    })
}

/// The largest fit that the machine and the hours allow, or else the smallest there is.
fn fitted(
    plain: &Plain,
    teacher: &DecoderConfig,
    request: &StarterRequest<'_>,
) -> Result<RecipeDraft, StarterError> {
    let draft = |fit: Fit, tokens: Option<u64>| RecipeDraft::new(plain.clone(), fit, tokens);
    let estimated = |draft: &RecipeDraft| -> Result<Costs, StarterError> {
        let plan = plan::of_text(&draft.recipe(), request.recipe)?;
        Ok(costs_of(&plan, teacher))
    };
    let whole = estimated(&draft(Fit::LARGEST, None))?;
    let mut tokens = whole
        .cache
        .map_or(0, |cost| cost.tokens)
        .clamp(MIN_TOKENS, MAX_TOKENS);
    let room = request
        .machine_bytes
        .map_or(f64::INFINITY, |bytes| bytes as f64);
    let mut fit = Fit::SMALLEST;
    for candidate in Fit::ALL {
        let costs = estimated(&draft(candidate, Some(tokens)))?;
        let (_, memory_bytes) = totals(&costs, request.rates);
        if memory_bytes as f64 <= MEMORY_SHARE * room {
            fit = candidate;
            break;
        }
    }
    loop {
        let draft = draft(fit, Some(tokens));
        let (time, _) = totals(&estimated(&draft)?, request.rates);
        if time.likely <= 3600.0 * request.hours || tokens <= MIN_TOKENS {
            return Ok(draft);
        }
        tokens = (tokens / 5 * 4).max(MIN_TOKENS);
    }
}

/// The draft, its plan and the remarks of the preflight; with one scale per row where groups do not fit the student's sizes.
fn accepted(
    draft: RecipeDraft,
    path: &Path,
) -> Result<(RecipeDraft, Plan, Vec<String>), StarterError> {
    let check = |draft: &RecipeDraft| {
        let plan = plan::of_text(&draft.recipe(), path)?;
        let notes = preflight::check(&plan, &Opened::open(&plan), &[])?;
        Ok((plan, notes))
    };
    let faults: RecipeFaults = match check(&draft) {
        Ok((plan, notes)) => return Ok((draft, plan, notes)),
        Err(faults) => faults,
    };
    let per_row = draft.with_scales_per_row();
    match check(&per_row) {
        Ok((plan, notes)) => Ok((per_row, plan, notes)),
        Err(_) => Err(faults.into()),
    }
}

fn costs_of(plan: &Plan, teacher: &DecoderConfig) -> Costs {
    costs(plan, Some(teacher.clone()), Some(teacher))
}

/// Time of all stages, and the memory of the one that needs most.
fn totals(costs: &Costs, rates: &Rates) -> (Secs, u64) {
    let work = costs.iter().flat_map(|cost| &cost.work);
    let time = work.map(|work| rates.secs(work)).sum();
    let peak = costs.iter().map(|cost| cost.memory_bytes).max();
    (time, peak.unwrap_or_default())
}
