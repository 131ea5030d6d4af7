//! Many positions as tensors, compared with each of them as a row.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::super::tensors::{Losses, losses};
use super::super::{LossSums, PendingSums, loss_row};
use super::*;

/// Weights of all terms over logits but `adaptive_kl`; some are 0.
fn weights() -> impl Strategy<Value = Terms> {
    let weight = || prop::sample::select(vec![0.0, 0.0, 0.3, 1.0]);
    let weights = prop::array::uniform7(weight());
    weights.prop_map(|weights| {
        let terms = Term::ALL.into_iter();
        terms
            .filter(|term| !matches!(term, Term::AdaptiveKl | Term::HiddenMse))
            .zip(weights)
            .fold(Terms::ZERO, |terms, (term, weight)| {
                terms.with(term, weight)
            })
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        rng_seed: RngSeed::Fixed(17),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn positions_side_by_side_have_the_losses_and_slopes_of_each_alone(
        seed in any::<u64>(),
        vocab in 2..60_usize,
        // Ids of the support at each position; none if the teacher is not known there.
        counts in prop::collection::vec(prop::option::of(any::<prop::sample::Index>()), 1..6),
        weights in weights(),
        (temperature, deviation) in (prop::sample::select(vec![0.5_f32, 1.0, 3.0]), 0.1..4.0),
        (label_smoothing, is_bucket) in (prop::sample::select(vec![0.0, 0.2]), any::<bool>()),
    ) {
        let tail = if is_bucket { Tail::Bucket } else { Tail::Renormalize };
        let weights = weights.with(Term::AdaptiveKl, [0.0, 0.3, 1.0][(seed % 3) as usize]);
        let weights = Terms::from_fn(|term| match term {
            _ if term.needs_tail() && !is_bucket => 0.0, // else it is infinite
            _ => weights[term],
        });
        let mut spec = LossSpec { temperature: soft(temperature), tail, ..LossSpec::of(weights) };
        spec.shapes[Term::CrossEntropy] = label_smoothing;
        let predictions: Vec<Option<OwnedTopK>> = counts
            .iter()
            .zip(0..)
            .map(|(count, position)| {
                let logits = normal(seed, &format!("teacher {position}"), vocab, deviation);
                Some(OwnedTopK::of(&logits, count.as_ref()?.index(vocab) + 1, temperature))
            })
            .collect();
        let targets: Vec<RowTarget<'_>> = predictions
            .iter()
            .zip(0_u32..)
            .map(|(prediction, position)| RowTarget {
                label: position * 7 % u32::try_from(vocab).unwrap(),
                support: prediction.as_ref().map(OwnedTopK::support),
            })
            .collect();
        let student = to_f32(&normal(seed, "student", targets.len() * vocab, deviation));

        let (mut want, mut want_slopes) = (LossSums::default(), student.clone());
        for (row, target) in want_slopes.chunks_mut(vocab).zip(&targets) {
            want = want.plus(loss_row(row, &mut vec![0.0; vocab], *target, &spec));
        }
        let Losses { terms, slopes } = losses(matrix(student, [targets.len(), vocab]), &targets, &spec);
        let got = PendingSums::on_device(terms, weights, targets.len() as u64).read();

        let square = f64::from(temperature.max(1.0)).powi(2);
        for term in Term::ALL.into_iter().filter(|term| term.is_soft()) {
            let (name, got, want) = (term, got.terms[term], want.terms[term]);
            prop_assert!((got - want).abs() <= 3e-6 * (want.abs() + square), "{name}: {got} for {want}");
        }
        let (ce, want_ce) = (got.terms[Term::CrossEntropy], want.terms[Term::CrossEntropy]);
        prop_assert!((ce - want_ce).abs() <= 1e-6 * want_ce, "{ce} for {want_ce}");
        prop_assert!((got.total - want.total).abs() <= 3e-6 * (want.total.abs() + square));
        prop_assert_eq!(got.positions, want.positions);
        for (got, want) in to_vec(&slopes).chunks(vocab).zip(want_slopes.chunks(vocab)) {
            let largest = want.iter().fold(0.0_f32, |most, slope| most.max(slope.abs()));
            for (got, want) in got.iter().zip(want) {
                let room = 3e-6 * f64::from(largest) + 3e-7 * square;
                prop_assert!(f64::from((got - want).abs()) <= room, "{got} for {want}, the largest is {largest}");
            }
        }
    }
}

#[test]
fn a_class_that_the_teacher_holds_impossible_has_no_logarithm_and_no_nan() {
    let support = Support::TopK(TopK {
        ids: &[2, 0],
        log_probs: &[-0.1, f32::NEG_INFINITY],
        lse: &[],
        position: 0,
    });
    let target = RowTarget {
        label: 1,
        support: Some(support),
    };
    for weights in soft_terms() {
        let logits = matrix(vec![0.5, -1.0, 2.0, 0.0], [1, 4]);
        let Losses { terms, slopes } = losses(logits, &[target], &LossSpec::of(weights));
        let mut used = weights.iter().filter(|(_, weight)| **weight > 0.0);
        let is_infinite = used.all(|(term, _)| term.needs_tail()); // to f32's largest number
        let got = PendingSums::on_device(terms, weights, 1).read().total;
        assert!(
            got.is_finite() && (is_infinite == (got > 1e30)),
            "{weights:?}: {got}"
        );
        assert!(
            to_vec(&slopes).iter().all(|slope| !slope.is_nan()),
            "{weights:?}"
        );
    }
}
