//! `alambic clean` and `alambic compare`: what runs have left behind, and runs side by side.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::commands::{Output, shown};
use super::{Failure, RecipeArgs};
use crate::clean;
use crate::compare::{self, CompareError, SideBySide};
use crate::fetched::Missing;
use crate::hashes::Hashes;
use crate::opened::Opened;
use crate::preflight;
use crate::progress::{bytes_text, duration_text};
use crate::stages::Stages;

pub(super) const CLEAN_EXAMPLES: &str = "\
Examples:
  alambic clean recipes/quickstart.yaml
  alambic clean recipes/quickstart.yaml recipes/austen-teacher.yaml --yes";

pub(super) const COMPARE_EXAMPLES: &str = "\
Examples:
  alambic compare checkpoints/quickstart checkpoints/quickstart-longer
  alambic compare checkpoints/* --json";

#[derive(Debug, Args)]
pub(super) struct CleanArgs {
    /// Recipes whose results are kept; name all that share an output folder
    #[arg(required = true, value_name = "RECIPE")]
    recipes: Vec<PathBuf>,
    /// Override a value in every recipe, as for `run`
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Remove what is listed
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// Folders of finished runs, `<output>/<name>`
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
}

pub(super) fn clean(args: &CleanArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let mut recipes = Vec::new();
    for recipe in &args.recipes {
        let args = RecipeArgs {
            recipe: recipe.clone(),
            set: args.set.clone(),
            device: None,
            precision: None,
        };
        let plan = super::commands::load_plan(&args, Missing::Tell)?;
        let opened = Opened::open(&plan);
        preflight::check(&plan, &opened, &args.set)?;
        let hashes = Hashes::open(&plan.output, 0.0, false);
        let stages = Stages::of(&plan, opened, &hashes)?;
        recipes.push((plan, stages));
    }
    let found = clean::find(&recipes)?;
    let mut lines = vec![["size", "what", "path"].map(str::to_owned).to_vec()];
    lines.extend(found.found.iter().map(|leftover| {
        vec![
            bytes_text(leftover.bytes),
            leftover.what.to_owned(),
            shown(&leftover.path),
        ]
    }));
    let mut text = if found.found.is_empty() {
        "nothing to remove".to_owned()
    } else {
        table(&lines)
    };
    let total = bytes_text(found.num_bytes());
    match (found.found.is_empty(), args.yes) {
        (true, _) => {}
        (false, true) => {
            found.remove()?;
            let _ = write!(text, "removed: {total}");
        }
        (false, false) => {
            let _ = write!(text, "in all {total}; `--yes` removes it");
        }
    }
    for note in &found.notes {
        let _ = write!(text, "\nnote: {note}");
    }
    let json = json!({
        "found": found.found,
        "bytes": found.num_bytes(),
        "removed": args.yes,
        "notes": found.notes,
    });
    output.print(&text, &json)
}

pub(super) fn compare(args: &CompareArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let found = compare::compare(&args.runs).map_err(|error| {
        let help = match error {
            CompareError::NotARun { .. } => {
                "name the folder of a recipe in its `output`; a run writes its report when it ends"
            }
            CompareError::Unreadable { .. } => {
                "run the recipe again: a run whose stages are done takes seconds, and writes its report anew"
            }
        };
        Failure::input("compare", &error).help(Some(help.to_owned()))
    })?;
    output.print(&comparison_text(&found), &found)
}

fn comparison_text(found: &SideBySide) -> String {
    let heads = [
        "run",
        "loss (nats)",
        "perplexity",
        "bits/byte",
        "KL (nats)",
        "top-1 (%)",
        "size",
        "sparsity (%)",
        "time",
    ];
    let mut lines = vec![heads.map(str::to_owned).to_vec()];
    let or_absent = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    lines.extend(found.variants.iter().map(|variant| {
        let last = &variant.last;
        vec![
            variant.run.clone(),
            format!("{:.4}", last.loss_nats),
            or_absent(last.perplexity.map(|perplexity| format!("{perplexity:.2}"))),
            format!("{:.4}", last.bits_per_byte),
            or_absent(last.kl_nats.map(|kl| format!("{kl:.4}"))),
            or_absent(
                last.top1_agreement
                    .map(|share| format!("{:.1}", 100.0 * share)),
            ),
            bytes_text(last.size_bytes),
            format!("{:.1}", 100.0 * last.sparsity),
            duration_text(last.secs),
        ]
    }));
    let mut text = table(&lines);
    if !found.differences.is_empty() {
        let mut lines = vec![vec!["key".to_owned()]];
        lines[0].extend(found.variants.iter().map(|variant| variant.run.clone()));
        lines.extend(found.differences.iter().map(|(key, values)| {
            let values = values.as_array().into_iter().flatten().map(value_text);
            [key.clone()].into_iter().chain(values).collect()
        }));
        text.push('\n');
        text.push_str(&table(&lines));
    } else if found.without_recipe.is_empty() && found.variants.len() > 1 {
        text.push_str("\nthe recipes have the same keys\n");
    }
    for run in &found.without_recipe {
        let _ = writeln!(
            text,
            "note: `{run}` has no `recipe.yaml`, so keys are not compared: run its recipe again, which takes seconds"
        );
    }
    text
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// Lines of cells in columns; the first column is aligned to the left, numbers to the right.
fn table(lines: &[Vec<String>]) -> String {
    let num_columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..num_columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(idx, (cell, width))| {
                if idx == 0 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
