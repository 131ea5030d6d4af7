//! `quantization_config`: the scheme of each weight.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use super::{Layout, StoredScheme};
use crate::formats::read::{expect, unexpected};
use crate::kernels::grid::{Grid, Levels};
use crate::model::{ConfigError, DecoderConfig, ParameterKind, Scheme, tensor_specs, unlike_parts};

/// Meaning of a pattern or a name in the config.
enum Target {
    /// Every linear module.
    Linear,
    /// The module of this name.
    Module(String),
    /// All modules whose name begins with a match of the pattern.
    Pattern(Regex),
}

/// One entry of `config_groups`.
struct Group {
    path: String,
    targets: Vec<Target>,
    stored: StoredScheme,
}

/// Schemes of all quantised weights, by name.
pub(super) fn stored_schemes(
    json: &Value,
    config: &DecoderConfig,
) -> Result<BTreeMap<String, StoredScheme>, ConfigError> {
    // `frozen` is what a model is before its codes are packed; some writers leave it in the file. The tensors decide.
    let status = ["compressed".into(), "frozen".into(), Value::Null];
    expect(json, "/quantization_status", &status)?;
    let empty = || Value::Object(serde_json::Map::new());
    for key in ["/kv_cache_scheme", "/transform_config"] {
        expect(json, key, &[Value::Null, empty()])?;
    }
    // `dense` says that no weight is stored sparse, whatever share of them is 0.
    let sparsity = json.pointer("/sparsity_config/format");
    if sparsity.is_none_or(|format| format != "dense") {
        expect(json, "/sparsity_config", &[Value::Null, empty()])?;
    }
    let groups = json.get("config_groups").and_then(Value::as_object);
    let groups = groups.filter(|groups| !groups.is_empty()).ok_or_else(|| {
        let found = json.get("config_groups");
        unexpected("/config_groups", "at least one group", found)
    })?;
    let names = groups.keys();
    let groups: Vec<Group> = names
        .map(|name| group(json, format!("/config_groups/{name}")))
        .collect::<Result<_, _>>()?;
    let ignore = targets(json, "/ignore")?;
    let (mut schemes, mut inputs) = (BTreeMap::new(), BTreeMap::new());
    for spec in tensor_specs(config) {
        let module = spec.module();
        let is_linear = matches!(spec.kind(), ParameterKind::Linear | ParameterKind::Head);
        if !is_linear || ignore.iter().any(|target| target.means(module)) {
            continue;
        }
        let of_group = |group: &&Group| group.targets.iter().any(|target| target.means(module));
        let mut named = groups.iter().filter(of_group);
        let Some(group) = named.next() else {
            continue;
        };
        if let Some(other) = named.find(|other| other.stored != group.stored) {
            // Readers disagree on which of the two applies.
            let expected = format!(
                "the only group for `{module}`, which `{}` names, too",
                group.path
            );
            let pointer = format!("{}/targets", other.path);
            return Err(unexpected(&pointer, &expected, json.pointer(&pointer)));
        }
        if spec.kind() == ParameterKind::Head && group.stored.scheme.input.is_some() {
            let expected = format!("`null`, since `{module}` is in the group");
            let pointer = format!("{}/input_activations", group.path);
            return Err(unexpected(&pointer, &expected, json.pointer(&pointer)));
        }
        let parts = spec.parts.iter();
        inputs.extend(parts.map(|part| (part.id, group.stored.scheme.input)));
        schemes.insert(spec.name, group.stored);
    }
    match unlike_parts(&inputs, config) {
        None => Ok(schemes),
        Some([one, other]) => {
            let (one, other) = (one.name, other.name);
            let expected = format!("the same for the inputs of `{one}` and `{other}`");
            Err(unexpected("/config_groups", &expected, None))
        }
    }
}

