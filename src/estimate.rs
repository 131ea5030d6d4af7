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
use crate::stages::{Model, Stage, Stages};
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

/// Costs of the stages of a plan, in their order; what is done already is not known here.
#[derive(Debug, Clone)]
pub struct Costs {
    /// Text to tokens.
    pub data: StageCost,
    /// Capture of the teacher's predictions on training and validation text.
    pub cache: Option<StageCost>,
    /// Measures of the teacher on the validation text.
    pub teacher: Option<StageCost>,
    /// Each pass.
    pub passes: Vec<StageCost>,
    /// All formats, written and read back.
    pub export: StageCost,
}

impl Costs {
    /// Costs of all stages.
    pub fn iter(&self) -> impl Iterator<Item = &StageCost> {
        let first = [&self.data].into_iter();
        let models = self.cache.iter().chain(&self.teacher);
        first
            .chain(models)
            .chain(&self.passes)
            .chain([&self.export])
    }
}

/// Sizes that everything else follows from.
struct Sizes {
    teacher: Option<DecoderConfig>,
    student: DecoderConfig,
    train_tokens: u64,
    validation_tokens: u64,
}

/// Estimates every stage of a plan.
pub fn estimate(plan: &Plan, stages: &Stages) -> Vec<StageEstimate> {
    let config = |model: &Model| model.checkpoint().config().clone();
    let teacher = stages.inputs.teacher.as_ref().map(config);
    let given = stages.inputs.student(plan).map(config);
    let costs = costs(plan, teacher, given.as_ref(), stages.captures_train);
    let of = |stage: &Stage, done: bool, cost: StageCost| StageEstimate {
        stage: stage.clone(),
        done,
        cost,
    };
    let mut estimates = vec![of(&stages.data, stages.data.is_sound(), costs.data)];
    if let Some((stage, cost)) = stages.cache.as_ref().zip(costs.cache) {
        estimates.push(of(stage, stages.cache_is_done(), cost));
    }
    let passes = stages.passes.iter().zip(costs.passes);
    let others = stages.teacher.iter().zip(costs.teacher).chain(passes);
    let others = others.chain([(&stages.export, costs.export)]);
    estimates.extend(others.map(|(stage, cost)| of(stage, stage.is_sound(), cost)));
    estimates
}

/// Estimates the costs of a plan whose teacher, and whose student if it starts from a checkpoint, have these
/// architectures; `captures_train` is false if the capture of the training text is not needed.
pub fn costs(
    plan: &Plan,
    teacher: Option<DecoderConfig>,
    given: Option<&DecoderConfig>,
    captures_train: bool,
) -> Costs {
    let sizes = sizes(plan, teacher, given);
    let all_tokens = sizes.train_tokens + sizes.validation_tokens;

    let mut data = forward(plan, all_tokens, &sizes.student, 0);
    data.secs = all_tokens as f64 / 250e3; // tokens that the BPE makes in a second
    data.disk_bytes = all_tokens * F32_BYTES;
    let models = sizes.teacher.as_ref().zip(plan.teacher.as_ref());
    let models = models.zip(plan.cache.as_ref());
    let cache = models.map(|((config, teacher), cache)| {
        let train_tokens = u64::from(captures_train) * sizes.train_tokens;
        let captured_tokens = train_tokens + sizes.validation_tokens;
        let mut cost = forward(plan, captured_tokens, config, teacher.batch_size);
        cost.disk_bytes = captured_tokens * position_bytes(cache);
        cost
    });
    let teacher = models.map(|((config, _), _)| forward(plan, sizes.validation_tokens, config, 4));
    // A pass that cannot shrink its student is refused before anything is estimated.
    let configs = configs_of_passes(&plan.passes, &sizes.student).unwrap_or_default();
    let config_at = |pass_idx: usize| configs.get(pass_idx).unwrap_or(&sizes.student);
    let mut runs_apart = false; // whether the model that runs has weights beside the free ones
    let passes = plan.passes.iter().enumerate();
    let mut passes: Vec<StageCost> = passes
        .map(|(pass_idx, pass)| {
            let inputs = PassInputs {
                student: config_at(pass_idx),
                left: config_at(pass_idx + 1),
                layer_repeats: plan.student.layer_repeats(),
                teacher: sizes.teacher.as_ref(),
                sequence_length: plan.data.sequence_length,
            };
            let weights = num_parameters(inputs.student) * F32_BYTES;
            let mut cost = forward(plan, sizes.validation_tokens, inputs.student, 4);
            cost.disk_bytes = weights;
            pass.pass().add_cost(&mut cost, &inputs);
            runs_apart |= pass.pass().runs_apart();
            cost.memory_bytes += u64::from(runs_apart) * weights;
            cost
        })
        .collect();
    add_importance(passes.first_mut(), plan, &sizes);
    let verified_tokens = 8 * plan.data.sequence_length as u64;
    let last = config_at(plan.passes.len());
    let mut export = forward(plan, verified_tokens, last, 1);
    export.memory_bytes += num_parameters(last) * F32_BYTES; // what is read back, beside the student
    export.disk_bytes = plan.export.formats.len() as u64 * num_parameters(last) * F32_BYTES / 2;
    Costs {
        data,
        cache,
        teacher,
        passes,
        export,
    }
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

/// Cost of running a model forward over some tokens, so many rows at a time.
fn forward(plan: &Plan, tokens: u64, config: &DecoderConfig, rows: usize) -> StageCost {
    let positions = (rows * plan.data.sequence_length) as u64;
    StageCost::of_run(config, tokens, positions)
}

/// Adds the teacher's run that chooses the parts of the student; the first pass begins with it.
fn add_importance(first: Option<&mut StageCost>, plan: &Plan, sizes: &Sizes) {
    let StudentPlan::FromTeacher(parts) = &plan.student else {
        return;
    };
    let (Some(tokens), Some(config), Some(first)) =
        (parts.calibration_tokens, &sizes.teacher, first)
    else {
        return;
    };
    let run = forward(plan, tokens as u64, config, 4);
    first.tokens += run.tokens;
    first.secs += run.secs;
    first.memory_bytes = first.memory_bytes.max(run.memory_bytes);
}

fn sizes(plan: &Plan, teacher: Option<DecoderConfig>, given: Option<&DecoderConfig>) -> Sizes {
    let vocab_size = match (&teacher, &plan.data.tokenizer) {
        (Some(teacher), _) => teacher.vocab_size,
        (None, TokenizerPlan::Train(TrainTokenizer { vocab_size })) => *vocab_size,
        (None, TokenizerPlan::File(_) | TokenizerPlan::Teacher) => 1 << 15,
    };
    let length = plan.data.sequence_length;
    let student = plan
        .student
        .config(teacher.as_ref(), given, vocab_size, length);
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
