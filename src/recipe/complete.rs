//! From checked fields to the [`Plan`], with the defaults that depend on other keys.
//!
//! Every function gives `None` only if a field is missing or faulty, which has been reported before.

use std::path::{Path, PathBuf};

use super::fields::{Fields, Item};
use super::plan::{
    AdapterPlan, ArchitecturePlan, CachePlan, DataPlan, ExportDtype, ExportFormat, ExportPlan,
    FitPlan, FromTeacherPlan, LayersPlan, LossWeights, PassPlan, Plan, PruneMethod, PrunePlan,
    QuantizeMethod, QuantizePlan, Sampling, StudentPlan, SupportPlan, TailPlan, TeacherPlan,
    TokenizerPlan,
};

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
    let has_teacher = teacher.is_some();
    let passes = recipe.items("passes").iter();
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
        passes: passes
            .map(|item| pass(item, has_teacher))
            .collect::<Option<_>>()?,
        export: export(recipe.block("export")?)?,
    })
}

/// Weights that share a scale; `None` is one scale per row. By default 32 with 4 bits, the group that
/// compressed-tensors, GGUF, GPTQ and AWQ share, and rows with 8 bits, where groups gain little.
pub(super) fn group_size(fields: &Fields) -> Option<u64> {
    if fields.is_written("group_size") {
        return fields.get("group_size");
    }
    (fields.get::<u32>("bits") == Some(4)).then_some(32)
}

fn data(fields: &Fields) -> Option<DataPlan> {
    let tokenizer = match fields.block("tokenizer") {
        Some(tokenizer) => match tokenizer.variant()? {
            ("teacher", _) => TokenizerPlan::Teacher,
            ("file", _) => TokenizerPlan::File(tokenizer.get("file")?),
            (_, item) => TokenizerPlan::Train {
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
            ("top_k", _) => SupportPlan::TopK(fields.block("support")?.get("top_k")?),
            _ => SupportPlan::Samples {
                num_draws: fields.block("support")?.get("samples")?,
                sampling: match fields.get::<String>("sampling")?.as_str() {
                    "independent" => Sampling::Independent,
                    _ => Sampling::Systematic,
                },
            },
        },
        temperatures,
        rows_per_shard: fields.get("rows_per_shard")?,
    })
}

fn student(fields: &Fields) -> Option<StudentPlan> {
    let (name, item) = fields.variant()?;
    Some(match name {
        "architecture" => StudentPlan::Architecture(architecture(item.as_block()?)?),
        "from_teacher" => StudentPlan::FromTeacher(from_teacher(item.as_block()?)?),
        _ => StudentPlan::Checkpoint(fields.get("checkpoint")?),
    })
}

fn from_teacher(fields: &Fields) -> Option<FromTeacherPlan> {
    let listed = fields.get("layers").map(LayersPlan::Layers);
    let layers = listed
        .or_else(|| fields.get("every").map(LayersPlan::Every))
        .or_else(|| {
            fields
                .get("highest_influence")
                .map(LayersPlan::HighestInfluence)
        });
    let calibration_tokens = fields.get("calibration_tokens")?;
    Some(FromTeacherPlan {
        layers,
        hidden_size: fields.get("hidden_size"),
        intermediate_size: fields.get("intermediate_size"),
        num_key_value_heads: fields.get("num_key_value_heads"),
        calibration_tokens: chooses_by_importance(fields).then_some(calibration_tokens),
    })
}

/// Whether something of `from_teacher` can be told only by running the teacher.
pub(super) fn chooses_by_importance(from_teacher: &Fields) -> bool {
    CHOICES_BY_IMPORTANCE
        .iter()
        .any(|name| from_teacher.is_written(name))
}

const CHOICES_BY_IMPORTANCE: [&str; 4] = [
    "highest_influence",
    "hidden_size",
    "intermediate_size",
    "num_key_value_heads",
];

fn architecture(sizes: &Fields) -> Option<ArchitecturePlan> {
    let hidden_size: usize = sizes.get("hidden_size")?;
    let num_attention_heads: usize = sizes.get("num_attention_heads")?;
    Some(ArchitecturePlan {
        num_hidden_layers: sizes.get("num_hidden_layers")?,
        hidden_size,
        num_attention_heads,
        num_key_value_heads: sizes
            .get("num_key_value_heads")
            .unwrap_or(num_attention_heads),
        intermediate_size: sizes.get("intermediate_size")?,
        head_dim: sizes
            .get("head_dim")
            .or_else(|| hidden_size.checked_div(num_attention_heads))?,
        rope_theta: sizes.get("rope_theta")?,
        rms_norm_eps: sizes.get("rms_norm_eps")?,
        tie_word_embeddings: sizes.get("tie_word_embeddings")?,
        sliding_window: sizes.get("sliding_window"),
        layer_repeats: sizes.get("layer_repeats")?,
    })
}

