//! Settings of quantisation: where a folder states them, brought under the key that readers look at.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::CheckpointError;
use crate::files::read_json;
use crate::formats::TensorFiles;

/// The section of `config.json` in which transformers describes quantised weights.
const SECTION: &str = "quantization_config";
/// Its name in the first folders of compressed-tensors, which vLLM still reads.
const OLD_SECTION: &str = "compression_config";
/// MLX's own section.
const MLX_SECTION: &str = "quantization";

/// Files that older versions of AutoGPTQ and AutoAWQ wrote instead of a section, and the method that each stands for.
const FILES: [(&str, &str); 2] = [
    ("quantize_config.json", "gptq"),
    ("quant_config.json", "awq"),
];

/// AutoAWQ's names of settings in its own file, and those in `config.json`.
const AWQ_NAMES: [(&str, &str); 2] = [("w_bit", "bits"), ("q_group_size", "group_size")];

/// A parsed `config.json` whose settings of quantisation, if there are any, stand under `quantization_config` (MLX's:
/// `quantization`); and the file that states them, for messages.
///
/// An empty section counts as none. A file beside `config.json` counts only if that has no section, and if the weights
/// are stored as codes: it may have stayed behind when a model was dequantised.
pub(super) fn with_settings(
    dir: &Path,
    mut json: Value,
    files: &TensorFiles,
) -> Result<(Value, PathBuf), CheckpointError> {
    let path = dir.join("config.json");
    let Value::Object(config) = &mut json else {
        return Ok((json, path));
    };
    for key in [SECTION, OLD_SECTION, MLX_SECTION] {
        let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
        if config.get(key).is_some_and(is_empty) {
            config.shift_remove(key);
        }
    }
    let has = |config: &Map<String, Value>, key| config.get(key).is_some_and(|it| !it.is_null());
    if has(config, MLX_SECTION) {
        return Ok((json, path));
    }
    if !has(config, SECTION) && has(config, OLD_SECTION) {
        let old = config.shift_remove(OLD_SECTION).unwrap_or_default();
        config.insert(SECTION.to_owned(), with_method(old, "compressed-tensors"));
    }
    if let Some(section) = config.get_mut(SECTION) {
        unwrap(section);
    }
    let has_codes = || files.names().any(|name| name.ends_with(".qweight"));
    if has(config, SECTION) || !has_codes() {
        return Ok((json, path));
    }
    for (name, method) in FILES {
        let path = dir.join(name);
        if let Some(mut found) = read_json::<Value>(&path)? {
            for (old, new) in AWQ_NAMES {
                rename(&mut found, old, new);
            }
            config.insert(SECTION.to_owned(), with_method(found, method));
            return Ok((json, path));
        }
    }
    Ok((json, path))
}

/// The first writers of compressed-tensors put the settings into a section of their own, beside those of sparsity.
fn unwrap(section: &mut Value) {
    if let Value::Object(outer) = section
        && let Some(Value::Object(inner)) = outer.shift_remove(SECTION)
    {
        for (key, value) in inner {
            outer.insert(key, value);
        }
    }
}

/// Adds the method to settings that do not name theirs.
fn with_method(mut settings: Value, method: &str) -> Value {
    if let Value::Object(settings) = &mut settings
        && settings.get("quant_method").is_none_or(Value::is_null)
    {
        settings.insert("quant_method".to_owned(), method.into());
    }
    settings
}

fn rename(settings: &mut Value, old: &str, new: &str) {
    if let Value::Object(settings) = settings
        && !settings.contains_key(new)
        && let Some(value) = settings.shift_remove(old)
    {
        settings.insert(new.to_owned(), value);
    }
}
