//! Inputs of passes: token rows, and the teacher's predictions for them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use super::lock::{wait_for_lock, while_locked};
use super::{RunContext, RunError, ancestor, log_changed, log_done};
use crate::cache::{
    self, Cache, CacheError, CachePart, CachePlan, Fingerprint, Sampling, SupportPlan, TokenHashes,
    Wanted,
};
use crate::data::{self, DataError, Prepared, TokenRows, Tokenizer};
use crate::files;
use crate::hashes::Hashes;
use crate::kept::{self, Kept, KeptTeacher};
use crate::model::Decoder;
use crate::plan::Plan;
use crate::progress::{self, Progress};
use crate::rates::{self, Work, WorkKind};
use crate::stages::{Model, Stage, Stages, StagesError};
use crate::teacher::{CaptureJob, SupportCost, TeacherPlan, bench, capture};

/// Predictions of the teacher for both texts.
pub(super) struct Caches {
    /// Cache of the training text; `None` if nothing reads it.
    pub(super) train: Option<Cache>,
    pub(super) validation: Cache,
}

pub(super) fn prepare_data(
    plan: &Plan,
    stages: &Stages,
    context: &RunContext<'_>,
    hashes: &Hashes,
) -> Result<Prepared, RunError> {
    let since = Instant::now();
    let (stage, inputs) = (&stages.data, &stages.inputs);
    log_changed(stage);
    let _lock = wait_for_lock(stage, context.stop)?; // another recipe may be making the same rows
    stages.drop_damaged_data(hashes)?;
    files::remove_parts(&stage.dir)?;
    let tokenizer = inputs.tokenizer.as_ref();
    let mut data = match &inputs.kept {
        Some(kept) if inputs.away.text => kept_rows(stages, kept, hashes)?,
        _ => data::prepare(
            &plan.data,
            tokenizer,
            &inputs.change,
            &stage.dir,
            (inputs.end_of_text(), &inputs.ends(plan)),
            (hashes, context.stop),
        )?,
    };
    data.train = data.train.calibrated_on(plan.data.calibrate_on);
    inputs.check_data(plan, &data)?;
    for skipped in &data.skipped {
        progress::log(&format!("warning: {skipped}"));
    }
    progress::log_notes(&data.notes);
    for path in &data.rebuilt {
        progress::log(&format!(
            "warning: {} was damaged and was made again",
            path.display()
        ));
    }
    if !data.from_cache {
        let bytes = data.train.num_bytes() + data.validation.num_bytes();
        rates::note(Work::bytes(WorkKind::Tokenize, bytes), since.elapsed());
    }
    let how = if data.from_cache { "done" } else { "made" };
    let count = |rows: &TokenRows| progress::thousands(rows.num_positions());
    let (train, validation) = (count(&data.train), count(&data.validation));
    progress::log(&format!(
        "data: {how}, {train} training and {validation} validation tokens"
    ));
    if stage.artifact::<Value>()?.is_none() {
        stage.seal(&stage.dir, since.elapsed().as_secs_f64(), (), hashes)?;
    }
    Ok(data)
}

/// Rows that were made of a text that is not here.
fn kept_rows(stages: &Stages, kept: &Kept, hashes: &Hashes) -> Result<Prepared, RunError> {
    let (stage, texts) = (&stages.data, &stages.inputs.texts);
    let trained = match &stages.inputs.tokenizer {
        Some(tokenizer) => Ok(tokenizer.clone()),
        None => Tokenizer::open(&kept.trained_tokenizer()),
    };
    let tokenizer = trained.map_err(DataError::from)?;
    let rows = kept.rows(&stage.key);
    let rows = rows.map(|rows| data::prepared_before(&tokenizer, &stage.dir, rows, texts, hashes));
    let rows = rows.transpose()?.flatten();
    let gone = || StagesError::NoText {
        dir: stage.dir.clone(),
    };
    Ok(rows.ok_or_else(gone)?)
}