fn pass(item: &Item, has_teacher: bool) -> Option<PassPlan> {
    let (name, item) = item.as_block()?.variant()?;
    let fields = item.as_block()?;
    Some(match name {
        "distill" => PassPlan::Distill(FitPlan {
            adapter: match fields.block("adapter") {
                Some(adapter_fields) => Some(adapter(adapter_fields)?),
                None => None,
            },
            ..fit(fields, has_teacher)?
        }),
        "prune" => PassPlan::Prune(PrunePlan {
            method: match fields.get::<String>("method")?.as_str() {
                "magnitude" => PruneMethod::Magnitude,
                _ => PruneMethod::Wanda,
            },
            sparsity: fields.get("sparsity")?,
            calibration_tokens: fields.get("calibration_tokens")?,
        }),
        _ => PassPlan::Quantize(QuantizePlan {
            method: match fields.get::<String>("method")?.as_str() {
                "qat" => QuantizeMethod::Qat(fit(fields, has_teacher)?),
                _ => QuantizeMethod::RoundToNearest,
            },
            bits: fields.get("bits")?,
            group_size: group_size(fields).map(usize::try_from).transpose().ok()?,
        }),
    })
}

fn adapter(fields: &Fields) -> Option<AdapterPlan> {
    let rank: usize = fields.get("rank")?;
    Some(AdapterPlan {
        rank,
        alpha: fields.get("alpha").unwrap_or(rank as f64),
        targets: fields.get("targets")?,
    })
}

fn fit(fields: &Fields, has_teacher: bool) -> Option<FitPlan> {
    let steps: usize = fields.get("steps")?;
    let losses = match fields.block("losses") {
        Some(losses) => LossWeights {
            forward_kl: losses.get("forward_kl")?,
            cross_entropy: losses.get("cross_entropy")?,
        },
        None if has_teacher => LossWeights {
            forward_kl: 1.0,
            cross_entropy: 0.0,
        },
        None => LossWeights {
            forward_kl: 0.0,
            cross_entropy: 1.0,
        },
    };
    let betas: Vec<f64> = fields.get("betas")?;
    Some(FitPlan {
        steps,
        tokens_per_step: fields.get("tokens_per_step")?,
        micro_batch: fields.get("micro_batch")?,
        learning_rate: fields.get("learning_rate")?,
        final_learning_rate_frac: fields.get("final_learning_rate_frac")?,
        warmup_steps: fields.get("warmup_steps").unwrap_or((steps / 20).max(1)),
        weight_decay: fields.get("weight_decay")?,
        betas: betas.try_into().ok()?,
        epsilon: fields.get("epsilon")?,
        max_grad_norm: fields.get("max_grad_norm")?,
        temperature: fields.get("temperature")?,
        losses,
        tail: match fields.get::<String>("tail")?.as_str() {
            "renormalize" => TailPlan::Renormalize,
            _ => TailPlan::Bucket,
        },
        adapter: None, // a key of `distill` alone
        save_every: fields.get("save_every")?,
        log_every: fields.get("log_every")?,
    })
}

fn export(fields: &Fields) -> Option<ExportPlan> {
    let formats: Vec<String> = fields.get("formats")?;
    let format = |name: &String| match name.as_str() {
        "huggingface" => ExportFormat::HuggingFace,
        _ => ExportFormat::CompressedTensors,
    };
    Some(ExportPlan {
        formats: formats.iter().map(format).collect(),
        dtype: match fields.get::<String>("dtype")?.as_str() {
            "f32" => ExportDtype::F32,
            _ => ExportDtype::Bf16,
        },
        max_logit_difference: fields.get("max_logit_difference")?,
        max_rounding_kl: fields.get("max_rounding_kl")?,
    })
}

/// The folder that a recipe's relative paths start from.
pub(super) fn folder_of(recipe_path: &Path) -> &Path {
    recipe_path.parent().unwrap_or(Path::new(""))
}
