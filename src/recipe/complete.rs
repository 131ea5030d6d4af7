//! From checked fields to the [`Plan`], with the defaults that depend on other keys.
//!
//! Every function gives `None` only if a field is missing or faulty, which has been reported before.

use std::path::{Path, PathBuf};

use super::fields::{Fields, Item};
use super::loss_keys::shape_key;
use super::loss_plan::LossWeights;
use super::loss_terms::Term;
use super::plan::{
    CachePlan, DataPlan, ExportPlan, FitPlan, GgufPlan, PassPlan, PassWord, Plan, SupportPlan,
    SupportWord, TeacherPlan, TokenizerPlan, TokenizerWord,
};
use super::prune_complete::{gradual, prune, shrink};
use super::quantize_complete::{
    is_measured, overrides, scheme, sensitivity, weights, without_training,
};
use super::quantize_plan::{QuantizeMethod, QuantizePlan, QuantizeWord};
use super::schedule_plan::{
    EarlyStopPlan, HandOn, Ramp, RampShape, RateSchedule, ScheduleWord, Scheduled, TemperaturePlan,
    TemperatureWalk,
};
use super::student_complete::{adapter, student};

/// The plan of a recipe without faults.
pub(super) fn plan(recipe: &Fields, recipe_path: PathBuf) -> Option<Plan> {
    let teacher = match recipe.block("teacher") {
        Some(teacher) => Some(TeacherPlan {
            checkpoint: teacher.get("checkpoint")?,
            batch_size: teacher.get("batch_size")?,
        }),
        None => None,
    };
    let cache = match teacher {
        Some(_) => Some(cache(recipe.block("cache")?)?),
        None => None,
    };
    let passes = recipe.items("passes").iter();
    let passes = passes
        .map(|item| pass(item, cache.as_ref()))
        .collect::<Option<_>>()?;
    Some(Plan {
        name: recipe.get("name")?,
        seed: recipe.get("seed")?,
        recipe_path,
        output: recipe.get("output")?,
        device: recipe.get("device")?,
        data: DataPlan {
            train_tokens: recipe.block("cache").and_then(|cache| cache.get("tokens")),
            ..data(recipe.block("data")?)?
        },
        teacher,
        cache,
        student: student(recipe.block("student")?)?,
        passes,
        export: export(recipe.block("export")?)?,
    })
}

fn data(fields: &Fields) -> Option<DataPlan> {
    let tokenizer = match fields.block("tokenizer") {
        Some(tokenizer) => match tokenizer.variant()? {
            (TokenizerWord::Teacher, _) => TokenizerPlan::Teacher,
            (TokenizerWord::File, _) => TokenizerPlan::File(tokenizer.get("file")?),
            (TokenizerWord::Train, item) => TokenizerPlan::Train {
                vocab_size: item.as_block()?.get("vocab_size")?,
            },
        },
        None => TokenizerPlan::Teacher,
    };
    Some(DataPlan {
        train: fields.get("train")?,
        train_tokens: None, // the cache says how much of the text is captured
        validation: fields.get("validation")?,
        sequence_length: fields.get("sequence_length")?,
        validation_tokens: fields.get("validation_tokens"),
        tokenizer,
    })
}

fn cache(fields: &Fields) -> Option<CachePlan> {
    let mut temperatures: Vec<f64> = fields.get("temperatures")?;
    temperatures.sort_by(f64::total_cmp);
    Some(CachePlan {
        support: match fields.block("support")?.variant()? {
            (SupportWord::TopK, _) => SupportPlan::TopK(fields.block("support")?.get("top_k")?),
            (SupportWord::Samples, _) => SupportPlan::Samples {
                num_draws: fields.block("support")?.get("samples")?,
                sampling: fields.get("sampling")?,
            },
        },
        temperatures,
        rows_per_shard: fields.get("rows_per_shard")?,
    })
}

