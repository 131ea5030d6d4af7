//! Estimated cost of a plan, before it runs.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::cache::{self, CachePlan, SupportPlan};
use crate::cost::{self, F32_BYTES, PROCESS_BYTES, StageCost, Text, num_cores};
use crate::data::{SourcePlan, Tokenizer, TokenizerPlan, TrainTokenizer, source_files};
use crate::device::HOST;
use crate::export::verify;
use crate::files::UnfinishedDir;
use crate::kernels::{Arithmetic, Sums};
use crate::model::{DecoderConfig, num_parameters};
use crate::passes::{PartDone, PassInputs, configs_of_passes};
use crate::plan::Plan;
use crate::rates::{Rates, Secs, Work, WorkKind};
use crate::stages::{Model, Stage, Stages};
use crate::student::StudentSource;
use crate::teacher::rows_per_pass;
use crate::train::evaluate::BATCH_ROWS;

/// Memory of the parts of documents that are tokenised at once, one for each core: 16 MiB each, as measured.
const PARTS_BYTES: u64 = 64 << 20;

/// One stage of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct StageEstimate {
    /// Name, key and folder of the stage.
    #[serde(flatten)]
    pub stage: Stage,
    /// True if its artifact exists.
    pub done: bool,
    /// Part that an interrupted run has done; the costs are those of the rest.
    pub part_done: Option<PartDone>,
    /// Memory and disk space that the stage takes.
    #[serde(flatten)]
    pub cost: StageCost,
    /// Time that it takes.
    #[serde(flatten)]
    pub time: Secs,
}

/// Time that what is to do takes if its products are in bf16; none if they are, or if this machine has no instruction for it.
pub fn secs_in_bf16(plan: &Plan, estimates: &[StageEstimate], rates: &Rates) -> Option<Secs> {
    let is_f32 = |(_, arithmetic)| arithmetic == Arithmetic::F32;
    let helps = plan.device == HOST && Sums::of_this_machine().has_instruction();
    if !helps || !plan.precisions().any(is_f32) {
        return None;
    }
    let to_do = estimates.iter().filter(|estimate| !estimate.done);
    let work = to_do.flat_map(|estimate| &estimate.cost.work);
    Some(work.map(|work| rates.secs(&work.in_bf16())).sum())
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
    /// Bytes of all files of text.
    text_bytes: u64,
    sequence_length: usize,
}

impl Sizes {
    /// So many positions, in rows of the plan.
    fn text(&self, tokens: u64) -> Text {
        Text {
            tokens,
            sequence_length: self.sequence_length,
        }
    }
}

/// Estimates every stage of a plan on a machine of these speeds.
pub fn estimate(plan: &Plan, stages: &Stages, rates: &Rates) -> Vec<StageEstimate> {
    let config = |model: &Model| model.stored().config().clone();
    let teacher = stages.inputs.teacher.as_ref().map(config);
    let given = stages.inputs.student(plan).map(config);
    let tokenizer = stages.inputs.tokenizer.as_ref();
    let sizes = sizes(plan, teacher, given.as_ref(), tokenizer);
    let parts = parts_done(plan, stages, &sizes);
    let costs = costs_of(plan, &sizes, stages.captures_train, &parts);
    let of =
        |stage: &Stage, done: bool, part_done: Option<PartDone>, cost: StageCost| StageEstimate {
            stage: stage.clone(),
            done,
            part_done: part_done.filter(|_| !done),
            time: cost.work.iter().map(|work| rates.secs(work)).sum(),
            cost,
        };
    let mut estimates = vec![of(&stages.data, stages.data.is_sound(), None, costs.data)];
    if let Some((stage, cost)) = stages.cache.as_ref().zip(costs.cache) {
        estimates.push(of(stage, stages.cache_is_done(), parts.cache, cost));
    }
    let teacher = stages.teacher.iter().zip(costs.teacher);
    estimates.extend(teacher.map(|(stage, cost)| of(stage, stage.is_sound(), None, cost)));
    let passes = stages.passes.iter().zip(&parts.passes).zip(costs.passes);
    estimates.extend(passes.map(|((stage, part), cost)| of(stage, stage.is_sound(), *part, cost)));
    let export = &stages.export;
    estimates.push(of(export, export.is_sound(), None, costs.export));
    estimates
}

