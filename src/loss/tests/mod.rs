//! Losses against PyTorch, through the chunks that training uses, and their laws.

mod chunked;
mod hidden;
mod laws;
mod reference;
mod sampled;
mod temperatures;
mod tensors;

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;

use super::chunked::{Chunks, gradients_in_chunks};
use super::{LossSpec, RowTarget, Term, Terms};
use crate::device::ReadBack;
use crate::kernels::{Arithmetic, Weight};
use crate::model::Head;
use crate::random::Stream;
use crate::support::{LogSumExps, Support, Tail, Temperature, TopK};
use crate::tensors::to_vec;

const FORWARD_KL: LossSpec = LossSpec::of(Terms::ZERO.with(Term::ForwardKl, 1.0));
const CROSS_ENTROPY: LossSpec = LossSpec::of(Terms::ZERO.with(Term::CrossEntropy, 1.0));

/// Every soft term alone.
fn soft_terms() -> impl Iterator<Item = Terms> {
    let soft = Term::ALL.into_iter().filter(|term| term.is_soft());
    soft.map(|term| Terms::ZERO.with(term, 1.0))
}

/// Written by `tests/golden/losses/make.py` with torch in f64.
#[derive(Deserialize)]
struct Reference {
    student_logits: Vec<Vec<f32>>,
    mask: Vec<f64>,
    labels: Vec<u32>,
    topk_ids: Vec<Vec<u32>>,
    topk_logprobs: Vec<Vec<f32>>,
    teacher_logits: Vec<Vec<f64>>,
    lse: BTreeMap<String, Vec<f32>>,
    sampled_counts: Vec<Vec<u32>>,
    cases: BTreeMap<String, Case>,
}

#[derive(Debug, Deserialize)]
struct Case {
    loss: f64,
    grad: Vec<Vec<f64>>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("../../../tests/golden/losses/reference.json")).unwrap()
}

fn matrix(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// Rows on the host and tensor operations, each with its largest relative error.
///
/// Slopes are differences: in f32 throughout they are off by the rounding of the numbers subtracted.
const WAYS: [(ReadBack, f64); 2] = [(ReadBack::Free, 1e-6), (ReadBack::Stalls, 3e-6)];

/// Mean loss over counted positions and its gradient, in chunks of the given number of positions.
///
/// The output matrix holds the student's logits as columns and hidden states pick one each, so that its
/// gradient holds the slopes of the logits.
fn run<'a>(
    reference: &'a Reference,
    spec: &LossSpec,
    support: impl Fn(usize) -> Option<Support<'a>>,
    chunk_size: usize,
    read_back: ReadBack,
) -> Case {
    let logits = &reference.student_logits;
    let (positions, vocab) = (logits.len(), logits[0].len());
    let target = |row: usize| RowTarget {
        label: reference.labels[row],
        support: support(row),
    };
    let targets: Vec<_> = (0..positions)
        .map(|row| (reference.mask[row] > 0.0).then(|| target(row)))
        .collect();
    let columns = (0..vocab).flat_map(|id| logits.iter().map(move |row| row[id]));
    let head = Head {
        weight: Weight::new(
            matrix(columns.collect(), [vocab, positions]),
            Arithmetic::F32,
        ),
        soft_cap: None,
    };
    let picks = Tensor::eye(positions, &Device::flex());
    let chunks = Chunks {
        num_logits: chunk_size * vocab,
        read_back,
    };
    let got = gradients_in_chunks(&picks, &head, &targets, spec, chunks);

    let sums = got.sums.read();
    let count = sums.positions as f64;
    assert!((count - reference.mask.iter().sum::<f64>()).abs() < 0.5);
    let slopes = to_vec(&got.weight); // [V, P]
    let slope = |row: usize, id: usize| f64::from(slopes[id * positions + row]) / count;
    let grad: Vec<Vec<f64>> = (0..positions)
        .map(|row| (0..vocab).map(|id| slope(row, id)).collect())
        .collect();
    // The other product back: slopes times the same logits.
    let hidden = to_vec(&got.hidden); // [P, P]
    for (row, slopes) in grad.iter().enumerate() {
        for (column, logits) in logits.iter().enumerate() {
            let products = || slopes.iter().zip(logits).map(|(a, &b)| a * f64::from(b));
            let scale: f64 = products().map(f64::abs).sum();
            let gap = f64::from(hidden[row * positions + column]) / count - products().sum::<f64>();
            assert!(gap.abs() <= 1e-6 * scale, "hidden [{row}, {column}]: {gap}");
        }
    }
    Case {
        loss: sums.total / count,
        grad,
    }
}