/// Uses the cache of a recipe that learns another part of the same text, if this recipe's own has nothing yet and that one is
/// finished and has all positions that are wanted here.
pub(super) fn share_cache(
    plan: &Plan,
    stages: &mut Stages,
    data: &Prepared,
    context: &RunContext<'_>,
) {
    let Some(capture) = Capture::of(plan, stages, context) else {
        return;
    };
    let splits = [
        ("train", stages.captures_train.then_some(&data.train)),
        ("validation", Some(&data.validation)),
    ];
    let splits = splits.map(|(name, rows)| rows.map(|rows| (name, rows)));
    let splits: Vec<_> = splits.into_iter().flatten().collect();
    let is_there = |stage: &&Stage| splits.iter().all(|(name, _)| stage.dir.join(name).is_dir());
    let mut others = stages.other_caches().iter().filter(is_there).peekable();
    let saved = splits
        .iter()
        .map(|(name, _)| cache::num_saved_rows(&capture.stage.dir.join(name)));
    if others.peek().is_none() || saved.sum::<usize>() > 0 {
        return;
    }
    let texts: Vec<_> = splits
        .iter()
        .map(|&(name, rows)| (name, rows, hashes_of(rows)))
        .collect();
    let serves = |stage: &&Stage| {
        texts.iter().all(|(name, rows, tokens)| {
            let wanted = Wanted {
                fingerprint: &capture.fingerprint(rows, data),
                tokens,
                mask: &|row_idx| rows.mask(row_idx),
            };
            Cache::open(&stage.dir.join(name), wanted).is_ok()
        })
    };
    if let Some(other) = others.find(serves).cloned() {
        progress::log(&format!(
            "cache: `{}` has all positions that are learnt here",
            other.dir.display()
        ));
        stages.share_cache(&other);
    }
}

/// The recipe's caches; what is missing is captured. `None` if the recipe has no teacher.
pub(super) fn open_or_capture(
    plan: &Plan,
    stages: &Stages,
    data: &Prepared,
    context: &RunContext<'_>,
    hashes: &Hashes,
) -> Result<Option<Caches>, RunError> {
    let since = Instant::now();
    let Some(mut captured) = Capture::of(plan, stages, context) else {
        return Ok(None);
    };
    let stage = captured.stage;
    log_changed(stage);
    let train = stages
        .captures_train
        .then(|| captured.split("train", &data.train, data, hashes))
        .transpose()?;
    let validation = captured.split("validation", &data.validation, data, hashes)?;
    let _lock = wait_for_lock(stage, context.stop)?;
    if stages.cache_is_done() {
        log_done(stage);
    }
    files::remove_parts(&stage.dir)?;
    stages.seal_cache(since.elapsed().as_secs_f64())?;
    let inputs = &stages.inputs;
    let teacher = inputs.teacher.as_ref().zip(plan.teacher.as_ref());
    if let Some((model, named)) = teacher.filter(|_| inputs.kept.is_none()) {
        let stored = model.stored();
        let kept = KeptTeacher {
            file_name: kept::place_name(&named.checkpoint),
            is_folder: stored.path().is_dir(),
            hash: model.hash().to_owned(),
            config: stored.config().clone(),
            generation: stored.generation().clone(),
            promised_rows: stored.promised_rows(),
            ancestor: ancestor(stored),
        };
        let teacher = (kept, stored.path());
        let rows = (stages.data.key.as_str(), &data.stored, &data.tokenizer);
        Kept::keep(plan, &stage.dir, teacher, &inputs.texts, rows)?;
    }
    Ok(Some(Caches { train, validation }))
}

/// Captures one part of the recipe's caches into a folder of its own. Returns the folder, or `None` if there is no teacher.
pub(super) fn capture_part(
    plan: &Plan,
    stages: &Stages,
    data: &Prepared,
    context: &RunContext<'_>,
    part: CachePart,
) -> Result<Option<PathBuf>, RunError> {
    let Some(mut captured) = Capture::of(plan, stages, context) else {
        return Ok(None);
    };
    let dir = captured
        .stage
        .dir
        .join(format!("part-{}-of-{}", part.part, part.of));
    for (name, rows) in [("train", &data.train), ("validation", &data.validation)] {
        while_locked(captured.stage, context.stop, || {
            let fingerprint = captured.fingerprint(rows, data);
            let wanted = Wanted {
                fingerprint: &fingerprint,
                tokens: &hashes_of(rows),
                mask: &|row_idx| rows.mask(row_idx),
            };
            captured.capture(&dir.join(name), name, rows, wanted, Some(part))
        })?;
    }
    Ok(Some(dir))
}

