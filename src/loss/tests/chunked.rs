//! The loss through the output matrix: against autodiff, and whatever the chunks.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::super::chunked::{HeadGradients, head_gradients, head_statistics};
use super::*;

/// A student's hidden states, its head and the teacher's predictions; positions with `false` do not count.
struct Positions {
    hidden: Vec<f32>,
    head: Head,
    predictions: Vec<OwnedTopK>,
    counts: Vec<bool>,
}

impl Positions {
    fn random(
        seed: u64,
        counts: Vec<bool>,
        size: usize,
        vocab: usize,
        soft_cap: Option<f64>,
    ) -> Self {
        let positions = counts.len();
        let prediction = |position: usize| {
            let logits = normal(seed, &format!("teacher {position}"), vocab, 2.0);
            OwnedTopK::of(&logits, 1 + position % vocab, 2.0)
        };
        let weight = to_f32(&normal(seed, "weight", vocab * size, 1.0));
        Self {
            hidden: to_f32(&normal(seed, "hidden", positions * size, 1.0)),
            head: Head {
                weight: Weight::new(matrix(weight, [vocab, size]), Arithmetic::F32),
                soft_cap,
            },
            predictions: (0..positions).map(prediction).collect(),
            counts,
        }
    }

    /// Gradients of the positions in this order, put back into their own.
    fn gradients(&self, order: &[usize], chunks: Chunks) -> HeadGradients {
        let [vocab, size] = self.head.weight.tensor().dims();
        let spec = LossSpec {
            temperature: soft(2.0),
            ..LossSpec::of(
                Terms::ZERO
                    .with(Term::ForwardKl, 0.6)
                    .with(Term::Jsd, 0.3)
                    .with(Term::CrossEntropy, 0.2),
            )
        };
        let rows = order.iter().map(|&at| &self.hidden[at * size..][..size]);
        let hidden = matrix(rows.flatten().copied().collect(), [order.len(), size]);
        let targets: Vec<_> = order
            .iter()
            .map(|&at| {
                self.counts[at].then(|| RowTarget {
                    label: u32::try_from(at % vocab).unwrap(),
                    support: Some(self.predictions[at].support()),
                })
            })
            .collect();
        let got = gradients_in_chunks(&hidden, &self.head, &targets, &spec, chunks);
        let mut places = vec![0.0; order.len() * size];
        for (slopes, &at) in to_vec(&got.hidden).chunks(size).zip(order) {
            places[at * size..][..size].copy_from_slice(slopes);
        }
        HeadGradients {
            hidden: matrix(places, [order.len(), size]),
            ..got
        }
    }
}

/// Checks each number within 2e-6 of the largest: sums in f32 depend on their order.
fn assert_same(got: &HeadGradients, want: &HeadGradients) {
    let (sums, want_sums) = (got.sums.read(), want.sums.read());
    assert_eq!(sums.positions, want_sums.positions);
    let (total, want_total) = (sums.total, want_sums.total);
    assert!(
        (total - want_total).abs() <= 1e-6 * want_total.abs(),
        "{total} for {want_total}"
    );
    for (got, want) in [(&got.hidden, &want.hidden), (&got.weight, &want.weight)] {
        let (got, want) = (to_vec(got), to_vec(want));
        assert_eq!(got.len(), want.len());
        let largest = want
            .iter()
            .fold(0.0_f32, |most, slope| most.max(slope.abs()));
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= 2e-6 * largest, "{got} for {want}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        rng_seed: RngSeed::Fixed(17),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn neither_chunks_nor_order_nor_what_does_not_count_changes_the_gradient(
        seed in any::<u64>(),
        (order, counts) in prop::collection::vec(any::<bool>(), 1..12).prop_flat_map(|counts| {
            let order: Vec<usize> = (0..counts.len()).collect();
            (Just(order).prop_shuffle(), Just(counts))
        }),
        size in 1..7_usize,
        vocab in 2..40_usize,
        soft_cap in prop::option::of(1.0..4.0),
        num_logits in 1..500_usize,
    ) {
        let mut positions = Positions::random(seed, counts.clone(), size, vocab, soft_cap);
        let in_order: Vec<usize> = (0..counts.len()).collect();
        let whole = Chunks { num_logits: usize::MAX, read_back: ReadBack::Free };
        let want = positions.gradients(&in_order, whole);
        for (hidden, counts) in positions.hidden.chunks_mut(size).zip(&counts) {
            if !counts {
                hidden.fill(f32::NAN);
            }
        }
        for (read_back, _) in WAYS {
            let got = positions.gradients(&order, Chunks { num_logits, read_back });
            assert_same(&got, &want);
            let counted: Vec<usize> = order.iter().copied().filter(|&at| counts[at]).collect();
            prop_assert_eq!(got.sums.positions(), counted.len() as u64);
            for (slopes, counts) in to_vec(&got.hidden).chunks(size).zip(&counts) {
                prop_assert!(*counts || slopes.iter().all(|slope| *slope == 0.0));
            }
        }
    }
}

fn noise([rows, columns]: [usize; 2], purpose: &str) -> Tensor<2> {
    let values = to_f32(&normal(17, purpose, rows * columns, 0.6));
    matrix(values, [rows, columns])
}

/// Plain reference: logits of all positions at once, gradient by autodiff.
#[test]
fn the_chunked_head_equals_autodiff_through_all_logits() {
    let (positions, hidden_size, vocab) = (5, 7, 48);
    let hidden = noise([positions, hidden_size], "hidden");
    let weight = noise([vocab, hidden_size], "weight");
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
    for soft_cap in [None, Some(1.5)] {
        let head = Head {
            weight: Weight::new(weight.clone(), Arithmetic::F32),
            soft_cap,
        };
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
        let picks = matrix(picks, [positions, vocab]).autodiff();
        let loss = (log_probs * picks).sum();
        let gradients = loss.backward();
        let difference = |a: Tensor<2>, b: Tensor<2>| (a - b).abs().max().into_scalar::<f32>();
        let loss = f64::from(loss.into_scalar::<f32>());
        let statistics = head_statistics(&hidden, &head, &targets);
        let total: f64 = statistics
            .iter()
            .flatten()
            .map(|row| row.cross_entropy)
            .sum();
        assert_eq!(statistics.iter().filter(|row| row.is_none()).count(), 1);
        for (read_back, _) in WAYS {
            let got = head_gradients(&hidden, &head, &targets, &CROSS_ENTROPY, read_back);
            assert!(difference(got.hidden, h.grad(&gradients).unwrap()) < 1e-5);
            assert!(difference(got.weight, w.grad(&gradients).unwrap()) < 1e-5);
            let sums = got.sums.read();
            assert!((sums.total - loss).abs() < 1e-4);
            assert!((sums.terms[Term::CrossEntropy] - total).abs() < 1e-5);
            assert_eq!(sums.positions, 4);
        }
    }
}
