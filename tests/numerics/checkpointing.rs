//! Gradient checkpointing changes no bit of a gradient.

use std::collections::BTreeMap;

use alambic::data::TokenRows;
use alambic::device::ReadBack;
use alambic::loss::{LossSpec, Term, Terms};
use alambic::model::{Decoder, DecoderConfig};
use alambic::tensors::to_vec;
use alambic::train::gradient::{ActivationMemory, MicroBatch, StepGradient, step_gradient_with};
use alambic::train::row_targets;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::golden::{self, Golden};
use super::tiny::{config, decoder_of, random_decoder, random_rows};

#[derive(Deserialize)]
struct Inputs {
    config: Value,
    weights: BTreeMap<String, Vec<f32>>,
    tokens: Vec<u32>,
    sequence_length: usize,
    counted: Vec<u32>,
}

fn gradient(decoder: &Decoder, rows: &TokenRows, activations: ActivationMemory) -> StepGradient {
    let spec = LossSpec::of(Terms::ZERO.with(Term::CrossEntropy, 1.0));
    let micro_batches: Vec<MicroBatch<'_>> = (0..rows.num_rows())
        .map(|row| MicroBatch {
            inputs: vec![rows.inputs(row)],
            targets: row_targets(rows, row, None).collect(),
        })
        .collect();
    let read_back = ReadBack::Free;
    step_gradient_with(decoder, &micro_batches, &spec, None, activations, read_back)
}

pub(crate) fn assert_same_bits(name: &str, decoder: &Decoder, rows: &TokenRows) {
    let kept = gradient(decoder, rows, ActivationMemory::Kept);
    let recomputed = gradient(decoder, rows, ActivationMemory::Recomputed);
    assert_equal_bits(name, decoder, [&kept, &recomputed]);
}

/// Checks that two gradients of a decoder have the same bits, and that no parameter is without one.
pub(crate) fn assert_equal_bits(name: &str, decoder: &Decoder, [one, other]: [&StepGradient; 2]) {
    assert_eq!(one.sums.read(), other.sums.read(), "{name}");
    let parameters = decoder.parameters();
    assert_eq!(one.gradients.len(), parameters.len(), "{name}");
    let pairs = one.gradients.iter().zip(&other.gradients);
    for ((spec, _), (one, other)) in parameters.iter().zip(pairs) {
        let bits =
            |gradient| -> Vec<u32> { to_vec(gradient).iter().map(|x| x.to_bits()).collect() };
        let (one, other) = (bits(one), bits(other));
        assert!(one.iter().any(|bits| *bits != 0), "{name}: {}", spec.name);
        assert!(one == other, "{name}: {}", spec.name);
    }
}

#[test]
fn a_layer_that_runs_again_gives_the_same_gradient_to_the_bit_in_every_family() {
    let files = golden::names("decoder_gradient_");
    assert_eq!(files.len(), 11);
    for file in files {
        let Golden { inputs, .. } = golden::read::<Inputs, IgnoredAny>(&file);
        let config = DecoderConfig::from_json(&inputs.config).unwrap();
        let decoder = decoder_of(config, &inputs.weights);
        let rows = TokenRows::new(inputs.sequence_length, inputs.tokens, inputs.counted, 1);
        assert_same_bits(&file, &decoder, &rows);
    }
}

#[test]
fn a_layer_that_runs_again_gives_the_same_gradient_to_the_bit_over_several_strips_of_queries() {
    let config = DecoderConfig {
        max_position_embeddings: 150,
        ..config()
    };
    let decoder = random_decoder(config, 5);
    assert_same_bits("150 positions", &decoder, &random_rows(150, &[150, 70], 3));
}
