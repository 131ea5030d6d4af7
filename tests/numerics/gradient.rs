//! The gradient of a step against PyTorch, and the laws of micro-batches.

use std::collections::BTreeMap;

use alambic::cache::SupportPlan;
use alambic::data::TokenRows;
use alambic::device::ReadBack::{self, Free, Stalls};
use alambic::loss::{LossSpec, Term, Terms};
use alambic::model::{Decoder, DecoderConfig, WeightId, parameter_specs, tensor_specs};
use alambic::support::{CountedRow, LogSumExps, Supports, Temperature, TopKSupports};
use alambic::teacher::{Selection, supports};
use alambic::tensors::to_vec;
use alambic::train::gradient::{
    ActivationMemory, MicroBatch, StepGradient, step_gradient, step_gradient_with,
};
use alambic::train::row_targets;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde::Deserialize;
use serde_json::Value;

use super::golden::{self, Golden, Tolerance, assert_close};
use super::tiny::{config, decoder_of, random_decoder, random_rows};

#[derive(Deserialize)]
struct GradientInputs {
    config: Value,
    weights: BTreeMap<String, Vec<f32>>,
    tokens: Vec<u32>,
    sequence_length: usize,
    counted: Vec<u32>,
    top_k: usize,
    temperature: f32,
    ids: Vec<u32>,
    log_probs: Vec<f32>,
    lse: Vec<f32>,
    loss_weights: Weights,
}

#[derive(Deserialize)]
struct Weights {
    forward_kl: f64,
    cross_entropy: f64,
}

#[derive(Deserialize)]
struct GradientCases {
    cross_entropy: GradientCase,
    mix: GradientCase,
}

#[derive(Deserialize)]
struct GradientCase {
    losses: BTreeMap<String, f64>,
    gradients: BTreeMap<String, Vec<f64>>,
}

impl GradientInputs {
    fn supports(&self) -> Vec<Supports> {
        let per_row = self.sequence_length * self.top_k;
        let rows = self.ids.chunks(per_row).zip(self.log_probs.chunks(per_row));
        rows.zip(self.lse.chunks(self.sequence_length))
            .map(|((ids, log_probs), lse)| {
                Supports::TopK(TopKSupports {
                    top_k: self.top_k,
                    ids: ids.to_vec(),
                    log_probs: log_probs.to_vec(),
                    lse: vec![LogSumExps {
                        temperature: f64::from(self.temperature),
                        of_positions: self.below_largest(log_probs, lse),
                    }],
                })
            })
            .collect()
    }

    /// Log-sum-exps of log-probabilities less the largest of their position.
    #[expect(clippy::cast_possible_truncation, reason = "supports hold f32")]
    fn below_largest(&self, log_probs: &[f32], lse: &[f32]) -> Vec<f32> {
        let positions = log_probs.chunks(self.top_k).zip(lse);
        let below = |(log_probs, &lse): (&[f32], &f32)| {
            let largest = log_probs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            (f64::from(lse) - f64::from(largest) / f64::from(self.temperature)) as f32
        };
        positions.map(below).collect()
    }
}

/// Rows in micro-batches of `size`.
fn micro_batches<'a>(
    rows: &'a TokenRows,
    row_idxs: &[usize],
    supports: Option<&'a [Supports]>,
    size: usize,
) -> Vec<MicroBatch<'a>> {
    row_idxs
        .chunks(size)
        .map(|row_idxs| MicroBatch {
            inputs: row_idxs.iter().map(|&row| rows.inputs(row)).collect(),
            targets: row_idxs
                .iter()
                .flat_map(|&row| row_targets(rows, row, supports.map(|all| &all[row])))
                .collect(),
        })
        .collect()
}