/// Measures kinds of support on a few training rows: the recipe's own and some alternatives.
pub(super) fn bench_supports(
    plan: &Plan,
    stages: &Stages,
    data: &Prepared,
    context: &RunContext<'_>,
    num_rows: usize,
) -> Result<Option<Vec<SupportCost>>, RunError> {
    let Some(captured) = Capture::of(plan, stages, context) else {
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
    let decoder = captured.load(fingerprint.vocab_size)?;
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
    model: &'a Model,
    stage: &'a Stage,
    /// Teacher, loaded when the first row has to be captured.
    decoder: Option<Decoder>,
    context: &'a RunContext<'a>,
}

impl<'a> Capture<'a> {
    /// The capture of a plan; `None` if the recipe has no teacher.
    fn of(plan: &'a Plan, stages: &'a Stages, context: &'a RunContext<'a>) -> Option<Self> {
        Some(Self {
            teacher: plan.teacher.as_ref()?,
            cache: plan.cache.as_ref()?,
            model: stages.inputs.teacher.as_ref()?,
            stage: stages.cache.as_ref()?,
            decoder: None,
            context,
        })
    }

    fn load(&self, vocab_size: usize) -> Result<Decoder, RunError> {
        let device = self.context.device;
        let precision = self.teacher.precision;
        self.model
            .read(|model| Ok(model.teacher(vocab_size, precision, device)?))
    }

    fn fingerprint(&self, rows: &TokenRows, data: &Prepared) -> Fingerprint {
        Fingerprint {
            version: Fingerprint::VERSION,
            teacher_weights: self.model.hash().to_owned(),
            tokenizer: data.tokenizer.hash(),
            precision: self.teacher.precision,
            sequence_length: rows.sequence_length(),
            vocab_size: data.tokenizer.vocab_size(), // rows that no token uses are not captured
            support: self.cache.support,
            temperatures: self.cache.temperatures.clone(),
        }
    }

    fn split(
        &mut self,
        name: &str,
        rows: &TokenRows,
        data: &Prepared,
        hashes: &Hashes,
    ) -> Result<Cache, RunError> {
        let fingerprint = self.fingerprint(rows, data);
        let tokens = hashes_of(rows);
        let wanted = Wanted {
            fingerprint: &fingerprint,
            tokens: &tokens,
            mask: &|row_idx| rows.mask(row_idx),
        };
        let dir = self.stage.dir.join(name);
        let open = || {
            let cache = Cache::open(&dir, wanted)?;
            cache.check_shards(rows.num_rows(), hashes)?;
            cache.remove_progress()?;
            Ok(cache)
        };
        let (stage, stop) = (self.stage, self.context.stop);
        while_locked(stage, stop, || {
            match open() {
                Err(
                    error @ (CacheError::ShardChecksum { .. } | CacheError::ShardLength { .. }),
                ) => progress::log(&format!("warning: {error}; it is captured again")),
                Err(CacheError::Positions { .. }) => progress::log(&format!(
                    "cache, {name}: more positions of the same rows are captured"
                )),
                Err(error) if error.is_unfinished() => {}
                outcome => return Ok(outcome?),
            }
            self.capture(&dir, name, rows, wanted, None)?;
            Ok(open()?)
        })
    }

    fn capture(
        &mut self,
        dir: &Path,
        name: &str,
        rows: &TokenRows,
        wanted: Wanted<'_>,
        part: Option<CachePart>,
    ) -> Result<(), RunError> {
        if self.decoder.is_none() {
            self.decoder = Some(self.load(wanted.fingerprint.vocab_size)?);
        }
        let decoder = self.decoder.as_ref().expect("it was just loaded");
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

fn hashes_of(rows: &TokenRows) -> TokenHashes {
    TokenHashes::of((0..rows.num_rows()).map(|row_idx| rows.sequence(row_idx)))
}
