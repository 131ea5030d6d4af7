//! The pipeline: decides which stages are done, resumed or run.

mod inputs;
mod lock;
mod passes;

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::Device;
use serde_json::Map;
use thiserror::Error;

use self::inputs::{
    Caches, bench_supports, capture_part, open_or_capture, prepare_data, share_cache,
};
pub(crate) use self::lock::{FolderLock, lock};
use crate::cache::{CacheError, CachePart};
use crate::calibration::Interrupted;
use crate::checkpoint::CheckpointError;
use crate::data::{DataError, Prepared, SourcePlan, Split, TokenRows, TokenizerPlan};
use crate::estimate::{StageEstimate, estimate};
use crate::export::verify::Verification;
use crate::export::{self, Ancestor, ExportContext, ExportError, MadeBy, Provenance, TextFacts};
use crate::files::{self, UnfinishedDir};
use crate::hashes::Hashes;
use crate::hub;
use crate::kept::place_name;
use crate::kernels::Arithmetic;
use crate::opened::{Opened, StoredModel, copied_tokenizer};
use crate::passes::PassError;
use crate::plan::{self, Plan};
use crate::rates::Rates;
use crate::recipe::RecipeFaults;
use crate::report::{self, Curve, HubInput, PassRow, QuantizationCost, RowsOfText, RunReport};
use crate::shell::quoted;
use crate::stages::{Model, Stage, Stages, StagesError};
use crate::student::{Student, StudentError, StudentSource};
use crate::teacher::{CaptureError, SupportCost};
use crate::train::read_metrics;
use crate::{allocator, machine, memory, preflight, progress};

/// The recipe of the last finished run of a folder, complete.
pub const RECIPE_FILE: &str = "recipe.yaml";

/// Settings of a run beside its plan.
pub struct RunContext<'a> {
    /// Device that holds the tensors.
    pub device: &'a Device,
    /// Flag set by the first signal: finish the step, save, stop.
    pub stop: &'a AtomicBool,
    /// Current time, in seconds since 1970; used for TensorBoard events only.
    pub wall_time: f64,
    /// Arguments of `--set` that the plan was loaded with, for messages.
    pub overrides: &'a [String],
    /// True to run stages that are estimated to need more memory than the machine has.
    pub over_memory: bool,
    /// True to hash all content again, even if its hash is remembered.
    pub verify: bool,
}

