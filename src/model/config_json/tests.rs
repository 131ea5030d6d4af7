use serde_json::json;

use super::*;
use crate::model::{LayerType, RopeScaling};

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 320, "hidden_size": 128, "intermediate_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 256, "hidden_act": "silu",
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "rope_theta": 10000.0,
    })
}

fn llama3_scaling() -> Value {
    json!({
        "rope_type": "llama3", "factor": 8, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    })
}

/// The sample with some keys replaced.
fn with(changes: Value) -> Value {
    let mut json = llama();
    for (key, value) in changes.as_object().unwrap() {
        json[key] = value.clone();
    }
    json
}

fn refusal(changes: Value) -> String {
    DecoderConfig::from_json(&with(changes))
        .unwrap_err()
        .to_string()
}

#[test]
fn an_old_style_config_is_read_with_defaults_filled_in() {
    let config = DecoderConfig::from_json(&llama()).unwrap();
    assert_eq!(
        config,
        DecoderConfig {
            architecture: Architecture::Llama,
            vocab_size: 320,
            hidden_size: 128,
            intermediate_size: 256,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 32,
            query_pre_attn_scalar: 32,
            attn_logit_softcapping: None,
            final_logit_softcapping: None,
            sliding_window: None,
            layer_types: vec![LayerType::Full; 2],
            local_rope: None,
            layers_without_rope: vec![],
            rms_norm_eps: 1e-5,
            rope: Rope::plain(10_000.0),
            max_position_embeddings: 256,
            tie_word_embeddings: false,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
            pad_token_id: Some(0),
        }
    );
    let mut bare = with(json!({ "num_key_value_heads": null }));
    bare.as_object_mut()
        .unwrap()
        .retain(|key, _| !["rms_norm_eps", "rope_theta"].contains(&key.as_str()));
    let config = DecoderConfig::from_json(&bare).unwrap();
    assert_eq!(config.num_key_value_heads, 4);
    assert_eq!((config.rms_norm_eps, config.rope.theta), (1e-6, 10_000.0));
}

#[test]
fn both_styles_of_rope_settings_give_the_same_config() {
    let mut parameters = llama3_scaling();
    parameters["rope_theta"] = json!(5e5);
    let want = Rope {
        scaling: RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        },
        ..Rope::plain(5e5)
    };
    let old = with(json!({ "rope_theta": 5e5, "rope_scaling": llama3_scaling() }));
    let new = with(json!({ "rope_theta": null, "rope_parameters": parameters }));
    let both = with(json!({
        "rope_theta": 5e5, "rope_scaling": llama3_scaling(), "rope_parameters": parameters
    }));
    for json in [old, new, both] {
        assert_eq!(DecoderConfig::from_json(&json).unwrap().rope, want);
    }
}

#[test]
fn rope_styles_that_disagree_are_refused() {
    let message = refusal(json!({ "rope_parameters": { "rope_theta": 5e5 } }));
    assert!(message.contains("disagree"), "{message}");
    assert!(
        message.contains("500000") && message.contains("10000"),
        "{message}"
    );
    let default = json!({ "rope_type": "default" });
    let message = refusal(json!({ "rope_scaling": default, "rope_parameters": llama3_scaling() }));
    assert!(message.contains("disagree"), "{message}");
    // The older scaling would also replace the base, which then is the default.
    let linear = json!({ "rope_type": "linear", "factor": 2.0, "rope_theta": 5e5 });
    let scaling = json!({ "rope_type": "linear", "factor": 2.0 });
    let message =
        refusal(json!({ "rope_theta": null, "rope_scaling": scaling, "rope_parameters": linear }));
    assert!(
        message.contains("500000") && message.contains("10000"),
        "{message}"
    );
}

#[test]
fn a_scaling_of_null_beside_newer_settings_says_nothing() {
    let mut parameters = llama3_scaling();
    parameters["rope_theta"] = json!(5e5);
    for scaling in [json!(null), json!({})] {
        let json = with(json!({
            "rope_theta": 5e5, "rope_scaling": scaling, "rope_parameters": parameters
        }));
        let rope = DecoderConfig::from_json(&json).unwrap().rope;
        assert_eq!(rope.theta.to_bits(), 5e5_f64.to_bits());
        let is_llama3 = matches!(rope.scaling, RopeScaling::Llama3 { factor, .. } if factor > 7.9);
        assert!(is_llama3, "{rope:?}");
    }
}