/// Loss within `room`, each slope within `room` of the largest of its position.
fn assert_equal(name: &str, got: &Case, want: &Case, room: f64) {
    let (loss, want_loss) = (got.loss, want.loss);
    assert!(
        (loss - want_loss).abs() <= room * want_loss.abs(),
        "{name}: loss {loss} for {want_loss}"
    );
    assert_eq!(got.grad.len(), want.grad.len(), "{name}");
    for (row, (got, want)) in got.grad.iter().zip(&want.grad).enumerate() {
        assert_eq!(got.len(), want.len(), "{name}");
        let largest = want
            .iter()
            .fold(0.0_f64, |most, slope| most.max(slope.abs()));
        for (column, (got, want)) in got.iter().zip(want).enumerate() {
            assert!(
                (got - want).abs() <= room * largest,
                "{name}: gradient [{row}, {column}] is {got} for {want}, the largest is {largest}"
            );
        }
    }
}

fn soft(temperature: f32) -> Temperature {
    Temperature::new(f64::from(temperature))
}

/// The teacher's prediction of the reference, as a cache would hold it at a temperature.
fn top_k(reference: &Reference, temperature: f32) -> Vec<OwnedTopK> {
    let lse = &reference.lse[&temperature.to_string()];
    let pairs = reference.topk_ids.iter().zip(&reference.topk_logprobs);
    let supports = pairs.zip(lse).map(|((ids, log_probs), lse)| {
        let log_sum_exp = lse - largest(log_probs) / temperature;
        OwnedTopK::new(ids.clone(), log_probs.clone(), temperature, log_sum_exp)
    });
    supports.collect()
}

fn largest(log_probs: &[f32]) -> f32 {
    log_probs.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// A top-k support that owns its data.
struct OwnedTopK {
    ids: Vec<u32>,
    log_probs: Vec<f32>,
    lse: Vec<LogSumExps>,
}

impl OwnedTopK {
    fn new(ids: Vec<u32>, log_probs: Vec<f32>, temperature: f32, log_sum_exp: f32) -> Self {
        let lse = vec![LogSumExps {
            temperature: f64::from(temperature),
            of_positions: vec![log_sum_exp],
        }];
        Self {
            ids,
            log_probs,
            lse,
        }
    }

    /// The `count` likeliest ids of a teacher's logits, at a temperature.
    #[expect(clippy::cast_possible_truncation, reason = "supports hold f32")]
    fn of(logits: &[f64], count: usize, temperature: f32) -> Self {
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let below: Vec<f64> = logits.iter().map(|logit| logit - largest).collect();
        let lse = |temperature: f64| {
            let exps = below.iter().map(|below| (below / temperature).exp());
            exps.sum::<f64>().ln()
        };
        let log_probs: Vec<f64> = below.iter().map(|below| below - lse(1.0)).collect();
        let mut ids: Vec<u32> = (0..).take(logits.len()).collect();
        ids.sort_by(|&a, &b| log_probs[b as usize].total_cmp(&log_probs[a as usize]));
        ids.truncate(count);
        let of_ids = ids.iter().map(|&id| log_probs[id as usize] as f32);
        let log_probs = of_ids.collect();
        Self::new(
            ids,
            log_probs,
            temperature,
            lse(f64::from(temperature)) as f32,
        )
    }

    /// Mass outside the support.
    fn tail(&self, temperature: f32) -> f64 {
        1.0 - self.top_k().mass(f64::from(temperature))
    }

    fn top_k(&self) -> TopK<'_> {
        TopK {
            ids: &self.ids,
            log_probs: &self.log_probs,
            lse: &self.lse,
            position: 0,
        }
    }

    fn support(&self) -> Support<'_> {
        Support::TopK(self.top_k())
    }
}

/// Normal random numbers with a given standard deviation.
fn normal(seed: u64, purpose: &str, count: usize, deviation: f64) -> Vec<f64> {
    let mut stream = Stream::new(seed, purpose);
    (0..count).map(|_| deviation * stream.normal()).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "logits are f32")]
fn to_f32(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|&number| number as f32).collect()
}