/// Parts of stages that an interrupted run has done.
#[derive(Debug, Default)]
struct PartsDone {
    cache: Option<PartDone>,
    /// One entry for each pass.
    passes: Vec<Option<PartDone>>,
}

fn parts_done(plan: &Plan, stages: &Stages, sizes: &Sizes) -> PartsDone {
    let configs = configs_of_passes(&plan.passes, &sizes.student).unwrap_or_default();
    let passes = plan.passes.iter().zip(&stages.passes).zip(&configs);
    let passes = passes.map(|((pass, stage), student)| {
        let dir = UnfinishedDir::at(&stage.dir).ok()?;
        pass.pass().part_done(&dir, student)
    });
    let passes = passes.collect();
    PartsDone {
        cache: captured(stages, sizes),
        passes,
    }
}

/// Part of the capture that is in the cache.
fn captured(stages: &Stages, sizes: &Sizes) -> Option<PartDone> {
    let stage = stages.cache.as_ref();
    let stage = stage.filter(|stage| !stages.cache_is_done() && !stage.is_damaged())?;
    let train = u64::from(stages.captures_train) * sizes.train_tokens;
    let of_split = |(name, tokens): (&str, u64)| {
        let rows = cache::num_saved_rows(&stage.dir.join(name));
        tokens.min((rows * sizes.sequence_length) as u64)
    };
    let done: u64 = [("train", train), ("validation", sizes.validation_tokens)]
        .map(of_split)
        .iter()
        .sum();
    (done > 0).then_some(PartDone {
        done,
        of: train + sizes.validation_tokens,
        unit: "tokens",
    })
}

/// Estimates the costs of a plan of which nothing is done, whose teacher, and whose student if it starts from a
/// checkpoint, have these architectures.
pub fn costs(plan: &Plan, teacher: Option<DecoderConfig>, given: Option<&DecoderConfig>) -> Costs {
    let sizes = sizes(plan, teacher, given, None);
    costs_of(plan, &sizes, plan.reads_cache(), &PartsDone::default())
}

