//! What a plan will cost, before any of it is paid.

mod quantize;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cache::{CachePlan, SupportPlan};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::data::{TokenizerPlan, TrainTokenizer};
use crate::loss::Term;
use crate::model::{DecoderConfig, num_parameters};
use crate::passes::{LayersBy, PassPlan, PruneMethod, PrunePlan, ShrinkPlan, configs_of_passes};
use crate::plan::Plan;
use crate::stages::{Stage, Stages};
use crate::student::{StudentPlan, architecture, part_of_teacher};
use crate::train::{FitPlan, HandOn};

/// Arithmetic of one core that a training step of a small model reaches, in operations per second: 5,000 tokens
/// a second of a 5.5 M parameter model on two cores of a 2024 server, six operations a parameter and token.
const OPERATIONS_PER_SEC: f64 = 80e9;

/// Bytes of an f32.
const F32_BYTES: u64 = 4;

/// Logits of a chunk of positions, with room for the largest rows and for packed matrices.
const LOSS_BYTES: u64 = 48 << 20;

/// Text, tokenizer and code: what the process holds beside models.
const PROCESS_BYTES: u64 = 64 << 20;

/// One stage of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct StageEstimate {
    /// Name, key and folder.
    #[serde(flatten)]
    pub stage: Stage,
    /// Whether its artifact is there.
    pub done: bool,
    /// Tokens that pass through a model.
    pub tokens: u64,
    /// Most memory at one time; an estimate.
    pub memory_bytes: u64,
    /// What it leaves on disk; an estimate.
    pub disk_bytes: u64,
    /// Seconds on two cores; an estimate, good to a factor of about two.
    pub secs: f64,
}

/// Sizes that everything else follows from.
struct Sizes {
    teacher: Option<DecoderConfig>,
    student: DecoderConfig,
    train_tokens: u64,
    validation_tokens: u64,
}

/// Estimates every stage of a plan.
pub fn estimate(plan: &Plan, stages: &Stages) -> Result<Vec<StageEstimate>, CheckpointError> {
    let sizes = sizes(plan)?;
    let all_tokens = sizes.train_tokens + sizes.validation_tokens;

    let mut data = forward(plan, &stages.data, all_tokens, &sizes.student, 0);
    data.secs = all_tokens as f64 / 250e3; // tokens that the BPE makes in a second
    data.disk_bytes = all_tokens * F32_BYTES;
    let mut estimates = vec![data];
    if let (Some(config), Some(teacher), Some(cache)) = (&sizes.teacher, &plan.teacher, &plan.cache)
    {
        let position_bytes = position_bytes(cache);
        if let Some(stage) = &stages.cache {
            let train_tokens = u64::from(stages.captures_train) * sizes.train_tokens;
            let captured_tokens = train_tokens + sizes.validation_tokens;
            let estimate = forward(plan, stage, captured_tokens, config, teacher.batch_size);
            estimates.push(StageEstimate {
                done: stages.cache_is_done(),
                disk_bytes: captured_tokens * position_bytes,
                ..estimate
            });
        }
        if let Some(stage) = &stages.teacher {
            estimates.push(forward(plan, stage, sizes.validation_tokens, config, 4));
        }
    }
    // A pass that cannot shrink its student is refused before anything is estimated.
    let configs = configs_of_passes(&plan.passes, &sizes.student).unwrap_or_default();
    let config_at = |pass_idx: usize| configs.get(pass_idx).unwrap_or(&sizes.student);
    let mut runs_apart = false; // whether the model that runs has weights beside the free ones
    for (pass_idx, (pass, stage)) in plan.passes.iter().zip(&stages.passes).enumerate() {
        let config = config_at(pass_idx);
        let mut estimate = forward(plan, stage, sizes.validation_tokens, config, 4);
        estimate.disk_bytes = num_parameters(config) * F32_BYTES;
        runs_apart |= matches!(pass, PassPlan::Prune(_) | PassPlan::Quantize(_));
        if let Some(fit) = pass.fit() {
            add_fit(&mut estimate, fit, config, sizes.teacher.as_ref(), plan);
        }
        match pass {
            PassPlan::Prune(prune) => add_prune(&mut estimate, prune, config),
            PassPlan::Shrink(shrink) => {
                let num_left = config_at(pass_idx + 1).num_hidden_layers;
                add_shrink(&mut estimate, shrink, config, num_left);
            }
            PassPlan::Quantize(plan) => quantize::add(&mut estimate, plan, config),
            PassPlan::Distill(_) => {}
        }
        estimate.memory_bytes += u64::from(runs_apart) * num_parameters(config) * F32_BYTES;
        estimates.push(estimate);
    }
    add_importance(&mut estimates, plan, stages, &sizes);
    let verified_tokens = 8 * plan.data.sequence_length as u64;
    let last = config_at(plan.passes.len());
    let mut export = forward(plan, &stages.export, verified_tokens, last, 1);
    export.memory_bytes += num_parameters(last) * F32_BYTES; // what is read back, beside the student
    export.disk_bytes = plan.export.formats.len() as u64 * num_parameters(last) * F32_BYTES / 2;
    estimates.push(export);
    Ok(estimates)
}

