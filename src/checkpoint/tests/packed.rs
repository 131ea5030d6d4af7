//! compressed-tensors checkpoints.

use sha2::{Digest, Sha256};

use super::*;
use crate::kernels::grid::{Grid, Levels};
use crate::model::{ConfigError, parameter_specs};

#[test]
fn quantised_weights_decode_to_what_the_reference_decodes() {
    let mut num_weights = 0;
    for name in PACKED.into_iter().chain(["ct-fp8-w8a16-channel"]) {
        // Two folders of the reference have the same tensors, and one of them is here.
        let dir = copy(&name.replace("fp8-w8a16-channel", "fp8-dynamic"));
        fs::copy(
            golden(name).join("config.json"),
            dir.path().join("config.json"),
        )
        .unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let expected = read_json(&golden(name).join("expected/expected.json")).unwrap();
        for spec in parameter_specs(checkpoint.config()) {
            let got = checkpoint.values(&spec).unwrap();
            let bytes: Vec<u8> = got.iter().flat_map(|value| value.to_le_bytes()).collect();
            let digest = format!("{:x}", Sha256::digest(bytes));
            let want = &expected["sha256_dequant_f32"][&spec.name];
            assert_eq!(want, digest.as_str(), "{name}: {}", spec.name);
            num_weights += 1;
        }
    }
    assert_eq!(num_weights, 13 * 21 + 20); // one is tied
}

/// Message for a folder whose `quantization_config` has another value at one place.
fn scheme_refusal(pointer: &str, value: Value) -> String {
    let dir = copy("ct-w4a16-g32-sym");
    edit_json(&dir.path().join("config.json"), |config| {
        let place = config["quantization_config"].pointer_mut(pointer);
        *place.unwrap() = value;
    });
    refusal(dir.path())
}

