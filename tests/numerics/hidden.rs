//! Hidden states that are pulled to a teacher's: against PyTorch, and the laws of a step.

use std::collections::BTreeMap;

use alambic::data::TokenRows;
use alambic::device::ReadBack;
use alambic::loss::{LossSpec, Term, Terms};
use alambic::model::{Decoder, DecoderConfig, LayerType};
use alambic::student::Projection;
use alambic::tensors::to_vec;
use alambic::train::gradient::{
    ActivationMemory, HiddenMatch, MicroBatch, StepGradient, step_gradient_with,
};
use alambic::train::row_targets;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde::Deserialize;
use serde_json::Value;

use super::golden::{self, Golden, Tolerance, assert_close};
use super::tiny::{config, decoder_of, device, random_decoder, random_rows, tensor};

#[derive(Deserialize)]
struct Inputs {
    config: Value,
    weights: BTreeMap<String, Vec<f32>>,
    tokens: Vec<u32>,
    sequence_length: usize,
    counted: Vec<u32>,
    loss_weights: BTreeMap<String, f64>,
    teachers: BTreeMap<String, Teacher>,
}

#[derive(Deserialize)]
struct Teacher {
    config: Value,
    weights: BTreeMap<String, Vec<f32>>,
    pairs: Vec<[usize; 2]>,
    projections: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct Expected {
    losses: BTreeMap<String, f64>,
    gradients: BTreeMap<String, Vec<f64>>,
    projections: Vec<Vec<f64>>,
}

fn micro_batches<'a>(rows: &'a TokenRows, row_idxs: &[usize], size: usize) -> Vec<MicroBatch<'a>> {
    let batches = row_idxs.chunks(size);
    let batch = |row_idxs: &[usize]| MicroBatch {
        inputs: row_idxs.iter().map(|&row| rows.inputs(row)).collect(),
        targets: row_idxs
            .iter()
            .flat_map(|&row| row_targets(rows, row, None))
            .collect(),
    };
    batches.map(batch).collect()
}

fn spec(cross_entropy: f64, hidden_mse: f64) -> LossSpec {
    LossSpec::of(
        Terms::ZERO
            .with(Term::CrossEntropy, cross_entropy)
            .with(Term::HiddenMse, hidden_mse),
    )
}

fn assert_case(
    name: &str,
    got: &StepGradient,
    student: &Decoder,
    want: &Expected,
    tolerance: Tolerance,
) {
    let means = got.sums.read().means();
    for (term, got) in [
        ("total", means.total),
        ("cross_entropy", means.terms[Term::CrossEntropy]),
        ("hidden_mse", means.terms[Term::HiddenMse]),
    ] {
        let gap = (got - want.losses[term]).abs();
        assert!(
            gap <= 1e-6 * want.losses[term],
            "{name}: {term} {got}, off by {gap}"
        );
    }
    let parameters = student.parameters();
    assert_eq!(parameters.len(), got.gradients.len(), "{name}");
    for ((spec, _), gradient) in parameters.iter().zip(&got.gradients) {
        let want = &want.gradients[&spec.name];
        let name = format!("{name}: {}", spec.name);
        assert_close(&name, &to_vec(gradient), want, tolerance);
    }
    assert_eq!(got.projections.len(), want.projections.len(), "{name}");
    for (gradient, want) in got.projections.iter().zip(&want.projections) {
        assert_close(name, &to_vec(gradient), want, tolerance);
    }
}