/// Bytes of a position in the cache; entries as measured on a teacher of 135 M parameters (`docs/formats.md`).
fn position_bytes(cache: &CachePlan) -> u64 {
    let num_tails = 1 + cache.temperatures.len() as u64;
    match cache.support {
        SupportPlan::TopK(top_k) => 4 + 17 * top_k as u64 / 10 + num_tails,
        SupportPlan::Samples { num_draws, .. } => {
            let num_ids = 3.0 * (num_draws as f64).sqrt(); // 17 ids of 33 draws, 23 of 50
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a few bytes"
            )]
            let entries = (1.2 * num_ids) as u64;
            4 + entries
        }
    }
}

/// A stage that only runs a model forward.
fn forward(
    plan: &Plan,
    stage: &Stage,
    tokens: u64,
    config: &DecoderConfig,
    rows: usize,
) -> StageEstimate {
    let positions = tokens.min((rows * plan.data.sequence_length) as u64);
    StageEstimate {
        stage: stage.clone(),
        done: stage.is_sound(),
        tokens,
        memory_bytes: positions
            .saturating_mul(layer_floats(config) as u64 * F32_BYTES)
            .saturating_add(num_parameters(config) * F32_BYTES + LOSS_BYTES + PROCESS_BYTES),
        disk_bytes: 1 << 12,
        secs: run_secs(config, tokens),
    }
}

fn add_fit(
    estimate: &mut StageEstimate,
    fit: &FitPlan,
    student: &DecoderConfig,
    teacher: Option<&DecoderConfig>,
    plan: &Plan,
) {
    let tokens = (fit.steps * fit.tokens_per_step) as u64;
    let measurements = fit
        .evaluate_every
        .map_or(0, |every| fit.steps.div_ceil(every));
    estimate.secs *= 1.0 + measurements as f64;
    estimate.tokens += tokens + measurements as u64 * estimate.tokens;
    let operations = if fit.gradient_checkpointing { 8.0 } else { 6.0 }; // per parameter: two a pass forward, four backward
    estimate.secs +=
        operations * num_parameters(student) as f64 * tokens as f64 / OPERATIONS_PER_SEC;
    // Weights, two moments of what is trained, perhaps an average; on disk the states that are kept, one more while it is
    // written, and perhaps the best weights that they name.
    let weights = num_parameters(student) * F32_BYTES;
    let state = match &fit.adapter {
        Some(_) => 2, // the weights and their sum with the adapter; its moments are few
        None => 3 + u64::from(fit.ema.is_some()),
    };
    let best = u64::from(fit.hand_on == HandOn::Best);
    if fit.adapter.is_none() {
        estimate.disk_bytes += weights * (fit.keep_states as u64 + 1) * (state + best);
    }
    estimate.memory_bytes = fit_bytes(fit, student, plan, state);
    let compares = fit.losses.uses(Term::HiddenMse);
    if let Some(teacher) = teacher.filter(|_| compares) {
        estimate.secs += 2.0 * num_parameters(teacher) as f64 * tokens as f64 / OPERATIONS_PER_SEC;
        let along = along_bytes(fit, student, teacher, plan);
        estimate.memory_bytes = estimate.memory_bytes.saturating_add(along);
    }
}

