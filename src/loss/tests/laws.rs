//! Laws that hold for every loss, at any size.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::super::tensors::{Losses, losses};
use super::super::{LossSums, PendingSums, loss_row, row_statistics};
use super::*;

/// A position: seed, classes, ids known of the teacher, temperature, and deviation of the logits.
fn positions() -> impl Strategy<Value = (u64, usize, usize, f32, f64)> {
    (2..80_usize).prop_flat_map(|vocab| {
        let temperature = prop::sample::select(vec![0.5_f32, 1.0, 2.0, 4.0]);
        (any::<u64>(), Just(vocab), 1..=vocab, temperature, 0.1..6.0)
    })
}

/// Sums and gradient at one position.
pub(super) fn at(
    spec: &LossSpec,
    logits: &[f32],
    target: RowTarget<'_>,
    way: ReadBack,
) -> (LossSums, Vec<f32>) {
    match way {
        ReadBack::Free => {
            let (mut gradient, mut scratch) = (logits.to_vec(), vec![0.0; logits.len()]);
            let sums = loss_row(&mut gradient, &mut scratch, target, spec);
            (sums, gradient)
        }
        ReadBack::Stalls => {
            let logits = matrix(logits.to_vec(), [1, logits.len()]);
            let Losses { terms, slopes } = losses(logits, &[target], spec);
            let sums = PendingSums::on_device(terms, spec.weights, 1).read();
            (sums, to_vec(&slopes))
        }
    }
}

/// Every soft term alone, in both ways of computing it.
pub(super) fn everything() -> impl Iterator<Item = (Terms, (ReadBack, f64))> {
    soft_terms().flat_map(|weights| WAYS.map(|way| (weights, way)))
}