fn group(json: &Value, path: String) -> Result<Group, ConfigError> {
    let at = |key: &str| format!("{path}/{key}");
    expect(json, &at("output_activations"), &[Value::Null])?;
    expect(json, &at("weights/dynamic"), &[false.into(), Value::Null])?;
    let has_order = has_order(json, &at("weights/actorder"))?;
    let levels = levels(json, &at("weights"))?;
    let weight = Grid {
        levels,
        group_size: group_size(json.pointer(&at("weights")), &at("weights"))?,
    };
    let scheme = Scheme {
        weight,
        input: input(json, &at("input_activations"))?,
    };
    let layout = layout(json, &path, levels)?;
    let targets = targets(json, &at("targets"))?;
    if targets.is_empty() {
        return Err(unexpected(&at("targets"), "a list of modules", None));
    }
    Ok(Group {
        targets,
        stored: StoredScheme {
            scheme,
            layout,
            has_order,
        },
        path,
    })
}

/// True if columns are grouped in an order of their own, which a tensor lists for each weight.
///
/// `static`, which older writers call `weight`, is only the order in which GPTQ went through the columns: what is stored
/// is the same as without. `dynamic` is another name of `group`.
fn has_order(json: &Value, pointer: &str) -> Result<bool, ConfigError> {
    const NONE: [&str; 2] = ["static", "weight"];
    const LISTED: [&str; 2] = ["group", "dynamic"];
    let allowed: Vec<Value> = [NONE, LISTED]
        .concat()
        .into_iter()
        .map(Value::from)
        .collect();
    let allowed = [&allowed[..], &[true.into(), false.into(), Value::Null]].concat();
    let found = expect(json, pointer, &allowed)?;
    let is_listed = |found: &Value| *found == true || LISTED.iter().any(|name| found == name);
    Ok(found.is_some_and(is_listed))
}

/// The levels of weights or activations.
fn levels(json: &Value, path: &str) -> Result<Levels, ConfigError> {
    let at = |key: &str| format!("{path}/{key}");
    let number = expect(
        json,
        &at("type"),
        &["int".into(), "float".into(), Value::Null],
    )?;
    let is_symmetric = [true.into(), Value::Null];
    if number == Some(&Value::from("float")) {
        expect(json, &at("num_bits"), &[8.into()])?;
        expect(json, &at("symmetric"), &is_symmetric)?;
        return Ok(Levels::Fp8);
    }
    let widths: Vec<Value> = (2..=8).map(Value::from).collect();
    let bits = expect(json, &at("num_bits"), &widths)?;
    let bits = bits.and_then(Value::as_u64).unwrap_or(8);
    let bits = u32::try_from(bits).unwrap_or(8); // one of the widths
    let symmetric = expect(
        json,
        &at("symmetric"),
        &[true.into(), false.into(), Value::Null],
    )?;
    Ok(if symmetric == Some(&Value::from(false)) {
        Levels::Asymmetric { bits }
    } else {
        Levels::Symmetric { bits }
    })
}

/// Levels of a module's input, rounded position by position; `None` if it is not rounded.
fn input(json: &Value, path: &str) -> Result<Option<Levels>, ConfigError> {
    if json.pointer(path).is_none_or(Value::is_null) {
        return Ok(None);
    }
    let at = |key: &str| format!("{path}/{key}");
    expect(json, &at("dynamic"), &[true.into()])?;
    expect(json, &at("strategy"), &["token".into()])?;
    expect(json, &at("num_bits"), &[8.into()])?;
    expect(json, &at("symmetric"), &[true.into(), Value::Null])?;
    Ok(Some(levels(json, path)?))
}

