//! What passes work on: token rows, and what the teacher says of them.

use std::fs;
use std::time::Instant;

use super::{RunContext, RunError, say_done, wait_for_lock};
use crate::cache::{Cache, Fingerprint};
use crate::checkpoint::Checkpoint;
use crate::data::{self, DataError, Prepared, TokenRows};
use crate::files::with_path;
use crate::model::Decoder;
use crate::progress;
use crate::recipe::{CachePlan, Plan, TeacherPlan};
use crate::stages::{Stage, Stages};
use crate::teacher::{CaptureJob, capture, load_teacher};

/// What the teacher said of both texts.
pub(super) struct Caches {
    pub(super) train: Cache,
    pub(super) validation: Cache,
}

pub(super) fn prepare_data(plan: &Plan, stage: &Stage) -> Result<Prepared, RunError> {
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
    let _lock = wait_for_lock(&stage.dir)?; // other recipes may ask for the same rows at the same time
    let teacher_path = teacher.as_ref().map(Checkpoint::path);
    let prepare = |end_of_text| data::prepare(&plan.data, teacher_path, &stage.dir, end_of_text);
    // A tokenizer that names no separator may still come with a model that does.
    let data = match prepare(None) {
        Err(DataError::NoEndOfText) if end_of_text.is_some() => prepare(end_of_text)?,
        outcome => outcome?,
    };
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
    if !stage.is_done() {
        stage.seal(&stage.dir, since.elapsed().as_secs_f64(), &())?;
    }
    Ok(data)
}

/// The recipe's caches, captured as far as they are not there yet; `None` if the recipe has no teacher.
pub(super) fn open_or_capture(
    plan: &Plan,
    stages: &Stages,
    data: &Prepared,
    context: &RunContext<'_>,
) -> Result<Option<Caches>, RunError> {
    let (Some(teacher), Some(cache), Some(stage)) = (&plan.teacher, &plan.cache, &stages.cache)
    else {
        return Ok(None);
    };
    let since = Instant::now();
    let checkpoint = Checkpoint::open(&teacher.checkpoint)?;
    let weights = stages
        .teacher_hash
        .clone()
        .expect("stages of a plan with a teacher have hashed it");
    let mut captured = Capture {
        teacher,
        cache,
        checkpoint,
        weights,
        stage,
        decoder: None,
        context,
    };
    let train = captured.split("train", &data.train, data)?;
    let validation = captured.split("validation", &data.validation, data)?;
    if stage.is_done() {
        say_done(stage);
    } else {
        stage.seal(&stage.dir, since.elapsed().as_secs_f64(), &())?;
    }
    Ok(Some(Caches { train, validation }))
}

struct Capture<'a> {
    teacher: &'a TeacherPlan,
    cache: &'a CachePlan,
    checkpoint: Checkpoint,
    weights: String,
    stage: &'a Stage,
    /// Loaded when the first row has to be captured.
    decoder: Option<Decoder>,
    context: &'a RunContext<'a>,
}

impl Capture<'_> {
    fn split(&mut self, name: &str, rows: &TokenRows, data: &Prepared) -> Result<Cache, RunError> {
        let fingerprint = Fingerprint {
            version: Fingerprint::VERSION,
            teacher_weights: self.weights.clone(),
            tokenizer: data.tokenizer.hash(),
            rows: rows.hash(),
            sequence_length: rows.sequence_length(),
            num_rows: rows.num_rows(),
            vocab_size: data.tokenizer.vocab_size(), // rows that no token uses are not captured
            top_k: self.cache.top_k,
            temperatures: self.cache.temperatures.clone(),
        };
        let dir = self.stage.dir.join(name);
        match Cache::open(&dir, Some(&fingerprint)) {
            Err(error) if error.is_unfinished() => {}
            outcome => return Ok(outcome?),
        }
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => none.insert(load_teacher(
                &self.checkpoint,
                fingerprint.vocab_size,
                self.context.device,
            )?),
        };
        let job = CaptureJob {
            dir: &dir,
            batch_size: self.teacher.batch_size,
            rows_per_shard: self.cache.rows_per_shard,
            label: &format!("cache, {name}"),
            stop: self.context.stop,
        };
        Ok(capture(decoder, rows, &fingerprint, &job)?)
    }
}
