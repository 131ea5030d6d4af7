//! Facts about a run, finished or not.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{InspectError, model, read};
use crate::files::with_path;
use crate::opened::{ARTIFACT_FILE, Finished, RunFolder, StoredModel};
use crate::passes::Removed;
use crate::progress::bytes_text;

/// Facts about a run: its stages, what passes removed, its report if it is finished, and the model that it means.
pub(super) fn facts(run: &RunFolder) -> Result<Value, InspectError> {
    let (mut stages, mut all_removed) = (Vec::new(), Vec::new());
    for stage in &run.stages {
        let mut facts = json!(stage);
        if stage.state == Finished::Finished {
            let dir = run.dir.join(&stage.folder);
            facts["result"] = read(&dir.join(ARTIFACT_FILE))?["result"].take();
            match removed(&dir)? {
                Value::Null => {}
                removed => all_removed.push(json!({ "stage": stage.folder, "removed": removed })),
            }
        }
        stages.push(facts);
    }
    let report: Option<Value> = if run.is_finished {
        Some(read(&run.dir.join("report.json"))?)
    } else {
        None
    };
    let mut facts = json!({
        "kind": "run",
        "name": run.name(),
        "finished": run.is_finished,
        "stages": stages,
        "removed": all_removed,
        "facts": report,
    });
    match run.model() {
        Ok(place) => {
            let model = StoredModel::open(&place.path)?;
            facts["model_path"] = json!(place.path.display().to_string());
            facts["model"] = model::facts(&model)?;
        }
        Err(error) => facts["no_model"] = json!(error.to_string()),
    }
    Ok(facts)
}

/// What a pass removed from its student: layers by their places before, and sizes; null for another stage.
pub(super) fn removed(dir: &Path) -> Result<Value, InspectError> {
    let found = Removed::read(dir).map_err(|error| with_path(error, dir))?;
    Ok(match found {
        Some(Removed::Parts(parts)) => {
            let layers = 0..parts.before.num_hidden_layers;
            let gone: Vec<usize> = layers
                .filter(|layer| !parts.kept.layers.contains(layer))
                .collect();
            let mut facts = json!({
                "layers": gone,
                "of_layers": parts.before.num_hidden_layers,
                "parameters_before": parts.before.parameters,
                "parameters_after": parts.after.parameters,
            });
            if let Some(influence) = &parts.influence {
                facts["influence"] = json!(influence);
            }
            facts
        }
        Some(removed @ Removed::Weights(_)) => json!({ "weights": removed.describe() }),
        None => Value::Null,
    })
}

/// The facts that are shown as text: a line for each stage, without the curves of the report.
pub(super) fn shown(facts: &Value) -> Value {
    let mut shown = json!({
        "kind": facts["kind"],
        "name": facts["name"],
        "finished": if facts["finished"] == true { "yes" } else { "no" },
    });
    let stages = facts["stages"].as_array().into_iter().flatten();
    let lines: Map<String, Value> = stages
        .filter_map(|stage| Some((stage["folder"].as_str()?.to_owned(), json!(line(stage)))))
        .collect();
    shown["stages"] = Value::Object(lines);
    let removed = facts["removed"].as_array().into_iter().flatten();
    let removed: Map<String, Value> = removed
        .filter_map(|entry| {
            Some((
                entry["stage"].as_str()?.to_owned(),
                entry["removed"].clone(),
            ))
        })
        .collect();
    if !removed.is_empty() {
        shown["removed"] = Value::Object(removed);
    }
    for key in ["model_path", "no_model", "model"] {
        if !facts[key].is_null() {
            shown[key] = facts[key].clone();
        }
    }
    shown
}

/// A stage in a line: its state, or its figures.
fn line(stage: &Value) -> String {
    let result = &stage["result"];
    if let Some(exports) = result.as_array() {
        let export = |export: &Value| {
            let size = export["size_bytes"].as_u64().unwrap_or_default();
            let format = export["format"].as_str().unwrap_or_default();
            format!("{format} of {}", bytes_text(size))
        };
        return exports.iter().map(export).collect::<Vec<_>>().join(", ");
    }
    let Some(loss) = result["evaluation"]["loss_nats"].as_f64() else {
        return stage["state"].as_str().unwrap_or_default().to_owned();
    };
    let kl = result["evaluation"]["kl_nats"].as_f64();
    let kl = kl.map_or_else(String::new, |kl| format!(", KL {kl:.4} nats"));
    let size = result["size_bytes"].as_u64().unwrap_or_default();
    format!("loss {loss:.4} nats{kl}, {}", bytes_text(size))
}
