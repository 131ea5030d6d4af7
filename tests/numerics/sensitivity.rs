//! What parts of a student cost at each width: the KL that a whole run would find, and widths that follow from it.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use alambic::data::TokenRows;
use alambic::kernels::grid::Grid;
use alambic::model::{Decoder, DecoderConfig, LayerType, Part, TokenBatch};
use alambic::passes::{
    BudgetPlan, Choice, LayerPart, OverridePlan, PassPlan, QuantizeMethod, QuantizePlan,
    Sensitivity, SensitivityPlan, WIDTHS, apply,
};
use alambic::student::{STUDENT_FILE, Student};
use burn::tensor::Tensor;

use super::passes::int;
use super::tiny::{config, context, random_decoder, random_rows};

const TOKENS: usize = 48;

fn two_layers() -> DecoderConfig {
    DecoderConfig {
        num_hidden_layers: 2,
        layer_types: vec![LayerType::Full; 2],
        ..config()
    }
}

fn rows() -> TokenRows {
    random_rows(16, &[16, 9, 16, 16, 16], 6)
}

fn student(layer_repeats: usize) -> Student {
    Student {
        layer_repeats,
        ..Student::new(random_decoder(two_layers(), 5))
    }
}

fn plan(budget: Option<f64>) -> QuantizePlan {
    QuantizePlan {
        method: QuantizeMethod::RoundToNearest,
        scheme: int(4, Some(8)),
        overrides: vec![],
        embedding: None,
        output: None,
        sensitivity: Some(SensitivityPlan {
            tokens: TOKENS,
            budget: budget.map(|budget| BudgetPlan {
                budget,
                widths: WIDTHS.to_vec(),
            }),
        }),
        learn_scales: false,
    }
}

fn run(plan: &QuantizePlan, student: Student, dir: &Path) -> Student {
    let stop = AtomicBool::new(false);
    let (plan, rows) = (PassPlan::Quantize(plan.clone()), rows());
    apply(&plan, student, &context(dir, &rows, &stop)).unwrap()
}

fn sensitivity(plan: &QuantizePlan, student: Student) -> Sensitivity {
    let dir = tempfile::tempdir().unwrap();
    run(plan, student, dir.path());
    Sensitivity::read(dir.path()).unwrap().unwrap()
}

/// Mean KL from one decoder to another over the rows that are measured, from all logits of both.
fn kl(float: &Decoder, other: &Decoder) -> f64 {
    let rows = rows();
    let measured = [0, 2, 3]; // the second is padded
    let mut sum = 0.0;
    for row_idx in measured {
        let log_probs = |decoder: &Decoder| -> Vec<f64> {
            let tokens = TokenBatch::new(&[rows.inputs(row_idx)], &decoder.device());
            let logits: Tensor<3> = decoder.logits(decoder.hidden(&tokens));
            let logits: Vec<f32> = logits.try_into_vec_as().unwrap();
            let rows = logits.chunks(320).flat_map(|row| {
                let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
                row.iter().map(move |&logit| f64::from(logit) - sum.ln())
            });
            rows.collect()
        };
        let pairs = log_probs(float).into_iter().zip(log_probs(other));
        sum += pairs.map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
    }
    sum / TOKENS as f64
}

#[test]
fn each_cost_is_the_kl_of_a_whole_run_with_that_part_rounded() {
    for layer_repeats in [1, 2] {
        let student = student(layer_repeats);
        let found = sensitivity(&plan(None), student.clone());
        assert_eq!(found.positions, TOKENS as u64);
        assert_eq!(found.costs.len(), 2 * 5 * WIDTHS.len());
        let float = student.effective();
        for cost in &found.costs {
            let grid = Grid::symmetric(cost.bits, Some(8));
            let mut num_weights = 0;
            let rounded = student
                .decoder
                .map(|spec, weight| match LayerPart::of(spec) {
                    Some((layer, part))
                        if layer == cost.layer && [part, LayerPart::Layer].contains(&cost.part) =>
                    {
                        num_weights += spec.num_elements() as u64;
                        let on_grid = grid.quantize(weight);
                        on_grid.scaling.values(on_grid.codes).reshape(spec.shape)
                    }
                    _ => weight,
                });
            let want = kl(&float, &student.unroll(&rounded));
            let gap = (cost.kl_nats - want).abs();
            assert!(gap < 1e-6 + 1e-4 * want, "{cost:?}: {want}");
            assert_eq!(cost.num_weights, num_weights, "{cost:?}");
        }
        for layer in 0..2 {
            for part in LayerPart::CHOSEN {
                let costs = found.costs_of(layer, part).unwrap();
                assert!(costs[0].kl_nats > 10.0 * costs[3].kl_nats, "{costs:?}");
            }
        }
    }
}

