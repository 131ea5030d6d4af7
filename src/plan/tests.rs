//! Passes as they are written, and the plans that they become.
#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

use super::*;
use crate::loss::{LossWeights, Term};
use crate::pruning::{GradualMethod, GradualPlan, Within};
use crate::recipe::Scheduled::{self, Constant};
use crate::recipe::{Ramp, Shape};
use crate::train::{FitPlan, HandOn, RateSchedule, TemperaturePlan};

const MINIMAL: &str = "name: small\ndata: { train: [.], validation: [.] }\nteacher: { checkpoint: . }\n\
                       student: { checkpoint: . }\npasses: [{ distill: { steps: 7 } }]\n";

fn load_text(text: &str, overrides: &[&str]) -> Result<Plan, Vec<Diagnostic>> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    recipe::parse(&GRAMMAR, text, &overrides, Path::new(""))
}

/// The first pass.
fn fit(plan: &Plan) -> &FitPlan {
    match &plan.passes[0] {
        PassPlan::Distill(fit) => fit,
        pass => panic!("{pass:?} does not train"),
    }
}

#[test]
fn a_loss_term_is_a_weight_or_a_map_with_its_shape() {
    let losses = |written: &str| {
        let plan = load_text(MINIMAL, &[&format!("distill.losses={written}")]).unwrap();
        fit(&plan).losses.clone()
    };
    let bare = losses("{jsd: 1, skew_forward_kl: 0.5, skew_reverse_kl: 2, cross_entropy: 0.25}");
    let of = |losses: &LossWeights, term| (losses.weights[term], losses.shapes[term]);
    assert_eq!(of(&bare, Term::Jsd), (Constant(1.0), 0.5));
    assert_eq!(of(&bare, Term::SkewForwardKl), (Constant(0.5), 0.1));
    assert_eq!(of(&bare, Term::SkewReverseKl), (Constant(2.0), 0.1));
    assert_eq!(of(&bare, Term::CrossEntropy), (Constant(0.25), 0.0));
    let shaped = losses(
        "{reverse_kl: 1, jsd: {weight: 1, beta: 0.1}, skew_reverse_kl: {weight: 0, alpha: 0.3}, tvd: 3, \
         cross_entropy: {label_smoothing: 0.2, weight: 0.25}}",
    );
    assert_eq!(of(&shaped, Term::Jsd), (Constant(1.0), 0.1));
    assert_eq!(of(&shaped, Term::ReverseKl), (Constant(1.0), 0.0));
    assert_eq!(of(&shaped, Term::Tvd), (Constant(3.0), 0.0));
    assert_eq!(of(&shaped, Term::CrossEntropy), (Constant(0.25), 0.2));
    let off = (Constant(0.0), 0.0);
    assert_eq!(of(&shaped, Term::SkewReverseKl), off, "whatever its shape");
    assert!(shaped.is_soft() && !losses("{cross_entropy: 1}").is_soft());
}

#[test]
fn hidden_states_are_compared_by_a_weight_and_perhaps_a_map_of_layers() {
    let hidden = |written: &str| {
        let losses = format!("distill.losses={{forward_kl: 1, hidden_mse: {written}}}");
        let plan = load_text(MINIMAL, &[&losses]).unwrap();
        let losses = &fit(&plan).losses;
        (
            losses.weights[Term::HiddenMse],
            losses.hidden_layers.clone(),
        )
    };
    assert_eq!(hidden("0.5"), (Constant(0.5), None));
    let (_, mapped) = hidden("{ weight: 2, layers: [[0, 1], [3, 5]] }");
    assert_eq!(mapped, Some(vec![[0, 1], [3, 5]]));
    let (moving, _) = hidden("{ from: 1, to: 0 }");
    let ramp = Ramp {
        from: 1.0,
        to: 0.0,
        over: 7,
        shape: Shape::Linear,
    };
    assert_eq!(moving, Scheduled::Ramp(ramp));
    assert_eq!(hidden("0"), (Constant(0.0), None));
    let alone = load_text(MINIMAL, &["distill.losses={hidden_mse: 1}"]).unwrap();
    assert!(!fit(&alone).losses.is_soft(), "it needs no cache");
}

#[test]
fn a_term_that_is_off_does_not_change_what_identifies_a_stage() {
    let losses = |overrides: &[&str]| {
        let plan = load_text(MINIMAL, overrides).unwrap();
        serde_json::to_string(&fit(&plan).losses).unwrap()
    };
    let off = "distill.losses={forward_kl: 1, jsd: { weight: 0, beta: 0.3 }, cross_entropy: { weight: 0, label_smoothing: 0.1 }}";
    assert_eq!(losses(&[off]), losses(&[]));
}

