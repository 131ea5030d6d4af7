//! `quantization_config`: which module has which scheme.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{ExportError, Format};
use crate::model::{
    DecoderConfig, ParameterKind, ParameterSpec, Scheme, Schemes, grid::Levels, parameter_specs,
};

/// `quantization_config`, with every key that old readers need and none that they do not know.
///
/// `lm_head` stands in `ignore` even if it is tied, as llm-compressor writes it; with a scheme it is named by a group, since
/// engines do not take it for a `Linear` as they do projections.
pub(super) fn quantization_config(
    schemes: &Schemes,
    config: &DecoderConfig,
) -> Result<Value, ExportError> {
    let linear = linear_layers(schemes, config);
    let head = linear.iter().find(|spec| spec.kind == ParameterKind::Head);
    let mut ignored = Vec::new();
    if head.is_none() {
        ignored.push("lm_head".to_owned());
    }
    let mut groups: Vec<(Scheme, Vec<&str>)> = Vec::new();
    for spec in &linear {
        match schemes.get(&spec.name) {
            None => ignored.push(spec.module().to_owned()),
            Some(scheme) => match groups.iter_mut().find(|(known, _)| known == scheme) {
                Some((_, modules)) => modules.push(spec.module()),
                None => groups.push((*scheme, vec![spec.module()])),
            },
        }
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for spec in &linear {
        *counts.entry(place(spec.module())).or_default() += 1;
    }
    let is_mixed = groups.len() > 1;
    let mut formats: Vec<Format> = Vec::new();
    let mut written = Map::new();
    for (group_idx, (scheme, modules)) in groups.iter().enumerate() {
        let format = Format::of(modules.first().copied().unwrap_or_default(), *scheme)?;
        let mut group = Map::new();
        if is_mixed {
            group.insert("format".to_owned(), json!(format.name()));
        }
        group.insert("input_activations".to_owned(), inputs(scheme.input));
        group.insert("output_activations".to_owned(), Value::Null);
        let targets = if is_mixed {
            targets(modules, &counts)
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
fn linear_layers(schemes: &Schemes, config: &DecoderConfig) -> Vec<ParameterSpec> {
    let mut specs = parameter_specs(config);
    specs.retain(|spec| match spec.kind {
        ParameterKind::Head => schemes.contains_key(&spec.name),
        kind => kind == ParameterKind::Linear,
    });
    specs
}

/// What a module is inside its layer, such as `self_attn.q_proj`.
fn place(module: &str) -> &str {
    let of_layer = module.strip_prefix("model.layers.");
    let place = of_layer.and_then(|rest| rest.split_once('.'));
    place.map_or(module, |(_, place)| place)
}

/// Names of modules; where a group has those of all layers, a pattern for them.
fn targets(modules: &[&str], counts: &BTreeMap<&str, usize>) -> Vec<String> {
    let mut targets = Vec::new();
    for module in modules {
        let place = place(module);
        let own = modules.iter().filter(|other| self::place(other) == place);
        let target = if counts.get(place) == Some(&own.count()) {
            format!("re:.*{}$", place.replace('.', "\\."))
        } else {
            (*module).to_owned()
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