#[test]
fn the_loss_and_the_gradient_of_every_parameter_and_projection_equal_torch() {
    let Golden {
        tolerance,
        inputs,
        expected,
    } = golden::read::<Inputs, BTreeMap<String, Expected>>("hidden_mse.json");
    let student_config = DecoderConfig::from_json(&inputs.config).unwrap();
    let student_size = student_config.hidden_size;
    let student = decoder_of(student_config, &inputs.weights);
    let rows = TokenRows::new(inputs.sequence_length, inputs.tokens, inputs.counted, 1);
    let [ce, hidden] = ["cross_entropy", "hidden_mse"].map(|term| inputs.loss_weights[term]);
    assert_eq!(inputs.teachers.len(), 2);
    for (case, teacher) in &inputs.teachers {
        let want = &expected[case];
        let teacher_config = DecoderConfig::from_json(&teacher.config).unwrap();
        let teacher_size = teacher_config.hidden_size;
        let shape = [teacher_size, student_size];
        let decoder = decoder_of(teacher_config, &teacher.weights);
        let projections = teacher.pairs.iter().zip(&teacher.projections);
        let projections: Vec<Projection> = projections
            .map(|(&pair, values)| Projection {
                pair,
                matrix: tensor(values.clone(), shape),
            })
            .collect();
        assert_eq!(projections.is_empty(), teacher_size == student_size);
        let hidden_match = HiddenMatch {
            teacher: &decoder,
            pairs: &teacher.pairs,
            projections: &projections,
        };
        for (size, activations, read_back) in [
            (1, ActivationMemory::Kept, ReadBack::Free),
            (2, ActivationMemory::Kept, ReadBack::Free),
            (2, ActivationMemory::Recomputed, ReadBack::Free),
            (1, ActivationMemory::Kept, ReadBack::Stalls),
            (2, ActivationMemory::Recomputed, ReadBack::Stalls),
        ] {
            let name = format!("{case}, {size} rows at once, {activations:?}, {read_back:?}");
            let got = step_gradient_with(
                &student,
                &micro_batches(&rows, &[0, 1], size),
                &spec(ce, hidden),
                Some(hidden_match),
                activations,
                read_back,
            );
            assert_case(&name, &got, &student, want, tolerance);
        }
    }
}

/// So many layers and dimensions.
pub(crate) fn sized(num_hidden_layers: usize, hidden_size: usize) -> DecoderConfig {
    DecoderConfig {
        num_hidden_layers,
        hidden_size,
        layer_types: vec![LayerType::Full; num_hidden_layers],
        ..config()
    }
}