#[test]
fn numbers_that_move_are_completed_with_their_steps() {
    let text = MINIMAL.replace(
        "passes: [{ distill: { steps: 7 } }]",
        "cache: { temperatures: [4.0, 1.0, 2.0, 8.0] }\n\
         passes: [{ distill: { steps: 100, schedule: warmup_stable_decay, temperature: { from: 4.0, to: 1.0, over: 0.3 }, \
         losses: { forward_kl: { from: 0.5, to: 1.0 } }, evaluate_every: 9, early_stop: { patience: 2 } } }]",
    );
    let plan = load_text(&text, &[]).unwrap();
    let first = fit(&plan);
    let TemperaturePlan::Walk(walk) = &first.temperature else {
        panic!("{:?}", first.temperature)
    };
    assert_eq!(
        (walk.over, walk.stops.as_slice()),
        (30, &[4.0, 2.0, 1.0][..])
    );
    let ramp = Ramp {
        from: 0.5,
        to: 1.0,
        over: 100,
        shape: Shape::Linear,
    };
    assert_eq!(first.losses.weights[Term::ForwardKl], Scheduled::Ramp(ramp));
    let decay = RateSchedule::WarmupStableDecay {
        decay_steps: 10,
        decay_shape: Shape::OneMinusSqrt,
    };
    assert_eq!((first.schedule, first.hand_on), (decay, HandOn::Best));
    let kept = load_text(&text, &["distill.hand_on=last"]).unwrap();
    assert_eq!(fit(&kept).hand_on, HandOn::Last);
}

#[test]
fn keys_at_their_defaults_identify_a_stage_as_those_that_are_not_written() {
    let defaults = "distill: { steps: 7, schedule: cosine, decay_embeddings: true, hand_on: last, keep_states: 9, \
                    temperature: 1.0, losses: { forward_kl: 1.0 } }";
    let written = load_text(&MINIMAL.replace("distill: { steps: 7 }", defaults), &[]).unwrap();
    let json = serde_json::to_value(&written.passes[0]).unwrap();
    let minimal = load_text(MINIMAL, &[]).unwrap();
    assert_eq!(json, serde_json::to_value(&minimal.passes[0]).unwrap());
}

#[test]
fn the_weight_of_every_term_may_move() {
    let ends = |written: &str| {
        let text = format!("distill.losses={{forward_kl: 1, {written}}}");
        let losses = fit(&load_text(MINIMAL, &[&text]).unwrap()).losses.clone();
        [Term::Jsd, Term::Tvd, Term::CrossEntropy].map(|term| losses.weights[term].ends())
    };
    let (off, ramp) = ([0.0; 2], [0.25, 0.5]);
    let moves = "{ from: 0.25, to: 0.5, over: 3 }";
    assert_eq!(ends(&format!("tvd: {moves}")), [off, ramp, off]);
    assert_eq!(ends(&format!("jsd: {moves}")), [ramp, off, off]);
    assert_eq!(
        ends(&format!("jsd: {{ beta: 0.3, weight: {moves} }}")),
        [ramp, off, off]
    );
    assert_eq!(ends(&format!("cross_entropy: {moves}")), [off, off, ramp]);
    let long = "distill.losses={cross_entropy: { weight: { from: 1, to: 2, over: 8 } }}";
    let faults = load_text(MINIMAL, &[long]).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert_eq!(
        faults[0].message,
        "`cross_entropy` moves over 8 steps, but the pass has 7"
    );
}

fn pass_json(written: &str) -> String {
    let text = MINIMAL.replace("distill: { steps: 7 }", written);
    let plan = load_text(&text, &[]).unwrap();
    serde_json::to_string(&plan.passes[0]).unwrap()
}

