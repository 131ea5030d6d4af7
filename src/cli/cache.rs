//! The commands of `alambic cache`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::commands::{Output, load_plan, open_model, remember_speeds, shown, with_context};
use super::{CacheCommand, Failure, RecipeArgs, RunArgs, Trust, VerifyArgs};
use crate::cache::{self, Cache, CachePart, Sampling, SupportPlan};
use crate::fetched::Missing;
use crate::hashes::Hashes;
use crate::progress::{Progress, bytes_cell, thousands};
use crate::run::{self, RunError};
use crate::stages::Model;
use crate::teacher::compare;
use crate::{device, inspect as facts};

/// The texts of a recipe: a cache stage holds one cache for each.
const SPLITS: [&str; 2] = ["train", "validation"];

pub(super) fn execute(command: &CacheCommand, output: &mut Output<'_>) -> Result<(), Failure> {
    match command {
        CacheCommand::Build { run, shard } => build(run, *shard, output),
        CacheCommand::Merge { parts, into } => merge(parts, into, output),
        CacheCommand::Bench { recipe, rows } => bench(recipe, *rows, output),
        CacheCommand::Stat { dir } => each_cache(dir, output, |dir| {
            let stat = Cache::open_any(dir)?.stat()?;
            Ok(serde_json::to_value(stat).map_err(std::io::Error::other)?)
        }),
        CacheCommand::Verify(args) => verify(args, output),
    }
}

fn no_teacher() -> Failure {
    Failure::input(
        "cache",
        &"the recipe has no `teacher`: there is nothing to capture",
    )
}

fn build(args: &RunArgs, part: Option<CachePart>, output: &mut Output<'_>) -> Result<(), Failure> {
    let plan = load_plan(&args.recipe, Missing::Fetch)?;
    let built = with_context(&plan, &args.recipe.set, args.trust, |context| {
        run::build_cache(&plan, part, context)
    });
    remember_speeds(&plan);
    let dir = built?.ok_or_else(no_teacher)?;
    output.print(&format!("cache: {}", shown(&dir)), &json!({ "cache": dir }))
}

fn merge(parts: &[PathBuf], into: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    let mut merged = Map::new();
    for (name, parts, into) in splits_of_parts(parts, into) {
        let manifest = cache::merge(&parts, &into)?;
        let found = json!({ "num_rows": manifest.num_rows, "num_shards": manifest.shards.len() });
        merged.insert(name, found);
    }
    let found = json!({ "cache": into, "merged": merged });
    output.print(&facts::text(&found), &found)
}

/// Parts are folders of caches, or hold one for each text.
fn splits_of_parts(parts: &[PathBuf], into: &Path) -> Vec<(String, Vec<PathBuf>, PathBuf)> {
    let holds = |split: &&str| parts.iter().any(|part| part.join(split).exists());
    let splits: Vec<&str> = SPLITS
        .iter()
        .filter(|split| holds(split))
        .copied()
        .collect();
    if splits.is_empty() {
        return vec![("cache".to_owned(), parts.to_vec(), into.to_path_buf())];
    }
    let of_split = |split: &str| {
        let parts = parts.iter().map(|part| part.join(split)).collect();
        (split.to_owned(), parts, into.join(split))
    };
    splits.into_iter().map(of_split).collect()
}

fn bench(args: &RecipeArgs, num_rows: usize, output: &mut Output<'_>) -> Result<(), Failure> {
    let plan = load_plan(args, Missing::Fetch)?;
    let trades = with_context(&plan, &args.set, Trust::default(), |context| {
        run::bench_cache(&plan, num_rows, context)
    })?;
    let trades = trades.ok_or_else(no_teacher)?;
    let mut text = format!(
        "{:<26} {:>10} {:>10} {:>7} {:>10} {:>14} {:>14} {:>12}\n",
        "support",
        "bytes/pos",
        "tables",
        "ids",
        "tail (%)",
        "rounding KL",
        "squared error",
        "decoded/s"
    );
    for trade in &trades {
        let _ = writeln!(
            text,
            "{:<26} {:>10.1} {:>10} {:>7.1} {:>10.2} {:>14.1e} {:>14.1e} {:>12}",
            support_text(trade.support),
            trade.bytes_per_position,
            bytes_cell(trade.tables_bytes),
            trade.mean_num_ids,
            100.0 * trade.mean_tail_mass,
            trade.rounding_kl_nats,
            trade.squared_error,
            thousands(trade.decoded_per_sec),
        );
    }
    text.push_str(
        "tables: once a shard, and larger in a full one; rounding KL in nats; squared error of the target: with samples noise, \
         which averages out, with top_k what is outside, which does not",
    );
    output.print(&text, &json!({ "supports": trades }))
}