/// Each number within 5e-6 of the largest of its tensor: f32 sums in another order, some of which cancel.
fn assert_same_gradient(name: &str, got: &StepGradient, want: &StepGradient) {
    let (total, want_total) = (got.sums.read().total, want.sums.read().total);
    assert!(
        (total - want_total).abs() <= 1e-6 * want_total.abs(),
        "{name}: {total} for {want_total}"
    );
    let all = |step: &StepGradient| [step.gradients.clone(), step.projections.clone()].concat();
    for (idx, (got, want)) in all(got).iter().zip(all(want)).enumerate() {
        let want: Vec<f64> = to_vec(&want).into_iter().map(f64::from).collect();
        let largest = want
            .iter()
            .fold(0.0_f64, |most, value| most.max(value.abs()));
        let tolerance = Tolerance {
            atol: 5e-6 * largest,
            rtol: 0.0,
        };
        let name = format!("{name}: gradient {idx}");
        assert_close(&name, &to_vec(got), &want, tolerance);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 16,
        rng_seed: RngSeed::Fixed(17),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn however_a_step_is_cut_ordered_and_padded_hidden_states_give_the_same_gradient(
        seed in 0..1000_u64,
        sequence_length in 2..20_usize,
        counted in prop::collection::vec(any::<prop::sample::Index>(), 1..7),
        num_padding in 0..3_usize,
        num_batches in prop::sample::select(vec![1, 2, 4]),
        order in any::<prop::sample::Index>(),
        hidden_size in prop::sample::select(vec![12, 16]),
        activations in prop::sample::select(vec![ActivationMemory::Kept, ActivationMemory::Recomputed]),
    ) {
        let student = random_decoder(sized(2, 16), seed);
        let teacher = random_decoder(sized(3, hidden_size), seed + 1000);
        let mut counted: Vec<u32> = counted.iter().map(|counted| u32::try_from(counted.index(sequence_length + 1)).unwrap()).collect();
        counted[0] = counted[0].max(2);
        let num_rows = counted.len();
        counted.resize(num_rows + num_padding, 0);
        let rows = random_rows(sequence_length, &counted, seed);
        let pairs = [[0, 1], [1, 2]];
        let projections = Projection::init(&pairs, 16, hidden_size, seed, &device());
        let hidden = HiddenMatch { teacher: &teacher, pairs: &pairs, projections: &projections };
        let run = |row_idxs: &[usize], size, activations, read_back| {
            let batches = micro_batches(&rows, row_idxs, size);
            step_gradient_with(&student, &batches, &spec(0.3, 0.7), Some(hidden), activations, read_back)
        };
        let mut row_idxs: Vec<usize> = (0..num_rows).collect();
        let whole = run(&row_idxs, num_rows, ActivationMemory::Kept, ReadBack::Free);
        prop_assert!(whole.sums.read().terms[Term::HiddenMse] > 0.0);
        row_idxs.extend(num_rows..counted.len());
        row_idxs.reverse();
        row_idxs.rotate_left(order.index(counted.len()));
        for read_back in [ReadBack::Free, ReadBack::Stalls] {
            let cut = run(&row_idxs, counted.len().div_ceil(num_batches), activations, read_back);
            assert_same_gradient(&format!("{row_idxs:?} in {num_batches}, {read_back:?}"), &cut, &whole);
        }
    }
}

#[test]
fn what_follows_the_last_counted_position_does_not_reach_the_distance() {
    let student = random_decoder(sized(2, 16), 1);
    let teacher = random_decoder(sized(2, 12), 2);
    let pairs = [[1, 1]];
    let projections = Projection::init(&pairs, 16, 12, 3, &device());
    let hidden = HiddenMatch {
        teacher: &teacher,
        pairs: &pairs,
        projections: &projections,
    };
    let run = |rows: &TokenRows| {
        let batches = micro_batches(rows, &[0, 1], 2);
        let kept = ActivationMemory::Kept;
        step_gradient_with(
            &student,
            &batches,
            &spec(0.0, 1.0),
            Some(hidden),
            kept,
            ReadBack::Free,
        )
    };
    let rows = random_rows(16, &[9, 16], 4);
    let mut tokens: Vec<u32> = [rows.row(0), rows.row(1)].concat();
    tokens[10..17].fill(7); // the inputs after the ninth and its label
    let other = TokenRows::new(16, tokens, vec![9, 16], 1);
    let [got, want] = [run(&rows), run(&other)];
    assert_eq!(got.sums.read(), want.sums.read());
    let [got, want] = [got, want].map(|step| {
        let all = [step.gradients, step.projections].concat();
        all.iter().map(to_vec).collect::<Vec<_>>()
    });
    assert_eq!(got, want);
}

#[test]
fn a_student_at_its_teacher_has_no_distance_and_a_weight_of_0_no_gradient() {
    let student = random_decoder(sized(2, 16), 1);
    let rows = random_rows(16, &[16, 9], 3);
    let pairs = [[0, 0], [1, 1]];
    let other = random_decoder(sized(2, 16), 2);
    let run = |teacher: &Decoder, weight| {
        let hidden = HiddenMatch {
            teacher,
            pairs: &pairs,
            projections: &[],
        };
        let batches = micro_batches(&rows, &[0, 1], 1); // as the teacher runs, to the bit
        let kept = ActivationMemory::Kept;
        step_gradient_with(
            &student,
            &batches,
            &spec(0.0, weight),
            Some(hidden),
            kept,
            ReadBack::Free,
        )
    };
    for (teacher, weight) in [(&student, 1.0), (&other, 0.0)] {
        let got = run(teacher, weight);
        assert_eq!(
            (
                got.sums.read().total,
                got.sums.read().terms[Term::HiddenMse]
            ),
            (0.0, 0.0)
        );
        let is_zero = |gradient| to_vec(gradient).iter().all(|value| *value == 0.0);
        assert!(got.gradients.iter().all(is_zero));
    }
    assert!(run(&other, 1.0).sums.read().terms[Term::HiddenMse] > 1.0);
}
