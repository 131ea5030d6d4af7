//! Estimated cost of a plan, before it runs.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cache::{CachePlan, SupportPlan};
use crate::cost::{F32_BYTES, StageCost};
use crate::data::{TokenizerPlan, TrainTokenizer};
use crate::model::{DecoderConfig, num_parameters};
use crate::passes::{PassInputs, configs_of_passes};
use crate::plan::Plan;
use crate::stages::{Inputs, Model, Stage, Stages};
use crate::student::StudentPlan;

/// One stage of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct StageEstimate {
    /// Name, key and folder of the stage.
    #[serde(flatten)]
    pub stage: Stage,
    /// True if its artifact exists.
    pub done: bool,
    /// Time, memory and disk space that the stage takes.
    #[serde(flatten)]
    pub cost: StageCost,
}

/// Sizes that all estimates follow from.
struct Sizes {
    teacher: Option<DecoderConfig>,
    student: DecoderConfig,
    train_tokens: u64,
    validation_tokens: u64,
}

/// Estimates every stage of a plan.
pub fn estimate(plan: &Plan, stages: &Stages) -> Vec<StageEstimate> {
    let sizes = sizes(plan, &stages.inputs);
    let all_tokens = sizes.train_tokens + sizes.validation_tokens;

    let mut data = forward(plan, &stages.data, all_tokens, &sizes.student, 0);
    data.cost.secs = all_tokens as f64 / 250e3; // tokens per second of the BPE
    data.cost.disk_bytes = all_tokens * F32_BYTES;
    let mut estimates = vec![data];
    if let (Some(config), Some(teacher), Some(cache)) = (&sizes.teacher, &plan.teacher, &plan.cache)
    {
        let position_bytes = position_bytes(cache);
        if let Some(stage) = &stages.cache {
            let train_tokens = u64::from(stages.captures_train) * sizes.train_tokens;
            let captured_tokens = train_tokens + sizes.validation_tokens;
            let mut estimate = forward(plan, stage, captured_tokens, config, teacher.batch_size);
            estimate.done = stages.cache_is_done();
            estimate.cost.disk_bytes = captured_tokens * position_bytes;
            estimates.push(estimate);
        }
        if let Some(stage) = &stages.teacher {
            estimates.push(forward(plan, stage, sizes.validation_tokens, config, 4));
        }
    }
    // A pass that cannot shrink its student is refused before anything is estimated.
    let configs = configs_of_passes(&plan.passes, &sizes.student).unwrap_or_default();
    let config_at = |pass_idx: usize| configs.get(pass_idx).unwrap_or(&sizes.student);
    let mut runs_apart = false; // true if the model that runs has its own weights beside the free ones
    for (pass_idx, (pass, stage)) in plan.passes.iter().zip(&stages.passes).enumerate() {
        let inputs = PassInputs {
            student: config_at(pass_idx),
            left: config_at(pass_idx + 1),
            layer_repeats: plan.student.layer_repeats(),
            teacher: sizes.teacher.as_ref(),
            sequence_length: plan.data.sequence_length,
        };
        let weights = num_parameters(inputs.student) * F32_BYTES;
        let mut estimate = forward(plan, stage, sizes.validation_tokens, inputs.student, 4);
        estimate.cost.disk_bytes = weights;
        pass.pass().add_cost(&mut estimate.cost, &inputs);
        runs_apart |= pass.pass().runs_apart();
        estimate.cost.memory_bytes += u64::from(runs_apart) * weights;
        estimates.push(estimate);
    }
    add_importance(&mut estimates, plan, stages, &sizes);
    let verified_tokens = 8 * plan.data.sequence_length as u64;
    let last = config_at(plan.passes.len());
    let mut export = forward(plan, &stages.export, verified_tokens, last, 1);
    export.cost.memory_bytes += num_parameters(last) * F32_BYTES; // the model read back, beside the student
    export.cost.disk_bytes =
        plan.export.formats.len() as u64 * num_parameters(last) * F32_BYTES / 2;
    estimates.push(export);
    estimates
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

/// Estimate of a stage that only runs a model forward.
fn forward(
    plan: &Plan,
    stage: &Stage,
    tokens: u64,
    config: &DecoderConfig,
    rows: usize,
) -> StageEstimate {
    let positions = (rows * plan.data.sequence_length) as u64;
    StageEstimate {
        stage: stage.clone(),
        done: stage.is_sound(),
        cost: StageCost::of_run(config, tokens, positions),
    }
}

/// Adds the teacher's run that selects the parts for the student; the first pass begins with it.
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
        first.cost.tokens += run.cost.tokens;
        first.cost.secs += run.cost.secs;
        first.cost.memory_bytes = first.cost.memory_bytes.max(run.cost.memory_bytes);
    }
}

fn sizes(plan: &Plan, inputs: &Inputs) -> Sizes {
    let config = |model: &Model| model.checkpoint().config().clone();
    let teacher = inputs.teacher.as_ref().map(config);
    let given = inputs.student(plan).map(config);
    let vocab_size = match (&teacher, &plan.data.tokenizer) {
        (Some(teacher), _) => teacher.vocab_size,
        (None, TokenizerPlan::Train(TrainTokenizer { vocab_size })) => *vocab_size,
        (None, TokenizerPlan::File(_) | TokenizerPlan::Teacher) => 1 << 15,
    };
    let length = plan.data.sequence_length;
    let student = plan
        .student
        .config(teacher.as_ref(), given.as_ref(), vocab_size, length);
    let tokens = |paths: &[PathBuf], limit: Option<u64>| {
        let text_bytes: u64 = paths.iter().map(|path| text_bytes(path)).sum();
        limit.unwrap_or(u64::MAX).min(text_bytes * 10 / 38) // 3.8 bytes a token in English prose
    };
    Sizes {
        teacher,
        student,
        train_tokens: tokens(&plan.data.train, plan.data.train_tokens),
        validation_tokens: tokens(&plan.data.validation, plan.data.validation_tokens),
    }
}

/// Bytes of the text in a file or folder; in a folder, only files that the data stage reads count.
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

/// Bytes of a file or of all files in a folder; unreadable files count as 0.
pub fn size_of(path: &Path) -> u64 {
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| size_of(&entry.path())).sum(),
        Err(_) => path.metadata().map_or(0, |metadata| metadata.len()),
    }
}
