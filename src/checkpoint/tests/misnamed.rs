//! Folders that hold no model, or name its weights otherwise: the message says what they are, and the way out.

use super::containers::edit_tensors;
use super::*;

#[test]
fn the_folder_of_an_adapter_names_its_base() {
    let adapter = json!({ "peft_type": "LORA", "base_model_name_or_path": "base/of-mine" });
    for with_config in [false, true] {
        let dir = copy("hf-llama");
        fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        if !with_config {
            fs::remove_file(dir.path().join("config.json")).unwrap();
        }
        let path = dir.path().join("adapter_config.json");
        damage(&path, |bytes| {
            *bytes = serde_json::to_vec(&adapter).unwrap();
        });
        let error = Checkpoint::open(dir.path()).unwrap_err();
        let message = error.to_string();
        assert!(
            message.ends_with("is an adapter of `base/of-mine`, not a model: merge it first"),
            "{message}"
        );
        assert!(error.help().unwrap().contains("merge_and_unload"));
        damage(&path, |bytes| *bytes = b"not JSON".to_vec());
        assert!(refusal(dir.path()).ends_with("is an adapter, not a model: merge it first"));
    }
    // A whole model that keeps the file of an adapter that was merged into it.
    let dir = copy("hf-llama");
    damage(&dir.path().join("adapter_config.json"), |bytes| {
        *bytes = b"{}".to_vec();
    });
    Checkpoint::open(dir.path()).unwrap();
}

/// Message for a copy with other names of tensors.
fn refusal_of_names(folder: &str, name: impl Fn(&str) -> String) -> String {
    let dir = copy(folder);
    edit_tensors(dir.path(), |tensors| {
        for (old, ..) in tensors {
            *old = name(old);
        }
    });
    refusal(dir.path())
}

#[test]
fn names_with_a_prefix_are_told_with_what_left_it() {
    for (prefix, why) in [
        (
            "base_model.model.",
            "merge the adapter with `merge_and_unload()`",
        ),
        ("module.", "save the model inside it (`.module`)"),
        ("_orig_mod.", "a compiled model was saved"),
        ("student.", "take `student.` from its names"),
    ] {
        let message = refusal_of_names("hf-llama", |name| format!("{prefix}{name}"));
        let found = format!(
            "no tensor `model.embed_tokens.weight`, but `{prefix}model.embed_tokens.weight`: "
        );
        assert!(
            message.contains(&found) && message.contains(why),
            "{message}"
        );
    }
    let message = refusal_of_names("hf-llama", |name| {
        name.replace("q_proj.weight", "q_proj.base_layer.weight")
    });
    let found = "but `model.layers.0.self_attn.q_proj.base_layer.weight`: adapters are still beside the weights";
    assert!(message.contains(found), "{message}");
    let message = refusal_of_names("hf-llama", |name| {
        name.trim_start_matches("model.").to_owned()
    });
    let found = "but `embed_tokens.weight`: the model was saved without its output layer";
    assert!(message.contains(found), "{message}");
    // What is missing and not elsewhere is missing.
    let message = refusal_of_names("hf-llama", |name| name.replace("model.norm", "other"));
    assert!(
        message.ends_with("has no tensor `model.norm.weight`"),
        "{message}"
    );
}

#[test]
fn an_untied_model_without_an_output_layer_is_told_how_to_tie_it() {
    for tied in [json!(false), json!(null)] {
        let dir = copy("hf-llama");
        edit_json(&dir.path().join("config.json"), |config| {
            config["tie_word_embeddings"] = tied;
        });
        edit_tensors(dir.path(), |tensors| {
            tensors.retain(|(name, ..)| name != HEAD);
        });
        let message = refusal(dir.path());
        assert!(
            message.contains("has no tensor `lm_head.weight`"),
            "{message}"
        );
        assert!(
            message.contains("write `\"tie_word_embeddings\": true` in `config.json`"),
            "{message}"
        );
    }
}

