//! A plan written back as a recipe: what ran, with nothing left to a default.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::calibrated_plan::CalibratedPlan;
use super::loss_plan::TailPlan;
use super::plan::{FitPlan, PassPlan, Plan, SupportPlan, TokenizerPlan};
use super::prune_plan::{PruneMethod, Zeros};
use super::quantize_plan::{NumberType, OverridePlan, QuantizeMethod, SchemePlan};
use super::schedule_plan::RateSchedule;
use super::student_plan::StudentPlan;

/// The plan as a recipe that [`super::load`] turns into the same plan if it is read from `folder`, which all paths
/// start at: a published export does not tell where its maker keeps their files.
pub fn resolved_yaml(plan: &Plan, folder: &Path) -> String {
    let mut out = String::new();
    write_yaml(&recipe(plan, folder), 0, &mut out);
    out
}

/// The way from one absolute folder to a path.
fn relative(path: &Path, folder: &Path) -> PathBuf {
    let shared = path
        .components()
        .zip(folder.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = folder
        .components()
        .skip(shared)
        .map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(path.components().skip(shared)).collect();
    if way.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        way
    }
}

fn recipe(plan: &Plan, folder: &Path) -> Value {
    let data = &plan.data;
    let at = |path: &PathBuf| relative(path, folder);
    let all = |paths: &[PathBuf]| paths.iter().map(at).collect::<Vec<_>>();
    let mut recipe = json!({
        "name": plan.name,
        "seed": plan.seed,
        "output": at(&plan.output),
        "device": plan.device,
        "data": {
            "train": all(&data.train),
            "validation": all(&data.validation),
            "sequence_length": data.sequence_length,
            "validation_tokens": data.validation_tokens,
            "tokenizer": match &data.tokenizer {
                TokenizerPlan::Teacher => json!("teacher"),
                TokenizerPlan::File(path) => json!({"file": at(path)}),
                TokenizerPlan::Train { vocab_size } => json!({"train": {"vocab_size": vocab_size}}),
            },
        },
        "teacher": plan.teacher.as_ref().map(|teacher| json!({
            "checkpoint": at(&teacher.checkpoint),
            "batch_size": teacher.batch_size,
        })),
        "cache": plan.cache.as_ref().map(|cache| json!({
            "tokens": data.train_tokens,
            "support": match cache.support {
                SupportPlan::TopK(top_k) => json!({"top_k": top_k}),
                SupportPlan::Samples { num_draws, .. } => json!({"samples": num_draws}),
            },
            "sampling": match cache.support {
                SupportPlan::TopK(_) => Value::Null,
                SupportPlan::Samples { sampling, .. } => json!(sampling),
            },
            "temperatures": cache.temperatures,
            "rows_per_shard": cache.rows_per_shard,
        })),
        "student": match &plan.student {
            StudentPlan::Architecture(sizes) => json!({"architecture": sizes}),
            StudentPlan::FromTeacher(parts) => json!({"from_teacher": parts}),
            StudentPlan::Checkpoint(path) => json!({"checkpoint": at(path)}),
        },
        "passes": plan.passes.iter().map(pass).collect::<Vec<_>>(),
        "export": plan.export,
    });
    drop_absent(&mut recipe);
    recipe
}

fn pass(pass: &PassPlan) -> Value {
    match pass {
        PassPlan::Distill(plan) => json!({"distill": fit(plan)}),
        PassPlan::Prune(plan) => {
            let mut keys = json!(plan);
            if plan.method == PruneMethod::Magnitude {
                drop_key(&mut keys, "calibration_tokens"); // it has no effect and is refused
            }
            if let Zeros::Share { within, .. } = plan.zeros {
                put(&mut keys, "within", json!(within));
            }
            json!({"prune": keys})
        }
        PassPlan::Shrink(plan) => {
            let mut keys = json!(plan);
            if plan.target.takes_layers() {
                put(&mut keys, "layers_by", json!(plan.layers_by));
                put(&mut keys, "contiguous", json!(plan.contiguous));
            }
            json!({"shrink": keys})
        }
        PassPlan::Quantize(plan) => {
            let (method, mut keys) = match &plan.method {
                QuantizeMethod::RoundToNearest => ("round-to-nearest", json!({})),
                QuantizeMethod::Calibrated(plan) => (plan.method(), calibrated(plan)),
                QuantizeMethod::Qat(plan) => ("qat", fit(plan)),
            };
            put(&mut keys, "method", json!(method));
            put_scheme(&mut keys, &plan.scheme);
            if !plan.overrides.is_empty() {
                let overrides: Vec<Value> = plan.overrides.iter().map(one_override).collect();
                put(&mut keys, "overrides", json!(overrides));
            }
            for (name, matrix) in [("embedding", &plan.embedding), ("output", &plan.output)] {
                if let Some(scheme) = matrix {
                    let mut written = json!({});
                    put_scheme(&mut written, scheme);
                    put(&mut keys, name, written);
                }
            }
            if let Some(sensitivity) = &plan.sensitivity {
                put(
                    &mut keys,
                    "sensitivity",
                    json!({"tokens": sensitivity.tokens}),
                );
                if let Some(budget) = &sensitivity.budget {
                    put(&mut keys, "bits", json!(budget));
                }
            }
            if plan.learn_scales {
                put(&mut keys, "learn_scales", json!(true));
            }
            json!({"quantize": keys})
        }
    }
}

