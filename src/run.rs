//! The pipeline: which stages are done, which resume, which run.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cache::{Cache, CacheError, Fingerprint};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::data::{self, DataError, Prepared, TokenRows};
use crate::export::verify::Verification;
use crate::export::{self, ExportContext, ExportError};
use crate::files::{PartialDir, with_path};
use crate::model::Decoder;
use crate::passes::{self, PassContext, PassError};
use crate::preflight;
use crate::progress;
use crate::random;
use crate::recipe::{
    self, CachePlan, PassPlan, Plan, RecipeFaults, StudentPlan, TeacherPlan, TokenizerPlan,
};
use crate::report::{self, Curve, PassRow, RunReport};
use crate::stages::{Stage, Stages, StagesError, model_hash};
use crate::student::{self, Student, StudentError};
use crate::teacher::{CaptureError, CaptureJob, capture, load_decoder};
use crate::train::evaluate::{Evaluation, Opinion, evaluate};
use crate::train::{fit, read_metrics};

/// What a run is given beside its plan.
pub struct RunContext<'a> {
    /// Where tensors live.
    pub device: &'a Device,
    /// Set by the first signal: finish the step, save, stop.
    pub stop: &'a AtomicBool,
    /// Now, in seconds since 1970; reaches the TensorBoard events and nothing else.
    pub wall_time: f64,
    /// The `--set` arguments that the plan was loaded with, for messages.
    pub overrides: &'a [String],
}

/// Why a run ended early.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each wraps the error of one stage")]
pub enum RunError {
    #[error(transparent)]
    Recipe(#[from] RecipeFaults),
    #[error("`{}` is in use by another run", dir.display())]
    Locked { dir: PathBuf },
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

/// What the artifact of a pass says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Measured {
    evaluation: Evaluation,
    size_bytes: u64,
    sparsity: f64,
}

/// What the teacher said of both texts.
struct Caches {
    train: Cache,
    validation: Cache,
}

/// Runs the whole recipe; what is done is skipped, what was cut is resumed.
pub fn run(plan: &Plan, context: &RunContext<'_>) -> Result<RunReport, RunError> {
    preflight::check(plan, context.overrides)?;
    let stages = Stages::of(plan)?;
    let _lock = lock(&stages.run_dir)?;
    let data = prepare_data(plan, &stages.data)?;
    let mut rows = Vec::new();
    let caches = match (&plan.teacher, &plan.cache, &stages.cache) {
        (Some(teacher), Some(cache), Some(stage)) => {
            let caches = open_or_capture((teacher, cache), stage, &data, context)?;
            rows.extend(
                stages
                    .teacher
                    .as_ref()
                    .map(|stage| measure_teacher(teacher, stage, &data, &caches, context)),
            );
            Some(caches)
        }
        _ => None,
    };
    let mut rows: Vec<PassRow> = rows.into_iter().collect::<Result<_, _>>()?;
    let student = run_passes(plan, &stages, &data, caches.as_ref(), context, &mut rows)?;
    let exports = run_export(
        plan,
        &stages.export,
        student,
        &stages,
        &data,
        &rows,
        context,
    )?;
    let report = RunReport {
        recipe: plan.name.clone(),
        seed: plan.seed,
        command: format!("alambic run {}", plan.recipe_path.display()),
        curves: curves(&stages),
        passes: rows,
        exports,
    };
    report::write_report(&stages.run_dir, &report)?;
    Ok(report)
}

/// Captures what the recipe's cache holds, and no more: `alambic cache build`.
pub fn build_cache(plan: &Plan, context: &RunContext<'_>) -> Result<Option<PathBuf>, RunError> {
    preflight::check(plan, context.overrides)?;
    let stages = Stages::of(plan)?;
    let data = prepare_data(plan, &stages.data)?;
    let (Some(teacher), Some(cache), Some(stage)) = (&plan.teacher, &plan.cache, &stages.cache)
    else {
        return Ok(None);
    };
    open_or_capture((teacher, cache), stage, &data, context)?;
    Ok(Some(stage.dir.clone()))
}

/// Takes a folder for this process until the lock is dropped.
fn lock(dir: &Path) -> Result<File, RunError> {
    fs::create_dir_all(dir).map_err(|error| with_path(error, dir))?;
    let path = dir.join(".lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = file.map_err(|error| with_path(error, &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RunError::Locked {
            dir: dir.to_path_buf(),
        }),
        Err(TryLockError::Error(error)) => Err(with_path(error, &path).into()),
    }
}

