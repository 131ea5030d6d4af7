//! `quantization_config`: the scheme of each module.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Layout;
use crate::formats::WriteError;
use crate::kernels::grid::Levels;
use crate::model::{DecoderConfig, ParameterKind, Scheme, Schemes, TensorSpec, tensor_specs};

/// `quantization_config`, with every key that old readers need and none that they do not know.
///
/// `lm_head` is in `ignore` even if it is tied, as llm-compressor writes it. With a scheme it is named by a group,
/// because engines do not count it as a `Linear`, as they do projections.
pub(in crate::formats::compressed_tensors) fn quantization_config(
    schemes: &Schemes,
    config: &DecoderConfig,
) -> Result<Value, WriteError> {
    let linear = linear_layers(schemes, config);
    let head = linear
        .iter()
        .find(|spec| spec.kind() == ParameterKind::Head);
    let mut ignored = Vec::new();
    if head.is_none() {
        ignored.push("lm_head".to_owned());
    }
    let mut groups: Vec<(Scheme, Vec<&TensorSpec>)> = Vec::new();
    for spec in &linear {
        match schemes.get(&spec.id()) {
            None => ignored.push(spec.module().to_owned()),
            Some(scheme) => match groups.iter_mut().find(|(known, _)| known == scheme) {
                Some((_, members)) => members.push(spec),
                None => groups.push((*scheme, vec![spec])),
            },
        }
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for spec in &linear {
        *counts.entry(spec.module_in_layer()).or_default() += 1;
    }
    let is_mixed = groups.len() > 1;
    let mut formats: Vec<Layout> = Vec::new();
    let mut written = Map::new();
    for (group_idx, (scheme, members)) in groups.iter().enumerate() {
        let first = members.first().map_or("", |spec| spec.module());
        let format = Layout::of(first, *scheme)?;
        let mut group = Map::new();
        if is_mixed {
            group.insert("format".to_owned(), json!(format.name()));
        }
        group.insert("input_activations".to_owned(), inputs(scheme.input));
        group.insert("output_activations".to_owned(), Value::Null);
        let targets = if is_mixed {
            targets(members, &counts)
        } else {
            let head = head.map(|spec| spec.module().to_owned());
            ["Linear".to_owned()].into_iter().chain(head).collect()
        };
        group.insert("targets".to_owned(), json!(targets));
        group.insert("weights".to_owned(), weights(scheme));
        written.insert(format!("group_{group_idx}"), Value::Object(group));
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    let format = match formats.as_slice() {
        [format] => format.name(),
        _ => "mixed-precision",
    };
    Ok(json!({
        "config_groups": written,
        "format": format,
        "global_compression_ratio": null,
        "ignore": ignored,
        "kv_cache_scheme": null,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }))
}

/// Projections, and an output layer that has a scheme.
fn linear_layers(schemes: &Schemes, config: &DecoderConfig) -> Vec<TensorSpec> {
    let mut specs = tensor_specs(config);
    specs.retain(|spec| match spec.kind() {
        ParameterKind::Head => schemes.contains_key(&spec.id()),
        kind => kind == ParameterKind::Linear,
    });
    specs
}

/// Names of modules; one pattern for a module that the group has in all layers.
fn targets(members: &[&TensorSpec], counts: &BTreeMap<&str, usize>) -> Vec<String> {
    let mut targets = Vec::new();
    for spec in members {
        let place = spec.module_in_layer();
        let own = members
            .iter()
            .filter(|other| other.module_in_layer() == place);
        let target = if counts.get(place) == Some(&own.count()) {
            format!("re:.*{}$", place.replace('.', "\\."))
        } else {
            spec.module().to_owned()
        };
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    targets
}

fn weights(scheme: &Scheme) -> Value {
    let grid = scheme.weight;
    let strategy = match grid.group_size {
        Some(_) => "group",
        None => "channel",
    };
    json!({
        "actorder": null,
        "block_structure": null,
        "dynamic": false,
        "group_size": grid.group_size,
        "num_bits": grid.levels.bits(),
        "strategy": strategy,
        "symmetric": !grid.levels.has_zeros(),
        "type": type_name(grid.levels),
    })
}

fn inputs(levels: Option<Levels>) -> Value {
    let Some(levels) = levels else {
        return Value::Null;
    };
    json!({
        "actorder": null,
        "block_structure": null,
        "dynamic": true,
        "group_size": null,
        "num_bits": levels.bits(),
        "strategy": "token",
        "symmetric": true,
        "type": type_name(levels),
    })
}

fn type_name(levels: Levels) -> &'static str {
    match levels {
        Levels::Fp8 => "float",
        _ => "int",
    }
}