#[test]
fn pruning_is_identified_by_what_it_does() {
    for (written, want) in [
        (
            "prune: { method: wanda, sparsity: 0.5, within: row }",
            r#"{"prune":{"method":"wanda","sparsity":0.5,"within":"row","calibration_tokens":32000}}"#,
        ),
        (
            "prune: { method: magnitude, sparsity: 0.5, within: matrix }",
            r#"{"prune":{"method":"magnitude","sparsity":0.5,"within":"matrix","calibration_tokens":32000}}"#,
        ),
        (
            "prune: { method: sparsegpt, pattern: 2:4 }",
            r#"{"prune":{"method":"sparsegpt","damping":0.01,"pattern":"2:4","calibration_tokens":32000}}"#,
        ),
        (
            "prune: { method: sparsegpt, sparsity: 0.25 }",
            r#"{"prune":{"method":"sparsegpt","damping":0.01,"sparsity":0.25,"within":"matrix","calibration_tokens":32000}}"#,
        ),
        (
            "shrink: { num_hidden_layers: 3, layers_by: influence, contiguous: false }",
            r#"{"shrink":{"num_hidden_layers":3,"hidden_size":null,"intermediate_size":null,"num_key_value_heads":null,"layers_by":"influence","contiguous":false,"calibration_tokens":32000}}"#,
        ),
        (
            "shrink: { parameters: 0.5, along: [num_hidden_layers], contiguous: true }",
            r#"{"shrink":{"parameters":0.5,"along":["num_hidden_layers"],"layers_by":"influence","contiguous":true,"calibration_tokens":32000}}"#,
        ),
    ] {
        assert_eq!(pass_json(written), want, "{written}");
    }
}

#[test]
fn weights_that_go_meanwhile_leave_a_quarter_of_the_pass_to_make_up_for_them() {
    let plan = load_text(MINIMAL, &["distill.prune={sparsity: 0.5}"]).unwrap();
    let want = GradualPlan {
        method: GradualMethod::Magnitude,
        sparsity: 0.5,
        within: Within::Row,
        from_step: 0,
        to_step: 5,
        every: 10,
        calibration_tokens: 4000,
    };
    assert_eq!(fit(&plan).prune, Some(want));
}

#[test]
fn what_prunes_is_written_back_as_it_was() {
    for written in [
        "prune: { method: sparsegpt, sparsity: 0.25, within: row, damping: 0.1 }",
        "prune: { method: magnitude, pattern: 4:8 }",
        "shrink: { parameters: 0.5 }",
        "shrink: { parameters: 0.5, along: [num_hidden_layers], layers_by: loss, contiguous: true }",
        "shrink: { hidden_size: 64, num_key_value_heads: 2 }",
        "distill: { steps: 7, prune: { sparsity: 0.5 } }",
        "distill: { steps: 7, prune: { method: wanda, sparsity: 0.5, within: matrix, from_step: 1, to_step: 6, every: 2 } }",
    ] {
        let text = MINIMAL.replace("distill: { steps: 7 }", written);
        let plan = load_text(&text, &[]).unwrap();
        let folder = std::path::absolute(".").unwrap();
        let again = load_text(&resolved_yaml(&plan, &folder), &[]).unwrap();
        assert_eq!(again.passes, plan.passes, "{written}");
    }
}

#[test]
fn a_scheme_is_completed_and_identified_by_what_it_is() {
    let plan = |keys: &str| {
        let quantize = format!("quantize: {{ method: round-to-nearest, {keys} }}");
        let text = MINIMAL.replace("distill: { steps: 7 }", &quantize);
        let plan = load_text(&text, &[]).unwrap();
        serde_json::to_value(&plan.passes[0]).unwrap()["quantize"].clone()
    };
    let scheme = |bits: u32, group_size: Option<u32>, symmetric: bool| {
        json!({
            "bits": bits, "group_size": group_size, "type": "int", "symmetric": symmetric, "activations": "none",
        })
    };
    let quantized = |mut scheme: Value, changes: Value| {
        let rest = json!({
            "method": "round_to_nearest", "overrides": [], "embedding": null, "output": null,
            "sensitivity": null, "learn_scales": false,
        });
        for keys in [rest, changes] {
            let (all, keys) = (scheme.as_object_mut().unwrap(), keys.as_object().unwrap());
            all.extend(keys.clone());
        }
        scheme
    };
    let usual = quantized(scheme(4, Some(32), true), json!({}));
    assert_eq!(plan(""), usual);
    let written = "type: int, bits: 4, symmetric: true, activations: none, overrides: []";
    assert_eq!(plan(written), usual);
    assert_eq!(
        plan("type: fp8, activations: per_token"),
        quantized(
            scheme(8, None, true),
            json!({"type": "fp8", "activations": "per_token"})
        )
    );
    let all = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj";
    let overrides = json!([
        {"modules": ["o_proj"], "layers": [1], "scheme": scheme(8, None, true)},
        {"modules": all.split(' ').collect::<Vec<_>>(), "layers": null, "scheme": null},
    ]);
    assert_eq!(
        plan(
            "bits: 3, symmetric: false, overrides: [{ modules: [o_proj], layers: [1], bits: 8 }, { keep: true }]"
        ),
        quantized(
            scheme(3, Some(32), false),
            json!({ "overrides": overrides })
        )
    );
    assert_eq!(
        plan("bits: 2, group_size: 64, embedding: { bits: 8 }, output: { symmetric: false }"),
        quantized(
            scheme(2, Some(64), true),
            json!({"embedding": scheme(8, None, true), "output": scheme(4, Some(32), false)})
        )
    );
}