/// Layout of codes, from the group's `format`, or else from the format of the whole config.
fn layout(json: &Value, path: &str, levels: Levels) -> Result<Layout, ConfigError> {
    let (is_float, has_zeros) = (levels == Levels::Fp8, levels.has_zeros());
    let formats: &[(&str, Layout)] = if is_float {
        &[
            ("float-quantized", Layout::Floats),
            ("naive-quantized", Layout::Floats),
        ]
    } else if has_zeros {
        &[("pack-quantized", Layout::Words)]
    } else {
        &[
            ("pack-quantized", Layout::Words),
            ("int-quantized", Layout::Bytes),
            ("naive-quantized", Layout::Bytes),
        ]
    };
    let own = format!("{path}/format");
    let is_own = json.pointer(&own).is_some_and(|format| !format.is_null());
    let pointer = if is_own { &own } else { "/format" };
    let names: Vec<Value> = formats.iter().map(|(name, _)| (*name).into()).collect();
    let found = expect(json, pointer, &names)?;
    if let Some(format) = found.filter(|_| is_own) {
        let whole = [format.clone(), "mixed-precision".into()];
        expect(json, "/format", &whole)?;
    }
    let known = formats
        .iter()
        .find(|(name, _)| found == Some(&Value::from(*name)));
    known
        .map(|(_, layout)| *layout)
        .ok_or_else(|| unexpected(pointer, "a format", found))
}

/// A list of module names, `Linear` and patterns.
fn targets(json: &Value, pointer: &str) -> Result<Vec<Target>, ConfigError> {
    let found = json.pointer(pointer).filter(|found| !found.is_null());
    let Some(found) = found else {
        return Ok(Vec::new());
    };
    let wrong = || unexpected(pointer, "a list of modules and patterns", Some(found));
    let names = found.as_array().ok_or_else(wrong)?;
    let one = |name: &Value| {
        let name = name.as_str().ok_or_else(wrong)?;
        let Some(pattern) = name.strip_prefix("re:") else {
            return Ok(match name {
                "Linear" => Target::Linear,
                name => Target::Module(name.to_owned()),
            });
        };
        // Same as Python's `re.match`: the beginning is fixed, the end is not.
        let regex = Regex::new(&format!("^(?:{pattern})"));
        regex
            .map(Target::Pattern)
            .map_err(|error| unexpected(pointer, &not_understood(pattern, &error), Some(found)))
    };
    names.iter().map(one).collect()
}

/// What a pattern must be, for one that is not understood.
fn not_understood(pattern: &str, error: &regex::Error) -> String {
    let has_look_around = ["(?=", "(?!", "(?<=", "(?<!"]
        .iter()
        .any(|look| pattern.contains(look));
    if has_look_around {
        return format!(
            "patterns without look-ahead and look-behind, which are not understood (in `{pattern}`): list the modules, \
             or write a pattern for them without `(?`"
        );
    }
    let error = error.to_string();
    let reason = error.lines().last().unwrap_or_default();
    format!(
        "patterns, but `{pattern}` is none ({})",
        reason.trim_start_matches("error: ")
    )
}

impl Target {
    fn means(&self, module: &str) -> bool {
        match self {
            Self::Linear => true,
            Self::Module(name) => name == module,
            Self::Pattern(pattern) => pattern.is_match(module),
        }
    }
}

/// Group size from `strategy` and `group_size`; a missing strategy follows from the size (−1 is a whole row).
fn group_size(weights: Option<&Value>, path: &str) -> Result<Option<usize>, ConfigError> {
    let field = |key| {
        weights
            .and_then(|weights| weights.get(key))
            .filter(|value| !value.is_null())
    };
    let size = field("group_size");
    let group_size = match size.map(Value::as_i64) {
        None | Some(Some(-1)) => None,
        Some(size) => size.and_then(|size| usize::try_from(size).ok()),
    };
    let positive = group_size.filter(|&size| size > 0);
    if positive != group_size || (group_size.is_none() && size.is_some_and(|size| size != -1)) {
        let key = format!("{path}/group_size");
        return Err(unexpected(&key, "a positive number or -1", size));
    }
    match (field("strategy").map(Value::as_str), group_size) {
        (Some(Some("group")) | None, Some(size)) => Ok(Some(size)),
        (Some(Some("channel")), None) => Ok(None),
        (None, None) if size.is_some() => Ok(None),
        _ => {
            let expected = "`group` with a `group_size`, or `channel` without";
            let key = format!("{path}/strategy");
            Err(unexpected(&key, expected, field("strategy")))
        }
    }
}
