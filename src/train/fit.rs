//! The training loop.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use std::{io, iter};

use burn::tensor::Tensor;
use thiserror::Error;

use super::average::averaged;
use super::delayed::Delayed;
use super::evaluate::{Evaluation, Opinion, measure};
use super::gradient::{Activations, HiddenMatch, StepGradient, step_gradient_with};
use super::gradual::Gradual;
use super::objective::{logged_schedules, logged_terms, loss_spec, micro_batches};
use super::optim::{AdamW, clip, global_norm};
use super::readings::{NotFinite, Reading, Readings, largest_weight, last_good};
use super::state::{self, State, StateError, States};
use super::{MetricsError, MetricsLog, Validation, learning_rate, temperature};
use crate::cache::{Cache, CacheError};
use crate::data::{BatchOrder, TokenRows};
use crate::device::ReadBack;
use crate::model::Decoder;
use crate::progress::{Progress, say};
use crate::student::{Student, layer_pairs};
use crate::tensors;
use crate::train::{FitPlan, HandOn};

/// What a pass trains and measures on and where it keeps its state; the plan says the rest.
#[derive(Clone, Copy)]
pub struct FitContext<'a> {
    /// Name in progress and messages, such as `01-distill`.
    pub label: &'a str,
    /// Folder of the unfinished pass: training state and metrics.
    pub dir: &'a Path,
    /// Key of the stage: a training state says by which it was made.
    pub key: &'a str,
    /// Seed of the order of rows.
    pub seed: u64,
    /// Training rows.
    pub rows: &'a TokenRows,
    /// The teacher's opinion of those rows, if any loss term needs it.
    pub cache: Option<&'a Cache>,
    /// The teacher itself, if a loss term compares hidden states with its own: it runs along.
    pub teacher: Option<&'a Decoder>,
    /// Rows of the validation text, for measurements during the pass.
    pub validation: &'a TokenRows,
    /// The teacher's opinion of those, if there is one.
    pub validation_cache: Option<&'a Cache>,
    /// Set by the first signal: finish the step, save, stop.
    pub stop: &'a AtomicBool,
    /// Now, in seconds since 1970; reaches the TensorBoard events and nothing else.
    pub wall_time: f64,
}

/// Why a fit ended early.
#[derive(Debug, Error)]
pub enum FitError {
    /// The loss or the gradient is NaN or infinite.
    #[error("the {what} is {value} at step {step} of pass {label}; {last_good}")]
    NotFinite {
        /// `loss`, `gradient norm`, `largest weight` or `validation loss`.
        what: &'static str,
        /// NaN or infinity.
        value: f64,
        /// Zero-based step: not taken, or taken in memory alone and gone with it.
        step: usize,
        /// Updates that the pass had made by then; before the first, no learning rate has done it.
        num_updates: usize,
        /// The pass.
        label: String,
        /// What is left on disk.
        last_good: String,
    },
    /// A signal asked to stop; the state is saved.
    #[error(
        "stopped at step {step} of pass {label}; the state is in {path}: run the same command to go on"
    )]
    Interrupted {
        /// Steps done.
        step: usize,
        /// The pass.
        label: String,
        /// The state.
        path: PathBuf,
    },
    /// The cache refused.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The state on disk cannot be taken up.
    #[error(transparent)]
    State(#[from] StateError),
    /// The record of the pass cannot be written.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The disk refused.
    #[error("pass {label} cannot save its state: {source}")]
    Save {
        /// The pass.
        label: String,
        /// What the system said; it names the path.
        source: io::Error,
    },
}

/// Runs `plan.steps` optimizer steps on the student and returns it.
///
/// One step takes the gradient of the mean loss over all counted positions of its rows (in micro-batches,
/// which do not change it), in this order: clip the global norm, update, average, log, and, if they are due,
/// measure on the validation text and save. A state that an interrupted run left in `context.dir` is taken up.
///
/// Nothing is read from a device that would stall before the next step is to be logged, measured or saved.
///
/// The same plan, student and rows give the same weights bit for bit on one CPU device, stopped and resumed
/// or not: the rows, the learning rate, the loss and the temperature of a step are functions of its number
/// (`tests/kill.rs`).
///
/// With a moving average, it is the average that is measured and handed on. What is handed on are the weights after
/// the last step, or those that were measured as the best.
///
/// # Errors
///
/// [`FitError::NotFinite`] at the first step whose loss or gradient is NaN or infinite; the last saved state is left in
/// place. Where reading is free that is before the weights are touched; where it stalls, later steps may have been
/// taken, but none of them was measured or saved.
pub fn fit(
    plan: &FitPlan,
    student: Student,
    context: &FitContext<'_>,
) -> Result<Student, FitError> {
    let read_back = ReadBack::of(&student.decoder.device());
    fit_with(plan, student, context, read_back)
}