/// Error that ends a run early.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each wraps the error of one stage")]
pub enum RunError {
    #[error(transparent)]
    Recipe(#[from] RecipeFaults),
    #[error("`{}` is in use by another run", dir.display())]
    Locked { dir: PathBuf },
    #[error("the validation loss is {loss} after stage {stage}; the stage was not published")]
    NotFinite { stage: String, loss: f64 },
    #[error(transparent)]
    Stages(#[from] StagesError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Student(#[from] StudentError),
    #[error(transparent)]
    Pass(#[from] PassError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs the whole recipe; finished stages are skipped, interrupted ones resumed.
pub fn run(plan: &Plan, context: &RunContext<'_>) -> Result<RunReport, RunError> {
    let opened = Opened::open(plan);
    progress::log_notes(&preflight::check(plan, &opened, context.overrides)?);
    let hashes = remembered(plan, context);
    let mut stages = Stages::of(plan, opened, &hashes)?;
    progress::log_notes(&preflight::check_away(plan, &stages, context.overrides)?);
    check_room(plan, &stages, &room(plan, &stages), context)?;
    let _lock = begin(&stages)?;
    check_student(plan, &stages, context.device)?;
    let data = prepare_data(plan, &stages, context, &hashes)?;
    share_cache(plan, &mut stages, &data, context);
    let stages = stages;
    let _begun = Begun(&stages);
    allocator::give_freed_pages_back(); // those of documents and their pieces
    let caches = open_or_capture(plan, &stages, &data, context, &hashes)?;
    allocator::give_freed_pages_back(); // those of the teacher
    let mut run = Run {
        plan,
        stages: &stages,
        data: &data,
        caches: caches.as_ref(),
        context,
        hashes: &hashes,
        rows: Vec::new(),
    };
    stages.lineup().write(&stages.run_dir)?;
    run.measure_teacher()?;
    allocator::give_freed_pages_back();
    let student = run.passes()?;
    let exports = run.export(student)?;
    let (removals, quantizations) = run.pass_reports()?;
    for warning in quantizations.iter().filter_map(QuantizationCost::warning) {
        progress::log(&format!("warning: {warning}"));
    }
    let report = RunReport {
        recipe: plan.name.clone(),
        seed: plan.seed,
        command: command(plan, context.overrides),
        origins: origins(plan),
        curves: run.curves(),
        removals,
        quantizations,
        rows: Split::ALL.map(|split| rows_of(&data, split)).to_vec(),
        notes: data.notes.clone(),
        passes: run.rows,
        exports,
    };
    report::write_report(&stages.run_dir, &report)?;
    let recipe = plan::resolved_yaml(plan, &stages.run_dir);
    files::write_atomically(&stages.run_dir.join(RECIPE_FILE), |out| {
        out.write_all(recipe.as_bytes())
    })?;
    save(&hashes);
    Ok(report)
}

/// Hashes that earlier runs with the same output have saved.
fn remembered(plan: &Plan, context: &RunContext<'_>) -> Hashes {
    Hashes::open(&plan.output, context.wall_time, context.verify)
}

/// Saves the hashes. They are a memory, not a result: without them, the next run hashes again.
fn save(hashes: &Hashes) {
    if let Err(error) = hashes.save() {
        progress::log(&format!("warning: {error}; hashes are not remembered"));
    }
}

/// Locks the recipe's folder for this process, and marks damaged artifacts in it as not done.
fn begin(stages: &Stages) -> Result<FolderLock, RunError> {
    let lock = lock(&stages.run_dir)?;
    files::remove_parts(&stages.run_dir)?;
    stages.drop_damaged()?;
    Ok(lock)
}

/// Begun stages of a run, of which those that came to nothing leave no folder when it ends.
struct Begun<'a>(&'a Stages);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.discard_begun();
    }
}

/// Estimates of what the stages hold; their times are of no account here.
fn room(plan: &Plan, stages: &Stages) -> Vec<StageEstimate> {
    estimate(plan, stages, &Rates::unknown(1))
}

/// Refuses to run without enough disk and memory for the remaining stages.
fn check_room(
    plan: &Plan,
    stages: &Stages,
    estimates: &[StageEstimate],
    context: &RunContext<'_>,
) -> Result<(), RunError> {
    preflight::check_disk(plan, estimates, context.overrides)?;
    if !context.over_memory {
        let machine_bytes = machine::memory_bytes();
        memory::check(plan, stages, estimates, machine_bytes, context.overrides)?;
    }
    Ok(())
}

/// Checks the weights of a student that is a checkpoint: it is loaded after the capture, which may take hours.
fn check_student(plan: &Plan, stages: &Stages, device: &Device) -> Result<(), RunError> {
    let first = stages.passes.first().unwrap_or(&stages.export);
    match stages.inputs.student(plan) {
        Some(model) if !first.is_done() => model.read(|model| Ok(model.check_weights(device)?)),
        _ => Ok(()),
    }
}

fn rows_of(data: &Prepared, split: Split) -> RowsOfText {
    let rows = data.rows(split);
    RowsOfText {
        split: split.to_string(),
        rows: rows.num_rows() as u64,
        sequence_length: rows.sequence_length() as u64,
        positions: rows.num_filled(),
        counted: rows.num_positions(),
    }
}

/// Makes the rows of both texts, and nothing more. Returns their folder, facts about them, and notes.
pub fn build_data(
    plan: &Plan,
    context: &RunContext<'_>,
) -> Result<(PathBuf, Vec<RowsOfText>), RunError> {
    let opened = Opened::open(plan);
    progress::log_notes(&preflight::check(plan, &opened, context.overrides)?);
    let hashes = remembered(plan, context);
    let stages = Stages::of(plan, opened, &hashes)?;
    progress::log_notes(&preflight::check_away(plan, &stages, context.overrides)?);
    let mut estimates = room(plan, &stages);
    estimates.retain(|estimate| estimate.stage == stages.data);
    check_room(plan, &stages, &estimates, context)?;
    let data = prepare_data(plan, &stages, context, &hashes)?;
    save(&hashes);
    let rows = Split::ALL.map(|split| rows_of(&data, split)).to_vec();
    Ok((stages.data.dir, rows))
}

/// Captures the recipe's cache, or one part of it, and nothing more. Returns the folder, or `None` if there is no teacher.
pub fn build_cache(
    plan: &Plan,
    part: Option<CachePart>,
    context: &RunContext<'_>,
) -> Result<Option<PathBuf>, RunError> {
    let opened = Opened::open(plan);
    progress::log_notes(&preflight::check(plan, &opened, context.overrides)?);
    let hashes = remembered(plan, context);
    let mut stages = Stages::of(plan, opened, &hashes)?;
    stages.captures_train = true;
    progress::log_notes(&preflight::check_away(plan, &stages, context.overrides)?);
    let mut estimates = room(plan, &stages);
    estimates.retain(|estimate| Some(&estimate.stage) == stages.cache.as_ref());
    check_room(plan, &stages, &estimates, context)?;
    let _lock = begin(&stages)?;
    let data = prepare_data(plan, &stages, context, &hashes)?;
    let dir = if let Some(part) = part {
        capture_part(plan, &stages, &data, context, part)?
    } else {
        share_cache(plan, &mut stages, &data, context);
        open_or_capture(plan, &stages, &data, context, &hashes)?;
        stages.cache.map(|stage| stage.dir)
    };
    save(&hashes);
    Ok(dir)
}

/// Measures what kinds of support would cost and how much they would keep; `None` if there is no teacher. Captures nothing.
pub fn bench_cache(
    plan: &Plan,
    num_rows: usize,
    context: &RunContext<'_>,
) -> Result<Option<Vec<SupportCost>>, RunError> {
    let opened = Opened::open(plan);
    preflight::check(plan, &opened, context.overrides)?;
    let hashes = remembered(plan, context);
    let stages = Stages::of(plan, opened, &hashes)?;
    preflight::check_away(plan, &stages, context.overrides)?;
    let _lock = begin(&stages)?;
    let data = prepare_data(plan, &stages, context, &hashes)?;
    bench_supports(plan, &stages, &data, context, num_rows)
}

/// A run after its inputs are ready; the passes and the export share it.
struct Run<'a> {
    plan: &'a Plan,
    stages: &'a Stages,
    data: &'a Prepared,
    caches: Option<&'a Caches>,
    context: &'a RunContext<'a>,
    hashes: &'a Hashes,
    /// Figures of the teacher and of each pass so far.
    rows: Vec<PassRow>,
}