#[test]
fn quantisation_that_is_not_implemented_is_refused_by_its_key() {
    for (key, value, want) in [
        (
            "quant_method",
            json!("bitsandbytes"),
            r#""compressed-tensors"` or `"gptq"` or `"awq"`, but is `"bitsandbytes"`"#,
        ),
        ("format", json!("marlin-24"), r#""pack-quantized"`"#),
        ("format", json!("int-quantized"), r#""pack-quantized"`"#),
        (
            "quantization_status",
            json!("calibration"),
            r#""compressed"` or `"frozen"` or `null`"#,
        ),
        ("kv_cache_scheme", json!({ "num_bits": 8 }), "null` or `{}`"),
        (
            "sparsity_config",
            json!({ "format": "sparse-24-bitmask" }),
            "null` or `{}`",
        ),
        ("transform_config", json!({ "r1": 1 }), "null` or `{}`"),
    ] {
        let message = scheme_refusal(&format!("/{key}"), value);
        let want = format!("`quantization_config.{key}` must be `{want}");
        assert!(message.contains(&want), "got:  {message}\nwant: {want}");
    }
    for wrong in [json!([7]), json!("lm_head")] {
        let message = scheme_refusal("/ignore", wrong);
        let want = "ignore` must be a list of modules and patterns";
        assert!(message.contains(want), "{message}");
    }
    let message = scheme_refusal("/config_groups", json!({}));
    assert!(
        message.contains("config_groups` must be at least one group, but is `{}`"),
        "{message}"
    );
}

/// Message for a folder whose one group has another value at one place.
fn group_refusal(key: &str, value: Value) -> String {
    let message = scheme_refusal(&format!("/config_groups/group_0/{key}"), value);
    assert!(message.contains("config_groups.group_0."), "{message}");
    message
}

#[test]
fn grids_that_are_not_implemented_are_refused_by_their_key() {
    for (key, value, want) in [
        (
            "output_activations",
            json!({ "num_bits": 8 }),
            "output_activations` must be `null`",
        ),
        ("targets", json!([]), "targets` must be a list of modules"),
        ("format", json!("dense"), r#""pack-quantized"`"#),
        ("weights/num_bits", json!(9), "`8`, but is `9`"),
        ("weights/num_bits", json!(1), "num_bits` must be `2` or"),
        ("weights/type", json!("nf4"), r#"`"int"` or `"float"`"#),
        ("weights/type", json!("float"), "num_bits` must be `8`"),
        ("weights/dynamic", json!(true), "`false` or `null`"),
        (
            "weights/actorder",
            json!("random"),
            r#"`true` or `false` or `null`, but is `"random"`"#,
        ),
        (
            "weights/strategy",
            json!("tensor"),
            "`group` with a `group_size`, or `channel` without",
        ),
        (
            "weights/strategy",
            json!("channel"),
            "`group` with a `group_size`, or `channel` without",
        ),
        (
            "weights/group_size",
            json!(null),
            "`group` with a `group_size`, or `channel` without",
        ),
        (
            "weights/group_size",
            json!(0),
            "a positive number or -1, but is `0`",
        ),
        ("weights/group_size", json!("x"), "a positive number or -1"),
    ] {
        let message = group_refusal(key, value);
        assert!(
            message.contains(want),
            "{key}\ngot:  {message}\nwant: {want}"
        );
    }
}

#[test]
fn activations_that_are_not_rounded_position_by_position_are_refused_by_their_key() {
    let dynamic = json!({ "num_bits": 8, "type": "int", "symmetric": true, "strategy": "token", "dynamic": true });
    for (key, value) in [
        ("num_bits", json!(4)),
        ("type", json!("nf4")),
        ("symmetric", json!(false)),
        ("strategy", json!("tensor")),
        ("dynamic", json!(false)),
    ] {
        let mut changed = dynamic.clone();
        changed[key] = value;
        let message = group_refusal("input_activations", changed);
        let want = format!("input_activations.{key}` must be");
        assert!(message.contains(&want), "got:  {message}\nwant: {want}");
    }
}

/// Schemes of the tensors that have one, by name.
fn schemes_of(found: &dyn Packed, config: &DecoderConfig) -> BTreeMap<String, Scheme> {
    let tensors = tensor_specs(config).into_iter();
    let schemes = tensors.filter_map(|spec| Some((found.scheme(&spec)?, spec.name)));
    schemes.map(|(scheme, name)| (name, scheme)).collect()
}

fn schemes(groups: Value, ignore: Value) -> Result<BTreeMap<String, Scheme>, ConfigError> {
    let json = json!({
        "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups, "ignore": ignore,
    });
    let config = Checkpoint::open(&golden("hf-llama"))
        .unwrap()
        .config()
        .clone();
    let json = json!({ "quantization_config": json });
    let found = packed(&json, &config)?;
    Ok(schemes_of(&*found.unwrap(), &config))
}

#[test]
fn a_strategy_left_out_follows_from_the_group_size() {
    let grid = |weights: Value| -> Result<Grid, ConfigError> {
        let group = json!({ "targets": ["Linear"], "weights": weights });
        let schemes = schemes(json!({ "g": group }), json!(["lm_head"]))?;
        assert_eq!(schemes.len(), 14);
        Ok(schemes.values().next().unwrap().weight)
    };
    assert_eq!(
        grid(json!({ "num_bits": 4, "group_size": 64 })).unwrap(),
        Grid::symmetric(4, Some(64))
    );
    assert_eq!(
        grid(json!({ "num_bits": 8, "group_size": -1 })).unwrap(),
        Grid::symmetric(8, None)
    );
    let error = grid(json!({ "num_bits": 8 })).unwrap_err();
    assert!(error.to_string().contains("strategy"), "{error}");
}

#[test]
fn a_module_has_the_scheme_of_the_group_that_names_it() {
    let group = |target: &str, bits: u32| {
        let weights = json!({ "num_bits": bits, "group_size": 32 });
        json!({ "targets": [target], "weights": weights })
    };
    let found = schemes(
        json!({
            "a": group("re:.*mlp", 3), // the end of a pattern is free, its beginning is not
            "b": group("model.layers.1.self_attn.o_proj", 8),
            "c": group("re:self_attn", 4),
        }),
        json!(["re:.*layers\\.0\\.mlp\\.(gate|up)_proj$", "lm_head"]),
    )
    .unwrap();
    let bits: Vec<(&str, u32)> = found
        .iter()
        .map(|(name, scheme)| (name.as_str(), scheme.weight.levels.bits()))
        .collect();
    assert_eq!(
        bits,
        [
            ("model.layers.0.mlp.down_proj.weight", 3),
            ("model.layers.1.mlp.down_proj.weight", 3),
            ("model.layers.1.mlp.gate_proj.weight", 3),
            ("model.layers.1.mlp.up_proj.weight", 3),
            ("model.layers.1.self_attn.o_proj.weight", 8),
        ]
    );
    let error = schemes(
        json!({ "a": group("Linear", 4), "b": group("re:.*up_proj", 8) }),
        json!([]),
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains(
            "config_groups.b.targets` must be the only group for `model.layers.0.mlp.up_proj`"
        ),
        "{error}"
    );
}

#[test]
fn inputs_of_joined_matrices_are_rounded_alike_and_those_of_the_head_are_not() {
    let group = |targets: &[&str], input: Value| {
        let weights = json!({ "num_bits": 8, "strategy": "channel", "type": "int" });
        json!({ "targets": targets, "weights": weights, "input_activations": input, "format": "int-quantized" })
    };
    let int8 = json!({ "num_bits": 8, "strategy": "token", "dynamic": true });
    let config = Checkpoint::open(&golden("hf-llama"))
        .unwrap()
        .config()
        .clone();
    let whole = |groups: Value| {
        let mut json = json!({ "quant_method": "compressed-tensors", "format": "int-quantized", "ignore": ["lm_head"] });
        json["config_groups"] = groups;
        packed(&json!({ "quantization_config": json }), &config)
    };
    let found = whole(json!({ "a": group(&["Linear"], int8.clone()) }));
    let scheme = Scheme {
        weight: Grid::symmetric(8, None),
        input: Some(Levels::Symmetric { bits: 8 }),
    };
    assert!(
        schemes_of(&*found.unwrap().unwrap(), &config)
            .values()
            .all(|one| *one == scheme)
    );
    let error = whole(json!({
        "a": group(&["re:.*q_proj", "re:.*k_proj"], int8.clone()),
        "b": group(&["re:.*v_proj"], Value::Null),
    }));
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("the same for the inputs of `model.layers.0.self_attn.q_proj.weight` and `model.layers.0.self_attn.v_proj.weight`"),
        "{error}"
    );
    let error = whole(json!({ "a": group(&["lm_head"], int8) }));
    assert!(error.is_ok(), "it is ignored");
}

#[test]
fn packed_tensors_that_do_not_fit_the_scheme_are_refused() {
    let weights = "/quantization_config/config_groups/group_0/weights";
    for (key, value, want) in [
        (
            "num_bits",
            json!(8),
            "weight_packed` must have shape [128, 32], but has [128, 16]",
        ),
        (
            "group_size",
            json!(64),
            "weight_scale` must have shape [128, 2], but has [128, 4]",
        ),
        (
            "group_size",
            json!(48),
            "`group_size` 48 does not divide the 128 columns of `model.layers.0.self_attn.q_proj.weight`",
        ),
    ] {
        let dir = copy("ct-w4a16-g32-sym");
        edit_json(&dir.path().join("config.json"), |config| {
            config.pointer_mut(weights).unwrap()[key] = value;
        });
        let message = refusal(dir.path());
        assert!(message.contains(want), "got:  {message}\nwant: {want}");
    }
    let dir = copy("ct-w4a16-g32-sym");
    edit_json(&dir.path().join("config.json"), |config| {
        config["quantization_config"]["ignore"] = json!([]);
    });
    let message = refusal(dir.path());
    assert!(
        message.starts_with("`lm_head.weight` is stored plain, but"),
        "{message}"
    );
    assert!(message.ends_with("add `lm_head` to `ignore`"), "{message}");
}

#[test]
fn weight_shape_must_agree_with_the_config() {
    let dir = copy("ct-w4a16-g32-sym");
    damage(&dir.path().join("model.safetensors"), |bytes| {
        let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        bytes[8 + length] ^= 1; // the first tensor is the shape of layer 0's down_proj
    });
    assert_eq!(
        refusal(dir.path()),
        "`model.layers.0.mlp.down_proj.weight_shape` must hold [128, 256], but holds [129, 256]"
    );
}
