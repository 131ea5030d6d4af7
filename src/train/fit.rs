//! The training loop.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use std::{fs, io};

use burn::tensor::Tensor;
use thiserror::Error;

use super::gradient::{MicroBatch, StepGradient, step_gradient};
use super::optim::{AdamW, clip, global_norm};
use super::state;
use super::{MetricsError, MetricsLog, learning_rate, row_targets};
use crate::cache::{Cache, CacheError, RowSupports};
use crate::data::{BatchOrder, TokenRows};
use crate::loss::{LossSpec, Tail};
use crate::progress::Progress;
use crate::recipe::{FitPlan, TailPlan};
use crate::student::Student;
use crate::tensors::{self, TensorsError};

/// What a pass trains and measures on and where it keeps its state; the plan says the rest.
#[derive(Clone, Copy)]
pub struct FitContext<'a> {
    /// Name in progress and messages, such as `01-distill`.
    pub label: &'a str,
    /// Folder of the unfinished pass: training state and metrics.
    pub dir: &'a Path,
    /// Seed of the order of rows.
    pub seed: u64,
    /// Training rows.
    pub rows: &'a TokenRows,
    /// The teacher's opinion of those rows, if any loss term needs it.
    pub cache: Option<&'a Cache>,
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
        /// `loss`, `gradient norm` or `largest weight`.
        what: &'static str,
        /// NaN or infinity.
        value: f64,
        /// Zero-based step, not taken or (for a weight) just taken.
        step: usize,
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
    /// The state on disk cannot be read.
    #[error(transparent)]
    State(#[from] TensorsError),
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
/// which do not change it), in this order: clip the global norm, update, log, and, if it is due, save. A
/// state that an interrupted run left in `context.dir` is taken up.
///
/// The same plan, student and rows give the same weights bit for bit on one CPU device, stopped and resumed
/// or not: the rows and the learning rate of a step are functions of its number (`tests/resume.rs`).
///
/// # Errors
///
/// [`FitError::NotFinite`] at the first step whose loss or gradient is NaN or infinite, before the weights
/// are touched; the last saved state is left in place.
#[expect(clippy::too_many_lines, reason = "the loop is read from top to bottom")]
pub fn fit(
    plan: &FitPlan,
    student: Student,
    context: &FitContext<'_>,
) -> Result<Student, FitError> {
    let FitContext {
        label, dir, rows, ..
    } = *context;
    let save_error = |source| FitError::Save {
        label: label.to_owned(),
        source,
    };
    let device = student.decoder.device();
    let mut student = student;
    let mut optimizer = AdamW::new(&student.trained());
    if let Some(state) = state::load(dir, &student.trained(), &device)? {
        student = student.with_trained(state.weights);
        optimizer = state.optimizer;
    }
    let start = optimizer.num_updates;

    let order = BatchOrder::new(
        context.seed,
        rows.num_rows(),
        plan.tokens_per_step / rows.sequence_length(),
    );
    let spec = loss_spec(plan);
    let temperature_idx = context
        .cache
        .and_then(|cache| cache.fingerprint().temperature_idx(plan.temperature));
    let mut log = MetricsLog::open(dir, Some(start as u64), context.wall_time)?;
    let mut progress = Progress::new(label, (plan.steps * plan.tokens_per_step) as u64);
    progress.resume_at((start * plan.tokens_per_step) as u64);
    let mut since_log = Instant::now();
    let mut tokens_since_log = 0;

    for step in start..plan.steps {
        let row_idxs = order.rows_at(step);
        let supports = match context.cache {
            Some(cache) => Some(cache.rows(&row_idxs, |row_idx| rows.row(row_idx))?),
            None => None,
        };
        let micro_batches =
            micro_batches(plan, rows, &row_idxs, supports.as_deref(), temperature_idx);
        let StepGradient { sums, gradients } =
            step_gradient(&student.effective(), &micro_batches, &spec);
        let gradients = student.pull_back(gradients);
        let norm = global_norm(&gradients);
        let means = sums.means();
        for (what, value) in [("loss", means.total), ("gradient norm", f64::from(norm))] {
            if !value.is_finite() {
                progress.finish();
                let last_good = last_good(dir);
                return Err(FitError::NotFinite {
                    what,
                    value,
                    step,
                    label: label.to_owned(),
                    last_good,
                });
            }
        }

        let rate = learning_rate(step, plan);
        let gradients = clip(gradients, norm, plan.max_grad_norm);
        let updated = optimizer.step(student.trained(), gradients, rate, plan);
        student = student.with_trained(updated);

        let done = step + 1;
        let tokens = sums.positions;
        tokens_since_log += tokens;
        progress.advance(plan.tokens_per_step as u64);
        if done % plan.log_every == 0 || done == plan.steps {
            let tokens_per_sec =
                tokens_since_log as f64 / since_log.elapsed().as_secs_f64().max(1e-9);
            (since_log, tokens_since_log) = (Instant::now(), 0);
            progress.message(&format!("step {done} loss {:.4}", means.total));
            let mut values = vec![
                ("train/loss", means.total),
                ("train/cross_entropy", means.cross_entropy),
                ("train/learning_rate", rate),
                ("train/grad_norm", f64::from(norm)),
                ("train/tokens_per_sec", tokens_per_sec),
            ];
            if spec.forward_kl != 0.0 {
                values.push(("train/kl", means.forward_kl));
            }
            log.log(done as u64, &values)?;
        }
        let stopping = context.stop.load(Ordering::Relaxed) && done < plan.steps;
        if stopping || (done % plan.save_every == 0 && done < plan.steps) {
            check_finite(&student, step, label, dir)?;
            for (spec, weight) in student.trained() {
                log.histogram(done as u64, &spec.name, &tensors::to_vec(&weight))?;
            }
            log.sync()?;
            state::save(dir, &student.trained(), &optimizer).map_err(save_error)?;
        }
        if stopping {
            progress.finish();
            return Err(FitError::Interrupted {
                step: done,
                label: label.to_owned(),
                path: state::path(dir),
            });
        }
    }
    progress.finish();
    check_finite(&student, plan.steps.saturating_sub(1), label, dir)?;
    log.sync()?;
    Ok(student)
}

/// Weights that are NaN or infinite must not replace a good state.
fn check_finite(student: &Student, step: usize, label: &str, dir: &Path) -> Result<(), FitError> {
    let largest: Vec<Tensor<1>> = student
        .trained()
        .into_iter()
        .map(|(_, weight)| weight.abs().max())
        .collect();
    let largest = Tensor::cat(largest, 0).max().into_scalar::<f32>();
    if largest.is_finite() {
        return Ok(());
    }
    Err(FitError::NotFinite {
        what: "largest weight",
        value: f64::from(largest),
        step,
        label: label.to_owned(),
        last_good: last_good(dir),
    })
}

/// Deletes the state of a pass that is complete.
pub fn discard_state(dir: &Path) -> io::Result<()> {
    match fs::remove_file(state::path(dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "losses are computed in f32"
)]
fn loss_spec(plan: &FitPlan) -> LossSpec {
    LossSpec {
        forward_kl: plan.losses.forward_kl as f32,
        cross_entropy: plan.losses.cross_entropy as f32,
        temperature: plan.temperature as f32,
        tail: match plan.tail {
            TailPlan::Bucket => Tail::Bucket,
            TailPlan::Renormalize => Tail::Renormalize,
        },
    }
}

fn micro_batches<'a>(
    plan: &FitPlan,
    rows: &'a TokenRows,
    row_idxs: &[usize],
    supports: Option<&'a [RowSupports]>,
    temperature_idx: Option<usize>,
) -> Vec<MicroBatch<'a>> {
    let entries: Vec<(usize, Option<&RowSupports>)> = row_idxs
        .iter()
        .enumerate()
        .map(|(entry, &row_idx)| (row_idx, supports.map(|all| &all[entry])))
        .collect();
    entries
        .chunks(plan.micro_batch)
        .map(|entries| MicroBatch {
            inputs: entries
                .iter()
                .map(|&(row_idx, _)| rows.inputs(row_idx))
                .collect(),
            targets: entries
                .iter()
                .flat_map(|&(row_idx, supports)| {
                    row_targets(rows, row_idx, supports, temperature_idx)
                })
                .collect(),
        })
        .collect()
}

fn last_good(dir: &Path) -> String {
    let path = state::path(dir);
    if path.exists() {
        format!("the last saved state, {}, is intact", path.display())
    } else {
        "no state was saved yet".to_owned()
    }
}
