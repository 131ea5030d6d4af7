mod sampled;

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;

use super::chunked::{head_gradients, head_statistics};
use super::{LossSpec, RowTarget, Support, Tail, TopK, loss_row, row_statistics};
use crate::model::Head;

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

#[derive(Deserialize)]
struct Case {
    loss: f64,
    grad: Vec<Vec<f64>>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("../../../tests/golden/losses/reference.json")).unwrap()
}

/// Mean loss over counted positions and its gradient, from the function under test.
fn run<'a>(
    reference: &'a Reference,
    spec: &LossSpec,
    support: impl Fn(usize) -> Option<Support<'a>>,
) -> Case {
    let counted: f64 = reference.mask.iter().sum();
    let mut case = Case {
        loss: 0.0,
        grad: Vec::new(),
    };
    for (row, logits) in reference.student_logits.iter().enumerate() {
        let mut logits = logits.clone();
        let mut scratch = vec![0.0; logits.len()];
        let target = RowTarget {
            label: reference.labels[row],
            support: support(row),
        };
        let sums = loss_row(&mut logits, &mut scratch, target, spec);
        case.loss += reference.mask[row] * sums.total / counted;
        case.grad.push(
            logits
                .iter()
                .map(|slope| reference.mask[row] * f64::from(*slope) / counted)
                .collect(),
        );
    }
    case
}

fn assert_equal(name: &str, got: &Case, want: &Case) {
    let close = |got: f64, want: f64| (got - want).abs() <= 1e-6 + 1e-5 * want.abs();
    assert!(
        close(got.loss, want.loss),
        "{name}: loss {} for {}",
        got.loss,
        want.loss
    );
    for (row, (got, want)) in got.grad.iter().zip(&want.grad).enumerate() {
        assert_eq!(got.len(), want.len());
        for (column, (got, want)) in got.iter().zip(want).enumerate() {
            assert!(
                close(*got, *want),
                "{name}: gradient [{row}, {column}] is {got} for {want}"
            );
        }
    }
}

fn top_k<'a>(reference: &'a Reference, temperature: &str) -> impl Fn(usize) -> Option<Support<'a>> {
    let lse = &reference.lse[temperature];
    move |row| {
        Some(Support::TopK(TopK {
            ids: &reference.topk_ids[row],
            log_probs: &reference.topk_logprobs[row],
            log_sum_exp: lse[row],
        }))
    }
}

#[test]
fn bucketed_kl_and_cross_entropy_equal_torch_in_value_and_gradient() {
    let reference = reference();
    for (temperature, name) in [(1.0, "1"), (2.0, "2")] {
        let spec = LossSpec {
            forward_kl: 1.0,
            cross_entropy: 0.0,
            temperature,
            tail: Tail::Bucket,
        };
        let got = run(&reference, &spec, top_k(&reference, name));
        assert_equal(
            "topk_bucket",
            &got,
            &reference.cases[&format!("topk_bucket@T={name}")],
        );

        let spec = LossSpec {
            forward_kl: 0.0,
            cross_entropy: 1.0,
            temperature,
            tail: Tail::Bucket,
        };
        let got = run(&reference, &spec, |_| None);
        assert_equal(
            "hard_ce",
            &got,
            &reference.cases[&format!("hard_ce@T={name}")],
        );

        let spec = LossSpec {
            forward_kl: 0.75,
            cross_entropy: 0.25,
            temperature,
            tail: Tail::Bucket,
        };
        let got = run(&reference, &spec, top_k(&reference, name));
        let kl = &reference.cases[&format!("topk_bucket@T={name}")];
        let ce = &reference.cases[&format!("hard_ce@T={name}")];
        let blend = |kl: f64, ce: f64| 0.75 * kl + 0.25 * ce;
        let rows = kl.grad.iter().zip(&ce.grad);
        let grad = rows
            .map(|(kl, ce)| kl.iter().zip(ce).map(|(kl, ce)| blend(*kl, *ce)).collect())
            .collect();
        assert_equal(
            "weighted sum",
            &got,
            &Case {
                loss: blend(kl.loss, ce.loss),
                grad,
            },
        );
    }
}

