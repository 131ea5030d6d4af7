//! What makes a family its own: that each part matters where it is compared, and windows.

use std::collections::BTreeMap;

use alambic::cache::SupportPlan;
use alambic::data::{LossMask, Sequence};
use alambic::generate::{TokenSampling, generate};
use alambic::loss::log_sum_exp;
use alambic::model::{
    Architecture, Decoder, DecoderConfig, LayerType, Rope, RopeScaling, TokenBatch,
};
use alambic::student::PartSelection;
use alambic::support::{CountedRow, Supports};
use alambic::teacher::{Selection, supports};
use alambic::tensors::to_vec;
use serde::Deserialize;
use serde_json::Value;

use super::golden::{self, Golden, Tolerance, assert_close};
use super::tiny::{all_positions, config, decoder_of, device, random_decoder};

/// The same model, the same numbers, another order of summation.
const SAME: Tolerance = Tolerance {
    atol: 1e-5,
    rtol: 0.0,
};

#[derive(Deserialize)]
struct Inputs {
    config: Value,
    weights: BTreeMap<String, Vec<f32>>,
    tokens: Vec<u32>,
}

/// The model of a gradient's golden file, and eight tokens.
fn golden_model(family: &str) -> (Decoder, Vec<u32>) {
    let file = format!("decoder_gradient_{family}.json");
    let Golden { inputs, .. } = golden::read::<Inputs, Value>(&file);
    let config = DecoderConfig::from_json(&inputs.config).unwrap();
    let decoder = decoder_of(config, &inputs.weights);
    (decoder, inputs.tokens[..8].to_vec())
}

fn logits(decoder: &Decoder, ids: &[u32]) -> Vec<f32> {
    let hidden = decoder.hidden(&TokenBatch::document(ids, &device()));
    decoder.logits(hidden).try_into_vec_as::<f32>().unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    let gaps = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    gaps.fold(0.0, f32::max)
}

fn no_window(config: &mut DecoderConfig) {
    config.layer_types.fill(LayerType::Full);
}

#[test]
fn the_golden_files_can_tell_whether_a_part_is_there() {
    type Removal = fn(&mut DecoderConfig);
    let default_rope: Removal = |config| {
        config.rope = Rope::plain(config.rope.theta);
    };
    let cases: [(&str, &str, Removal); 16] = [
        ("mistral", "window", no_window),
        ("qwen2", "window", no_window),
        ("qwen3", "window", no_window),
        ("gemma2", "window", no_window),
        ("gemma3", "window", |config| config.sliding_window = None),
        ("gemma2", "score cap", |config| {
            config.attn_logit_softcapping = None;
        }),
        ("gemma2", "logit cap", |config| {
            config.final_logit_softcapping = None;
        }),
        ("gemma2", "query scale", |config| {
            config.query_pre_attn_scalar = config.head_dim;
        }),
        ("gemma3", "local rope", |config| config.local_rope = None),
        ("gemma3", "rope scaling", default_rope),
        ("phi3", "rope scaling", |config| {
            config.rope.scaling = RopeScaling::Default;
        }),
        ("phi3", "part of a head", |config| {
            config.rope.scaling = RopeScaling::Default;
            config.rope.rotary_dims = None;
        }),
        ("phi3", "long context", |config| {
            let RopeScaling::LongRope {
                original_max_position_embeddings: context,
                ..
            } = &mut config.rope.scaling
            else {
                panic!("{:?}", config.rope)
            };
            *context = 8;
        }),
        ("smollm3", "layer without rope", |config| {
            config.layers_without_rope.clear();
        }),
        ("smollm3", "window", no_window),
        ("gemma", "its gains, activation and embedding", |config| {
            config.architecture = Architecture::Llama; // whose table of weights is the same
        }),
    ];
    for (family, part, remove) in cases {
        let (decoder, ids) = golden_model(family);
        let mut without = decoder.clone();
        remove(&mut without.config);
        let difference = largest_difference(&logits(&decoder, &ids), &logits(&without, &ids));
        assert!(difference > 1e-2, "{family} without {part}: {difference}");
    }
}