/// As [`fit`], on a device that takes reads in this way or as if it did.
#[expect(clippy::too_many_lines, reason = "the loop is read from top to bottom")]
pub fn fit_with(
    plan: &FitPlan,
    student: Student,
    context: &FitContext<'_>,
    read_back: ReadBack,
) -> Result<Student, FitError> {
    let FitContext {
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
    };
    let gradual = Gradual::of(plan, &student, context);
    let mut student = student;
    let delayed = Delayed::of(plan, &mut student);
    let mut optimizer = AdamW::new(&student.trained());
    let mut average = plan.ema.map(|_| student.trained_matrices());
    let mut validation = Validation::default();
    if let Some(state) = states.load(&student, plan.ema.is_some())? {
        student.masks.extend(state.masks);
        student = student.with_trained(state.weights);
        (optimizer, average, validation) = (state.optimizer, state.average, state.validation);
        delayed.resume(optimizer.num_updates, &state.scales, &mut student);
    }
    let start = optimizer.num_updates;

    let order = BatchOrder::new(
        context.seed,
        rows.num_rows(),
        plan.tokens_per_step / rows.sequence_length(),
    );
    let activations = Activations::of(plan);
    let teacher = compared_with(plan, &student, context);
    let mut log = MetricsLog::open(dir, Some(start as u64), context.wall_time)?;
    let mut progress = Progress::new(label, (plan.steps * plan.tokens_per_step) as u64);
    progress.resume_at((start * plan.tokens_per_step) as u64);
    let mut readings = Readings::new(read_back);
    let unsound = |found: NotFinite| not_finite(found.step, found, context);
    let mut since_log = Instant::now();
    let mut tokens_since_log = 0;

    for done in start.. {
        let is_due = validation.is_due(done, plan);
        if is_due {
            readings.read().map_err(unsound)?;
        }
        let since_measure = Instant::now();
        if is_due && let Some(measured) = measured(&student, average.as_deref(), context)? {
            let loss = measured.loss_nats;
            check_number("validation loss", loss, done, context)?;
            let kl = measured.kl_nats.map(|kl| ("validation/kl", kl));
            let values: Vec<_> = iter::once(("validation/loss", loss)).chain(kl).collect();
            log.log(done as u64, &values)?;
            let is_best = gradual.note(&mut validation, done, loss, plan.early_stop);
            if is_best && plan.hand_on == HandOn::Best {
                let weights = average
                    .clone()
                    .unwrap_or_else(|| student.trained_matrices());
                let saved = states.save_best(done, &student, &weights);
                saved.map_err(save_error)?;
            }
            since_log += since_measure.elapsed(); // training is what has a speed
        }
        let is_measured = !validation.is_due(done, plan); // unless a signal came between
        if is_measured && (done == plan.steps || validation.is_over(plan.early_stop)) {
            break;
        }
        let stopping = context.stop.load(Ordering::Relaxed);
        if stopping || (done > start && done % plan.save_every == 0) {
            readings.read().map_err(unsound)?;
            check_number("largest weight", largest_weight(&student), done, context)?;
            for (spec, weight) in student.trained() {
                log.histogram(done as u64, &spec.name, &tensors::to_vec(&weight))?;
            }
            log.sync()?;
            let state = State {
                weights: student.trained_matrices(),
                optimizer: optimizer.clone(),
                average: average.clone(),
                masks: gradual.masks(&student),
                scales: delayed.scales(&student),
                validation,
            };
            states.save(&student, &state).map_err(save_error)?;
        }
        if stopping {
            progress.finish();
            return Err(FitError::Interrupted {
                step: done,
                label: label.to_owned(),
                path: state::newest(dir).unwrap_or_else(|| dir.to_path_buf()),
            });
        }

        let step = done; // counted from 0
        delayed.start(step, label, &mut student);
        gradual.prune(step, &mut student, &mut optimizer, &mut average);
        let row_idxs = order.rows_at(step);
        let supports = match context.cache {
            Some(cache) => Some(cache.rows(&row_idxs, |row_idx| rows.row(row_idx))?),
            None => None,
        };
        let spec = loss_spec(plan, step);
        let temperature = temperature(&plan.temperature, step);
        let temperature_idx =
            (context.cache).and_then(|cache| cache.fingerprint().temperature_idx(temperature));
        let micro_batches =
            micro_batches(plan, rows, &row_idxs, supports.as_deref(), temperature_idx);
        let hidden = teacher.as_ref().map(|(teacher, pairs)| HiddenMatch {
            teacher,
            pairs,
            projections: &student.projections,
        });
        let StepGradient {
            sums,
            gradients,
            projections,
        } = step_gradient_with(
            &student.effective(),
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
        readings.note(step, sums, norm.clone()).map_err(unsound)?;

        let rate = learning_rate(step, plan);
        let gradients = clip(gradients, &norm, plan.max_grad_norm, read_back);
        let updated = optimizer.step(student.trained(), gradients, rate, plan);
        if let (Some(average), Some(ema)) = (&mut average, plan.ema) {
            *average = averaged(average, &updated, ema, optimizer.num_updates);
        }
        student = student.with_trained(updated);

        let done = step + 1;
        progress.advance(plan.tokens_per_step as u64);
        let is_logged = done % plan.log_every == 0 || done == plan.steps;
        if is_logged && let Some(Reading { means, norm }) = readings.read().map_err(unsound)? {
            let tokens_per_sec =
                tokens_since_log as f64 / since_log.elapsed().as_secs_f64().max(1e-9);
            (since_log, tokens_since_log) = (Instant::now(), 0);
            progress.message(&format!("step {done} loss {:.4}", means.total));
            let mut values = vec![
                ("train/loss", means.total),
                ("train/cross_entropy", means.terms.cross_entropy),
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
    if optimizer.num_updates < plan.steps {
        say(&format!(
            "{label}: ends after step {} of {}, its validation loss having ceased to fall",
            optimizer.num_updates, plan.steps
        ));
    }
    let done = optimizer.num_updates;
    check_number("largest weight", largest_weight(&student), done, context)?;
    log.sync()?;
    if let Some(average) = average {
        student = student.with_trained(average);
    }
    if let (HandOn::Best, Some(best)) = (plan.hand_on, validation.best) {
        let weights = states.load_best(best.step, &student)?;
        student = student.with_trained(weights);
        say(&format!(
            "{label}: hands on its weights after step {}, with a validation loss of {:.4} nats",
            best.step, best.loss_nats
        ));
    }
    Ok(student)
}

/// The teacher that runs along, and the layers of both models whose outputs are compared; `None` if no loss term does so.
fn compared_with<'a>(
    plan: &FitPlan,
    student: &Student,
    context: &FitContext<'a>,
) -> Option<(&'a Decoder, Vec<[usize; 2]>)> {
    let hidden = &plan.losses.hidden_mse;
    if !hidden.weight.is_used() {
        return None;
    }
    let teacher = context
        .teacher
        .expect("a pass that compares hidden states is given the teacher");
    let depth = student.effective_config().num_hidden_layers;
    let pairs = layer_pairs(hidden, depth, teacher.config.num_hidden_layers);
    Some((
        teacher,
        pairs.expect("the layers were looked up before the run"),
    ))
}

/// What the weights that would be handed on now make of the validation text; `None` if a signal asked to stop.
fn measured(
    student: &Student,
    average: Option<&[Tensor<2>]>,
    context: &FitContext<'_>,
) -> Result<Option<Evaluation>, CacheError> {
    let student = match average {
        Some(average) => student.with_trained(average.to_vec()),
        None => student.clone(),
    };
    let opinion = context
        .validation_cache
        .map_or(Opinion::None, Opinion::Cache);
    measure(&student.effective(), context.validation, opinion, |_| {
        !context.stop.load(Ordering::Relaxed)
    })
}

/// Refuses what is NaN or infinite after so many updates.
pub fn check_number(
    what: &'static str,
    value: f64,
    num_updates: usize,
    context: &FitContext<'_>,
) -> Result<(), FitError> {
    if value.is_finite() {
        return Ok(());
    }
    let step = num_updates.saturating_sub(1);
    let found = NotFinite { what, value, step };
    Err(not_finite(num_updates, found, context))
}

fn not_finite(
    num_updates: usize,
    NotFinite { what, value, step }: NotFinite,
    context: &FitContext<'_>,
) -> FitError {
    FitError::NotFinite {
        what,
        value,
        step,
        num_updates,
        label: context.label.to_owned(),
        last_good: last_good(context.dir),
    }
}