#[test]
fn a_layer_that_was_made_sensitive_is_protected_and_the_choice_is_better_than_one_width() {
    // What the first layer adds to the stream is a hundredth of what the second one does.
    let mut student = student(1);
    student.decoder = student.decoder.map(|spec, weight| {
        let name = spec.name.strip_prefix("model.layers.0.");
        match name {
            Some("self_attn.o_proj.weight" | "mlp.down_proj.weight") => weight.mul_scalar(0.01),
            _ => weight,
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let chosen = run(&plan(Some(3.0)), student.clone(), dir.path());
    let choice = Choice::read(dir.path()).unwrap().unwrap();
    let bits = |layer, part| choice.bits_of(layer, part).unwrap();
    let mut widest = 0;
    for part in LayerPart::CHOSEN {
        assert_eq!(bits(0, part), 2, "{choice:?}");
        assert!(bits(1, part) > 2, "{choice:?}");
        widest = widest.max(bits(1, part));
    }
    assert!(widest >= 4, "{choice:?}");
    assert!(choice.average_bits <= 3.0, "{choice}");
    assert!(choice.kl_nats < choice.uniform[&3], "{choice}");
    for spec in alambic::model::parameter_specs(&student.decoder.config) {
        let want =
            LayerPart::of(&spec).map(|(layer, part)| Grid::symmetric(bits(layer, part), Some(8)));
        assert_eq!(chosen.grid_of(&spec), want, "{}", spec.name);
    }
    let uniform = QuantizePlan {
        scheme: int(3, Some(8)),
        sensitivity: None,
        ..plan(None)
    };
    let dir = tempfile::tempdir().unwrap();
    let float = student.effective();
    let uniform = run(&uniform, student, dir.path()).effective();
    let [chosen, uniform] = [&chosen.effective(), &uniform].map(|decoder| kl(&float, decoder));
    assert!(chosen < 0.7 * uniform, "{chosen} {uniform}");
}

#[test]
fn what_an_override_names_keeps_its_width_and_is_not_counted() {
    let fixed = OverridePlan {
        modules: vec![Part::Down],
        layers: Some(vec![0]),
        scheme: None,
    };
    let plan = QuantizePlan {
        overrides: vec![fixed],
        ..plan(Some(2.5))
    };
    let dir = tempfile::tempdir().unwrap();
    let student = run(&plan, student(1), dir.path());
    let choice = Choice::read(dir.path()).unwrap().unwrap();
    assert_eq!(choice.parts.len(), 7);
    assert_eq!(choice.bits_of(0, LayerPart::Down), None);
    assert_eq!(student.schemes.len(), 13);
}

#[test]
fn what_was_measured_before_a_stop_is_not_measured_again_and_the_result_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let files = ["sensitivity.json", "sensitivity.csv", "widths.json"];
    let saved = |student: &Student| {
        student.save(dir.path()).unwrap();
        file(STUDENT_FILE)
    };
    let whole = saved(&run(&plan(Some(3.0)), student(1), dir.path()));
    let want = files.map(file);
    let mut found = Sensitivity::read(dir.path()).unwrap().unwrap();
    found.costs.retain(|cost| cost.layer == 0);
    let put = |found: &Sensitivity, key: &str| {
        let mut json = serde_json::to_value(found).unwrap();
        json["key"] = key.into();
        alambic::files::write_json(&dir.path().join("sensitivity.json"), &json).unwrap();
    };
    put(&found, "key");
    fs::remove_file(dir.path().join("widths.json")).unwrap();
    assert!(saved(&run(&plan(Some(3.0)), student(1), dir.path())) == whole);
    assert!(files.map(file) == want, "the same files");

    found.costs[0].kl_nats = 7.5;
    put(&found, "another");
    run(&plan(Some(3.0)), student(1), dir.path());
    assert!(
        files.map(file) == want,
        "what another pass left is not used"
    );
    put(&found, "key");
    run(&plan(Some(3.0)), student(1), dir.path());
    let again = Sensitivity::read(dir.path()).unwrap().unwrap();
    assert_eq!(
        again.costs[..found.costs.len()],
        found.costs,
        "as it was kept"
    );
    assert_eq!(again.costs.len(), 2 * found.costs.len());
}