#[test]
fn of_a_config_and_files_that_disagree_the_one_to_change_is_named() {
    let module = "model.layers.1.mlp.down_proj";
    let plain = Checkpoint::open(&golden("hf-llama")).unwrap();
    let name = format!("{module}.weight");
    let (dtype, shape) = plain.files().unwrap().info(&name).unwrap();
    let bytes = plain.files().unwrap().raw(&name, dtype, shape).unwrap();
    let weight = (name.clone(), dtype, shape.to_vec(), bytes.to_vec());
    // Words of codes, and codes that stand in the weight's own place.
    for folder in ["ct-w4a16-g32-sym", "ct-w8a8-int8"] {
        let dir = copy(folder);
        edit_tensors(dir.path(), |tensors| {
            tensors.retain(|(name, ..)| !name.starts_with(module));
            tensors.push(weight.clone());
        });
        let want = format!(
            "`{name}` is stored plain, but by `quantization_config` in `config.json` it is on a grid: add `{module}` to \
             `ignore`"
        );
        assert_eq!(refusal(dir.path()), want, "{folder}");
        let config = dir.path().join("config.json");
        let ignored = json!(["lm_head", module]);
        edit_json(&config, |config| {
            config["quantization_config"]["ignore"] = ignored.clone();
        });
        Checkpoint::open(dir.path()).unwrap();

        let dir = copy(folder);
        edit_json(&dir.path().join("config.json"), |config| {
            config["quantization_config"]["ignore"] = ignored;
        });
        let message = refusal(dir.path());
        let want = format!(
            "by `quantization_config` in `config.json` it is plain: take `{module}` out of `ignore`"
        );
        assert!(
            message.starts_with(&format!("`{name}` is stored as codes (`{name}_")),
            "{message}"
        );
        assert!(message.contains(&want), "{message}");
    }
    for (folder, found) in [
        ("ct-w4a16-g32-sym", "q_proj.weight_packed"),
        ("gptq-4bit-g32-sym", "q_proj.qweight"),
        ("awq-4bit-g32-gemm", "q_proj.qweight"),
        ("mlx-4bit-g32", "embed_tokens.scales"),
    ] {
        let dir = copy(folder);
        edit_json(&dir.path().join("config.json"), |config| {
            let config = config.as_object_mut().unwrap();
            config.retain(|key, _| !key.starts_with("quantization"));
        });
        for file in ["quantize_config.json", "quant_config.json"] {
            let _ = fs::remove_file(dir.path().join(file));
        }
        let message = refusal(dir.path());
        let want = format!("{found}`), but nothing in `config.json` says how to read them");
        assert!(message.contains(&want), "{message}");
    }
}

#[test]
fn patterns_that_are_not_understood_say_why() {
    let refused = |pattern: &str| {
        let dir = copy("ct-w4a16-g32-sym");
        edit_json(&dir.path().join("config.json"), |config| {
            config["quantization_config"]["ignore"] = json!([format!("re:{pattern}")]);
        });
        refusal(dir.path())
    };
    for pattern in ["^(?!model\\.layers).*", ".*(?<=lm_)head", "(?=lm_head).*"] {
        let message = refused(pattern);
        assert!(
            message.contains("patterns without look-ahead and look-behind"),
            "{message}"
        );
        assert!(message.contains(&format!("in `{pattern}`")), "{message}");
    }
    let message = refused("(head");
    assert!(
        message.contains("ignore` must be patterns, but `(head` is none (unclosed group)"),
        "{message}"
    );
}

#[test]
fn sizes_written_as_floats_say_what_to_write() {
    for (key, value, write) in [
        ("vocab_size", json!(320.0), "320"),
        ("num_hidden_layers", json!(2.0), "2"),
    ] {
        let dir = copy("hf-llama");
        edit_json(&dir.path().join("config.json"), |config| {
            config[key] = value;
        });
        let message = refusal(dir.path());
        let want = format!(
            "`{key}` must be a whole number (write `{write}`, as transformers 5 wants it, too), but is"
        );
        assert!(message.contains(&want), "{message}");
    }
    for value in [json!(320.5), json!(-320.0), json!(1e300), json!("320")] {
        let dir = copy("hf-llama");
        edit_json(&dir.path().join("config.json"), |config| {
            config["vocab_size"] = value;
        });
        let message = refusal(dir.path());
        assert!(
            message.contains("must be a whole number in 1 ..= "),
            "{message}"
        );
    }
}
