//! Reasons why a tensor that the model must have is not there, or is of another kind: told by what the files have instead.

use std::path::Path;

use serde_json::Value;

use super::{CheckpointError, HEAD};
use crate::files::read_json;
use crate::formats::TensorFiles;
use crate::model::TensorSpec;

/// Prefixes that wrappers leave before every name, and the way to names without them.
const WRAPPERS: [(&str, &str); 4] = [
    (
        "base_model.model.",
        "peft's wrapper was saved with the model: merge the adapter with `merge_and_unload()`, and save the result",
    ),
    (
        "module.",
        "a wrapper for training on several devices was saved with the model: save the model inside it (`.module`)",
    ),
    (
        "_orig_mod.",
        "a compiled model was saved: save the model that was compiled (`._orig_mod`)",
    ),
    (
        "_fsdp_wrapped_module.",
        "a wrapper for training on several devices was saved with the model: save a full state dict",
    ),
];

/// Endings of the tensors that stand beside codes or hold them, after the name of a module.
const CODES: [&str; 4] = [".weight_packed", ".weight_scale", ".qweight", ".scales"];

/// How the config of a folder says that a weight is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// Plain, in a folder without quantised weights.
    Plain,
    /// Plain, in a folder that has quantised weights as well.
    PlainAmongCodes,
    /// As codes.
    Codes,
}

/// An error that says more than `error` if the files tell why a weight is not there as the config says.
pub(super) fn explain(
    error: CheckpointError,
    spec: &TensorSpec,
    files: &TensorFiles,
    said: Said,
) -> CheckpointError {
    let (dir, tensor) = match &error {
        CheckpointError::MissingTensor { dir, tensor } => (Some(dir.clone()), tensor.clone()),
        CheckpointError::WrongDtype { tensor, .. } if *tensor == spec.name => {
            (None, tensor.clone())
        }
        _ => return error,
    };
    let unlike = match said {
        Said::Codes => plain_instead(spec, files),
        Said::Plain | Said::PlainAmongCodes => codes_instead(spec, files, said),
    };
    if let Some(unlike) = unlike {
        return unlike;
    }
    let Some(dir) = dir else {
        return error;
    };
    let misnamed = |found: String, why: String| CheckpointError::Misnamed {
        dir: dir.clone(),
        tensor: tensor.clone(),
        found,
        why,
    };
    if let Some((found, prefix)) = prefixed(&tensor, files) {
        let known = WRAPPERS.iter().find(|(wrapper, _)| prefix == *wrapper);
        let why = match known {
            Some((_, why)) => (*why).to_owned(),
            None => format!("take `{prefix}` from its names"),
        };
        return misnamed(found.to_owned(), why);
    }
    let inside = format!("{}.base_layer.weight", spec.module());
    if files.info(&inside).is_some() {
        let why = "adapters are still beside the weights: merge them with `merge_and_unload()`, and save the result";
        return misnamed(inside, why.to_owned());
    }
    let bare = tensor.strip_prefix("model.").unwrap_or(&tensor);
    if bare != tensor && files.info(bare).is_some() {
        let why = "the model was saved without its output layer (as `LlamaModel`, not `LlamaForCausalLM`): save it whole";
        return misnamed(bare.to_owned(), why.to_owned());
    }
    if tensor == HEAD {
        return CheckpointError::NoHead { dir };
    }
    error
}

/// Error for a weight that is stored as codes although the config says that it is plain.
fn codes_instead(spec: &TensorSpec, files: &TensorFiles, said: Said) -> Option<CheckpointError> {
    let module = spec.module();
    let mut names = CODES.iter().map(|ending| format!("{module}{ending}"));
    let found = names.find(|name| files.info(name).is_some())?;
    let (tensor, module) = (spec.name.clone(), module.to_owned());
    Some(match said {
        Said::PlainAmongCodes => CheckpointError::CodesOfAPlainWeight {
            tensor,
            found,
            module,
        },
        _ => CheckpointError::CodesWithoutSettings { tensor, found },
    })
}

/// Error for a weight that is stored plain although the config says that it is on a grid.
fn plain_instead(spec: &TensorSpec, files: &TensorFiles) -> Option<CheckpointError> {
    files.check_floats(&spec.name, &spec.stored_shape()).ok()?;
    let tensor = spec.name.clone();
    let is_of_codes = |name: &str| CODES.iter().any(|ending| name.ends_with(ending));
    Some(if files.names().any(is_of_codes) {
        let module = spec.module().to_owned();
        CheckpointError::PlainWeightOnAGrid { tensor, module }
    } else {
        CheckpointError::NoCodes { tensor }
    })
}

/// A stored name that is this one after a prefix, and the prefix.
fn prefixed<'a>(tensor: &str, files: &'a TensorFiles) -> Option<(&'a str, &'a str)> {
    let of_name = |name: &'a str| {
        let prefix = name.strip_suffix(tensor)?;
        prefix.ends_with('.').then_some((name, prefix))
    };
    files.names().find_map(of_name)
}

/// Error for a folder with an adapter and no model.
pub(super) fn adapter(dir: &Path) -> Option<CheckpointError> {
    let path = dir.join("adapter_config.json");
    if !path.exists() {
        return None;
    }
    let json: Option<Value> = read_json(&path).ok().flatten();
    let base = json
        .as_ref()
        .and_then(|json| json.get("base_model_name_or_path")?.as_str());
    Some(CheckpointError::IsAnAdapter {
        dir: dir.to_path_buf(),
        base: base.filter(|base| !base.is_empty()).map(str::to_owned),
    })
}
