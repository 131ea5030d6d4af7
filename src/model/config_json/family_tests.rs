//! `config.json` of every family but Llama.

use serde_json::json;

use super::*;
use crate::model::LayerType;

fn golden(name: &str) -> Value {
    let path = format!(
        "{}/tests/golden/{name}/config.json",
        env!("CARGO_MANIFEST_DIR")
    );
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A config as transformers 4 wrote it, of the family's class.
fn old_style(architecture: Architecture, changes: Value) -> Value {
    let mut json = json!({
        "architectures": [architecture.class_name()], "model_type": architecture.model_type(),
        "vocab_size": 320, "hidden_size": 128, "intermediate_size": 256,
        "num_hidden_layers": 7, "num_attention_heads": 32,
    });
    for (key, value) in changes.as_object().unwrap() {
        json[key] = value.clone();
    }
    json
}

fn read(architecture: Architecture, changes: Value) -> DecoderConfig {
    DecoderConfig::from_json(&old_style(architecture, changes)).unwrap()
}

fn family_refusal(architecture: Architecture, changes: Value) -> String {
    let json = old_style(architecture, changes);
    DecoderConfig::from_json(&json).unwrap_err().to_string()
}

/// `F` is full, `S` sliding.
fn types_text(config: &DecoderConfig) -> String {
    let types = config.layer_types.iter();
    types
        .map(|layer_type| match layer_type {
            LayerType::Full => 'F',
            LayerType::Sliding => 'S',
        })
        .collect()
}

#[test]
fn every_golden_config_is_written_as_it_was_read() {
    for (name, architecture) in [
        ("hf-llama3-rope", Architecture::Llama),
        ("hf-mistral", Architecture::Mistral),
        ("hf-qwen2-tied", Architecture::Qwen2),
        ("hf-qwen3-tied", Architecture::Qwen3),
        ("hf-gemma", Architecture::Gemma),
        ("hf-gemma2", Architecture::Gemma2),
        ("hf-gemma3", Architecture::Gemma3),
        ("hf-phi3", Architecture::Phi3),
        ("hf-olmo2", Architecture::Olmo2),
        ("hf-smollm3", Architecture::SmolLm3),
    ] {
        let want = golden(name);
        let config = DecoderConfig::from_json(&want).unwrap();
        assert_eq!(config.architecture, architecture);
        let got = config.to_json("bfloat16");
        assert_eq!(DecoderConfig::from_json(&got).unwrap(), config, "{name}");
        let mut num_compared = 0;
        for (key, value) in want.as_object().unwrap() {
            // Our keys follow from `layer_types`; transformers keeps its defaults beside it.
            let follows = ["max_window_layers", "_sliding_window_pattern"];
            if key != "transformers_version" && !follows.contains(&key.as_str()) {
                assert_eq!(got[key], *value, "{name}: {key}");
                num_compared += 1;
            }
        }
        assert!(num_compared >= 20, "{name}: {num_compared}");
    }
}

#[test]
fn each_style_of_a_written_family_is_complete_alone() {
    let newer = ["rope_parameters", "layer_types", "dtype"];
    let older = [
        "rope_theta",
        "rope_scaling",
        "rope_local_base_freq",
        "sliding_window_pattern",
        "max_window_layers",
        "torch_dtype",
    ];
    let gemma3 = json!({
        "num_attention_heads": 8, "rope_local_base_freq": 500.0, "sliding_window_pattern": 3, "sliding_window": 16,
        "rope_theta": 2e6, "rope_scaling": { "rope_type": "linear", "factor": 8.0 },
    });
    let phi = json!({
        "sliding_window": 16, "partial_rotary_factor": 0.5, "original_max_position_embeddings": 64,
        "rope_scaling": { "type": "longrope", "short_factor": [1.0], "long_factor": [1.1] },
    });
    let smol =
        json!({ "use_sliding_window": true, "sliding_window": 16, "no_rope_layer_interval": 3 });
    let qwen = json!({ "use_sliding_window": true, "max_window_layers": 4, "rope_theta": 1e6 });
    for config in [
        read(Architecture::Gemma3, gemma3),
        read(Architecture::Gemma2, json!({})),
        read(Architecture::Qwen2, qwen.clone()),
        read(Architecture::Qwen3, qwen),
        read(Architecture::Mistral, json!({ "rope_theta": 1e6 })),
        read(Architecture::Phi3, phi),
        read(Architecture::Olmo2, json!({ "rope_theta": 1e6 })),
        read(Architecture::SmolLm3, smol),
    ] {
        for left_out in [&newer[..], &older[..]] {
            let mut json = config.to_json("bfloat16");
            json.as_object_mut()
                .unwrap()
                .retain(|key, _| !left_out.contains(&key.as_str()));
            assert_eq!(DecoderConfig::from_json(&json).unwrap(), config);
        }
    }
}

#[test]
fn keys_left_out_have_the_defaults_of_the_class_in_transformers() {
    use Architecture::{Gemma, Gemma2, Gemma3, Llama, Mistral, Olmo2, Phi3, Qwen2, Qwen3, SmolLm3};
    // Key/value heads, head size, context, tied, first, last and padding token.
    for (architecture, heads, head_dim, context, tied, ids) in [
        (Llama, 32, 4, 2048, false, (Some(1), Some(2), None)),
        (Mistral, 8, 4, 131_072, false, (Some(1), Some(2), None)),
        (Qwen2, 32, 4, 32_768, false, (None, None, None)),
        (Qwen3, 32, 128, 32_768, false, (None, None, None)),
        (Gemma, 16, 256, 8192, true, (Some(2), Some(1), Some(0))),
        (Gemma2, 4, 256, 8192, true, (Some(2), Some(1), Some(0))),
        (Gemma3, 4, 256, 131_072, true, (Some(2), Some(1), Some(0))),
        (
            Phi3,
            32,
            4,
            4096,
            false,
            (Some(1), Some(32_000), Some(32_000)),
        ),
        (Olmo2, 32, 4, 2048, false, (None, Some(50_279), Some(1))),
        (
            SmolLm3,
            4,
            4,
            32_768,
            true,
            (Some(128_000), Some(128_001), Some(128_004)),
        ),
    ] {
        let got = read(architecture, json!({}));
        assert_eq!(got.num_key_value_heads, heads, "{architecture:?}");
        assert_eq!(got.head_dim, head_dim, "{architecture:?}");
        assert_eq!(got.max_position_embeddings, context, "{architecture:?}");
        assert_eq!(got.tie_word_embeddings, tied, "{architecture:?}");
        let got_ids = (
            got.bos_token_id,
            got.eos_token_ids.first().copied(),
            got.pad_token_id,
        );
        assert_eq!(got_ids, ids, "{architecture:?}");
        let theta = match architecture {
            Gemma3 => 1e6,
            SmolLm3 => 2e6,
            _ => 1e4,
        };
        let eps = match architecture {
            Phi3 | Olmo2 => 1e-5,
            _ => 1e-6,
        };
        let numbers = (got.rms_norm_eps, got.rope.theta);
        assert_eq!(numbers, (eps, theta), "{architecture:?}");
        let local = got.local_rope.map(|rope| rope.theta);
        assert_eq!(local, (architecture == Gemma3).then_some(1e4));
    }
    let gemma2 = read(Gemma2, json!({}));
    assert_eq!(gemma2.query_pre_attn_scalar, 256);
    assert_eq!(gemma2.attn_logit_softcapping, Some(50.0));
    assert_eq!(gemma2.final_logit_softcapping, Some(30.0));
    let uncapped = read(Gemma2, json!({ "final_logit_softcapping": null }));
    assert_eq!(uncapped.final_logit_softcapping, None);
    assert_eq!(read(Gemma3, json!({})).final_logit_softcapping, None);
}

#[test]
fn which_layers_slide_follows_from_the_list_or_the_rule_of_the_family() {
    use Architecture::{Gemma2, Gemma3, Llama, Mistral, Qwen2, Qwen3};
    let list = json!(["full_attention", "sliding_attention", "full_attention"]);
    for (architecture, changes, window, types) in [
        (Llama, json!({ "sliding_window": 9 }), None, "FFFFFFF"),
        (Mistral, json!({}), Some(4096), "SSSSSSS"),
        (Mistral, json!({ "sliding_window": null }), None, "FFFFFFF"),
        (Qwen2, json!({ "sliding_window": 9 }), None, "FFFFFFF"),
        (
            Qwen2,
            json!({ "use_sliding_window": true, "max_window_layers": 5 }),
            Some(4096),
            "FFFFFSS",
        ),
        (
            Qwen2,
            json!({ "use_sliding_window": true, "max_window_layers": 0 }),
            Some(4096),
            "SSSSSSS",
        ),
        (
            Qwen3,
            json!({ "use_sliding_window": true, "sliding_window": 9, "layer_types": list, "num_hidden_layers": 3 }),
            Some(9),
            "FSF",
        ),
        (Gemma2, json!({ "sliding_window": 9 }), Some(9), "SFSFSFS"),
        (Gemma3, json!({}), Some(4096), "SSSSSFS"),
        (
            Gemma3,
            json!({ "sliding_window_pattern": 3 }),
            Some(4096),
            "SSFSSFS",
        ),
        (
            Gemma3,
            json!({ "sliding_window_pattern": 3, "layer_types": list, "num_hidden_layers": 3 }),
            Some(4096),
            "FSF",
        ),
    ] {
        let got = read(architecture, changes);
        assert_eq!(got.sliding_window, window, "{architecture:?}");
        assert_eq!(types_text(&got), types, "{architecture:?}");
        let written = got.to_json("bfloat16");
        assert_eq!(DecoderConfig::from_json(&written).unwrap(), got);
    }
}

#[test]
fn the_pattern_of_gemma_3_is_written_if_there_is_one() {
    for (types, pattern) in [
        ("SSSSSFS", json!(6)),
        ("SF", json!(2)),
        ("FF", json!(1)),
        ("SSS", json!(4)),
        ("FSF", Value::Null),
    ] {
        let letters: Vec<&str> = types
            .chars()
            .map(|letter| match letter {
                'F' => "full_attention",
                _ => "sliding_attention",
            })
            .collect();
        let changes = json!({ "layer_types": letters, "num_hidden_layers": letters.len() });
        let config = read(Architecture::Gemma3, changes);
        let written = config.to_json("bfloat16");
        assert_eq!(written["sliding_window_pattern"], pattern, "{types}");
    }
}

#[test]
fn what_a_family_does_not_have_is_refused() {
    use Architecture::{Gemma, Gemma2, Gemma3, Llama, Qwen3};
    for (architecture, changes, want) in [
        (
            Qwen3,
            json!({ "attention_bias": true }),
            "`attention_bias` must be `false`, but is `true`",
        ),
        (
            Gemma2,
            json!({ "use_bidirectional_attention": true }),
            "`use_bidirectional_attention` must be `false`, but is `true`",
        ),
        (
            Gemma3,
            json!({ "attn_logit_softcapping": 50.0 }),
            "`attn_logit_softcapping` must be `null`, but is `50.0`",
        ),
        (
            Gemma2,
            json!({ "final_logit_softcapping": 0.0 }),
            "`final_logit_softcapping` must be a positive number, but is `0.0`",
        ),
        (
            Gemma,
            json!({ "hidden_act": "silu" }),
            "`hidden_act` must be `gelu_pytorch_tanh`, but is `\"silu\"`",
        ),
        (
            Gemma3,
            json!({ "hidden_activation": "silu" }),
            "`hidden_activation` must be `gelu_pytorch_tanh`, but is `\"silu\"`",
        ),
        (
            Llama,
            json!({ "model_type": "mistral" }),
            "`model_type` must be `llama` beside `LlamaForCausalLM`, but is `\"mistral\"`",
        ),
    ] {
        assert_eq!(family_refusal(architecture, changes), want);
    }
}

#[test]
fn layers_that_no_window_or_list_explains_are_refused() {
    use Architecture::{Gemma2, Gemma3, Mistral, Qwen2};
    for (architecture, changes, want) in [
        (
            Qwen2,
            json!({ "layer_types": ["full_attention"], "num_hidden_layers": 1, "use_sliding_window": 1 }),
            "`use_sliding_window` must be `true` or `false`, but is `1`",
        ),
        (
            Qwen2,
            json!({ "layer_types": ["sliding_attention"], "num_hidden_layers": 1 }),
            "`sliding_window` must be a number beside `use_sliding_window: true`, since layers slide, but is `null`",
        ),
        (
            Gemma2,
            json!({ "sliding_window": null }),
            "`sliding_window` must be a number, since layers slide, but is `null`",
        ),
        (
            Gemma2,
            json!({ "layer_types": ["full_attention", "chunked_attention"], "num_hidden_layers": 2 }),
            "`layer_types` must be a list of 2 names, each `full_attention` or `sliding_attention`, but is \
             `[\"full_attention\",\"chunked_attention\"]`",
        ),
        (
            Gemma3,
            json!({ "layer_types": ["full_attention"], "num_hidden_layers": 2 }),
            "`layer_types` must be a list of 2 names, each `full_attention` or `sliding_attention`, but is \
             `[\"full_attention\"]`",
        ),
        (
            Mistral,
            json!({ "layer_types": ["full_attention", "sliding_attention"], "num_hidden_layers": 2 }),
            "`layer_types` must be the same for all layers, sliding if there is a `sliding_window`, but is \
             `[\"full_attention\",\"sliding_attention\"]`",
        ),
    ] {
        assert_eq!(family_refusal(architecture, changes), want);
    }
}

#[test]
fn rotary_settings_that_the_decoder_lacks_are_refused() {
    use Architecture::{Gemma2, Gemma3, Llama, Qwen3};
    let both = json!({ "full_attention": { "rope_theta": 1e4 } });
    for (architecture, changes, want) in [
        (
            Llama,
            json!({ "partial_rotary_factor": 0.5 }),
            "`partial_rotary_factor` must be 1, but is `0.5`",
        ),
        (
            Llama,
            json!({ "rope_parameters": 3 }),
            "`rope_parameters` must be a table, but is `3`",
        ),
        (
            Llama,
            json!({ "rope_scaling": 3 }),
            "`rope_scaling` must be a table or `null`, but is `3`",
        ),
        (
            Qwen3,
            json!({ "rope_parameters": { "rope_type": "dynamic", "factor": 4.0 } }),
            "`rope_type` must be `default`, `linear`, `llama3`, `longrope` or `yarn`, but is `\"dynamic\"`",
        ),
        (
            Gemma2,
            json!({ "rope_parameters": both }),
            "`rope_parameters` must be the same for all layers, but is `{\"full_attention\":{\"rope_theta\":10000.0}}`",
        ),
        (
            Gemma3,
            json!({ "rope_parameters": { "rope_theta": 1e4 } }),
            "`rope_parameters` must be a table of `full_attention` and `sliding_attention`, but is \
             `{\"rope_theta\":10000.0}`",
        ),
    ] {
        assert_eq!(family_refusal(architecture, changes), want);
    }
    let message = family_refusal(
        Gemma3,
        json!({ "rope_local_base_freq": 5.0, "rope_parameters": { "sliding_attention": { "rope_theta": 7.0 } } }),
    );
    assert!(
        message
            .starts_with("`rope_parameters` and the older `rope_local_base_freq` disagree: Rope"),
        "{message}"
    );
}

#[test]
fn the_activation_of_gemma_is_read_as_it_was_meant() {
    // Gemma's first release says `gelu` and means its tanh form, as it was trained.
    for changes in [
        json!({}),
        json!({ "hidden_act": "gelu" }),
        json!({ "hidden_act": "gelu", "hidden_activation": null }),
        json!({ "hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh" }),
        json!({ "hidden_act": "gelu_pytorch_tanh" }),
    ] {
        let json = old_style(Architecture::Gemma, changes.clone());
        let config = DecoderConfig::from_json(&json);
        assert!(config.is_ok(), "{changes}: {config:?}");
    }
    let both = json!({ "hidden_act": "gelu", "hidden_activation": "gelu" });
    assert_eq!(
        family_refusal(Architecture::Gemma, both),
        "`hidden_activation` must be `gelu_pytorch_tanh`, but is `\"gelu\"`"
    );
}

#[test]
fn of_phi_3_every_layer_slides_or_none_and_rope_is_longrope_or_none() {
    let phi = |changes| read(Architecture::Phi3, changes);
    assert_eq!(types_text(&phi(json!({}))), "FFFFFFF");
    assert_eq!(types_text(&phi(json!({ "sliding_window": 9 }))), "SSSSSSS");
    let linear = json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } });
    assert_eq!(
        family_refusal(Architecture::Phi3, linear),
        "`rope_type` must be `default` or `longrope` in this family, but is `\"linear\"`"
    );
    // Before transformers 5 its class takes three keys, by these names, and no other.
    let old = json!({
        "rope_scaling": { "type": "su", "short_factor": [1.0, 1.5], "long_factor": [1.1, 2.2] },
        "original_max_position_embeddings": 64,
    });
    let written = phi(old).to_json("float32");
    let want = json!({ "type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [1.1, 2.2] });
    assert_eq!(written["rope_scaling"], want);
    assert_eq!(written["original_max_position_embeddings"], 64);
    let plain = phi(json!({ "max_position_embeddings": 512 })).to_json("float32");
    assert_eq!(plain["original_max_position_embeddings"], 512);
}

#[test]
fn layers_without_rope_follow_from_the_list_or_the_interval_of_smollm_3() {
    let smol = |changes| read(Architecture::SmolLm3, changes);
    let without = |changes| smol(changes).layers_without_rope;
    assert_eq!(without(json!({})), [3]);
    assert_eq!(without(json!({ "no_rope_layer_interval": 2 })), [1, 3, 5]);
    let listed =
        json!({ "no_rope_layers": [0, 1, 1, 0, 1, 1, 1, 0, 0], "no_rope_layer_interval": 2 });
    assert_eq!(
        without(listed),
        [0, 3],
        "more layers may be listed than there are"
    );
    let slides = smol(json!({ "use_sliding_window": true, "sliding_window": 16 }));
    assert_eq!(types_text(&slides), "FFFSFFF");
    assert_eq!(slides.sliding_window, Some(16));
    let off = smol(json!({ "sliding_window": 16 }));
    assert_eq!(
        (types_text(&off).as_str(), off.sliding_window),
        ("FFFFFFF", None)
    );
    assert_eq!(
        family_refusal(Architecture::SmolLm3, json!({ "no_rope_layers": [1, 0] })),
        "`no_rope_layers` must be a list of 7 numbers, each 0 or 1, but is `[1,0]`"
    );
}
