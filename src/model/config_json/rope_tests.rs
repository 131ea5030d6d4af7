//! Rotary settings in every style, against the config classes of transformers.

use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::model::RopeScaling;

/// `tests/golden/rope_settings.json`.
#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    architecture: String,
    keys: Value,
    /// Kind of scaling, base and factor, of full layers and of sliding ones that have their own.
    read: Vec<(String, f64, Option<f64>)>,
}

/// A whole `config.json` with these keys.
fn with_keys(architecture: &str, keys: &Value) -> Value {
    let mut json = json!({
        "architectures": [architecture], "vocab_size": 320, "hidden_size": 128, "intermediate_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 32, "sliding_window_pattern": 2, "max_position_embeddings": 512,
    });
    for (key, value) in keys.as_object().unwrap() {
        json[key] = value.clone();
    }
    json
}

fn facts(rope: &Rope) -> (String, f64, Option<f64>) {
    let (kind, factor) = match rope.scaling {
        RopeScaling::Default => ("default", None),
        RopeScaling::Linear { factor } => ("linear", Some(factor)),
        RopeScaling::Llama3 { factor, .. } => ("llama3", Some(factor)),
        RopeScaling::Yarn { factor, .. } => ("yarn", Some(factor)),
    };
    (kind.to_owned(), rope.theta, factor)
}

#[test]
fn rotary_settings_of_every_style_are_those_of_transformers_or_refused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rope_settings.json");
    let golden: Golden = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (mut num_read, mut num_refused) = (0, 0);
    for case in golden.cases {
        let name = format!("{}: {}", case.architecture, case.keys);
        let json = with_keys(&case.architecture, &case.keys);
        match DecoderConfig::from_json(&json) {
            Ok(config) => {
                let ropes = [Some(&config.rope), config.local_rope.as_ref()];
                let got: Vec<_> = ropes.into_iter().flatten().map(facts).collect();
                assert_eq!(got, case.read, "{name}");
                // What is written says what is computed, in both styles.
                let written = config.to_json("float32");
                assert_eq!(
                    DecoderConfig::from_json(&written).unwrap(),
                    config,
                    "{name}"
                );
                assert_eq!(DecoderConfig::note_on(&written), None, "{name}");
                num_read += 1;
            }
            Err(ConfigError::RopeDisagrees { .. }) => num_refused += 1,
            Err(error) => {
                let is_flat = "`rope_parameters` must be a table of `full_attention`";
                assert!(error.to_string().starts_with(is_flat), "{name}: {error}");
                num_refused += 1;
            }
        }
    }
    assert_eq!((num_read, num_refused), (132, 26));
}

#[test]
fn a_scaling_that_gemma_3_does_not_read_is_said() {
    let (gemma, old) = (
        "Gemma3ForCausalLM",
        json!({ "type": "linear", "factor": 8.0 }),
    );
    let linear = json!({ "rope_type": "linear", "factor": 8.0 });
    let full = json!({ "rope_type": "linear", "factor": 8.0, "rope_theta": 1e6 });
    for (architecture, keys, is_said) in [
        (gemma, json!({ "rope_scaling": old }), true),
        (gemma, json!({ "rope_scaling": linear }), false),
        (gemma, json!({ "rope_scaling": null }), false),
        (gemma, json!({}), false),
        (
            gemma,
            json!({ "rope_scaling": old, "rope_parameters": { "full_attention": full } }),
            false,
        ),
        ("LlamaForCausalLM", json!({ "rope_scaling": old }), false),
    ] {
        let note = DecoderConfig::note_on(&with_keys(architecture, &keys));
        assert_eq!(note.is_some(), is_said, "{architecture}: {keys}");
        let names = |note: String| note.contains("`rope_scaling`") && note.contains("`rope_type`");
        assert!(note.is_none_or(names), "{keys}");
    }
    // Of a model with images it is the text's part that counts.
    let text = with_keys(gemma, &json!({ "rope_scaling": old }));
    let whole = json!({ "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text });
    assert!(DecoderConfig::note_on(&whole).is_some());
    let config = DecoderConfig::from_json(&whole).unwrap();
    assert_eq!(config.rope.scaling, RopeScaling::Default);
}