pub(super) fn target(support: &OwnedTopK) -> RowTarget<'_> {
    RowTarget {
        label: 0,
        support: Some(support.support()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        rng_seed: RngSeed::Fixed(17),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_student_that_equals_its_teacher_has_no_divergence_and_no_slope(
        (seed, vocab, count, temperature, deviation) in positions(),
    ) {
        let teacher = normal(seed, "teacher", vocab, deviation);
        let support = OwnedTopK::of(&teacher, count, temperature);
        for (weights, (way, room)) in everything() {
            let spec = LossSpec { temperature: soft(temperature), ..LossSpec::of(weights) };
            let (sums, gradient) = at(&spec, &to_f32(&teacher), target(&support), way);
            // The square of the temperature, and the rounding of log-probabilities to f32.
            let bound = 4.0 * room * f64::from(temperature.max(1.0)).powi(2);
            prop_assert!(sums.total.abs() <= bound, "{weights:?}: {sums:?}");
            if weights[Term::Tvd] == 0.0 { // its slope jumps here
                prop_assert!(gradient.iter().all(|slope| f64::from(slope.abs()) <= bound), "{weights:?}: {gradient:?}");
            }
        }
    }

    #[test]
    fn a_larger_support_never_lowers_a_divergence(
        (seed, vocab, count, temperature, deviation) in positions(),
        fewer in any::<prop::sample::Index>(),
    ) {
        let teacher = normal(seed, "teacher", vocab, deviation);
        let student = to_f32(&normal(seed, "student", vocab, deviation));
        let larger = OwnedTopK::of(&teacher, count, temperature);
        let smaller = OwnedTopK::of(&teacher, fewer.index(count) + 1, temperature);
        for (weights, (way, _)) in everything() {
            let spec = LossSpec { temperature: soft(temperature), ..LossSpec::of(weights) };
            let (more, _) = at(&spec, &student, target(&larger), way);
            let (less, _) = at(&spec, &student, target(&smaller), way);
            if weights[Term::ReverseKl] > 0.0 && larger.tail(temperature) < f64::from(f32::EPSILON) {
                continue; // counts as more than it is
            }
            let rounding = 1e-5 * f64::from(temperature).powi(2);
            // Its two weights change with the support.
            let is_kept = weights[Term::AdaptiveKl] > 0.0 || less.total <= more.total + rounding;
            prop_assert!(is_kept, "{weights:?}: {} of {}", less.total, more.total);
            prop_assert!(less.total >= -rounding, "{weights:?}: {}", less.total);
        }
    }

    #[test]
    fn slopes_of_a_position_sum_to_zero(
        (seed, vocab, count, temperature, deviation) in positions(),
        tail in prop::sample::select(vec![Tail::Bucket, Tail::Renormalize]),
    ) {
        let teacher = normal(seed, "teacher", vocab, deviation);
        let student = to_f32(&normal(seed, "student", vocab, deviation));
        let support = OwnedTopK::of(&teacher, count, temperature);
        let weights = Terms::ZERO.with(Term::ForwardKl, 0.5).with(Term::Jsd, 1.0).with(Term::SkewForwardKl, 0.7).with(Term::SkewReverseKl, 0.3).with(Term::Tvd, 0.2).with(Term::AdaptiveKl, 0.3).with(Term::CrossEntropy, 0.4);
        let mut spec = LossSpec { temperature: soft(temperature), tail, ..LossSpec::of(weights) };
        spec.shapes[Term::CrossEntropy] = 0.2;
        for (way, room) in WAYS {
            let (_, gradient) = at(&spec, &student, target(&support), way);
            let (sum, scale) = gradient.iter().fold((0.0, 0.0), |(sum, scale), &slope| (sum + f64::from(slope), scale + f64::from(slope.abs())));
            prop_assert!(sum.abs() <= room * scale, "{way:?}: {sum} of {scale}: {gradient:?}");
        }
    }
}

#[test]
fn a_student_sure_of_itself_gives_finite_numbers() {
    let support = Support::TopK(TopK {
        ids: &[1, 2],
        log_probs: &[0.5_f32.ln(), 0.25_f32.ln()],
        lse: &[],
        position: 0,
    });
    let target = RowTarget {
        label: 1,
        support: Some(support),
    };
    for sure_of in [5, 1] {
        let mut logits = vec![-200.0_f32; 64];
        logits[sure_of] = 200.0;
        for (weights, (way, _)) in everything() {
            let weights = weights.times(10.0).with(Term::CrossEntropy, 1.0);
            let (sums, gradient) = at(&LossSpec::of(weights), &logits, target, way);
            assert!(sums.total.is_finite(), "{weights:?}: {sums:?}");
            assert!(
                gradient.iter().all(|slope| slope.is_finite()),
                "{gradient:?}"
            );
            let total: f32 = gradient.iter().sum();
            assert!(total.abs() < 1e-4, "{weights:?}: slopes sum to {total}");
        }
    }
}

#[test]
fn a_student_without_a_tail_keeps_the_slopes_of_its_support() {
    // q is (1 − 63 e⁻²⁵) on id 0, and p (0.6, 0.1) with 0.3 outside: the factor of the tail is 0.3 e²⁵ / 62.
    for temperature in [1.0, 2.0] {
        let mut logits = vec![0.0_f32; 64];
        logits[0] = 25.0 * temperature;
        let log_probs = [0.6_f32, 0.1].map(|p| temperature * p.ln());
        let support = OwnedTopK::new(vec![0, 1], log_probs.to_vec(), temperature, -0.6_f32.ln());
        let target = RowTarget {
            label: 9,
            support: Some(support.support()),
        };
        let spec = LossSpec {
            temperature: soft(temperature),
            ..FORWARD_KL
        };
        for (way, _) in WAYS {
            let (_, gradient) = at(&spec, &logits, target, way);
            for (slope, want) in gradient.iter().zip([0.4, -0.1, -0.3 / 62.0, -0.3 / 62.0]) {
                let slope = slope / temperature;
                assert!((slope - want).abs() < 1e-6, "{way:?}: {slope} for {want}");
            }
        }
    }
}

#[test]
fn however_little_the_support_holds_renormalised_it_sums_to_one() {
    for mass in [1e-2_f32, 3e-6, 1e-9] {
        let spec = LossSpec {
            tail: Tail::Renormalize,
            ..FORWARD_KL
        };
        let support = Support::TopK(TopK {
            ids: &[2],
            log_probs: &[mass.ln()],
            lse: &[],
            position: 0,
        });
        let target = RowTarget {
            label: 0,
            support: Some(support),
        };
        for (way, _) in WAYS {
            let (sums, gradient) = at(&spec, &[0.0; 4], target, way);
            assert!((sums.total - 4_f64.ln()).abs() < 1e-6, "{mass}: {sums:?}");
            for (slope, want) in gradient.iter().zip([0.25, 0.25, -0.75, 0.25]) {
                assert!((slope - want).abs() < 1e-6, "{mass}: {gradient:?}");
            }
        }
    }
}

#[test]
fn a_teacher_without_a_tail_leaves_the_reverse_divergence_finite() {
    // p (3/4, 1/4), q (1/4, 1/4, 1/2): the tail counts as 2⁻²³.
    let support = Support::TopK(TopK {
        ids: &[0, 1],
        log_probs: &[0.75_f32.ln(), 0.25_f32.ln()],
        lse: &[],
        position: 0,
    });
    let target = RowTarget {
        label: 0,
        support: Some(support),
    };
    let spec = LossSpec::of(Terms::ZERO.with(Term::ReverseKl, 1.0));
    let logits = [0.25_f32.ln(), 0.25_f32.ln(), 0.5_f32.ln()];
    let ratios = [(0.25_f64 / 0.75).ln(), 0.0, (0.5 * 2_f64.powi(23)).ln()];
    let want = 0.25 * ratios[0] + 0.5 * ratios[2];
    for (way, _) in WAYS {
        let (sums, gradient) = at(&spec, &logits, target, way);
        assert!((sums.total - want).abs() < 1e-5, "{sums:?} for {want}");
        for ((slope, ratio), q) in gradient.iter().zip(ratios).zip([0.25, 0.25, 0.5]) {
            let slope_want = q * (ratio - want);
            assert!(
                (f64::from(*slope) - slope_want).abs() < 1e-5,
                "{slope} for {slope_want}"
            );
        }
    }
}

#[test]
fn the_head_of_the_adaptive_divergence_ends_before_it_has_more_than_half_and_never_has_the_bucket()
{
    // The teacher's ids, the student's classes, and the sums of |p - q| over the head and over the tail, worked by hand.
    let cases = [
        // Three equals: the third would pass a half; the bucket, 0.4, is likelier than any and belongs to the tail.
        (
            [0.2, 0.2, 0.2],
            [0.1, 0.3, 0.4, 0.2],
            [0.1 + 0.1, 0.2 + 0.2],
        ),
        // The first passes a half alone.
        (
            [0.1, 0.7, 0.1],
            [0.2, 0.4, 0.1, 0.3],
            [0.3, 0.1 + 0.0 + 0.2],
        ),
        // All ids together have less than a half.
        ([0.1, 0.2, 0.1], [0.3, 0.1, 0.1, 0.5], [0.2 + 0.1, 0.1]),
    ];
    let spec = LossSpec::of(Terms::ZERO.with(Term::AdaptiveKl, 1.0));
    for (teacher, student, [of_head, of_tail]) in cases {
        let log_probs = teacher.map(f32::ln);
        let support = Support::TopK(TopK {
            ids: &[0, 1, 2],
            log_probs: &log_probs,
            lse: &[],
            position: 0,
        });
        let target = RowTarget {
            label: 0,
            support: Some(support),
        };
        let (of_ids, outside) = student.split_at(3);
        let probs = [of_ids, &[0.25 * outside[0], 0.75 * outside[0]]].concat();
        let logits: Vec<f32> = probs.into_iter().map(f32::ln).collect();
        let of_ids = teacher.map(f64::from);
        let tail = 1.0 - of_ids.iter().sum::<f64>();
        let classes = || {
            let teacher = of_ids.into_iter().chain([tail]);
            teacher.zip(student.map(f64::from))
        };
        let [forward, reverse] = [of_head, of_tail].map(|part: f64| part / (of_head + of_tail));
        let values = classes().map(|(p, q)| (forward * p - reverse * q) * (p / q).ln());
        let want: f64 = values.sum();
        let h: Vec<f64> = classes()
            .map(|(p, q)| reverse * q * (q / p).ln() - forward * p)
            .collect();
        let sum: f64 = h.iter().sum();
        for (way, _) in WAYS {
            let (sums, gradient) = at(&spec, &logits, target, way);
            assert!(
                (sums.total - want).abs() < 1e-6,
                "{way:?}: {sums:?} for {want}"
            );
            let slopes = gradient[..3].iter().zip(student).zip(&h);
            for ((&slope, q), h) in slopes {
                let want = h - f64::from(q) * sum;
                assert!(
                    (f64::from(slope) - want).abs() < 1e-6,
                    "{way:?}: {slope} for {want}"
                );
            }
        }
    }
}

#[test]
fn statistics_name_the_top_token_its_confidence_and_the_divergence() {
    // probs 0.1, 0.6, 0.3
    let logits = [0.1_f32.ln(), 0.6_f32.ln(), 0.3_f32.ln()];
    let support = Support::TopK(TopK {
        ids: &[0, 2],
        log_probs: &[0.25_f32.ln(), 0.5_f32.ln()],
        lse: &[],
        position: 0,
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