/// Name and licence of a model that another is made from: of its run, if that has a name.
fn ancestor(stored: &StoredModel) -> Ancestor {
    let found = Ancestor::of(stored.path(), stored.gguf());
    let name = stored.run_name().map(str::to_owned);
    Ancestor {
        name: name.unwrap_or(found.name),
        ..found
    }
}

impl Run<'_> {
    /// Writes and verifies the exported folders, unless they exist; `student` is `None` if nothing else needed it.
    fn export(&self, student: Option<Student>) -> Result<Vec<Verification>, RunError> {
        let (plan, stage) = (self.plan, &self.stages.export);
        if let Some(artifact) = stage.artifact::<Vec<Verification>>()? {
            log_done(stage);
            return Ok(artifact.result);
        }
        self.check_stop(stage)?;
        let since = Instant::now();
        let student = match student {
            Some(student) => student,
            None => self.student_after(self.stages.passes.last())?,
        };
        let student = self.with_ends(student);
        let tokenizer_dir = copied_tokenizer(plan, self.stages.inputs.kept.as_ref());
        let generation = self.stages.inputs.generation(plan);
        let generation = generation.map_or_else(Map::new, |model| model.generation().clone());
        let made_by = plan::resolved_yaml(plan, &stage.dir.join("format")); // each format has a folder
        let provenance = self.provenance(MadeBy::Recipe(made_by));
        let export_context = ExportContext {
            name: &plan.name,
            provenance: &provenance,
            tokenizer_dir: tokenizer_dir.as_deref(),
            generation: &generation,
            tokenizer: &self.data.tokenizer,
            rows: &self.data.validation,
            table: report::card_cells(&self.rows),
        };
        log_changed(stage);
        let partial = UnfinishedDir::create(&stage.dir)?;
        stage.note(partial.path())?;
        let verifications =
            export::export(&plan.export, &student, &export_context, partial.path())?;
        self.stages.inputs.check_copied_files(plan)?;
        let secs = since.elapsed().as_secs_f64();
        stage.seal(partial.path(), secs, verifications.clone(), self.hashes)?;
        let dir = partial.publish()?;
        progress::log(&format!("{}: verified, in {}", stage.name, dir.display()));
        Ok(verifications)
    }

    /// Ends the run before a stage; see [`check_stop`].
    fn check_stop(&self, stage: &Stage) -> Result<(), RunError> {
        check_stop(stage, self.context.stop)
    }

    /// Losses of the passes that trained.
    fn curves(&self) -> Vec<Curve> {
        let curve = |stage: &Stage| {
            let lines = read_metrics(&stage.dir).ok()?;
            let points = |name: &str| {
                let points = lines.iter();
                let points = points.filter_map(|line| Some((line.step, line.get(name)?)));
                points.collect()
            };
            Some(Curve {
                name: stage.name.clone(),
                points: points("train/loss"),
                validation: points("validation/loss"),
            })
        };
        self.stages.passes.iter().filter_map(curve).collect()
    }

    /// Provenance of the run, for the card of an export.
    fn provenance(&self, made_by: MadeBy) -> Provenance {
        let (plan, inputs) = (self.plan, &self.stages.inputs);
        let ancestor = |model: &Model| ancestor(model.stored());
        let teacher = match &inputs.kept {
            Some(kept) if inputs.away.teacher => Some(kept.teacher.ancestor.clone()),
            _ => inputs.teacher.as_ref().map(ancestor),
        };
        let text = |purpose, sources: &[SourcePlan], rows: &TokenRows| TextFacts {
            purpose,
            names: sources
                .iter()
                .map(|source| place_name(&source.path))
                .collect(),
            num_tokens: rows.num_positions(),
        };
        Provenance {
            base: match &plan.student.source {
                StudentSource::Checkpoint(_) => inputs.student(plan).map(ancestor),
                StudentSource::FromTeacher(_) => teacher.clone(),
                StudentSource::Architecture(_) => None,
            },
            teacher,
            texts: vec![
                text("training text", &plan.data.train, &self.data.train),
                text(
                    "validation text",
                    &plan.data.validation,
                    &self.data.validation,
                ),
            ],
            made_by,
        }
    }
}