fn prepare_data(plan: &Plan, stage: &Stage) -> Result<Prepared, RunError> {
    let since = Instant::now();
    let teacher = plan
        .teacher
        .as_ref()
        .map(|teacher| Checkpoint::open(&teacher.checkpoint))
        .transpose()?;
    let end_of_text = teacher
        .as_ref()
        .and_then(|teacher| teacher.config().eos_token_ids.first().copied());
    fs::create_dir_all(&stage.dir).map_err(|error| with_path(error, &stage.dir))?;
    let data = data::prepare(
        &plan.data,
        teacher.as_ref().map(Checkpoint::dir),
        &stage.dir,
        end_of_text,
    )?;
    for skipped in &data.skipped {
        progress::say(&format!("warning: {skipped}"));
    }
    for path in &data.rebuilt {
        progress::say(&format!(
            "warning: {} was damaged and was made again",
            path.display()
        ));
    }
    let how = if data.from_cache { "done" } else { "made" };
    let count = |rows: &TokenRows| progress::thousands(rows.num_positions());
    let (train, validation) = (count(&data.train), count(&data.validation));
    progress::say(&format!(
        "data: {how}, {train} training and {validation} validation tokens"
    ));
    stage.seal(
        &stage.dir,
        since.elapsed().as_secs_f64(),
        &(train, validation),
    )?;
    Ok(data)
}

fn open_or_capture(
    (teacher, plan): (&TeacherPlan, &CachePlan),
    stage: &Stage,
    data: &Prepared,
    context: &RunContext<'_>,
) -> Result<Caches, RunError> {
    let since = Instant::now();
    let checkpoint = Checkpoint::open(&teacher.checkpoint)?;
    let teacher_weights = model_hash(&checkpoint);
    let mut decoder = None;
    let mut split = |name: &str, rows: &TokenRows| -> Result<Cache, RunError> {
        let fingerprint = Fingerprint {
            version: Fingerprint::VERSION,
            teacher_weights: teacher_weights.clone(),
            tokenizer: data.tokenizer.hash(),
            rows: rows.hash(),
            sequence_length: rows.sequence_length(),
            num_rows: rows.num_rows(),
            vocab_size: checkpoint.config().vocab_size,
            top_k: plan.top_k,
            temperatures: plan.temperatures.clone(),
        };
        let dir = stage.dir.join(name);
        match Cache::open(&dir, Some(&fingerprint)) {
            Err(error) if error.is_unfinished() => {}
            outcome => return Ok(outcome?),
        }
        let decoder: &Decoder = match &mut decoder {
            Some(decoder) => decoder,
            none => none.insert(load_decoder(&checkpoint, context.device)?),
        };
        let job = CaptureJob {
            dir: &dir,
            batch_size: teacher.batch_size,
            rows_per_shard: plan.rows_per_shard,
            label: &format!("cache {name}"),
            stop: context.stop,
        };
        Ok(capture(decoder, rows, &fingerprint, &job)?)
    };
    let caches = Caches {
        train: split("train", &data.train)?,
        validation: split("validation", &data.validation)?,
    };
    if stage.is_done() {
        progress::say("cache: done");
    } else {
        stage.seal(&stage.dir, since.elapsed().as_secs_f64(), &())?;
    }
    Ok(caches)
}