#[test]
fn end_of_text_is_one_id_or_several() {
    let eos = |value| {
        DecoderConfig::from_json(&with(json!({ "eos_token_id": value })))
            .unwrap()
            .eos_token_ids
    };
    assert_eq!(eos(json!(7)), [7]);
    assert_eq!(eos(json!([7, 9])), [7, 9]);
    assert_eq!(eos(json!(null)), [0_u32; 0]);
    let config = DecoderConfig::from_json(&with(json!({ "pad_token_id": -1 }))).unwrap();
    assert_eq!(config.pad_token_id, None);
}

#[test]
fn what_is_written_is_read_back() {
    for changes in [
        json!({}),
        json!({ "head_dim": 48, "tie_word_embeddings": true, "eos_token_id": [2, 5] }),
        json!({ "rope_theta": 5e5, "rope_scaling": llama3_scaling(), "eos_token_id": null }),
    ] {
        let config = DecoderConfig::from_json(&with(changes)).unwrap();
        let json = config.to_json("bfloat16");
        assert_eq!(DecoderConfig::from_json(&json).unwrap(), config);
        assert_eq!(
            [&json["dtype"], &json["torch_dtype"]],
            ["bfloat16", "bfloat16"]
        );
        assert_eq!(json["rope_theta"], json["rope_parameters"]["rope_theta"]);
        assert_eq!(
            config.generation_json(&serde_json::Map::new())["eos_token_id"],
            json["eos_token_id"]
        );
    }
}

#[test]
fn each_style_of_a_written_config_is_complete_alone() {
    let config = DecoderConfig::from_json(&with(
        json!({ "rope_theta": 5e5, "rope_scaling": llama3_scaling() }),
    ))
    .unwrap();
    for left_out in [&["rope_parameters"][..], &["rope_theta", "rope_scaling"]] {
        let mut json = config.to_json("float32");
        json.as_object_mut()
            .unwrap()
            .retain(|key, _| !left_out.contains(&key.as_str()));
        assert_eq!(DecoderConfig::from_json(&json).unwrap(), config);
    }
}

#[test]
fn other_architectures_are_refused_by_name() {
    assert_eq!(
        refusal(json!({ "architectures": ["GPT2LMHeadModel"] })),
        "unknown architecture `GPT2LMHeadModel`; known: `LlamaForCausalLM`, `MistralForCausalLM`, \
         `Qwen2ForCausalLM`, `Qwen3ForCausalLM`, `GemmaForCausalLM`, `Gemma2ForCausalLM`, `Gemma3ForCausalLM`, \
         `Phi3ForCausalLM`, `Olmo2ForCausalLM`, `SmolLM3ForCausalLM`"
    );
    assert_eq!(
        refusal(json!({ "architectures": null, "model_type": "gpt2" })),
        "unknown architecture `gpt2`; known: `LlamaForCausalLM`, `MistralForCausalLM`, \
         `Qwen2ForCausalLM`, `Qwen3ForCausalLM`, `GemmaForCausalLM`, `Gemma2ForCausalLM`, `Gemma3ForCausalLM`, \
         `Phi3ForCausalLM`, `Olmo2ForCausalLM`, `SmolLM3ForCausalLM`"
    );
    assert_eq!(
        refusal(json!({ "architectures": null, "model_type": null })),
        "`architectures` is missing"
    );
    let by_type = with(json!({ "architectures": null, "model_type": "llama" }));
    let by_class = with(json!({ "architectures": ["LlamaForCausalLM"] }));
    assert_eq!(
        DecoderConfig::from_json(&by_type).unwrap(),
        DecoderConfig::from_json(&by_class).unwrap()
    );
    assert_eq!(
        refusal(json!({ "architectures": 3 })),
        "`architectures` must be a list of names, but is `3`"
    );
    let error = DecoderConfig::from_json(&json!([1, 2])).unwrap_err();
    assert_eq!(error.to_string(), "`architectures` is missing");
}

#[test]
fn parts_that_the_decoder_lacks_are_refused() {
    assert_eq!(
        refusal(json!({ "attention_bias": true })),
        "`attention_bias` must be `false`, but is `true`"
    );
    assert_eq!(
        refusal(json!({ "mlp_bias": true })),
        "`mlp_bias` must be `false`, but is `true`"
    );
    assert_eq!(
        refusal(json!({ "hidden_act": "gelu" })),
        "`hidden_act` must be `silu`, but is `\"gelu\"`"
    );
    assert_eq!(
        refusal(json!({ "rope_scaling": { "type": "dynamic", "factor": 2.0 } })),
        "`rope_type` must be `default`, `linear`, `llama3`, `longrope` or `yarn`, but is `\"dynamic\"`"
    );
    assert_eq!(
        refusal(json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8.0 } })),
        "`low_freq_factor` is missing"
    );
}