/// Costs of what is not done; `captures_train` is false if the capture of the training text is not needed.
fn costs_of(plan: &Plan, sizes: &Sizes, captures_train: bool, parts: &PartsDone) -> Costs {
    let train_tokens = u64::from(captures_train) * sizes.train_tokens;
    let models = sizes.teacher.as_ref().zip(plan.teacher.as_ref());
    let models = models.zip(plan.cache.as_ref());
    let cache = models.map(|((config, teacher), cache)| {
        let saved = parts.cache.map_or(0, |part| part.done);
        let all = train_tokens + sizes.validation_tokens;
        let captured = sizes.text(all.saturating_sub(saved));
        let draws = matches!(cache.support, SupportPlan::Samples { .. });
        let rows = rows_per_pass(teacher.batch_size, sizes.sequence_length);
        let positions = (rows * sizes.sequence_length) as u64;
        // Which positions count is not known before the rows are: at most all.
        let work = cost::capture(config, teacher.precision, captured, captured.tokens, draws);
        let mut cost = StageCost::of_run(config, work, captured, positions);
        // Predictions of a group of batches, and those of the shard that is being written.
        let held_rows = teacher.batch_size as u64 * num_cores() + cache.rows_per_shard as u64;
        let held = held_rows
            .saturating_mul(sizes.sequence_length as u64)
            .min(captured.tokens);
        cost.memory_bytes += held.saturating_mul(held_bytes(cache));
        cost.disk_bytes = all * position_bytes(cache);
        cost
    });
    let validation = sizes.text(sizes.validation_tokens);
    let measured = |config: &DecoderConfig| forward(validation, config);
    let teacher = models.map(|((config, _), _)| measured(config));
    // A pass that cannot shrink its student is refused before anything is estimated.
    let configs = configs_of_passes(&plan.passes, &sizes.student).unwrap_or_default();
    let config_at = |pass_idx: usize| configs.get(pass_idx).unwrap_or(&sizes.student);
    let mut runs_apart = false; // whether the model that runs has weights beside the free ones
    let passes = plan.passes.iter().enumerate();
    let mut passes: Vec<StageCost> = passes
        .map(|(pass_idx, pass)| {
            let part = parts.passes.get(pass_idx).copied().flatten();
            let inputs = PassInputs {
                student: config_at(pass_idx),
                left: config_at(pass_idx + 1),
                layer_repeats: plan.student.layer_repeats(),
                teacher: sizes.teacher.as_ref(),
                validation,
                done: part.map_or(0, |part| part.done),
            };
            let weights = num_parameters(inputs.student) * F32_BYTES;
            let mut cost = measured(inputs.left);
            cost.disk_bytes = weights;
            cost.work.push(cost::store(inputs.left, 1));
            pass.pass().add_cost(&mut cost, &inputs);
            runs_apart |= pass.pass().runs_apart();
            cost.memory_bytes += u64::from(runs_apart) * apart_bytes(inputs.student);
            cost
        })
        .collect();
    add_importance(passes.first_mut(), plan, sizes);
    Costs {
        data: data(sizes),
        cache,
        teacher,
        passes,
        export: export(plan, sizes, config_at(plan.passes.len()), runs_apart),
    }
}

/// Cost of turning both texts into rows.
fn data(sizes: &Sizes) -> StageCost {
    let tokens = sizes.train_tokens + sizes.validation_tokens;
    let bytes = tokens.saturating_mul(38) / 10;
    StageCost {
        tokens,
        memory_bytes: text_memory(sizes, tokens),
        disk_bytes: 2 * tokens * F32_BYTES, // columns, then the file that joins them
        work: vec![Work::bytes(WorkKind::Tokenize, bytes)],
    }
}

/// Cost of writing all formats, and of reading them back and comparing them.
///
/// `runs_apart` is true if the model that runs has weights beside the free ones.
fn export(plan: &Plan, sizes: &Sizes, config: &DecoderConfig, runs_apart: bool) -> StageCost {
    let num_formats = plan.export.formats.len() as u64;
    let length = sizes.sequence_length;
    let compared = (verify::num_rows(length) * length) as u64;
    let compared = sizes.text(compared.min(sizes.validation_tokens));
    let work = cost::run(WorkKind::Evaluate, config, compared.times(2 * num_formats)); // in memory, and read back
    let mut export = StageCost::of_run(config, work, compared, length as u64);
    export.work.push(cost::store(config, 2 * num_formats)); // written, and read back
    export.tokens *= 2 * num_formats;
    export.memory_bytes += num_parameters(config) * F32_BYTES; // what is read back, beside the student
    export.memory_bytes += u64::from(runs_apart) * apart_bytes(config);
    export.disk_bytes = num_formats * num_parameters(config) * F32_BYTES / 2;
    export
}