fn measure_teacher(
    plan: &TeacherPlan,
    stage: &Stage,
    data: &Prepared,
    caches: &Caches,
    context: &RunContext<'_>,
) -> Result<PassRow, RunError> {
    if let Some(artifact) = stage.artifact::<Measured>() {
        return Ok(row("teacher", &artifact.result, artifact.secs));
    }
    let since = Instant::now();
    let teacher = Student::new(load_decoder(
        &Checkpoint::open(&plan.checkpoint)?,
        context.device,
    )?);
    let partial = PartialDir::create(&stage.dir)?;
    let measured = measure(&teacher, data, Some(caches), "teacher")?;
    let secs = since.elapsed().as_secs_f64();
    stage.seal(partial.path(), secs, &measured)?;
    partial.publish()?;
    Ok(row("teacher", &measured, secs))
}

/// Runs what is not done of the passes and adds a row for each; the student is loaded only if it is needed.
fn run_passes(
    plan: &Plan,
    stages: &Stages,
    data: &Prepared,
    caches: Option<&Caches>,
    context: &RunContext<'_>,
    rows: &mut Vec<PassRow>,
) -> Result<Option<Student>, RunError> {
    let mut student = None;
    let mut last_done: Option<&Stage> = None;
    for (pass_idx, (pass, stage)) in plan.passes.iter().zip(&stages.passes).enumerate() {
        if let Some(artifact) = stage.artifact::<Measured>() {
            progress::say(&format!("{}: done ({})", stage.name, &stage.key[..8]));
            rows.push(row(&stage.name, &artifact.result, artifact.secs));
            fit::discard_state(&stage.dir)?;
            last_done = Some(stage);
            student = None;
            continue;
        }
        let before = match (student.take(), last_done) {
            (Some(student), _) => student,
            (None, Some(stage)) => Student::load(&stage.dir, context.device)?,
            (None, None) => init_student(plan, data, context.device)?,
        };
        let seed = random::derive(plan.seed, &format!("pass {pass_idx}"));
        let (after, row) = run_pass(pass, stage, before, seed, data, caches, context)?;
        rows.push(row);
        student = Some(after);
    }
    match (student, last_done) {
        (None, Some(stage)) if !stages.export.is_done() => {
            Ok(Some(Student::load(&stage.dir, context.device)?))
        }
        (student, _) => Ok(student),
    }
}

fn run_pass(
    pass: &PassPlan,
    stage: &Stage,
    student: Student,
    seed: u64,
    data: &Prepared,
    caches: Option<&Caches>,
    context: &RunContext<'_>,
) -> Result<(Student, PassRow), RunError> {
    let since = Instant::now();
    let partial = PartialDir::resume(&stage.dir)?;
    let pass_context = PassContext {
        label: &stage.name,
        dir: partial.path(),
        seed,
        rows: &data.train,
        cache: caches.map(|caches| &caches.train),
        stop: context.stop,
        wall_time: context.wall_time,
    };
    let student = passes::apply(pass, student, &pass_context)?;
    let measured = measure(&student, data, caches, &stage.name)?;
    student.save(partial.path())?;
    let secs = since.elapsed().as_secs_f64();
    stage.seal(partial.path(), secs, &measured)?;
    let dir = partial.publish()?;
    fit::discard_state(&dir)?;
    Ok((student, row(&stage.name, &measured, secs)))
}

fn measure(
    student: &Student,
    data: &Prepared,
    caches: Option<&Caches>,
    label: &str,
) -> Result<Measured, RunError> {
    let opinion = caches.map_or(Opinion::None, |caches| Opinion::Cache(&caches.validation));
    let label = format!("{label}, validation");
    Ok(Measured {
        evaluation: evaluate(&student.effective(), &data.validation, opinion, &label)?,
        size_bytes: student.size_bytes(),
        sparsity: student.sparsity(),
    })
}