fn calibrated(plan: &CalibratedPlan) -> Value {
    let mut keys = plan.gptq.map_or_else(|| json!({}), |gptq| json!(gptq));
    if plan.clip {
        put(&mut keys, "clip", json!(true));
    }
    put(
        &mut keys,
        "calibration_tokens",
        json!(plan.calibration_tokens),
    );
    keys
}

fn put_scheme(keys: &mut Value, plan: &SchemePlan) {
    if let Value::Object(written) = json!(plan) {
        for (key, value) in written {
            put(keys, &key, value);
        }
    }
    if plan.group_size.is_none() {
        put(keys, "group_size", json!("channel"));
    }
    if plan.number != NumberType::Int {
        drop_key(keys, "bits"); // it has no effect and is refused
    }
}

fn one_override(plan: &OverridePlan) -> Value {
    let mut keys = json!({"modules": plan.modules});
    if let Some(layers) = &plan.layers {
        put(&mut keys, "layers", json!(layers));
    }
    match &plan.scheme {
        Some(scheme) => put_scheme(&mut keys, scheme),
        None => put(&mut keys, "keep", json!(true)),
    }
    keys
}

fn fit(plan: &FitPlan) -> Value {
    let mut keys = json!(plan);
    if plan.tail == TailPlan::Bucket {
        drop_key(&mut keys, "tail"); // samples have none and refuse the key
    }
    if let Some(prune) = &plan.prune
        && prune.method == PruneMethod::Magnitude
        && let Some(written) = keys.get_mut("prune")
    {
        drop_key(written, "calibration_tokens"); // it has no effect and is refused
    }
    let word = match plan.schedule {
        RateSchedule::WarmupStableDecay {
            decay_steps,
            decay_shape,
        } => {
            put(&mut keys, "decay_steps", json!(decay_steps));
            put(&mut keys, "decay_shape", json!(decay_shape));
            json!("warmup_stable_decay")
        }
        RateSchedule::Constant => {
            drop_key(&mut keys, "final_learning_rate_frac"); // it has no effect and is refused
            json!("constant")
        }
        schedule => json!(schedule),
    };
    put(&mut keys, "schedule", word);
    put(&mut keys, "hand_on", json!(plan.hand_on));
    if plan.gradient_checkpointing {
        put(&mut keys, "gradient_checkpointing", json!(true));
    }
    put(&mut keys, "save_every", json!(plan.save_every));
    put(&mut keys, "keep_states", json!(plan.keep_states));
    put(&mut keys, "log_every", json!(plan.log_every));
    keys
}

fn put(keys: &mut Value, key: &str, value: Value) {
    if let Value::Object(object) = keys {
        object.insert(key.to_owned(), value);
    }
}

fn drop_key(value: &mut Value, key: &str) {
    if let Value::Object(object) = value {
        object.shift_remove(key);
    }
}

/// A key that is absent from a plan is absent from its recipe.
fn drop_absent(value: &mut Value) {
    if let Value::Object(object) = value {
        object.retain(|_, value| !value.is_null());
        object.values_mut().for_each(drop_absent);
    }
}

/// Block style for maps and for lists of maps, JSON (which is YAML) for all else.
fn write_yaml(value: &Value, depth: usize, out: &mut String) {
    let Value::Object(object) = value else {
        return;
    };
    let indent = "  ".repeat(depth);
    for (key, value) in object {
        let _ = write!(out, "{indent}{key}:"); // a `String` takes everything
        match value {
            Value::Object(_) => {
                out.push('\n');
                write_yaml(value, depth + 1, out);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                out.push('\n');
                for item in items {
                    let mut text = String::new();
                    write_yaml(item, depth + 2, &mut text);
                    let _ = write!(out, "{indent}  - {}", text.trim_start());
                }
            }
            _ => {
                let _ = writeln!(out, " {value}");
            }
        }
    }
}
