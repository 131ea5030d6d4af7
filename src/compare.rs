//! Finished runs side by side: what came out of them, and the keys in which their recipes differ.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::files;
use crate::report::{PassRow, RunReport};
use crate::run::RECIPE_FILE;

/// Reasons why runs cannot be compared.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CompareError {
    #[error("`{}` is no folder of a run: it has no `report.json`", dir.display())]
    NotARun { dir: PathBuf },
    #[error("`{}`: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
}

/// A run and its last student.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Variant {
    /// Folder of the run, as given.
    pub run: String,
    /// Name of the recipe.
    pub recipe: String,
    /// Figures after the last pass; `secs` are those of all passes together.
    #[serde(flatten)]
    pub last: PassRow,
    /// Bytes of each exported folder, by its format.
    pub exports: BTreeMap<String, u64>,
}

/// Runs side by side.
#[derive(Debug, Serialize)]
pub struct SideBySide {
    /// Each run, in the order given.
    pub variants: Vec<Variant>,
    /// Keys in which the recipes differ, each with the value of each run; `null` where a recipe does not have the key.
    pub differences: Map<String, Value>,
    /// Runs whose recipe is not known, because an older version made them.
    pub without_recipe: Vec<String>,
}

/// Compares runs by the reports in their folders.
pub fn compare(runs: &[PathBuf]) -> Result<SideBySide, CompareError> {
    let mut variants = Vec::new();
    let mut recipes = Vec::new();
    let mut without_recipe = Vec::new();
    for dir in runs {
        let run = dir.display().to_string();
        variants.push(variant(dir, &run)?);
        let recipe = recipe(dir)?;
        if recipe.is_none() {
            without_recipe.push(run);
        }
        recipes.push(recipe);
    }
    let differences = match without_recipe.as_slice() {
        [] => differences(&recipes.into_iter().flatten().collect::<Vec<_>>()),
        _ => Map::new(),
    };
    Ok(SideBySide {
        variants,
        differences,
        without_recipe,
    })
}

fn variant(dir: &Path, run: &str) -> Result<Variant, CompareError> {
    let path = dir.join("report.json");
    if !path.exists() {
        let dir = dir.to_path_buf();
        return Err(CompareError::NotARun { dir });
    }
    let unreadable = |reason: String| CompareError::Unreadable {
        path: path.clone(),
        reason,
    };
    let text = files::read(&path).map_err(|error| unreadable(error.to_string()))?;
    let report: RunReport =
        serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    let mut passes = report.passes.iter().filter(|row| row.pass != "teacher");
    let secs = passes.clone().map(|row| row.secs).sum();
    let last = passes.next_back();
    let last = last.ok_or_else(|| unreadable("it has no pass".to_owned()))?;
    let exports = report.exports.iter();
    Ok(Variant {
        run: run.to_owned(),
        recipe: report.recipe.clone(),
        last: PassRow {
            secs,
            ..last.clone()
        },
        exports: exports
            .map(|export| (export.format.clone(), export.size_bytes))
            .collect(),
    })
}

/// Keys of a run's recipe with their values, those of blocks by their paths.
fn recipe(dir: &Path) -> Result<Option<BTreeMap<String, Value>>, CompareError> {
    let path = dir.join(RECIPE_FILE);
    if fs::symlink_metadata(&path).is_err() {
        return Ok(None);
    }
    let unreadable = |reason: String| CompareError::Unreadable {
        path: path.clone(),
        reason,
    };
    let text = files::read_to_string(&path).map_err(|error| unreadable(error.to_string()))?;
    let recipe: Value =
        serde_saphyr::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
    let mut keys = BTreeMap::new();
    flatten(&recipe, "", &mut keys);
    keys.remove("name"); // each run has its own
    Ok(Some(keys))
}

fn flatten(value: &Value, path: &str, keys: &mut BTreeMap<String, Value>) {
    let inside = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                flatten(value, &inside(name), keys);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (idx, value) in items.iter().enumerate() {
                flatten(value, &inside(&idx.to_string()), keys);
            }
        }
        value => {
            keys.insert(path.to_owned(), value.clone());
        }
    }
}

fn differences(recipes: &[BTreeMap<String, Value>]) -> Map<String, Value> {
    let mut names: Vec<&String> = recipes.iter().flat_map(BTreeMap::keys).collect();
    names.sort();
    names.dedup();
    let values = |name: &String| -> Vec<Value> {
        let values = recipes.iter().map(|keys| keys.get(name).cloned());
        values.map(|value| value.unwrap_or(Value::Null)).collect()
    };
    let differing = names.into_iter().filter_map(|name| {
        let values = values(name);
        let is_same = values.windows(2).all(|pair| pair[0] == pair[1]);
        (!is_same).then(|| (name.clone(), Value::Array(values)))
    });
    differing.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_that_differ_are_named_by_their_paths() {
        let keys = |recipe: Value| {
            let mut keys = BTreeMap::new();
            flatten(&recipe, "", &mut keys);
            keys
        };
        let one = keys(
            json!({ "seed": 1, "passes": [{ "distill": { "steps": 5 } }], "data": { "train": ["a"] } }),
        );
        let other = keys(
            json!({ "seed": 1, "passes": [{ "distill": { "steps": 6 } }, { "prune": { "sparsity": 0.5 } }], "data": { "train": ["a"] } }),
        );
        let want =
            json!({ "passes.0.distill.steps": [5, 6], "passes.1.prune.sparsity": [null, 0.5] });
        assert_eq!(Value::Object(differences(&[one.clone(), other])), want);
        assert_eq!(differences(&[one.clone(), one]), Map::new());
    }
}