fn support_text(support: SupportPlan) -> String {
    match support {
        SupportPlan::TopK(top_k) => format!("top_k: {top_k}"),
        SupportPlan::Samples {
            num_draws,
            sampling,
        } => match sampling {
            Sampling::Systematic => format!("samples: {num_draws}"),
            Sampling::Independent => format!("samples: {num_draws} (independent)"),
        },
    }
}

fn verify(args: &VerifyArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let teacher = match &args.teacher {
        Some(dir) => {
            let device = device::open(&args.device)?;
            let hashes = Hashes::of_this_process(0.0);
            let stored = open_model(dir)?;
            let model = Model::of(stored, &hashes)?;
            Some((model, device))
        }
        None => None,
    };
    each_cache(&args.dir, output, |dir| {
        let cache = Cache::open_any(dir)?;
        let sequence_length = cache.fingerprint().sequence_length as u64;
        let total = cache.row_idxs().len() as u64 * sequence_length;
        let mut progress = Progress::new("cache verify", total);
        let mut rows_before = 0;
        let report = cache::verify(dir, |rows| {
            progress.advance((rows - rows_before) as u64 * sequence_length);
            rows_before = rows;
        })?;
        progress.finish();
        let mut found = json!({ "sound": true, "report": report });
        if let Some((model, device)) = &teacher {
            let captured = &cache.fingerprint().teacher_weights;
            if model.hash() != captured {
                let fact = format!(
                    "the cache in `{}` was captured from the model {}…, this one is {}…",
                    dir.display(),
                    captured.chars().take(12).collect::<String>(),
                    &model.hash()[..12]
                );
                return Err(Failure::input("cache/other-teacher", &fact));
            }
            let total = args.rows.min(cache.row_idxs().len()) as u64 * sequence_length;
            let mut progress = Progress::new("cache verify, teacher", total);
            let vocab_size = cache.fingerprint().vocab_size;
            let precision = cache.fingerprint().precision;
            let decoder = model
                .read(|model| Ok::<_, RunError>(model.teacher(vocab_size, precision, device)?))?;
            let compared = compare(&decoder, &cache, args.rows, |_| {
                progress.advance(sequence_length);
            })?;
            progress.finish();
            if !compared.agrees() {
                let fact = format!(
                    "the teacher predicts something else than the cache in `{}` at {} of {} positions",
                    dir.display(),
                    compared.num_different,
                    compared.num_positions
                );
                let help = "delete the folder: the cache is then captured again".to_owned();
                return Err(Failure::input("cache/differs", &fact).help(Some(help)));
            }
            if let Value::Object(found) = &mut found {
                found.insert("teacher".to_owned(), json!(compared));
            }
        }
        Ok(found)
    })
}

/// A cache stage holds one cache per text; a folder with a manifest is one cache.
fn each_cache(
    dir: &Path,
    output: &mut Output<'_>,
    facts_of: impl Fn(&Path) -> Result<Value, Failure>,
) -> Result<(), Failure> {
    let splits = SPLITS.map(|split| dir.join(split));
    if dir.join("manifest.json").exists() || !splits.iter().any(|split| split.exists()) {
        let found = facts_of(dir)?;
        return output.print(&facts::text(&found), &found);
    }
    let mut found = Map::new();
    for split in splits.iter().filter(|split| split.exists()) {
        let name = split
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        found.insert(name, facts_of(split)?);
    }
    let found = Value::Object(found);
    output.print(&facts::text(&found), &found)
}