/// The gradient of a step on a device that takes reads in this way.
fn gradient(
    decoder: &Decoder,
    micro_batches: &[MicroBatch<'_>],
    spec: &LossSpec,
    read_back: ReadBack,
) -> StepGradient {
    let kept = ActivationMemory::Kept;
    step_gradient_with(decoder, micro_batches, spec, None, kept, read_back)
}

fn assert_gradient_case(
    name: &str,
    got: &StepGradient,
    decoder: &Decoder,
    want: &GradientCase,
    tolerance: Tolerance,
) {
    let means = got.sums.read().means();
    for (term, want) in &want.losses {
        let got = match term.as_str() {
            "total" => means.total,
            "forward_kl" => means.terms[Term::ForwardKl],
            "cross_entropy" => means.terms[Term::CrossEntropy],
            term => panic!("unknown term {term}"),
        };
        let allowed = tolerance.atol + tolerance.rtol * want.abs();
        assert!(
            (got - want).abs() <= allowed,
            "{name}: {term} is {got}, want {want}"
        );
    }
    let specs = parameter_specs(&decoder.config);
    assert_eq!(specs.len(), got.gradients.len());
    let gradients: BTreeMap<WeightId, Vec<f32>> = specs
        .iter()
        .map(|spec| spec.id)
        .zip(got.gradients.iter().map(to_vec))
        .collect();
    let tensors = tensor_specs(&decoder.config);
    assert_eq!(tensors.len(), want.gradients.len());
    for tensor in tensors {
        let name = format!("{name}: gradient of {}", tensor.name);
        let joined = tensor.joined(|part| gradients[&part.id].clone());
        assert_close(&name, &joined, &want.gradients[&tensor.name], tolerance);
    }
}

/// Llamas, tied and untied, and one of every other family.
const GOLDEN: [&str; 11] = [
    "decoder_gradient_gemma.json",
    "decoder_gradient_gemma2.json",
    "decoder_gradient_gemma3.json",
    "decoder_gradient_mistral.json",
    "decoder_gradient_olmo2.json",
    "decoder_gradient_phi3.json",
    "decoder_gradient_qwen2.json",
    "decoder_gradient_qwen3.json",
    "decoder_gradient_smollm3.json",
    "decoder_gradient_tied.json",
    "decoder_gradient_untied.json",
];

#[test]
fn losses_and_the_gradient_of_every_parameter_equal_torch_in_every_family() {
    assert_eq!(golden::names("decoder_gradient_"), GOLDEN);
    for file in GOLDEN {
        let Golden {
            tolerance,
            inputs,
            expected,
        } = golden::read::<GradientInputs, GradientCases>(file);
        let config = DecoderConfig::from_json(&inputs.config).unwrap();
        let decoder = decoder_of(config, &inputs.weights);
        let supports = inputs.supports();
        let rows = TokenRows::new(inputs.sequence_length, inputs.tokens, inputs.counted, 1);
        let supports = supports.iter().enumerate();
        let supports: Vec<Supports> = supports
            .map(|(row, supports)| supports.at(rows.mask(row).positions()))
            .collect();

        let plain = LossSpec::of(Terms::ZERO.with(Term::CrossEntropy, 1.0));
        let mix = LossSpec {
            temperature: Temperature::new(f64::from(inputs.temperature)),
            ..LossSpec::of(
                Terms::ZERO
                    .with(Term::ForwardKl, inputs.loss_weights.forward_kl)
                    .with(Term::CrossEntropy, inputs.loss_weights.cross_entropy),
            )
        };
        for (size, read_back) in [(1, Free), (2, Free), (1, Stalls), (2, Stalls)] {
            let batches = micro_batches(&rows, &[0, 1], None, size);
            let got = gradient(&decoder, &batches, &plain, read_back);
            let name = format!("{file}, cross-entropy, {size} rows at once, {read_back:?}");
            assert_gradient_case(&name, &got, &decoder, &expected.cross_entropy, tolerance);

            let batches = micro_batches(&rows, &[0, 1], Some(&supports), size);
            let got = gradient(&decoder, &batches, &mix, read_back);
            let name = format!("{file}, mix, {size} rows at once, {read_back:?}");
            assert_gradient_case(&name, &got, &decoder, &expected.mix, tolerance);
        }
    }
}

/// Each number within 5e-6 of the largest of its tensor: f32 sums in another order, some of which cancel.
pub(crate) fn assert_same_gradient(name: &str, got: &StepGradient, want: &StepGradient) {
    let (sums, want_sums) = (got.sums.read(), want.sums.read());
    assert_eq!(sums.positions, want_sums.positions, "{name}");
    let (total, want_total) = (sums.total, want_sums.total);
    assert!(
        (total - want_total).abs() <= 1e-6 * want_total.abs(),
        "{name}: {total} for {want_total}"
    );
    assert_eq!(got.gradients.len(), want.gradients.len());
    for (idx, (got, want)) in got.gradients.iter().zip(&want.gradients).enumerate() {
        let want: Vec<f64> = to_vec(want).into_iter().map(f64::from).collect();
        let largest = want
            .iter()
            .fold(0.0_f64, |largest, value| largest.max(value.abs()));
        assert!(largest > 0.0, "{name}: gradient {idx} is zero everywhere");
        let tolerance = Tolerance {
            atol: 5e-6 * largest,
            rtol: 0.0,
        };
        assert_close(
            &format!("{name}: gradient {idx}"),
            &to_vec(got),
            &want,
            tolerance,
        );
    }
}

#[test]
fn micro_batches_and_rows_of_padding_do_not_change_the_gradient() {
    let decoder = random_decoder(config(), 1);
    let teacher = random_decoder(config(), 2);
    // The first four rows are the step; the last two are padding alone.
    let rows = random_rows(16, &[16, 3, 16, 9, 0, 0], 3);
    let all: Vec<CountedRow<'_>> = (0..6).map(|row| CountedRow::of(&rows, row)).collect();
    let selection = Selection {
        support: SupportPlan::TopK(8),
        temperatures: &[2.0],
    };
    let supports = supports(&teacher, &all, &selection);
    let spec = LossSpec {
        temperature: Temperature::new(2.0),
        ..LossSpec::of(
            Terms::ZERO
                .with(Term::ForwardKl, 0.7)
                .with(Term::CrossEntropy, 0.3),
        )
    };
    let run = |row_idxs: &[usize], size| {
        step_gradient(
            &decoder,
            &micro_batches(&rows, row_idxs, Some(&supports), size),
            &spec,
        )
    };
    let whole = run(&[0, 1, 2, 3], 4);
    assert_eq!(whole.sums.positions(), 16 + 3 + 16 + 9);
    for (row_idxs, size) in [
        (&[0, 1, 2, 3][..], 1),
        (&[0, 1, 2, 3], 2),
        (&[0, 1, 2, 3], 3),
        (&[0, 1, 2, 3, 4, 5], 1),
        (&[0, 1, 2, 3, 4, 5], 2),
        (&[4, 0, 1, 5, 2, 3], 6),
    ] {
        let name = format!("rows {row_idxs:?}, {size} at once");
        assert_same_gradient(&name, &run(row_idxs, size), &whole);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        rng_seed: RngSeed::Fixed(17),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn however_a_step_is_cut_ordered_and_padded_its_gradient_is_the_same(
        seed in 0..1000_u64,
        sequence_length in 2..20_usize,
        counted in prop::collection::vec(any::<prop::sample::Index>(), 1..7),
        num_padding in 0..3_usize,
        num_batches in prop::sample::select(vec![1, 2, 4]),
        top_k in 1..40_usize,
        order in any::<prop::sample::Index>(),
    ) {
        let decoder = random_decoder(config(), seed);
        let teacher = random_decoder(config(), seed + 1000);
        // At least two positions of the first row count, so that queries and keys have a gradient.
        let mut counted: Vec<u32> = counted.iter().map(|counted| u32::try_from(counted.index(sequence_length + 1)).unwrap()).collect();
        counted[0] = counted[0].max(2);
        let num_rows = counted.len();
        counted.resize(num_rows + num_padding, 0);
        let rows = random_rows(sequence_length, &counted, seed);
        let all: Vec<CountedRow<'_>> = (0..counted.len()).map(|row| CountedRow::of(&rows, row)).collect();
        let selection = Selection { support: SupportPlan::TopK(top_k), temperatures: &[2.0] };
        let supports = supports(&teacher, &all, &selection);
        let mut spec = LossSpec {
            temperature: Temperature::new(2.0),
            ..LossSpec::of(Terms::ZERO.with(Term::ForwardKl, 0.4).with(Term::ReverseKl, 0.1).with(Term::Jsd, 0.5).with(Term::SkewForwardKl, 0.2).with(Term::SkewReverseKl, 0.3).with(Term::Tvd, 0.1).with(Term::CrossEntropy, 0.3))
        };
        spec.shapes[Term::CrossEntropy] = 0.1;
        let run = |row_idxs: &[usize], size, read_back| {
            let batches = micro_batches(&rows, row_idxs, Some(&supports), size);
            gradient(&decoder, &batches, &spec, read_back)
        };
        let mut row_idxs: Vec<usize> = (0..num_rows).collect();
        let whole = run(&row_idxs, num_rows, Free);
        prop_assert_eq!(whole.sums.positions(), counted.iter().map(|&count| u64::from(count)).sum::<u64>());
        row_idxs.extend(num_rows..counted.len());
        row_idxs.reverse();
        row_idxs.rotate_left(order.index(counted.len()));
        for read_back in [Free, Stalls] {
            let cut = run(&row_idxs, counted.len().div_ceil(num_batches), read_back);
            assert_same_gradient(&format!("{row_idxs:?} in {num_batches}, {read_back:?}"), &cut, &whole);
        }
    }
}

#[test]
fn a_step_that_counts_no_position_has_no_loss_and_no_gradient() {
    let decoder = random_decoder(config(), 1);
    let rows = random_rows(16, &[0, 0], 3);
    let spec = LossSpec::of(Terms::ZERO.with(Term::CrossEntropy, 1.0));
    for read_back in [Free, Stalls] {
        let got = gradient(
            &decoder,
            &micro_batches(&rows, &[0, 1], None, 1),
            &spec,
            read_back,
        );
        assert_eq!(
            (got.sums.positions(), got.sums.read().means().total),
            (0, 0.0)
        );
        assert_eq!(got.gradients.len(), decoder.parameters().len());
        for slopes in &got.gradients {
            assert!(to_vec(slopes).iter().all(|value| *value == 0.0));
        }
    }
}
