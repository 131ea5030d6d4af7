//! The recipe: from YAML text to a checked and completed [`Plan`].
//!
//! `tree` reads YAML with places, `set` replaces values, `file` checks each key against the table in
//! `recipe_keys`, `student_keys`, `pass_keys`, `loss_keys`, `prune_keys` and `quantize_keys`, `check` and the files beside it what keys mean together, and `complete` makes the plan.

#![warn(clippy::indexing_slicing)]

mod calibrated_plan;
mod check;
mod complete;
mod fields;
mod file;
mod keys;
mod loss_check;
mod loss_keys;
mod loss_plan;
mod loss_terms;
mod pass_check;
mod pass_keys;
#[cfg(test)]
mod pass_tests;
mod plan;
mod prune_check;
mod prune_complete;
mod prune_keys;
mod prune_plan;
mod quantize_check;
mod quantize_complete;
mod quantize_keys;
mod quantize_plan;
mod recipe_keys;
mod reference;
mod resolved;
mod schedule_check;
mod schedule_plan;
mod set;
mod student_complete;
mod student_keys;
mod student_plan;
mod tree;
mod values;
mod word;
mod words;

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use calibrated_plan::*;
pub use loss_plan::*;
pub use loss_terms::{Term, Terms};
pub use plan::*;
pub use prune_plan::*;
pub use quantize_plan::*;
pub use reference::{reference_markdown, schema};
pub use resolved::resolved_yaml;
pub use schedule_plan::*;
pub use student_plan::*;
pub use words::{export_plan, words};

use crate::diag::{self, Diagnostic, Sources};
use crate::files;

/// Longest recipe that is read: a wrong path to a model must not fill the memory.
const MAX_RECIPE_BYTES: u64 = 1 << 20;

/// Everything that is wrong with a recipe, in the order of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeFaults {
    /// At least one.
    pub diagnostics: Vec<Diagnostic>,
    /// The texts that the faults point into.
    pub sources: Sources,
}

impl RecipeFaults {
    /// What the user is shown: each fault with its line, then their number.
    pub fn render(&self, color: bool) -> String {
        let num_faults = self.diagnostics.len();
        let plural = if num_faults == 1 { "" } else { "s" };
        format!(
            "{}\n\nerror: {num_faults} fault{plural} in {}; nothing was run",
            diag::render(&self.diagnostics, &self.sources, color),
            self.sources.recipe_name
        )
    }
}

impl RecipeFaults {
    /// These faults and others of the same recipe, in the order of its text.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.diagnostics.extend(others.diagnostics);
        diag::sort(&mut self.diagnostics);
        self.diagnostics.dedup();
        self
    }
}

impl fmt::Display for RecipeFaults {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.render(false))
    }
}

impl std::error::Error for RecipeFaults {}

/// The plan of a recipe file, with `path=value` overrides applied.
///
/// Relative paths, those of overrides included, start at the folder of the recipe.
pub fn load(path: &Path, overrides: &[String]) -> Result<Plan, RecipeFaults> {
    let mut sources = Sources {
        recipe_name: path.display().to_string(),
        recipe: String::new(),
        command_line: set::command_line(overrides),
    };
    let refuse = |mut diagnostics: Vec<Diagnostic>, sources: Sources| {
        diag::sort(&mut diagnostics);
        diagnostics.dedup(); // one override may reach several passes
        RecipeFaults {
            diagnostics,
            sources,
        }
    };
    let absolute = match read(path) {
        Ok((absolute, text)) => {
            sources.recipe = text;
            absolute
        }
        Err(fault) => return Err(refuse(vec![fault], sources)),
    };
    match plan(&sources.recipe, overrides, path, absolute) {
        Ok(plan) => Ok(plan),
        Err(faults) => Err(refuse(faults, sources)),
    }
}