fn pass(item: &Item, cache: Option<&CachePlan>) -> Option<PassPlan> {
    let (pass, item) = item.as_block()?.variant()?;
    let fields = item.as_block()?;
    Some(match pass {
        PassWord::Distill => PassPlan::Distill(Box::new(FitPlan {
            adapter: match fields.block("adapter") {
                Some(adapter_fields) => Some(adapter(adapter_fields)?),
                None => None,
            },
            prune: match fields.block("prune") {
                Some(prune) => Some(gradual(prune, fields.get("steps")?)?),
                None => None,
            },
            ..fit(fields, cache)?
        })),
        PassWord::Prune => PassPlan::Prune(prune(fields)?),
        PassWord::Shrink => PassPlan::Shrink(shrink(fields)?),
        PassWord::Quantize => PassPlan::Quantize(QuantizePlan {
            method: match fields.get("method")? {
                QuantizeWord::Qat => QuantizeMethod::Qat(Box::new(FitPlan {
                    start_step: fields.get("start_step")?,
                    ..fit(fields, cache)?
                })),
                method => without_training(method, fields)?,
            },
            scheme: scheme(fields)?,
            overrides: overrides(fields)?,
            embedding: match fields.block("embedding") {
                Some(embedding) => Some(weights(embedding)?),
                None => None,
            },
            output: match fields.block("output") {
                Some(output) => Some(weights(output)?),
                None => None,
            },
            sensitivity: if is_measured(fields) {
                Some(sensitivity(fields)?)
            } else {
                None
            },
            learn_scales: fields.get("learn_scales")?,
        }),
    })
}

fn fit(fields: &Fields, cache: Option<&CachePlan>) -> Option<FitPlan> {
    let steps: usize = fields.get("steps")?;
    let losses = match fields.block("losses") {
        Some(losses) => loss_weights(losses, steps)?,
        None if cache.is_some() => LossWeights::only(Term::ForwardKl),
        None => LossWeights::only(Term::CrossEntropy),
    };
    let betas: Vec<f64> = fields.get("betas")?;
    Some(FitPlan {
        steps,
        tokens_per_step: fields.get("tokens_per_step")?,
        micro_batch: fields.get("micro_batch")?,
        gradient_checkpointing: fields.get("gradient_checkpointing")?,
        learning_rate: fields.get("learning_rate")?,
        final_learning_rate_frac: fields.get("final_learning_rate_frac")?,
        warmup_steps: fields.get("warmup_steps").unwrap_or((steps / 20).max(1)),
        schedule: rate_schedule(fields, steps)?,
        weight_decay: fields.get("weight_decay")?,
        decay_embeddings: fields.get("decay_embeddings")?,
        betas: betas.try_into().ok()?,
        epsilon: fields.get("epsilon")?,
        max_grad_norm: fields.get("max_grad_norm")?,
        temperature: temperature(fields, cache, steps)?,
        losses,
        tail: fields.get("tail")?,
        adapter: None, // keys of `distill` alone
        prune: None,
        start_step: 0, // of `quantize` alone
        ema: fields.get("ema"),
        evaluate_every: fields.get("evaluate_every"),
        early_stop: match fields.block("early_stop") {
            Some(early_stop) => Some(EarlyStopPlan {
                patience: early_stop.get("patience")?,
                min_delta: early_stop.get("min_delta")?,
            }),
            None => None,
        },
        hand_on: match fields.get("hand_on") {
            Some(written) => written,
            None if fields.is_written("early_stop") => HandOn::Best,
            None => HandOn::Last,
        },
        save_every: fields.get("save_every")?,
        keep_states: fields.get("keep_states")?,
        log_every: fields.get("log_every")?,
    })
}

fn loss_weights(losses: &Fields, steps: usize) -> Option<LossWeights> {
    let mut plan = LossWeights::default();
    for term in Term::ALL {
        plan.weights[term] = loss_weight(losses, term, steps)?;
        // The shape of a term that is off is as good as not written.
        if let Some(key) = shape_key(term).filter(|_| plan.uses(term)) {
            plan.shapes[term] = losses.block(term.word())?.get(key)?;
        }
    }
    let hidden = losses.block(Term::HiddenMse.word())?;
    if plan.uses(Term::HiddenMse) && hidden.is_written("layers") {
        let pairs: Vec<Vec<usize>> = hidden.get("layers")?;
        let pairs = pairs.into_iter().map(<[usize; 2]>::try_from);
        plan.hidden_layers = Some(pairs.collect::<Result<_, _>>().ok()?);
    }
    Some(plan)
}