/// Models and data of the hub that a plan names.
fn origins(plan: &Plan) -> Vec<HubInput> {
    let mut origins: Vec<HubInput> = Vec::new();
    let mut add = |role: &str, path: &Path| {
        let id = hub::origin(path).map(|(_, id)| id.to_string());
        let id = id.or_else(|| hub::written(path)); // what a cache keeps of it is at a commit, too
        origins.extend(id.map(|id| HubInput {
            role: role.to_owned(),
            id,
        }));
    };
    if let Some(teacher) = &plan.teacher {
        add("teacher", &teacher.checkpoint);
    }
    if let StudentSource::Checkpoint(path) = &plan.student.source {
        add("student", path);
    }
    if let TokenizerPlan::File(path) = &plan.data.tokenizer {
        add("tokenizer", path);
    }
    for (role, sources) in [
        ("training text", &plan.data.train),
        ("validation text", &plan.data.validation),
    ] {
        for source in sources {
            add(role, &source.path);
        }
    }
    origins
}

/// Command line that repeats this run, for a POSIX shell.
fn command(plan: &Plan, overrides: &[String]) -> String {
    let recipe = plan.recipe_path.display().to_string();
    let mut command = format!("alambic run {}", quoted(&recipe));
    for assignment in overrides {
        let _ = write!(command, " --set {}", quoted(assignment));
    }
    if plan.device != "flex" {
        let _ = write!(command, " --device {}", plan.device);
    }
    let precision = plan.student.products.precision;
    let is_of_both = plan
        .teacher
        .as_ref()
        .is_none_or(|teacher| teacher.precision == precision);
    if precision != Arithmetic::F32 && is_of_both {
        let _ = write!(command, " --precision {precision}"); // of one machine's kind, on any machine
    }
    command
}

fn log_done(stage: &Stage) {
    progress::log(&format!("{}: done ({})", stage.name, &stage.key[..8]));
}

/// Logs why a stage runs although an earlier run of this recipe has made it.
fn log_changed(stage: &Stage) {
    if let Some(reason) = stage.changed() {
        progress::log(&format!("{}: running again, because {reason}", stage.name));
    }
}

/// Ends the run before a stage if a signal asked for it.
fn check_stop(stage: &Stage, stop: &AtomicBool) -> Result<(), RunError> {
    if stop.load(Ordering::Relaxed) {
        let label = stage.name.clone();
        return Err(PassError::from(Interrupted { label }).into());
    }
    Ok(())
}
