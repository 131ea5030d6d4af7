//! compressed-tensors checkpoints.

use super::*;

#[test]
fn packed_weights_decode_to_the_reference_bit_for_bit() {
    for name in PACKED {
        let checkpoint = Checkpoint::open(&golden(name)).unwrap();
        let expected = golden(name).join("expected");
        let reference = tempfile::tempdir().unwrap();
        fs::copy(
            expected.join("layer0_dequant_f32.safetensors"),
            reference.path().join("model.safetensors"),
        )
        .unwrap();
        let reference = TensorFiles::open(reference.path()).unwrap();
        assert_eq!(reference.names().count(), 3, "{name}");
        for tensor in reference.names() {
            let spec = spec(&checkpoint, tensor);
            let got = checkpoint.weight(&spec).unwrap();
            let want = reference.f32s(tensor, &spec.stored_shape()).unwrap();
            let differing = got
                .iter()
                .zip(&want)
                .filter(|(got, want)| got.to_bits() != want.to_bits())
                .count();
            assert_eq!((got.len(), differing), (want.len(), 0), "{name}: {tensor}");
        }
    }
}

#[test]
fn codes_unpack_as_in_the_worked_example() {
    // Layer 0, q_proj, row 0 of a reference file: word 0x36CB77A5.
    let codes = unpack(&[0xA5, 0x77, 0xCB, 0x36], [1, 8], 4);
    assert_eq!(codes, [-3, 2, -1, -1, 3, 4, -2, -5]);
    // Three columns: the row is padded to a word.
    let codes = unpack(&[0xF8, 0x07, 0, 0, 0x08, 0x0F, 0, 0], [2, 3], 4);
    assert_eq!(codes, [0, 7, -1, 0, -8, 7]);
    assert_eq!(unpack(&[0, 128, 255, 127], [1, 4], 8), [-128, 0, 127, -1]);
}

/// Message for a folder whose `quantization_config` says something else at one place.
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
            json!("gptq"),
            r#""compressed-tensors"`, but is `"gptq"`"#,
        ),
        ("format", json!("int-quantized"), r#""pack-quantized"`"#),
        (
            "quantization_status",
            json!("frozen"),
            r#""compressed"` or `null`"#,
        ),
        ("kv_cache_scheme", json!({ "num_bits": 8 }), "null` or `{}`"),
        (
            "sparsity_config",
            json!({ "format": "dense" }),
            "null` or `{}`",
        ),
        ("transform_config", json!({ "r1": 1 }), "null` or `{}`"),
    ] {
        let message = scheme_refusal(&format!("/{key}"), value);
        let want = format!("`quantization_config.{key}` must be `{want}");
        assert!(message.contains(&want), "got:  {message}\nwant: {want}");
    }
    let message = scheme_refusal("/ignore", json!(["re:.*head"]));
    assert!(
        message.contains("ignore` must be a list of module names"),
        "{message}"
    );
    let message = scheme_refusal("/config_groups", json!({}));
    assert!(
        message.contains("config_groups` must be one group, but is `{}`"),
        "{message}"
    );
}

#[test]
fn grids_that_are_not_implemented_are_refused_by_their_key() {
    for (key, value, want) in [
        ("input_activations", json!({ "num_bits": 8 }), "`null`"),
        ("output_activations", json!({ "num_bits": 8 }), "`null`"),
        ("targets", json!(["re:.*mlp.*"]), r#"`["Linear"]`"#),
        ("format", json!("dense"), r#"`"pack-quantized"` or `null`"#),
        ("weights/num_bits", json!(3), "`4` or `8`, but is `3`"),
        ("weights/type", json!("float"), r#"`"int"` or `null`"#),
        (
            "weights/symmetric",
            json!(false),
            "`true` or `null`, but is `false`",
        ),
        ("weights/dynamic", json!(true), "`false` or `null`"),
        (
            "weights/actorder",
            json!("group"),
            r#"`null`, but is `"group"`"#,
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
        let message = scheme_refusal(&format!("/config_groups/group_0/{key}"), value);
        assert!(
            message.contains(want),
            "{key}\ngot:  {message}\nwant: {want}"
        );
        let place = key.split('/').next().unwrap();
        assert!(
            message.contains(&format!("config_groups.group_0.{place}")),
            "{message}"
        );
    }
}

#[test]
fn a_strategy_left_out_follows_from_the_group_size() {
    let scheme = |weights: Value| {
        let group = json!({ "targets": ["Linear"], "weights": weights });
        let config = json!({
            "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": { "g": group },
        });
        PackedScheme::from_config(&json!({ "quantization_config": config }))
    };
    let group_size = |weights| scheme(weights).unwrap().unwrap().group_size;
    assert_eq!(
        group_size(json!({ "num_bits": 4, "group_size": 64 })),
        Some(64)
    );
    assert_eq!(group_size(json!({ "num_bits": 8, "group_size": -1 })), None);
    let error = scheme(json!({ "num_bits": 8 })).unwrap_err();
    assert!(error.to_string().contains("strategy"), "{error}");
    assert_eq!(PackedScheme::from_config(&json!({})).unwrap(), None);
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
    assert!(refusal(dir.path()).ends_with("has no tensor `lm_head.weight_packed`"));
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
