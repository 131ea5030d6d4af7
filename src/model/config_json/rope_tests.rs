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
    /// Kind of scaling, base, and factor or trained context, of full layers and of sliding ones that have their own;
    /// after them, in Phi 3, the rotary share of a head.
    read: Vec<Value>,
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

fn facts(rope: &Rope, config: &DecoderConfig) -> Value {
    let (kind, number) = match rope.scaling {
        RopeScaling::Default => ("default", None),
        RopeScaling::Linear { factor } => ("linear", Some(factor)),
        RopeScaling::Llama3 { factor, .. } => ("llama3", Some(factor)),
        RopeScaling::Yarn { factor, .. } => ("yarn", Some(factor)),
        RopeScaling::LongRope {
            original_max_position_embeddings: context,
            ..
        } => ("longrope", Some(context as f64)),
    };
    let mut facts = vec![json!(kind), json!(rope.theta), json!(number)];
    if config.family().turns_partly {
        facts.push(json!(
            rope.dims(config.head_dim) as f64 / config.head_dim as f64
        ));
    }
    Value::Array(facts)
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
                let ropes = ropes.into_iter().flatten();
                let got: Vec<_> = ropes.map(|rope| facts(rope, &config)).collect();
                let numbers = |facts: &Value| facts.to_string().replace(".0", "");
                let same = got.iter().map(numbers).eq(case.read.iter().map(numbers));
                assert!(same, "{name}: {got:?}, not {:?}", case.read);
                // The written file states the computed settings, in both styles.
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
                let told = [
                    "`rope_parameters` must be a table of `full_attention`",
                    "`original_max_position_embeddings` must be 32, the value outside the scaling table",
                    "`original_max_position_embeddings` must be 4096, the value outside the scaling table",
                    "`factor` is missing", // of `yarn`, which Phi 3 takes for another name of `longrope`
                ];
                let is_always_written = |told: &&str| error.to_string().starts_with(*told);
                assert!(told.iter().any(is_always_written), "{name}: {error}");
                num_refused += 1;
            }
        }
    }
    assert_eq!((num_read, num_refused), (203, 43));
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
    // In a model with images the text part counts.
    let text = with_keys(gemma, &json!({ "rope_scaling": old }));
    let whole = json!({ "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text });
    assert!(DecoderConfig::note_on(&whole).is_some());
    let config = DecoderConfig::from_json(&whole).unwrap();
    assert_eq!(config.rope.scaling, RopeScaling::Default);
}

/// Rotary settings of a head of eight dimensions, in a family whose heads may be partly rotated.
fn partly(json: &Value) -> Result<Rope, ConfigError> {
    let family = Family {
        turns_partly: true,
        ..*Architecture::Llama.family()
    };
    ropes(json, &family, 8, 64).map(|(rope, _)| rope)
}

#[test]
fn the_part_of_a_head_that_turns_stands_in_either_style() {
    let dims = |json: Value| partly(&json).unwrap().rotary_dims;
    let old = json!({ "rope_type": "linear", "factor": 2.0 });
    assert_eq!(dims(json!({})), None);
    assert_eq!(dims(json!({ "partial_rotary_factor": 1.0 })), None);
    assert_eq!(dims(json!({ "partial_rotary_factor": 0.75 })), Some(6));
    assert_eq!(dims(json!({ "partial_rotary_factor": 0.8 })), Some(6));
    let table = json!({ "rope_type": "default", "partial_rotary_factor": 0.5 });
    assert_eq!(dims(json!({ "rope_parameters": table })), Some(4));
    let both = json!({ "rope_parameters": table, "partial_rotary_factor": 0.5 });
    assert_eq!(dims(both), Some(4));
    let beside = json!({ "rope_scaling": old, "partial_rotary_factor": 0.5 });
    assert_eq!(dims(beside), Some(4));
    let differ = json!({ "rope_parameters": table, "partial_rotary_factor": 0.75 });
    let message = partly(&differ).unwrap_err().to_string();
    assert!(message.contains("disagree"), "{message}");
    // An older scaling replaces all newer settings, the rotary share included.
    let mut newer = old.clone();
    newer["partial_rotary_factor"] = json!(0.5);
    let lost = json!({ "rope_parameters": newer, "rope_scaling": old });
    let message = partly(&lost).unwrap_err().to_string();
    assert!(message.contains("disagree"), "{message}");
    for wrong in [
        json!(0.7),
        json!(0.0),
        json!(1.5),
        json!("half"),
        json!(0.2),
    ] {
        let message = partly(&json!({ "partial_rotary_factor": wrong }))
            .unwrap_err()
            .to_string();
        let want = "`partial_rotary_factor` must be a share of the 8 dimensions of a head that gives an even number, but is";
        assert!(message.starts_with(want), "{message}");
    }
}

#[test]
fn the_factor_that_is_written_is_read_as_the_same_number_of_dimensions() {
    for head_dim in (2..=512_u64).step_by(2) {
        for dims in (2..=head_dim).step_by(2) {
            let factor = Rope::partial_rotary_factor(dims, head_dim);
            let read = (factor * head_dim as f64).floor();
            assert!(
                read.to_bits() == (dims as f64).to_bits() && factor <= 1.0,
                "{dims} of {head_dim}"
            );
        }
    }
}

#[test]
fn factors_of_frequencies_are_read_with_what_follows_from_the_stretch_of_the_context() {
    let table = json!({ "rope_type": "longrope", "short_factor": [1, 1.5, 2.0, 3.0], "long_factor": [2, 4.0, 5.5, 8.25] });
    let with = |key: &str, value: Value| {
        let mut table = table.clone();
        table[key] = value;
        table
    };
    let scaling = |json: Value| partly(&json).map(|rope| rope.scaling);
    let want = |attention_factor: f64, context: usize| RopeScaling::LongRope {
        short_factor: vec![1.0, 1.5, 2.0, 3.0],
        long_factor: vec![2.0, 4.0, 5.5, 8.25],
        attention_factor,
        original_max_position_embeddings: context,
    };
    // The context of 64 positions is four times the one of 16, which is inside the table or outside of it.
    let four_times = (1.0 + 4_f64.ln() / 16_f64.ln()).sqrt();
    let inside = with("original_max_position_embeddings", json!(16));
    let both = json!({ "rope_parameters": inside, "original_max_position_embeddings": 16 });
    for json in [
        json!({ "rope_scaling": inside }),
        json!({ "rope_parameters": inside }),
        both,
        json!({ "rope_scaling": with("type", json!("su")), "original_max_position_embeddings": 16 }),
    ] {
        assert_eq!(scaling(json).unwrap(), want(four_times, 16));
    }
    let mut given = inside.clone();
    given["factor"] = json!(0.5);
    let shrunk = scaling(json!({ "rope_scaling": given })).unwrap();
    assert_eq!(shrunk, want(1.0, 16));
    given["attention_factor"] = json!(1.75);
    let given = scaling(json!({ "rope_scaling": given })).unwrap();
    assert_eq!(given, want(1.75, 16));

    // Without either, it is the whole context, as in transformers: nothing is stretched.
    let whole = scaling(json!({ "rope_scaling": table })).unwrap();
    assert_eq!(whole, want(1.0, 64));

    let message = |json: Value| scaling(json).unwrap_err().to_string();
    assert_eq!(
        message(json!({ "rope_scaling": inside, "original_max_position_embeddings": 32 })),
        "`original_max_position_embeddings` must be 32, the value outside the scaling table, but is `16`"
    );
    let mut short = inside;
    short["long_factor"] = json!([1.0, 2.0]);
    assert_eq!(
        message(json!({ "rope_scaling": short })),
        "`long_factor` must be a list of 4 positive numbers, one for each pair of rotary dimensions, but is `[1.0,2.0]`"
    );
}

#[test]
fn a_trained_context_left_out_is_the_whole_context_as_in_transformers() {
    for table in [
        json!({ "rope_type": "yarn", "factor": 2.0 }),
        json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0 }),
    ] {
        let mut whole = table.clone();
        whole["original_max_position_embeddings"] = json!(512); // of `with_keys`
        for key in ["rope_parameters", "rope_scaling"] {
            let read = |table: &Value| {
                let json = with_keys("LlamaForCausalLM", &json!({ key: table }));
                DecoderConfig::from_json(&json).unwrap().rope
            };
            assert_eq!(read(&table), read(&whole), "{key} {table}");
        }
    }
}

