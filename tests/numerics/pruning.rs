//! Pruning masks against a direct formula over activations that PyTorch's hooks saw.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use alambic::data::TokenRows;
use alambic::model::DecoderConfig;
use alambic::passes::apply;
use alambic::recipe::{PassPlan, PruneMethod, PrunePlan};
use alambic::student::Student;
use alambic::tensors::to_vec;
use alambic::train::fit::FitContext;
use serde::Deserialize;
use serde_json::Value;

use super::golden::{self, Golden};
use super::tiny::decoder_of;

#[derive(Deserialize)]
struct Inputs {
    config: Value,
    weights: BTreeMap<String, Vec<f32>>,
    tokens: Vec<u32>,
    sequence_length: usize,
    sparsity: PerMethod<f64>,
}

#[derive(Deserialize)]
struct PerMethod<T> {
    magnitude: T,
    wanda: T,
}

/// By parameter name, a digit for each weight.
type Masks = BTreeMap<String, String>;

#[test]
fn magnitude_and_wanda_masks_equal_those_of_the_formula() {
    let Golden {
        inputs, expected, ..
    } = golden::read::<Inputs, PerMethod<Masks>>("prune.json");
    let config = DecoderConfig::from_json(&inputs.config).unwrap();
    let student = Student::new(decoder_of(config, &inputs.weights));
    let num_rows = inputs.tokens.len() / (inputs.sequence_length + 1);
    let counted = vec![u32::try_from(inputs.sequence_length).unwrap(); num_rows];
    let rows = TokenRows::new(inputs.sequence_length, inputs.tokens, counted, 1);
    let context = FitContext {
        label: "prune",
        dir: Path::new("unused"),
        key: "key",
        seed: 0,
        rows: &rows,
        cache: None,
        teacher: None,
        validation: &rows,
        validation_cache: None,
        stop: &AtomicBool::new(false),
        wall_time: 0.0,
    };
    for (method, sparsity, want) in [
        (
            PruneMethod::Magnitude,
            inputs.sparsity.magnitude,
            expected.magnitude,
        ),
        (PruneMethod::Wanda, inputs.sparsity.wanda, expected.wanda),
    ] {
        let plan = PassPlan::Prune(PrunePlan {
            method,
            sparsity,
            calibration_tokens: num_rows * inputs.sequence_length,
        });
        let pruned = apply(&plan, student.clone(), &context).unwrap();
        assert!(
            pruned.masks.keys().eq(want.keys()),
            "{method:?}: masked layers"
        );
        assert_eq!(want.len(), 14, "two blocks of seven linear layers");
        for (name, mask) in &pruned.masks {
            let got: String = to_vec(mask)
                .iter()
                .map(|kept| if *kept == 0.0 { '0' } else { '1' })
                .collect();
            let differing = got
                .chars()
                .zip(want[name].chars())
                .filter(|(got, want)| got != want);
            assert_eq!(
                got,
                want[name],
                "{method:?}, {name}: {} weights differ",
                differing.count()
            );
        }
    }
}