/// Bytes of the weights that run beside the free ones: masked and rounded projections. Embedding and output layer are
/// mostly shared.
fn apart_bytes(config: &DecoderConfig) -> u64 {
    let of_ids = (config.vocab_size * config.hidden_size) as u64;
    let matrices = if config.tie_word_embeddings { 1 } else { 2 };
    num_parameters(config).saturating_sub(matrices * of_ids) * F32_BYTES
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

/// Bytes of a position's predictions in memory.
fn held_bytes(cache: &CachePlan) -> u64 {
    let entries = match cache.support {
        SupportPlan::TopK(top_k) => top_k,
        SupportPlan::Samples { num_draws, .. } => num_draws,
    };
    2 * F32_BYTES * (entries + cache.temperatures.len()) as u64 // an id, and its weight
}

/// Cost of measuring a model on a text.
fn forward(text: Text, config: &DecoderConfig) -> StageCost {
    let work = cost::run(WorkKind::Evaluate, config, text);
    let positions = BATCH_ROWS * text.sequence_length;
    StageCost::of_run(config, work, text, positions as u64)
}

/// Adds the teacher's run that chooses the parts of the student; the first pass begins with it.
fn add_importance(first: Option<&mut StageCost>, plan: &Plan, sizes: &Sizes) {
    let StudentSource::FromTeacher(parts) = &plan.student.source else {
        return;
    };
    let (Some(tokens), Some(config), Some(first)) =
        (parts.calibration_tokens, &sizes.teacher, first)
    else {
        return;
    };
    let run = forward(sizes.text(tokens as u64), config);
    first.tokens += run.tokens;
    first.work.extend(run.work);
    first.memory_bytes = first.memory_bytes.max(run.memory_bytes);
}

/// Sizes of a plan, with its tokenizer if it is known.
fn sizes(
    plan: &Plan,
    teacher: Option<DecoderConfig>,
    given: Option<&DecoderConfig>,
    tokenizer: Option<&Tokenizer>,
) -> Sizes {
    let vocab_size = match (&teacher, &plan.data.tokenizer) {
        (Some(teacher), _) => teacher.vocab_size,
        (None, TokenizerPlan::Train(TrainTokenizer { vocab_size })) => {
            vocab_size + plan.student.changes.add_tokens.len()
        }
        (None, TokenizerPlan::File(_) | TokenizerPlan::Teacher) => {
            tokenizer.map_or(1 << 15, Tokenizer::vocab_size)
        }
    };
    let length = plan.data.sequence_length;
    let student = plan
        .student
        .source
        .config(teacher.as_ref(), given, vocab_size, length);
    let student = match tokenizer {
        Some(tokenizer) => plan.student.changes.config(student, tokenizer),
        None => student,
    };
    let [train, validation] =
        [&plan.data.train, &plan.data.validation].map(|sources| file_sizes(sources));
    let tokens = |files: &[u64], limit: Option<u64>| {
        let text_bytes: u64 = files.iter().sum();
        let all = text_bytes.saturating_mul(10) / 38; // 3.8 bytes a token in English prose
        limit.unwrap_or(u64::MAX).min(all)
    };
    let files = || train.iter().chain(&validation).copied();
    Sizes {
        teacher,
        student,
        train_tokens: tokens(&train, plan.data.train_tokens),
        validation_tokens: tokens(&validation, plan.data.validation_tokens),
        text_bytes: files().sum(),
        sequence_length: length,
    }
}

/// Memory of the data stage: the texts of a window, blocks of files that are read, and tokens in their forms up to the
/// file of rows. A corpus of any size needs no more than the largest of these.
fn text_memory(sizes: &Sizes, tokens: u64) -> u64 {
    let tokens = tokens.saturating_mul(5 * F32_BYTES);
    let beside = sizes.text_bytes.saturating_mul(3).saturating_add(tokens);
    PROCESS_BYTES + PARTS_BYTES + beside.min(WINDOW_BYTES)
}

/// Most memory of texts and tokens that are there at a time.
const WINDOW_BYTES: u64 = 256 << 20;

/// Bytes of each file that the data stage reads.
fn file_sizes(sources: &[SourcePlan]) -> Vec<u64> {
    let files = source_files(sources).unwrap_or_default(); // a path that is not there is refused elsewhere
    files.iter().map(|path| size_of(path)).collect()
}

/// Bytes of a file or of all files in a folder; unreadable files count as 0.
pub fn size_of(path: &Path) -> u64 {
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| size_of(&entry.path())).sum(),
        Err(_) => path.metadata().map_or(0, |metadata| metadata.len()),
    }
}