/// The weight of a term, which may have further keys.
pub(super) fn loss_weight(losses: &Fields, term: Term, steps: usize) -> Option<Scheduled> {
    let keys = losses.block(term.word());
    match keys.filter(|keys| keys.block.names().any(|name| name == "weight")) {
        Some(keys) => scheduled(keys, "weight", steps),
        None => scheduled(losses, term.word(), steps),
    }
}

fn rate_schedule(fields: &Fields, steps: usize) -> Option<RateSchedule> {
    Some(match fields.get("schedule")? {
        ScheduleWord::Constant => RateSchedule::Constant,
        ScheduleWord::Linear => RateSchedule::Linear,
        ScheduleWord::Cosine => RateSchedule::Cosine,
        ScheduleWord::WarmupStableDecay => RateSchedule::WarmupStableDecay {
            decay_steps: decay_steps(fields, steps),
            decay_shape: fields.get("decay_shape")?,
        },
    })
}

/// Steps in which a stable learning rate falls; by default a tenth, as in MiniCPM (Hu et al. 2024, arXiv 2404.06395).
pub(super) fn decay_steps(fields: &Fields, steps: usize) -> usize {
    fields.get("decay_steps").unwrap_or((steps / 10).max(1))
}

/// A number that stands still or moves.
fn scheduled(fields: &Fields, name: &str, steps: usize) -> Option<Scheduled> {
    let Some(ramp) = fields.block(name) else {
        return fields.get(name).map(Scheduled::Constant);
    };
    Some(Scheduled::Ramp(Ramp {
        from: ramp.get("from")?,
        to: ramp.get("to")?,
        over: over(ramp, steps)?,
        shape: ramp.get::<RampShape>("shape")?.into(),
    }))
}

/// Steps that a number moves for.
pub(super) fn over(ramp: &Fields, steps: usize) -> Option<usize> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of the steps"
    )]
    let of_share = |share: f64| ((steps as f64 * share).round() as usize).max(2);
    match ramp.get("over") {
        None if ramp.is_written("over") => ramp.get("over").map(of_share),
        None => Some(steps),
        written => written,
    }
}

fn temperature(
    fields: &Fields,
    cache: Option<&CachePlan>,
    steps: usize,
) -> Option<TemperaturePlan> {
    let Some(walk) = fields.block("temperature") else {
        return fields.get("temperature").map(TemperaturePlan::Constant);
    };
    let (from, to): (f64, f64) = (walk.get("from")?, walk.get("to")?);
    let is_between = |&declared: &f64| declared >= from.min(to) && declared <= from.max(to);
    let declared = cache?.temperatures.iter().copied(); // ascending
    let mut stops: Vec<f64> = declared.filter(is_between).collect();
    if from > to {
        stops.reverse();
    }
    Some(TemperaturePlan::Walk(TemperatureWalk {
        from,
        to,
        over: over(walk, steps)?,
        stops,
    }))
}

/// What is written at the end.
pub(super) fn export(fields: &Fields) -> Option<ExportPlan> {
    Some(ExportPlan {
        formats: fields.get("formats")?,
        dtype: fields.get("dtype")?,
        max_shard_size: fields.get("max_shard_size")?,
        gguf: GgufPlan {
            linear: fields.get("gguf_type"),
            embedding: fields.get("gguf_embedding_type"),
        },
        max_logit_difference: fields.get("max_logit_difference")?,
        max_rounding_kl: fields.get("max_rounding_kl")?,
    })
}

/// The folder that a recipe's relative paths start from.
pub(super) fn folder_of(recipe_path: &Path) -> &Path {
    recipe_path.parent().unwrap_or(Path::new(""))
}