/// A fault that was found later, pointed at a key of the plan's recipe.
///
/// `key` is a path such as `teacher.checkpoint` or `passes.2.quantize.group_size`; `overrides` are those
/// that the plan was loaded with. If the key is not written or the recipe can no longer be read, the fault
/// is told without a line.
pub fn fault_at(
    plan: &Plan,
    overrides: &[String],
    key: &str,
    label: &str,
    fault: Diagnostic,
) -> RecipeFaults {
    let path = &plan.recipe_path;
    let here = std::env::current_dir().unwrap_or_default();
    let shown = path.strip_prefix(here).unwrap_or(path);
    let mut sources = Sources {
        recipe_name: shown.display().to_string(),
        recipe: String::new(),
        command_line: set::command_line(overrides),
    };
    let mut span = None;
    if let Ok((_, text)) = read(path)
        && let Ok(mut root) = tree::parse(&text, diag::Origin::Recipe, 0)
    {
        set::apply(&mut root, overrides);
        span = root.find(key);
        sources.recipe = text;
    }
    RecipeFaults {
        diagnostics: vec![fault.primary(span.as_ref(), label)],
        sources,
    }
}

fn plan(
    text: &str,
    overrides: &[String],
    path: &Path,
    absolute: PathBuf,
) -> Result<Plan, Vec<Diagnostic>> {
    let mut root = tree::parse(text, diag::Origin::Recipe, 0).map_err(|fault| vec![fault])?;
    let mut faults = set::apply(&mut root, overrides);
    let (fields, of_keys) = file::read(&recipe_keys::RECIPE, &root, complete::folder_of(path));
    faults.extend(of_keys);
    let Some(fields) = fields else {
        return Err(faults);
    };
    faults.extend(check::contradictions(&fields));
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(complete::plan(&fields, absolute).expect("a recipe without faults has every value"))
}

fn read(path: &Path) -> Result<(PathBuf, String), Diagnostic> {
    let unreadable = |reason: String| {
        Diagnostic::new("recipe/unreadable", format!("{}: {reason}", path.display()))
    };
    let read = || {
        let mut bytes = Vec::new();
        let file = files::open(path)?;
        file.take(MAX_RECIPE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok((std::path::absolute(path)?, bytes))
    };
    let (absolute, bytes) =
        read().map_err(|error: std::io::Error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > MAX_RECIPE_BYTES {
        return Err(unreadable("longer than 1 MiB; not a recipe".to_owned()));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((absolute, text)),
        Err(error) => Err(unreadable(format!(
            "not UTF-8 from byte {} on",
            error.utf8_error().valid_up_to()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    const TEXTS: [&str; 4] = [
        include_str!("../../tests/bad_recipes/contradictions.yaml"),
        include_str!("../../tests/bad_recipes/values.yaml"),
        include_str!("../../tests/bad_recipes/schedules.yaml"),
        include_str!("../../recipes/quickstart.yaml"),
    ];

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 1000,
            rng_seed: RngSeed::Fixed(17),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn no_text_and_no_override_makes_the_reader_panic(
            text_idx in 0..TEXTS.len(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize, "[-a-z0-9:{}\\[\\],.\n &*é]{0,3}"), 1..6),
            overrides in prop::collection::vec("[a-z.0-9]{0,12}=?[-a-z0-9:{}\\[\\],. é]{0,6}", 0..3),
        ) {
            let mut text: Vec<char> = TEXTS.get(text_idx).unwrap().chars().collect();
            for (place, num_removed, inserted) in edits {
                let start = place.index(text.len());
                let end = (start + num_removed).min(text.len());
                text.splice(start..end, inserted.chars());
            }
            let recipe: String = text.into_iter().collect();
            let path = Path::new("tests/bad_recipes/edited.yaml");
            if let Err(diagnostics) = plan(&recipe, &overrides, path, path.to_path_buf()) {
                let command_line = set::command_line(&overrides);
                let sources = Sources { recipe_name: "edited.yaml".into(), recipe, command_line };
                let faults = RecipeFaults { diagnostics, sources };
                prop_assert!(!faults.to_string().is_empty());
            }
        }
    }

    #[test]
    fn every_default_of_the_table_is_a_value_of_its_kind() {
        let text = "name: a\ndata: {train: [.], validation: [.]}\nteacher: {checkpoint: .}\n\
                    student: {architecture: {num_hidden_layers: 1, hidden_size: 32, num_attention_heads: 2, intermediate_size: 32}}\n\
                    passes: [distill: {steps: 1}, prune: {sparsity: 0}, quantize: {method: qat, steps: 1}]\n";
        let path = Path::new("recipe.yaml");
        let plan = plan(text, &[], path, path.to_path_buf());
        assert_eq!(plan.map(|plan| plan.passes.len()), Ok(3));
    }
}
