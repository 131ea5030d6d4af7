//! What passes work on: token rows, and what the teacher says of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{RunContext, RunError, say_done, wait_for_lock};
use crate::cache::{Cache, Fingerprint, Part, TokenHashes, Wanted};
use crate::checkpoint::Checkpoint;
use crate::data::{self, DataError, Prepared, TokenRows};
use crate::files::with_path;
use crate::model::Decoder;
use crate::progress::{self, Progress};
use crate::recipe::{CachePlan, Plan, Sampling, SupportPlan, TeacherPlan};
use crate::stages::{Stage, Stages};
use crate::teacher::{CaptureJob, Trade, bench, capture, load_teacher};

/// What the teacher said of both texts.
pub(super) struct Caches {
    /// `None` where nothing reads it.
    pub(super) train: Option<Cache>,
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
    let since = Instant::now();
    let Some(mut captured) = Capture::of(plan, stages, context)? else {
        return Ok(None);
    };
    let stage = captured.stage;
    let train = stages
        .captures_train
        .then(|| captured.split("train", &data.train, data))
        .transpose()?;
    let validation = captured.split("validation", &data.validation, data)?;
    if stages.cache_is_done() {
        say_done(stage);
    }
    stages.seal_cache(since.elapsed().as_secs_f64())?;
    Ok(Some(Caches { train, validation }))
}

/// Captures one part of the recipe's caches into a folder of its own; the folder, or `None` if there is no teacher.
pub(super) fn capture_part(
    plan: &Plan,
    stages: &Stages,
    data: &Prepared,
    context: &RunContext<'_>,
    part: Part,
) -> Result<Option<PathBuf>, RunError> {
    let Some(mut captured) = Capture::of(plan, stages, context)? else {
        return Ok(None);
    };
    let dir = captured
        .stage
        .dir
        .join(format!("part-{}-of-{}", part.part, part.of));
    for (name, rows) in [("train", &data.train), ("validation", &data.validation)] {
        captured.capture(&dir.join(name), name, rows, data, Some(part))?;
    }
    Ok(Some(dir))
}

/// Measures kinds of support on a few training rows: the recipe's own, and some to choose from.
pub(super) fn bench_supports(
    plan: &Plan,
    stages: &Stages,
    data: &Prepared,
    context: &RunContext<'_>,
    num_rows: usize,
) -> Result<Option<Vec<Trade>>, RunError> {
    let Some(captured) = Capture::of(plan, stages, context)? else {
        return Ok(None);
    };
    let rows = &data.train;
    let fingerprint = captured.fingerprint(rows, data);
    let mut kinds = vec![captured.cache.support];
    let sampling = Sampling::Systematic;
    kinds.extend([13, 33, 50, 100].map(|num_draws| SupportPlan::Samples {
        num_draws,
        sampling,
    }));
    let top_k = [8, 32, 64, 128]
        .into_iter()
        .filter(|k| *k <= fingerprint.vocab_size);
    kinds.extend(top_k.map(SupportPlan::TopK));
    let mut seen = Vec::new();
    kinds.retain(|kind| {
        !seen.contains(kind) && {
            seen.push(*kind);
            true
        }
    });
    let decoder = load_teacher(&captured.checkpoint, fingerprint.vocab_size, context.device)?;
    let num_rows = num_rows.clamp(1, rows.num_rows());
    let row_idxs: Vec<usize> = (0..num_rows)
        .map(|place| place * rows.num_rows() / num_rows)
        .collect();
    let positions = rows.sequence_length() as u64;
    let mut progress = Progress::new("cache bench", num_rows as u64 * positions);
    let trades = bench(&decoder, rows, &row_idxs, &fingerprint, &kinds, |_| {
        progress.advance(positions);
    })?;
    progress.finish();
    Ok(Some(trades))
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

impl<'a> Capture<'a> {
    /// `None` if the recipe has no teacher.
    fn of(
        plan: &'a Plan,
        stages: &'a Stages,
        context: &'a RunContext<'a>,
    ) -> Result<Option<Self>, RunError> {
        let (Some(teacher), Some(cache), Some(stage)) = (&plan.teacher, &plan.cache, &stages.cache)
        else {
            return Ok(None);
        };
        let weights = stages.teacher_hash.clone();
        Ok(Some(Self {
            teacher,
            cache,
            checkpoint: Checkpoint::open(&teacher.checkpoint)?,
            weights: weights.expect("stages of a plan with a teacher have hashed it"),
            stage,
            decoder: None,
            context,
        }))
    }

    fn fingerprint(&self, rows: &TokenRows, data: &Prepared) -> Fingerprint {
        Fingerprint {
            version: Fingerprint::VERSION,
            teacher_weights: self.weights.clone(),
            tokenizer: data.tokenizer.hash(),
            sequence_length: rows.sequence_length(),
            vocab_size: data.tokenizer.vocab_size(), // rows that no token uses are not captured
            support: self.cache.support,
            temperatures: self.cache.temperatures.clone(),
        }
    }

    fn split(&mut self, name: &str, rows: &TokenRows, data: &Prepared) -> Result<Cache, RunError> {
        let fingerprint = self.fingerprint(rows, data);
        let tokens = TokenHashes::of((0..rows.num_rows()).map(|row_idx| rows.row(row_idx)));
        let wanted = Wanted {
            fingerprint: &fingerprint,
            tokens: &tokens,
        };
        let dir = self.stage.dir.join(name);
        match Cache::open(&dir, wanted) {
            Err(error) if error.is_unfinished() => {}
            outcome => return Ok(outcome?),
        }
        self.capture(&dir, name, rows, data, None)?;
        Ok(Cache::open(&dir, wanted)?)
    }

    fn capture(
        &mut self,
        dir: &Path,
        name: &str,
        rows: &TokenRows,
        data: &Prepared,
        part: Option<Part>,
    ) -> Result<(), RunError> {
        let fingerprint = self.fingerprint(rows, data);
        let tokens = TokenHashes::of((0..rows.num_rows()).map(|row_idx| rows.row(row_idx)));
        let wanted = Wanted {
            fingerprint: &fingerprint,
            tokens: &tokens,
        };
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => none.insert(load_teacher(
                &self.checkpoint,
                fingerprint.vocab_size,
                self.context.device,
            )?),
        };
        let job = CaptureJob {
            dir,
            batch_size: self.teacher.batch_size,
            rows_per_shard: self.cache.rows_per_shard,
            part,
            label: &format!("cache, {name}"),
            stop: self.context.stop,
        };
        Ok(capture(decoder, rows, wanted, &job)?)
    }
}
