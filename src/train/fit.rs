//! The training loop.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use std::{io, iter};

use super::change::Change;
use super::cost::TrainingPace;
use super::error::not_finite;
use super::evaluate::{Evaluation, Reference, measure};
use super::gradient::{ActivationMemory, StepGradient, step_gradient_with};
use super::hidden::TeacherAlong;
use super::metrics::copy_metrics;
use super::objective::{logged_schedules, logged_terms, loss_spec, micro_batches};
use super::optim::{clip, global_norm};
use super::pending_losses::{PendingLosses, Reading, UnsoundStep, largest_weight};
use super::state::{self, StateError, States, Training};
use super::{FitError, MetricsLog, check_number, course, kept_after, learning_rate};
use crate::cache::{Cache, CacheError};
use crate::data::{BatchOrder, TokenRows};
use crate::device::ReadBack;
use crate::files;
use crate::loss::Term;
use crate::model::Decoder;
use crate::progress::{self, Progress};
use crate::student::Student;
use crate::support::CountedRow;
use crate::tensors;
use crate::train::{FitPlan, HandOn};

/// Inputs of a pass that trains, and the folder of its state; the plan holds everything else.
#[derive(Clone, Copy)]
pub struct PassContext<'a> {
    /// Name in progress and messages, such as `01-distill`.
    pub label: &'a str,
    /// Folder of the unfinished pass: training state and metrics.
    pub dir: &'a Path,
    /// Key of the stage; a training state records the key that it was made under.
    pub key: &'a str,
    /// Hash of all that decides the pass beside its keys of training, if its state is to be kept for a pass of more steps.
    pub origin: Option<&'a str>,
    /// State that a shorter pass has kept, to begin with.
    pub begin: Option<&'a Path>,
    /// Seed of the order of rows.
    pub seed: u64,
    /// Training rows.
    pub rows: &'a TokenRows,
    /// The teacher's prediction of those rows, if any loss term needs it.
    pub cache: Option<&'a Cache>,
    /// The teacher itself, which runs along, if a loss term compares hidden states with its own.
    pub teacher: Option<&'a Decoder>,
    /// Rows of the validation text, for measurements during the pass.
    pub validation: &'a TokenRows,
    /// The teacher's prediction of those, if there is one.
    pub validation_cache: Option<&'a Cache>,
    /// Set by the first signal: finish the step, save, stop.
    pub stop: &'a AtomicBool,
    /// Now, in seconds since 1970; reaches the TensorBoard events and nothing else.
    pub wall_time: f64,
}

/// Runs `plan.steps` optimizer steps on the student and returns it.
///
/// One step takes the gradient of the mean loss over all counted positions of its rows (in micro-batches,
/// which do not change it), in this order: clip the global norm, update, average, log, and, if they are due,
/// measure on the validation text and save. A state that an interrupted run left in `context.dir` is resumed.
///
/// No stalling read from a device happens before the next step that is logged, measured or saved.
///
/// The same plan, student and rows give the same weights bit for bit on one CPU device, stopped and resumed
/// or not: the rows, the learning rate, the loss and the temperature of a step are functions of its number
/// (`tests/kill.rs`).
///
/// With a moving average, the average is measured and handed on. The pass hands on the weights after the last step, or
/// those that were measured as the best.
///
/// # Errors
///
/// [`FitError::NotFinite`] at the first step whose loss or gradient is NaN or infinite; the last saved state is left in
/// place. Where reading is free, the weights have not changed yet. Where it stalls, later steps may have been taken,
/// but none of them was measured or saved.
pub fn fit(
    plan: &FitPlan,
    student: Student,
    context: &PassContext<'_>,
) -> Result<Student, FitError> {
    let read_back = ReadBack::of(&student.decoder.device());
    fit_with(plan, student, context, read_back)
}