#[test]
fn a_window_gives_the_same_states_token_by_token_in_chunks_and_at_once() {
    for family in ["mistral", "qwen2", "qwen3", "gemma2", "gemma3", "smollm3"] {
        let (decoder, ids) = golden_model(family);
        assert_eq!(decoder.config.sliding_window, Some(3));
        let values = |hidden: burn::tensor::Tensor<3>| hidden.try_into_vec_as::<f32>().unwrap();
        let whole: Vec<f64> = values(decoder.hidden(&TokenBatch::document(&ids, &device())))
            .into_iter()
            .map(f64::from)
            .collect();
        for chunks in [vec![1; 8], vec![5, 1, 2], vec![2, 6]] {
            let (mut past, mut rest, mut got) = (Vec::new(), &ids[..], Vec::new());
            for &size in &chunks {
                let (chunk, after) = rest.split_at(size);
                let hidden =
                    decoder.hidden_after(&TokenBatch::document(chunk, &device()), &mut past);
                got.extend(values(hidden));
                rest = after;
            }
            assert!(rest.is_empty());
            assert_close(&format!("{family} in {chunks:?}"), &got, &whole, SAME);
        }
    }
}

#[test]
fn a_window_hides_exactly_what_lies_before_it() {
    let sliding = |window| DecoderConfig {
        sliding_window: Some(window),
        layer_types: vec![LayerType::Sliding],
        ..config()
    };
    let ids = [5_u32, 6, 7, 8, 9, 10];
    let other = [5_u32, 200, 7, 8, 9, 10]; // the second token differs
    for window in 1..=6 {
        let decoder = random_decoder(sliding(window), 1);
        let (one, two) = (logits(&decoder, &ids), logits(&decoder, &other));
        let (one, two): (Vec<_>, Vec<_>) = (one.chunks(320).collect(), two.chunks(320).collect());
        for position in 0..ids.len() {
            let sees = (1..1 + window).contains(&position);
            assert_eq!(
                one[position] != two[position],
                sees,
                "window {window}, position {position}"
            );
        }
    }
}

#[test]
fn a_layer_without_rope_does_not_see_where_its_keys_stand() {
    let config = |layers_without_rope: &[usize]| DecoderConfig {
        num_hidden_layers: 2,
        layer_types: vec![LayerType::Full; 2],
        layers_without_rope: layers_without_rope.to_vec(),
        ..config()
    };
    let ids = [5_u32, 6, 7, 8, 9, 10];
    let swapped = [6_u32, 5, 7, 8, 9, 10];
    let last = |layers: &[usize], ids: &[u32]| {
        let logits = logits(&random_decoder(config(layers), 1), ids);
        logits[5 * 320..].to_vec()
    };
    // What the last token sees is then a set, but for what the tokens between have seen.
    let one_layer = |layers: &[usize], ids: &[u32]| {
        let decoder = PartSelection::layers(&[1]).cut(&random_decoder(config(layers), 1));
        logits(&decoder, ids)[5 * 320..].to_vec()
    };
    assert!(largest_difference(&one_layer(&[1], &ids), &one_layer(&[1], &swapped)) < 1e-5);
    assert!(largest_difference(&one_layer(&[], &ids), &one_layer(&[], &swapped)) > 1e-2);
    for layers in [&[][..], &[0], &[1], &[0, 1]] {
        let others = [&[][..], &[0], &[1], &[0, 1]].into_iter();
        for other in others.filter(|other| *other != layers) {
            let difference = largest_difference(&last(layers, &ids), &last(other, &ids));
            assert!(difference > 1e-3, "{layers:?} and {other:?}");
        }
        let decoder = random_decoder(config(layers), 1);
        let turned = PartSelection::layers(&[1, 0, 1]).cut(&decoder).config;
        let without = [1, 0, 1].map(|layer| layers.contains(&layer));
        let want: Vec<usize> = (0..3).filter(|&place| without[place]).collect();
        assert_eq!(turned.layers_without_rope, want);
    }
}