/// What a teacher that runs along adds: its weights, its activations on one row for each micro-batch under way, the hidden
/// states that are compared with the slopes of the student's, and the projections with their moments and gradient.
fn along_bytes(
    fit: &FitPlan,
    student: &DecoderConfig,
    teacher: &DecoderConfig,
    plan: &Plan,
) -> u64 {
    let depths = [student, teacher].map(|config| config.num_hidden_layers);
    let named = fit.losses.hidden_layers.as_ref().map(Vec::len);
    let num_pairs = named.unwrap_or(depths[0].min(depths[1])) as u64;
    let [own, width] = [student, teacher].map(|config| config.hidden_size as u64);
    let (micro_batch, at_once) = at_once(fit, plan);
    let row = plan.data.sequence_length as u64;
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
fn at_once(fit: &FitPlan, plan: &Plan) -> (usize, usize) {
    let rows = (fit.tokens_per_step / plan.data.sequence_length).max(1);
    let micro_batch = fit.micro_batch.min(rows);
    let micro_batches = rows.div_ceil(micro_batch);
    (micro_batch, rayon::current_num_threads().min(micro_batches))
}

/// What is measured before weights go. SparseGPT runs each layer twice, and holds the residual stream of its text and the
/// second moments of the widest input with their factor.
fn add_prune(estimate: &mut StageEstimate, prune: &PrunePlan, config: &DecoderConfig) {
    let runs = match prune.method {
        PruneMethod::Magnitude => 0,
        PruneMethod::Wanda => 1,
        PruneMethod::SparseGpt { .. } => 2,
    };
    let tokens = prune.calibration_tokens as u64;
    estimate.tokens += runs * tokens;
    estimate.secs += runs as f64 * run_secs(config, tokens);
    if runs == 2 {
        add_moments(estimate, config, tokens);
        estimate.memory_bytes += num_parameters(config) * F32_BYTES;
    }
}

/// The residual stream of a text, and the second moments of the widest input with their factor.
fn add_moments(estimate: &mut StageEstimate, config: &DecoderConfig, tokens: u64) {
    let widest = config.intermediate_size.max(config.hidden_size) as u64;
    let held = tokens * config.hidden_size as u64 * F32_BYTES + 6 * widest * widest * F32_BYTES;
    estimate.secs += run_secs(config, tokens) * widest as f64 / config.hidden_size as f64;
    estimate.memory_bytes += held;
}

/// Runs over the calibration text: two of the whole student, or one for each layer that might go next.
fn add_shrink(
    estimate: &mut StageEstimate,
    shrink: &ShrinkPlan,
    config: &DecoderConfig,
    num_left: usize,
) {
    let there = config.num_hidden_layers;
    let runs = match (shrink.layers_by, shrink.contiguous) {
        (LayersBy::Loss, false) => 1 + (num_left + 1..=there).sum::<usize>(),
        (LayersBy::Loss, true) => 2 + num_left,
        (LayersBy::Influence, _) => 2,
    };
    let tokens = (runs * shrink.calibration_tokens) as u64;
    estimate.tokens += tokens;
    estimate.secs += run_secs(config, tokens);
    estimate.memory_bytes += num_parameters(config) * F32_BYTES;
}

/// Seconds of so many tokens through a model, forward.
fn run_secs(config: &DecoderConfig, tokens: u64) -> f64 {
    2.0 * num_parameters(config) as f64 * tokens as f64 / OPERATIONS_PER_SEC
}

/// The teacher's run that tells which of its parts make the student; the first pass begins with it.
fn add_importance(estimates: &mut [StageEstimate], plan: &Plan, stages: &Stages, sizes: &Sizes) {
    let StudentPlan::FromTeacher(parts) = &plan.student else {
        return;
    };
    let (Some(tokens), Some(config), Some(stage)) = (
        parts.calibration_tokens,
        &sizes.teacher,
        stages.passes.first(),
    ) else {
        return;
    };
    let run = forward(plan, stage, tokens as u64, config, 4);
    if let Some(first) = estimates.iter_mut().find(|other| other.stage == *stage) {
        first.tokens += run.tokens;
        first.secs += run.secs;
        first.memory_bytes = first.memory_bytes.max(run.memory_bytes);
    }
}

/// Most memory of a training pass whose training state is so many times the weights.
fn fit_bytes(fit: &FitPlan, student: &DecoderConfig, plan: &Plan, state: u64) -> u64 {
    let weights = num_parameters(student) * F32_BYTES;
    let rows = (fit.tokens_per_step / plan.data.sequence_length).max(1);
    let (micro_batch, at_once) = at_once(fit, plan);
    let micro_batches = rows.div_ceil(micro_batch);
    let gradients = micro_batches.min(at_once + 1) as u64; // of those under way, and the sum of those before
    let positions = (micro_batch * plan.data.sequence_length) as u64;
    let kept = positions.saturating_mul(kept_bytes(student, fit.gradient_checkpointing));
    let forward_backward = (at_once as u64)
        .saturating_mul(kept.saturating_add(LOSS_BYTES))
        .saturating_add(weights.saturating_mul(state + gradients));
    let update = weights.saturating_mul(state + 2); // one gradient, and the weights that replace those in use
    forward_backward.max(update).saturating_add(PROCESS_BYTES)
}

/// Bytes at one position that the backward pass needs of the forward pass, and what it makes of them in one layer.
fn kept_bytes(config: &DecoderConfig, gradient_checkpointing: bool) -> u64 {
    let (num_layers, layer) = (config.num_hidden_layers, layer_floats(config));
    let kept = if gradient_checkpointing {
        num_layers * config.hidden_size + layer
    } else {
        num_layers * layer
    };
    (kept + layer + 4 * config.hidden_size) as u64 * F32_BYTES
}

/// Numbers that a layer makes of one position and that its backward pass needs: what enters the two norms and what leaves
/// them; queries, keys, values and their mix; gate, up and their product.
fn layer_floats(config: &DecoderConfig) -> usize {
    let heads = config.num_attention_heads + config.num_key_value_heads;
    4 * config.hidden_size + 2 * heads * config.head_dim + 3 * config.intermediate_size
}

fn sizes(plan: &Plan) -> Result<Sizes, CheckpointError> {
    let teacher = match &plan.teacher {
        Some(teacher) => Some(Checkpoint::open(&teacher.checkpoint)?.config().clone()),
        None => None,
    };
    let vocab_size = match (&teacher, &plan.data.tokenizer) {
        (Some(teacher), _) => teacher.vocab_size,
        (None, TokenizerPlan::Train(TrainTokenizer { vocab_size })) => *vocab_size,
        (None, TokenizerPlan::File(_) | TokenizerPlan::Teacher) => 1 << 15,
    };
    let student = match (&plan.student, &teacher) {
        (StudentPlan::Architecture(sizes), _) => {
            architecture(sizes, vocab_size, plan.data.sequence_length, None)
        }
        (StudentPlan::FromTeacher(parts), Some(teacher)) => part_of_teacher(parts, teacher),
        (StudentPlan::Checkpoint(dir), _) => Checkpoint::open(dir)?.config().clone(),
        (StudentPlan::FromTeacher { .. }, None) => {
            unreachable!("a checked recipe with `from_teacher` has a teacher")
        }
    };
    let tokens = |paths: &[PathBuf], limit: Option<u64>| {
        let text_bytes: u64 = paths.iter().map(|path| text_bytes(path)).sum();
        limit.unwrap_or(u64::MAX).min(text_bytes * 10 / 38) // 3.8 bytes a token in English prose
    };
    Ok(Sizes {
        teacher,
        student,
        train_tokens: tokens(&plan.data.train, plan.data.train_tokens),
        validation_tokens: tokens(&plan.data.validation, plan.data.validation_tokens),
    })
}

/// Bytes of the text in a file or folder; of a folder only what the data stage reads.
fn text_bytes(path: &Path) -> u64 {
    let is_text = |path: &Path| {
        path.extension()
            .is_some_and(|kind| kind == "txt" || kind == "jsonl")
    };
    match fs::read_dir(path) {
        Ok(entries) => entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir() || is_text(path))
            .map(|path| text_bytes(&path))
            .sum(),
        Err(_) => size_of(path),
    }
}

/// Bytes of a file or of all files in a folder; what cannot be read counts nothing.
pub fn size_of(path: &Path) -> u64 {
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| size_of(&entry.path())).sum(),
        Err(_) => path.metadata().map_or(0, |metadata| metadata.len()),
    }
}