#[test]
fn an_older_scaling_of_null_is_none() {
    let table = json!({ "rope_type": "linear", "rope_theta": 5e5, "factor": 2.0 });
    let read = |keys: Value| {
        let json = with_keys("LlamaForCausalLM", &keys);
        DecoderConfig::from_json(&json).unwrap().rope
    };
    let both = json!({ "rope_parameters": table, "rope_scaling": null, "rope_theta": 5e5 });
    assert_eq!(read(both), read(json!({ "rope_parameters": table })));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn numbers_with_which_a_model_computes_nonsense_are_refused_by_their_key() {
    let refused = |keys: Value| {
        let json = with_keys("LlamaForCausalLM", &keys);
        DecoderConfig::from_json(&json).unwrap_err().to_string()
    };
    let table = |key: &str, value: f64| {
        let mut table = json!({
            "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        });
        table[key] = json!(value);
        json!({ "rope_parameters": table })
    };
    let yarn = |key: &str, value: f64| {
        let mut table = json!({ "rope_type": "yarn", "factor": 2.0 });
        table[key] = json!(value);
        json!({ "rope_scaling": table })
    };
    for (key, keys, want) in [
        (
            "rms_norm_eps",
            json!({ "rms_norm_eps": 1e308 }),
            "a number from 1e-30 to 1e0",
        ),
        (
            "rms_norm_eps",
            json!({ "rms_norm_eps": 1e-300 }),
            "a number from 1e-30 to 1e0",
        ),
        (
            "rms_norm_eps",
            json!({ "rms_norm_eps": 0.0 }),
            "a positive number",
        ),
        (
            "rope_theta",
            json!({ "rope_theta": 1e-5 }),
            "a number from 1e0 to 1e15",
        ),
        (
            "rope_theta",
            json!({ "rope_theta": 1e308 }),
            "a number from 1e0 to 1e15",
        ),
        (
            "rope_theta",
            table("rope_theta", 1e300),
            "a number from 1e0 to 1e15",
        ),
        (
            "factor",
            table("factor", 1e-308),
            "a number from 1e-6 to 1e6",
        ),
        (
            "factor",
            json!({ "rope_scaling": { "type": "linear", "factor": 1e-308 } }),
            "a number from 1e-6 to 1e6",
        ),
        (
            "low_freq_factor",
            table("low_freq_factor", 1e-308),
            "a number from 1e-6 to 1e6",
        ),
        (
            "high_freq_factor",
            table("high_freq_factor", 1e300),
            "a number from 1e-6 to 1e6",
        ),
        (
            "high_freq_factor",
            table("high_freq_factor", 1.0),
            "above `low_freq_factor`, 1",
        ),
        ("factor", yarn("factor", 1e200), "a number from 1e-6 to 1e6"),
        (
            "attention_factor",
            yarn("attention_factor", 1e200),
            "a number from 1e-6 to 1e6",
        ),
        (
            "beta_slow",
            yarn("beta_slow", 1e-200),
            "a number from 1e-6 to 1e6",
        ),
        ("mscale", yarn("mscale", 1e300), "a number from 0 to 1e6"),
    ] {
        let message = refused(keys);
        let want = format!("`{key}` must be {want}, but is");
        assert!(message.contains(&want), "got:  {message}\nwant: {want}");
    }
    // What models have, and far around it.
    for (eps, theta) in [(1e-6, 1e4), (1e-5, 1e7), (1e-12, 5e8), (1e-3, 100.0)] {
        let keys = json!({ "rms_norm_eps": eps, "rope_theta": theta });
        DecoderConfig::from_json(&with_keys("LlamaForCausalLM", &keys)).unwrap();
    }
}