#[test]
#[expect(
    clippy::cast_possible_truncation,
    reason = "log-probabilities are cached in f32"
)]
fn with_the_whole_vocabulary_as_support_the_kl_is_exact() {
    let reference = reference();
    let vocab = reference.student_logits[0].len();
    let ids: Vec<u32> = (0..48).collect();
    assert_eq!(ids.len(), vocab);
    let log_probs: Vec<Vec<f32>> = reference
        .teacher_logits
        .iter()
        .map(|row| {
            let lse = row.iter().map(|z| z.exp()).sum::<f64>().ln();
            row.iter().map(|z| (z - lse) as f32).collect()
        })
        .collect();
    for (temperature, name) in [(1.0, "1"), (2.0, "2")] {
        let lse = &reference.lse[name];
        let support = |row: usize| {
            Some(Support::TopK(TopK {
                ids: &ids,
                log_probs: &log_probs[row],
                log_sum_exp: lse[row],
            }))
        };
        let spec = LossSpec {
            forward_kl: 1.0,
            cross_entropy: 0.0,
            temperature,
            tail: Tail::Bucket,
        };
        let got = run(&reference, &spec, support);
        assert_equal(
            "forward_kl",
            &got,
            &reference.cases[&format!("forward_kl@T={name}")],
        );
    }
}

#[test]
fn renormalized_kl_equals_torch_in_value_and_gradient() {
    let reference = reference();
    for (temperature, name) in [(1.0, "1"), (2.0, "2")] {
        let spec = LossSpec {
            forward_kl: 1.0,
            cross_entropy: 0.0,
            temperature,
            tail: Tail::Renormalize,
        };
        let got = run(&reference, &spec, top_k(&reference, name));
        let want = &reference.cases[&format!("topk_renormalized@T={name}")];
        assert_equal("topk_renormalized", &got, want);
    }
}

#[test]
fn a_student_that_equals_its_teacher_has_no_divergence_and_no_slope() {
    let logits = [1.0_f32, -2.0, 0.5, 3.0, 0.0, -1.0];
    let lse = logits.iter().map(|z| z.exp()).sum::<f32>().ln();
    let ids = [0, 3, 4];
    let log_probs = ids.map(|id: u32| logits[id as usize] - lse);
    let support = Support::TopK(TopK {
        ids: &ids,
        log_probs: &log_probs,
        log_sum_exp: 0.0,
    });
    let spec = LossSpec {
        forward_kl: 1.0,
        cross_entropy: 0.0,
        temperature: 1.0,
        tail: Tail::Bucket,
    };
    let mut gradient = logits.to_vec();
    let target = RowTarget {
        label: 0,
        support: Some(support),
    };
    let sums = loss_row(&mut gradient, &mut [0.0; 6], target, &spec);
    assert!(sums.total.abs() < 1e-6, "{}", sums.total);
    assert!(
        gradient.iter().all(|slope| slope.abs() < 1e-6),
        "{gradient:?}"
    );
}

#[test]
fn a_student_sure_of_itself_gives_finite_numbers() {
    let mut logits = vec![-200.0_f32; 64];
    logits[5] = 200.0;
    let support = Support::TopK(TopK {
        ids: &[1, 2],
        log_probs: &[0.5_f32.ln(), 0.25_f32.ln()],
        log_sum_exp: 0.0,
    });
    let spec = LossSpec {
        forward_kl: 1.0,
        cross_entropy: 1.0,
        temperature: 1.0,
        tail: Tail::Bucket,
    };
    let target = RowTarget {
        label: 1,
        support: Some(support),
    };
    let sums = loss_row(&mut logits, &mut [0.0; 64], target, &spec);
    assert!(sums.total.is_finite() && sums.total > 100.0, "{sums:?}");
    assert!(logits.iter().all(|slope| slope.is_finite()), "{logits:?}");
    let total: f32 = logits.iter().sum();
    assert!(
        total.abs() < 1e-4,
        "slopes of a softmax loss sum to zero: {total}"
    );
}

