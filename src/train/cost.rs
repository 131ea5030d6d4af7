//! Costs of training.

use std::time::{Duration, Instant};

use super::fit::PassContext;
use super::parts::num_sums;
use super::{FitPlan, HandOn, kept_after};
use crate::cost::{self, F32_BYTES, LOSS_BYTES, PROCESS_BYTES, StageCost, Text, layer_floats};
use crate::kernels::Arithmetic;
use crate::loss::Term;
use crate::model::{DecoderConfig, num_parameters};
use crate::rates::{self, Work};
use crate::student::Student;

/// Adds the cost of training, from the first step that is still to be taken, to the cost of a measurement of the student.
pub(crate) fn add_fit(cost: &mut StageCost, fit: &FitPlan, inputs: FitInputs<'_>) {
    let FitInputs {
        student,
        teacher,
        validation,
        steps_done,
    } = inputs;
    let sequence_length = validation.sequence_length;
    let steps = fit.steps.saturating_sub(steps_done);
    let text = Text {
        tokens: (steps * fit.tokens_per_step) as u64,
        sequence_length,
    };
    let measurements = fit
        .evaluate_every
        .map_or(0, |every| fit.steps.div_ceil(every) - steps_done / every);
    cost.add_runs(student, measurements as u64, validation);
    cost.tokens += text.tokens;
    cost.work.push(fit_work(fit, student, text, steps));
    // Weights, two moments of each trained matrix, perhaps an average. On disk: the states that are kept, one more
    // while it is written, and perhaps the best weights that they name.
    let weights = num_parameters(student) * F32_BYTES;
    let state = match &fit.adapter {
        Some(_) => 2, // the weights and their sum with the adapter; its moments are few
        None => 3 + u64::from(fit.ema.is_some()),
    };
    let best = u64::from(fit.hand_on == HandOn::Best);
    // And the state that stays for a pass of more steps.
    let for_more = u64::from(kept_after(fit).is_some());
    if fit.adapter.is_none() {
        cost.disk_bytes += weights * (fit.keep_states as u64 + 1) * (state + best);
        cost.disk_bytes += weights * for_more * state;
    }
    cost.memory_bytes = fit_bytes(fit, student, sequence_length, state);
    let compares = fit.losses.uses(Term::HiddenMse);
    if let Some(teacher) = teacher.filter(|_| compares) {
        cost.work
            .push(cost::trunk_run(teacher, text, fit.precision));
        let along = along_bytes(fit, student, teacher, sequence_length);
        cost.memory_bytes = cost.memory_bytes.saturating_add(along);
    }
}

/// Models and text of a pass that trains.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FitInputs<'a> {
    pub(crate) student: &'a DecoderConfig,
    pub(crate) teacher: Option<&'a DecoderConfig>,
    pub(crate) validation: Text,
    /// Steps that an interrupted run has taken.
    pub(crate) steps_done: usize,
}

/// Steps over a text.
fn fit_work(fit: &FitPlan, student: &DecoderConfig, text: Text, steps: usize) -> Work {
    cost::train(
        student,
        fit.precision,
        text,
        steps as u64,
        fit.gradient_checkpointing,
    )
}

/// The clock of training alone: measurements and saved states are left out.
pub(super) struct TrainingPace {
    first_step: usize,
    since: Instant,
}

impl TrainingPace {
    /// Starts the clock before a step.
    pub(super) fn begin(first_step: usize) -> Self {
        let since = Instant::now();
        Self { first_step, since }
    }

    /// Leaves out a time that just ended.
    pub(super) fn leave_out(&mut self, elapsed: Duration) {
        self.since += elapsed;
    }

    /// Notes the speed of the steps up to this one. With a teacher along it would be that of two models.
    pub(super) fn note(
        self,
        fit: &FitPlan,
        student: &Student,
        context: &PassContext<'_>,
        step: usize,
    ) {
        if context.teacher.is_some() {
            return;
        }
        let steps = step - self.first_step;
        let text = Text {
            tokens: (steps * fit.tokens_per_step) as u64,
            sequence_length: context.rows.sequence_length(),
        };
        let work = fit_work(fit, &student.effective_config(), text, steps);
        rates::note(work, self.since.elapsed());
    }
}

