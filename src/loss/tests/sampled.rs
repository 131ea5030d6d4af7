//! The KL against samples.

use super::super::{LossSpec, RowTarget, Term, Terms, loss_row};
use super::{FORWARD_KL, WAYS, assert_equal, reference, run};
use crate::support::{Samples, Support};

#[test]
fn sampled_kl_equals_torch_in_value_and_gradient() {
    let reference = reference();
    let drawn: Vec<(Vec<u32>, Vec<u32>)> = reference
        .sampled_counts
        .iter()
        .map(|counts| {
            let drawn = (0..).zip(counts).filter(|(_, count)| **count > 0);
            drawn.unzip()
        })
        .collect();
    assert!(
        drawn
            .iter()
            .all(|(_, counts)| counts.iter().sum::<u32>() == 16)
    );
    let samples = |entropy: f32| {
        let drawn = &drawn;
        move |row: usize| {
            let (ids, counts) = &drawn[row];
            Some(Support::Samples(Samples {
                ids,
                counts,
                entropy,
            }))
        }
    };
    let want = &reference.cases["sampled@T=1"];
    // torch minimises the cross-entropy; the KL is smaller by the teacher's entropy and has the same slope.
    for (read_back, room) in WAYS {
        let got = run(&reference, &FORWARD_KL, samples(0.0), 2, read_back);
        assert_equal("sampled", &got, want, room);
        let mut less = run(&reference, &FORWARD_KL, samples(2.5), 2, read_back);
        less.loss += 2.5;
        assert_equal("sampled, less an entropy", &less, want, room);
        // The text's own term is added as it is.
        let both = LossSpec::of(
            Terms::ZERO
                .with(Term::ForwardKl, 0.5)
                .with(Term::CrossEntropy, 0.5),
        );
        let got = run(&reference, &both, samples(0.0), 2, read_back);
        let hard = &reference.cases["hard_ce@T=1"];
        assert!((got.loss - 0.5 * (want.loss + hard.loss)).abs() < 1e-6);
        assert!((got.grad[1][7] - 0.5 * (want.grad[1][7] + hard.grad[1][7])).abs() < 1e-6);
    }
}

#[test]
fn the_mean_of_sampled_divergences_is_the_exact_one() {
    // Every way to draw two ids of (1/2, 1/4, 1/4), weighted by its probability.
    let teacher = [0.5_f64, 0.25, 0.25];
    let entropy = -teacher.iter().map(|p| p * p.ln()).sum::<f64>();
    let student = [0.2_f32, 0.5, 0.3];
    let (mut mean, mut slopes) = (0.0, [0.0; 3]);
    for first in 0..3_u32 {
        for second in 0..3_u32 {
            let ids: &[u32] = &if first == second {
                vec![first]
            } else {
                vec![first.min(second), first.max(second)]
            };
            let counts: &[u32] = if first == second { &[2] } else { &[1, 1] };
            let weight = teacher[first as usize] * teacher[second as usize];
            #[expect(clippy::cast_possible_truncation, reason = "supports hold f32")]
            let support = Support::Samples(Samples {
                ids,
                counts,
                entropy: entropy as f32,
            });
            let mut logits = student.map(f32::ln);
            let target = RowTarget {
                label: 0,
                support: Some(support),
            };
            let sums = loss_row(&mut logits, &mut [0.0; 3], target, &FORWARD_KL);
            mean += weight * sums.terms[Term::ForwardKl];
            for (slope, got) in slopes.iter_mut().zip(logits) {
                *slope += weight * f64::from(got);
            }
        }
    }
    let pairs = || teacher.iter().zip(student.map(f64::from));
    let exact: f64 = pairs().map(|(p, q)| p * (p / q).ln()).sum();
    assert!((mean - exact).abs() < 1e-6, "{mean} for {exact}");
    for (got, (p, q)) in slopes.iter().zip(pairs()) {
        assert!((got - (q - p)).abs() < 1e-6, "{got} for {}", q - p);
    }
}

#[test]
#[should_panic(expected = "recipes with other terms over samples are refused")]
fn no_other_term_is_taken_from_samples() {
    let samples = Support::Samples(Samples {
        ids: &[1],
        counts: &[4],
        entropy: 0.5,
    });
    let target = RowTarget {
        label: 0,
        support: Some(samples),
    };
    let spec = LossSpec::of(Terms::ZERO.with(Term::ForwardKl, 1.0).with(Term::Tvd, 1.0));
    loss_row(&mut [0.0; 3], &mut [0.0; 3], target, &spec);
}