fn init_student(plan: &Plan, data: &Prepared, device: &Device) -> Result<Student, RunError> {
    let teacher = plan
        .teacher
        .as_ref()
        .map(|teacher| Checkpoint::open(&teacher.checkpoint))
        .transpose()?;
    match &plan.student {
        StudentPlan::Architecture(sizes) => {
            // A padded vocabulary of the teacher is kept, so that both rank the same ids.
            let vocab_size = teacher.map_or(data.tokenizer.vocab_size(), |teacher| {
                teacher.config().vocab_size
            });
            let config = student::architecture(
                sizes,
                vocab_size,
                data.train.sequence_length(),
                Some(data.end_of_text),
            );
            Ok(Student::fresh(config, plan.seed, device))
        }
        StudentPlan::FromTeacher { layers } => {
            let teacher = teacher.expect("a checked recipe with `from_teacher` has a teacher");
            Ok(Student::new(student::from_layers(
                &load_decoder(&teacher, device)?,
                layers,
            )))
        }
        StudentPlan::Checkpoint(dir) => {
            Ok(Student::new(load_decoder(&Checkpoint::open(dir)?, device)?))
        }
    }
}

fn run_export(
    plan: &Plan,
    stage: &Stage,
    student: Option<Student>,
    stages: &Stages,
    data: &Prepared,
    rows: &[PassRow],
    context: &RunContext<'_>,
) -> Result<Vec<Verification>, RunError> {
    if let Some(artifact) = stage.artifact::<Vec<Verification>>() {
        progress::say(&format!("{}: done ({})", stage.name, &stage.key[..8]));
        return Ok(artifact.result);
    }
    let since = Instant::now();
    let student = match (student, stages.passes.last()) {
        (Some(student), _) => student,
        (None, Some(last)) => Student::load(&last.dir, context.device)?,
        (None, None) => init_student(plan, data, context.device)?,
    };
    let teacher_dir = plan
        .teacher
        .as_ref()
        .map(|teacher| teacher.checkpoint.as_path());
    let export_context = ExportContext {
        name: &plan.name,
        teacher: teacher_dir
            .and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned()),
        tokenizer_dir: teacher_dir.filter(|_| plan.data.tokenizer == TokenizerPlan::Teacher),
        tokenizer: &data.tokenizer,
        rows: &data.validation,
        recipe: &recipe::resolved_yaml(plan),
        table: report::table_cells(rows),
    };
    let partial = PartialDir::create(&stage.dir)?;
    let verifications = export::export(&plan.export, &student, &export_context, partial.path())?;
    stage.seal(
        partial.path(),
        since.elapsed().as_secs_f64(),
        &verifications,
    )?;
    let dir = partial.publish()?;
    progress::say(&format!("{}: verified, in {}", stage.name, dir.display()));
    Ok(verifications)
}

fn row(pass: &str, measured: &Measured, secs: f64) -> PassRow {
    let Measured {
        evaluation,
        size_bytes,
        sparsity,
    } = *measured;
    PassRow {
        pass: pass.to_owned(),
        loss_nats: evaluation.loss_nats,
        perplexity: evaluation.perplexity,
        bits_per_byte: evaluation.bits_per_byte,
        kl_nats: evaluation.kl_nats,
        top1_agreement: evaluation.top1_agreement,
        ece: evaluation.calibration_error,
        size_bytes,
        sparsity,
        secs,
    }
}

/// Training losses of the passes that trained.
fn curves(stages: &Stages) -> Vec<Curve> {
    let curve = |stage: &Stage| {
        let lines = read_metrics(&stage.dir).ok()?;
        let points = lines
            .iter()
            .filter_map(|line| Some((line.step, line.get("train/loss")?)))
            .collect();
        Some(Curve {
            name: stage.name.clone(),
            points,
        })
    };
    stages.passes.iter().filter_map(curve).collect()
}