/// Memory of a teacher that runs along: its weights, its activations on one row for each concurrent micro-batch, the
/// compared hidden states with the slopes of the student's, and the projections with their moments and gradient.
fn along_bytes(
    fit: &FitPlan,
    student: &DecoderConfig,
    teacher: &DecoderConfig,
    sequence_length: usize,
) -> u64 {
    let depths = [student, teacher].map(|config| config.num_hidden_layers);
    let named = fit.losses.hidden_layers.as_ref().map(Vec::len);
    let num_pairs = named.unwrap_or(depths[0].min(depths[1])) as u64;
    let [own, width] = [student, teacher].map(|config| config.hidden_size as u64);
    let (micro_batch, at_once) = at_once(fit, sequence_length);
    let row = sequence_length as u64;
    let of_row = row.saturating_mul(layer_floats(teacher) as u64 + 4 * width);
    let slopes = (row * micro_batch as u64).saturating_mul(2 * num_pairs * own);
    let projections = if own == width {
        0
    } else {
        num_pairs * own * width
    };
    let floats = num_parameters(teacher)
        .saturating_add((at_once as u64).saturating_mul(of_row.saturating_add(slopes)))
        .saturating_add(projections.saturating_mul(5));
    floats.saturating_mul(F32_BYTES)
}

/// Rows of a micro-batch, and micro-batches that run at the same time.
fn at_once(fit: &FitPlan, sequence_length: usize) -> (usize, usize) {
    let rows = (fit.tokens_per_step / sequence_length).max(1);
    let micro_batch = fit.micro_batch.min(rows);
    let micro_batches = rows.div_ceil(micro_batch);
    (micro_batch, rayon::current_num_threads().min(micro_batches))
}

/// Peak memory of a training pass whose training state is `state` times the weights.
fn fit_bytes(fit: &FitPlan, student: &DecoderConfig, sequence_length: usize, state: u64) -> u64 {
    let weights = num_parameters(student) * F32_BYTES;
    let rows = (fit.tokens_per_step / sequence_length).max(1);
    let (micro_batch, at_once) = at_once(fit, sequence_length);
    let micro_batches = rows.div_ceil(micro_batch);
    // Of the concurrent ones, and the sums of those before.
    let gradients = micro_batches.min(at_once + num_sums(micro_batches)) as u64;
    let positions = (micro_batch * sequence_length) as u64;
    let kept = positions.saturating_mul(kept_bytes(student, fit.gradient_checkpointing));
    // Of a tied matrix the gradient as an embedding, and its sum with the one as output layer.
    let tied = if student.tie_word_embeddings {
        2 * (student.vocab_size * student.hidden_size) as u64 * F32_BYTES
    } else {
        0
    };
    // Weights packed for both directions, in two bytes each; slopes of more positions, and packed.
    let (packed, loss) = match fit.precision {
        Arithmetic::F32 => (0, LOSS_BYTES),
        Arithmetic::Bf16(_) => (weights, 5 * LOSS_BYTES),
    };
    let forward_backward = (at_once as u64)
        .saturating_mul(kept.saturating_add(loss))
        .saturating_add(packed)
        .saturating_add(weights.saturating_mul(state + gradients))
        .saturating_add(tied);
    let update = weights.saturating_mul(state + 2); // one gradient, and the weights that replace those in use
    forward_backward.max(update).saturating_add(PROCESS_BYTES)
}

/// Bytes at one position that the backward pass needs of the forward pass, and that it makes in one layer.
fn kept_bytes(config: &DecoderConfig, gradient_checkpointing: bool) -> u64 {
    let (num_layers, layer) = (config.num_hidden_layers, layer_floats(config));
    let kept = if gradient_checkpointing {
        num_layers * config.hidden_size + layer
    } else {
        num_layers * layer
    };
    (kept + layer + 4 * config.hidden_size) as u64 * F32_BYTES
}