#[test]
fn statistics_name_the_top_token_its_confidence_and_the_divergence() {
    // probs 0.1, 0.6, 0.3
    let logits = [0.1_f32.ln(), 0.6_f32.ln(), 0.3_f32.ln()];
    let support = Support::TopK(TopK {
        ids: &[0, 2],
        log_probs: &[0.25_f32.ln(), 0.5_f32.ln()],
        log_sum_exp: 0.0,
    });
    let got = row_statistics(
        &mut logits.to_vec(),
        RowTarget {
            label: 2,
            support: Some(support),
        },
    );
    let kl =
        0.25 * (0.25_f64 / 0.1).ln() + 0.5 * (0.5_f64 / 0.3).ln() + 0.25 * (0.25_f64 / 0.6).ln();
    assert!((got.cross_entropy + 0.3_f64.ln()).abs() < 1e-6);
    assert!((got.forward_kl.unwrap() - kl).abs() < 1e-6);
    assert_eq!((got.top_id, got.teacher_top_id), (1, Some(2)));
    assert!((got.confidence - 0.6).abs() < 1e-6);
}

/// The plain twin: logits of all positions at once, gradient by autodiff.
#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one comparison, read from top to bottom"
)]
fn the_chunked_head_equals_autodiff_through_all_logits() {
    let (positions, hidden_size, vocab) = (5, 7, 48);
    let noise = |count: usize, seed: usize| -> Vec<f32> {
        (0..count)
            .map(|i| (((i + seed) * 2_654_435_761) % 10_007) as f32 / 5_003.0 - 1.0)
            .collect()
    };
    let device = Device::flex();
    let matrix = |rows, columns, seed| {
        Tensor::<2>::from_data(
            TensorData::new(noise(rows * columns, seed), [rows, columns]),
            &device,
        )
    };
    let (hidden, weight) = (
        matrix(positions, hidden_size, 1),
        matrix(vocab, hidden_size, 2),
    );
    let labels = [3_u32, 0, 47, 11, 11];
    let counts = [true, true, false, true, true];
    let targets: Vec<_> = labels
        .iter()
        .zip(counts)
        .map(|(&label, counts)| {
            counts.then_some(RowTarget {
                label,
                support: None,
            })
        })
        .collect();
    let spec = LossSpec {
        forward_kl: 0.0,
        cross_entropy: 1.0,
        temperature: 1.0,
        tail: Tail::Bucket,
    };
    for soft_cap in [None, Some(1.5)] {
        let head = Head {
            weight: weight.clone(),
            soft_cap,
        };
        let got = head_gradients(&hidden, &head, &targets, &spec);

        let (h, w) = (
            hidden.clone().autodiff().require_grad(),
            weight.clone().autodiff().require_grad(),
        );
        let mut logits = h.clone().matmul(w.clone().transpose());
        if let Some(cap) = soft_cap {
            logits = (logits / cap).tanh() * cap;
        }
        let log_probs = burn::tensor::activation::log_softmax(logits, 1);
        let mut picks = vec![0.0_f32; positions * vocab];
        for (row, (label, counts)) in labels.iter().zip(counts).enumerate() {
            picks[row * vocab + *label as usize] = if counts { -1.0 } else { 0.0 };
        }
        let picks =
            Tensor::<2>::from_data(TensorData::new(picks, [positions, vocab]), &device).autodiff();
        let loss = (log_probs * picks).sum();
        let gradients = loss.backward();
        let difference = |a: Tensor<2>, b: Tensor<2>| (a - b).abs().max().into_scalar::<f32>();
        assert!(difference(got.hidden, h.grad(&gradients).unwrap()) < 1e-5);
        assert!(difference(got.weight, w.grad(&gradients).unwrap()) < 1e-5);
        assert!((got.sums.total - f64::from(loss.into_scalar::<f32>())).abs() < 1e-4);
        assert_eq!(got.sums.positions, 4);

        let statistics = head_statistics(&hidden, &head, &targets);
        let total: f64 = statistics
            .iter()
            .flatten()
            .map(|row| row.cross_entropy)
            .sum();
        assert!((total - got.sums.cross_entropy).abs() < 1e-5);
        assert_eq!(statistics.iter().filter(|row| row.is_none()).count(), 1);
    }
}