#[test]
fn sizes_out_of_bounds_are_refused() {
    for (changes, want) in [
        (
            json!({ "hidden_size": 0 }),
            "`hidden_size` must be a whole number in 1 ..= 131072, but is `0`",
        ),
        (
            json!({ "vocab_size": 1_u64 << 62 }),
            "`vocab_size` must be a whole number in 1 ..= 16777216, but is `4611686018427387904`",
        ),
        (
            json!({ "num_hidden_layers": -1 }),
            "`num_hidden_layers` must be a whole number in 1 ..= 1024, but is `-1`",
        ),
        (
            json!({ "intermediate_size": null }),
            "`intermediate_size` is missing",
        ),
        (
            json!({ "num_key_value_heads": 3 }),
            "`num_key_value_heads` does not divide `num_attention_heads`: 4 / 3 leaves 1 over",
        ),
        (
            json!({ "hidden_size": 130 }),
            "`num_attention_heads` does not divide `hidden_size`: 130 / 4 leaves 2 over",
        ),
        (
            json!({ "head_dim": 31 }),
            "`head_dim` must be even, but is `31`",
        ),
        (
            json!({ "rms_norm_eps": 0.0 }),
            "`rms_norm_eps` must be a positive number, but is `0.0`",
        ),
        (
            json!({ "eos_token_id": [2, "x"] }),
            "`eos_token_id` must be a token id, but is `\"x\"`",
        ),
        (
            json!({ "tie_word_embeddings": 1 }),
            "`tie_word_embeddings` must be `true` or `false`, but is `1`",
        ),
    ] {
        assert_eq!(refusal(changes), want);
    }
}

#[test]
fn linear_scaling_is_read_in_both_styles_and_written_back() {
    let want = Rope {
        scaling: RopeScaling::Linear { factor: 2.5 },
        ..Rope::plain(10_000.0)
    };
    for changes in [
        json!({ "rope_scaling": { "type": "linear", "factor": 2.5 } }),
        json!({ "rope_parameters": { "rope_type": "linear", "factor": 2.5, "rope_theta": 1e4 } }),
    ] {
        let config = DecoderConfig::from_json(&with(changes)).unwrap();
        assert_eq!(config.rope, want);
        let written = config.to_json("bfloat16");
        assert_eq!(
            written["rope_scaling"],
            json!({ "rope_type": "linear", "factor": 2.5 })
        );
        assert_eq!(DecoderConfig::from_json(&written).unwrap(), config);
    }
}

#[test]
fn yarn_is_read_with_the_growth_that_follows_and_written_back_whole() {
    let read = |scaling: Value| DecoderConfig::from_json(&with(json!({ "rope_scaling": scaling })));
    // The attention factors of `ROPE_INIT_FUNCTIONS["yarn"]`, transformers 5.17.
    for (more, attention_factor) in [
        (json!({}), 1.138_629_436_111_989),
        (json!({ "attention_factor": 1.5 }), 1.5),
        (
            json!({ "mscale": 1.0, "mscale_all_dim": 0.0 }),
            1.138_629_436_111_989,
        ),
        (
            json!({ "mscale": 1.0, "mscale_all_dim": 0.5 }),
            1.064_821_625_369_571_5,
        ),
    ] {
        let mut scaling =
            json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768 });
        scaling
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let config = read(scaling).unwrap();
        let RopeScaling::Yarn {
            attention_factor: got,
            beta_fast,
            beta_slow,
            truncate,
            ..
        } = config.rope.scaling
        else {
            panic!("{:?}", config.rope)
        };
        assert!(
            (got - attention_factor).abs() < 1e-9,
            "{got}, not {attention_factor}"
        );
        assert_eq!((beta_fast, beta_slow, truncate), (32.0, 1.0, true));
        let written = config.to_json("bfloat16");
        assert_eq!(DecoderConfig::from_json(&written).unwrap(), config);
    }
    let refused = |scaling: Value| read(scaling).unwrap_err().to_string();
    assert_eq!(
        refused(
            json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 0.5 })
        ),
        "`beta_fast` must be at least `beta_slow`, 1, but is `0.5`"
    );
}