#[test]
fn methods_that_measure_are_identified_by_what_they_use() {
    let method = |keys: &str| {
        let quantize = format!("quantize: {{ {keys} }}");
        let text = MINIMAL.replace("distill: { steps: 7 }", &quantize);
        let plan = load_text(&text, &[]).unwrap();
        serde_json::to_value(&plan.passes[0]).unwrap()["quantize"]["method"].to_string()
    };
    for (keys, want) in [
        (
            "method: round-to-nearest, clip: false",
            r#""round_to_nearest""#,
        ),
        (
            "method: round-to-nearest, clip: true, calibration_tokens: 1k",
            r#"{"ptq":{"awq":false,"clip":true,"gptq":null,"calibration_tokens":1000}}"#,
        ),
        (
            "method: gptq",
            r#"{"ptq":{"awq":false,"clip":false,"gptq":{"act_order":true,"damping":0.01},"calibration_tokens":32000}}"#,
        ),
        (
            "method: awq",
            r#"{"ptq":{"awq":true,"clip":false,"gptq":null,"calibration_tokens":32000}}"#,
        ),
        (
            "method: awq-gptq, act_order: false, damping: 0.5, clip: true",
            r#"{"ptq":{"awq":true,"clip":true,"gptq":{"act_order":false,"damping":0.5},"calibration_tokens":32000}}"#,
        ),
    ] {
        assert_eq!(method(keys), want, "{keys}");
    }
}

const TEXTS: [&str; 4] = [
    include_str!("../../tests/bad_recipes/contradictions.yaml"),
    include_str!("../../tests/bad_recipes/values.yaml"),
    include_str!("../../tests/bad_recipes/schedules.yaml"),
    include_str!("../../recipes/quickstart.yaml"),
];

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        rng_seed: RngSeed::Fixed(17),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_text_and_no_override_makes_the_reader_panic(
        text_idx in 0..TEXTS.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize, "[-a-z0-9:{}\\[\\],.\n &*é]{0,3}"), 1..6),
        overrides in prop::collection::vec("[a-z.0-9]{0,12}=?[-a-z0-9:{}\\[\\],. é]{0,6}", 0..3),
    ) {
        let mut text: Vec<char> = TEXTS.get(text_idx).unwrap().chars().collect();
        for (place, num_removed, inserted) in edits {
            let start = place.index(text.len());
            let end = (start + num_removed).min(text.len());
            text.splice(start..end, inserted.chars());
        }
        let recipe: String = text.into_iter().collect();
        if let Err(faults) = recipe::understand::<Plan>(&GRAMMAR, &recipe, &overrides, Path::new("edited.yaml")) {
            prop_assert!(!faults.to_string().is_empty());
        }
    }
}

#[test]
fn every_default_of_the_table_is_a_value_of_its_kind() {
    let text = "name: a\ndata: {train: [.], validation: [.]}\nteacher: {checkpoint: .}\n\
                student: {architecture: {num_hidden_layers: 1, hidden_size: 32, num_attention_heads: 2, intermediate_size: 32}}\n\
                passes: [distill: {steps: 1}, prune: {sparsity: 0}, quantize: {method: qat, steps: 1}]\n";
    let plan = load_text(text, &[]);
    assert_eq!(plan.map(|plan| plan.passes.len()), Ok(3));
}

#[test]
fn words_are_those_of_the_table() {
    let formats = words(&["export", "formats"]);
    assert!(formats.starts_with(&["huggingface"]), "{formats:?}");
    let methods = words(&["passes", "quantize", "method"]);
    assert!(methods.contains(&"round-to-nearest"), "{methods:?}");
    assert!(words(&["export", "max_rounding_kl"]).is_empty());
    assert!(words(&["nothing", "here"]).is_empty());
}

#[test]
fn an_export_alone_has_the_defaults_of_a_recipe_and_its_faults() {
    let plan = export_plan("export: { formats: [gguf] }", &[], "arguments").unwrap();
    assert_eq!(plan.formats.len(), 1);
    let overrides = ["export.dtype=f99".to_owned()];
    let told = export_plan("export: { formats: [gguf] }", &overrides, "arguments").unwrap_err();
    let told = told.to_string();
    assert!(told.contains("`dtype` must be"), "{told}");
    assert!(told.contains("--set export.dtype=f99"), "{told}");
    assert!(
        told.ends_with("error: 1 fault in arguments; nothing was run"),
        "{told}"
    );
}