/// Same as [`fit`], treating reads from the device in the given way.
#[expect(clippy::too_many_lines, reason = "the loop is read from top to bottom")]
pub fn fit_with(
    plan: &FitPlan,
    student: Student,
    context: &PassContext<'_>,
    read_back: ReadBack,
) -> Result<Student, FitError> {
    let PassContext {
        label, dir, rows, ..
    } = *context;
    let save_error = |source| FitError::Save {
        label: label.to_owned(),
        source,
    };
    let states = States {
        dir,
        made_by: context.key,
        keep: plan.keep_states,
        has_masks: plan.prune.is_some(),
        has_scales: plan.start_step > 0,
    };
    let mut student = student;
    let changes = Change::all(plan, &mut student, context);
    let given = Training::new(student, plan.ema.is_some());
    let resumed = match states.load(&given)? {
        None => begun(&states, plan, context, &given).map_err(save_error)?,
        resumed => resumed,
    };
    let mut training = resumed.unwrap_or(given);
    for change in &changes {
        change.resume(&mut training);
    }
    let start = training.optimizer.num_updates;
    if start > plan.steps {
        return Err(FitError::State(StateError::Past {
            path: state::newest(dir).unwrap_or_else(|| dir.to_path_buf()),
            found: start,
            steps: plan.steps,
        }));
    }

    let order = BatchOrder::new(
        context.seed,
        rows.num_rows(),
        plan.tokens_per_step / rows.sequence_length(),
    );
    let activations = ActivationMemory::of(plan);
    let teacher = TeacherAlong::of(plan, &training.student, context.teacher);
    let mut log = MetricsLog::open(dir, Some(start as u64), context.wall_time)?;
    let mut progress = Progress::new(label, (plan.steps * plan.tokens_per_step) as u64);
    progress.resume_at((start * plan.tokens_per_step) as u64);
    let mut pending = PendingLosses::new(read_back);
    let unsound = |found: UnsoundStep| not_finite(found.step, found, context);
    let mut since_log = Instant::now();
    let mut tokens_since_log = 0;
    let mut pace = TrainingPace::begin(start);

    let kept = context.origin.zip(kept_after(plan));
    for done in start.. {
        if let Some((origin, _)) = kept.filter(|(_, kept)| *kept == done) {
            pending.read().map_err(unsound)?;
            let course = course(plan, origin, done);
            let saved = states.keep_for_more(&training, &course);
            saved.map_err(save_error)?;
        }
        let is_due = training.validation.is_due(done, plan);
        if is_due {
            pending.read().map_err(unsound)?;
        }
        let since_measure = Instant::now();
        if is_due && let Some(measured) = measured(&training, context)? {
            let loss = measured.loss_nats;
            check_number("validation loss", loss, done, context)?;
            let kl = measured.kl_nats.map(|kl| ("validation/kl", kl));
            let values: Vec<_> = iter::once(("validation/loss", loss)).chain(kl).collect();
            log.log(done as u64, &values)?;
            if changes.iter().any(|change| change.is_to_come(done)) {
                training.validation.pass_over(done);
            } else if training.validation.note(done, loss, plan.early_stop)
                && plan.hand_on == HandOn::Best
            {
                let saved = states.save_best(done, &training);
                saved.map_err(save_error)?;
            }
            since_log += since_measure.elapsed(); // speed is that of training alone
            pace.leave_out(since_measure.elapsed());
        }
        let validation = &training.validation;
        let is_measured = !validation.is_due(done, plan); // unless a signal came between
        if is_measured && (done == plan.steps || validation.is_over(plan.early_stop)) {
            break;
        }
        let stopping = context.stop.load(Ordering::Relaxed);
        let since_save = Instant::now();
        if stopping || (done > start && done % plan.save_every == 0) {
            pending.read().map_err(unsound)?;
            let student = &training.student;
            check_number("largest weight", largest_weight(student), done, context)?;
            for (spec, weight) in student.trained() {
                log.histogram(done as u64, &spec.name, &tensors::to_vec(&weight))?;
            }
            log.sync()?;
            states.save(&training).map_err(save_error)?;
            pace.leave_out(since_save.elapsed());
        }
        if stopping {
            progress.finish();
            pace.note(plan, &training.student, context, done);
            return Err(FitError::Interrupted {
                step: done,
                label: label.to_owned(),
                path: state::newest(dir).unwrap_or_else(|| dir.to_path_buf()),
            });
        }

        let step = done; // counted from 0
        for change in &changes {
            change.apply(step, label, &mut training);
        }
        let row_idxs = order.rows_at(step);
        let supports = match context.cache {
            Some(cache) => Some(cache.rows(&row_idxs, |row_idx| CountedRow::of(rows, row_idx))?),
            None => None,
        };
        let spec = loss_spec(plan, step);
        let micro_batches = micro_batches(plan, rows, &row_idxs, supports.as_deref());
        let student = &training.student;
        let hidden = teacher.as_ref().map(|along| along.matched(student));
        let StepGradient {
            sums,
            gradients,
            projections,
        } = step_gradient_with(
            &student.effective().with_arithmetic(plan.precision),
            &micro_batches,
            &spec,
            hidden,
            activations,
            read_back,
        );
        let mut gradients = student.pull_back(gradients);
        gradients.extend(projections);
        let norm = global_norm(&gradients);
        tokens_since_log += sums.positions();
        pending.note(step, sums, norm.clone()).map_err(unsound)?;

        let rate = learning_rate(step, plan);
        let gradients = match plan.max_grad_norm {
            Some(most) => clip(gradients, &norm, most, read_back),
            None => gradients,
        };
        training.update(gradients, rate, plan);

        let done = step + 1;
        progress.advance(plan.tokens_per_step as u64);
        let is_logged = done % plan.log_every == 0 || done == plan.steps;
        if is_logged && let Some(Reading { means, norm }) = pending.read().map_err(unsound)? {
            let tokens_per_sec =
                tokens_since_log as f64 / since_log.elapsed().as_secs_f64().max(1e-9);
            (since_log, tokens_since_log) = (Instant::now(), 0);
            progress.message(&format!("step {done} loss {:.4}", means.total));
            let mut values = vec![
                ("train/loss", means.total),
                ("train/cross_entropy", means.terms[Term::CrossEntropy]),
                ("train/learning_rate", rate),
                ("train/grad_norm", norm),
                ("train/tokens_per_sec", tokens_per_sec),
            ];
            let mut further = logged_terms(&means, &spec);
            further.extend(logged_schedules(plan, step));
            values.extend(further.iter().map(|(name, value)| (name.as_str(), *value)));
            log.log(done as u64, &values)?;
        }
    }
    progress.finish();
    let done = training.optimizer.num_updates;
    pace.note(plan, &training.student, context, done);
    if done < plan.steps {
        progress::log(&format!(
            "{label}: ended early after step {done} of {}: the validation loss stopped falling",
            plan.steps
        ));
    }
    let largest = largest_weight(&training.student);
    check_number("largest weight", largest, done, context)?;
    log.sync()?;
    let mut weights = training.handed_on();
    if let (HandOn::Best, Some(best)) = (plan.hand_on, training.validation.best) {
        weights = states.load_best(best.step, &training.student)?;
        progress::log(&format!(
            "{label}: handing on the weights after step {}, with a validation loss of {:.4} nats",
            best.step, best.loss_nats
        ));
    }
    Ok(training.student.with_trained(weights))
}

/// State and log of a shorter pass that has kept them, if this one is to begin with them.
fn begun(
    states: &States<'_>,
    plan: &FitPlan,
    context: &PassContext<'_>,
    given: &Training,
) -> io::Result<Option<Training>> {
    let (Some(path), Some(origin)) = (context.begin, context.origin) else {
        return Ok(None);
    };
    let Some(num_steps) = state::num_updates(path) else {
        return Ok(None);
    };
    let course = course(plan, origin, num_steps);
    let begun = states.load_kept(path, &course, given);
    if begun.is_some() {
        copy_metrics(files::parent(path), context.dir)?;
    }
    Ok(begun)
}

/// Evaluation of the weights that would be handed on now, on the validation text; `None` if a signal asked to stop.
fn measured(
    training: &Training,
    context: &PassContext<'_>,
) -> Result<Option<Evaluation>, CacheError> {
    let student = training.student.with_trained(training.handed_on());
    let reference = context
        .validation_cache
        .map_or(Reference::None, Reference::Cache);
    measure(&student.effective(), context.validation, reference, |_| {
        !context.stop.load(Ordering::Relaxed)
    })
}