#[test]
fn layers_without_rope_read_on_token_by_token() {
    let decoder = random_decoder(
        DecoderConfig {
            num_hidden_layers: 2,
            layer_types: vec![LayerType::Sliding, LayerType::Full],
            sliding_window: Some(3),
            layers_without_rope: vec![0],
            ..config()
        },
        1,
    );
    let ids = [5_u32, 6, 7, 8, 9, 10];
    let values = |hidden: burn::tensor::Tensor<3>| hidden.try_into_vec_as::<f32>().unwrap();
    let whole = values(decoder.hidden(&TokenBatch::document(&ids, &device())));
    let whole: Vec<f64> = whole.into_iter().map(f64::from).collect();
    let (mut past, mut got) = (Vec::new(), Vec::new());
    for id in ids {
        got.extend(values(
            decoder.hidden_after(&TokenBatch::document(&[id], &device()), &mut past),
        ));
    }
    assert_close("token by token", &got, &whole, SAME);
}

#[test]
fn a_window_as_long_as_the_text_is_none() {
    let full = random_decoder(config(), 1);
    let ids = [5_u32, 6, 7, 8, 9, 10];
    for (window, is_full) in [(5, false), (6, true), (100, true)] {
        let mut windowed = full.clone();
        windowed.config.sliding_window = Some(window);
        windowed.config.layer_types = vec![LayerType::Sliding];
        assert_eq!(
            logits(&windowed, &ids) == logits(&full, &ids),
            is_full,
            "{window}"
        );
    }
}

#[test]
fn what_a_capped_teacher_says_is_said_of_capped_logits() {
    let (teacher, ids) = golden_model("gemma2");
    let selection = Selection {
        support: SupportPlan::TopK(32),
        temperatures: &[1.0],
    };
    let row = [&ids[..], &[0]].concat(); // the last token is a label, not an input
    let spans = all_positions(ids.len());
    let row = CountedRow {
        sequence: Sequence::document(&row),
        mask: LossMask::new(&spans, ids.len()).unwrap(),
    };
    let said = supports(&teacher, &[row], &selection);
    let [Supports::TopK(supports)] = said.as_slice() else {
        panic!("{said:?}");
    };
    let logits = logits(&teacher, &ids);
    assert!(logits.iter().all(|logit| logit.abs() < 1.5), "{logits:?}");
    let log_probs = logits.chunks(32).flat_map(|row| {
        let lse = log_sum_exp(row);
        row.iter().map(move |&logit| f64::from(logit) - lse)
    });
    let want: Vec<f64> = log_probs.collect();
    assert_close("log-probabilities", &supports.log_probs, &want, SAME);
}

#[test]
fn text_that_grows_beyond_the_trained_context_is_read_again() {
    let (decoder, ids) = golden_model("phi3");
    let mut want = ids[..3].to_vec();
    for _ in 0..6 {
        let last = logits(&decoder, &want);
        let last = last.chunks(32).next_back().unwrap().iter();
        let (next, _) = last.enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        want.push(u32::try_from(next).unwrap());
    }
    let greedy = TokenSampling {
        top_k: None,
        temperature: 0.0,
        top_p: 1.0,
        seed: 1,
    };
    let mut got = ids[..3].to_vec();
    let emit = |id| {
        got.push(id);
        true
    };
    generate(&decoder, &ids[..3], 6, greedy, emit).unwrap();
    assert_eq!(got, want);
}

#[test]
fn chosen_layers_keep_their_type_and_their_weights() {
    let (teacher, ids) = golden_model("gemma3");
    for layers in [vec![0, 1], vec![1], vec![0]] {
        let student = PartSelection::layers(&layers).cut(&teacher);
        let types = layers
            .iter()
            .map(|&layer| [LayerType::Sliding, LayerType::Full][layer]);
        assert_eq!(student.config.layer_types, types.collect::<Vec<_>>());
        let json = student.config.to_json("float32");
        assert_eq!(DecoderConfig::from_json(&json).unwrap(), student.config);
    }
    let same = PartSelection::layers(&[0, 1]).cut(&teacher);
    assert_eq!(logits(&same, &ids), logits(&teacher, &ids));
    let turned = PartSelection::layers(&[1, 0]).cut(&teacher);
    let weights = |decoder: &Decoder, name: &str| {
        let parameters = decoder.parameters();
        let found = parameters
            .iter()
            .find(|(spec, _)| spec.name == name)
            .unwrap();
        to_vec(&found.1)
    };
    assert_eq!(
        weights(&turned, "model.layers.0.self_attn.q_norm.weight"),
        weights(&teacher, "model.layers.1.self_attn.q_norm.weight")
    );
}
