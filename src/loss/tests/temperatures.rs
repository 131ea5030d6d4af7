//! Losses over the whole range of temperatures that a recipe may name, against f64.

use super::laws::{at, everything, target};
use super::*;

const TEMPERATURES: [f32; 8] = [Temperature::LOWEST, 1e-6, 1e-4, 1e-3, 0.05, 0.9, 1.0, 100.0];

/// Logits of `vocab` classes with this deviation, spread about a number.
fn logits(purpose: &str, vocab: usize, deviation: f64, about: f64) -> Vec<f64> {
    let logits = normal(5, purpose, vocab, deviation).into_iter();
    logits.map(|logit| about + logit).collect()
}

/// Logarithms of the softmax of logits.
fn log_softmax(logits: &[f32], temperature: f32) -> Vec<f64> {
    let largest = f64::from(largest(logits));
    let below = logits.iter().map(|&logit| f64::from(logit) - largest);
    let soft: Vec<f64> = below.map(|below| below / f64::from(temperature)).collect();
    let lse = soft.iter().map(|soft| soft.exp()).sum::<f64>().ln();
    soft.iter().map(|soft| soft - lse).collect()
}

fn kl(p: &[f64], q: &[f64]) -> f64 {
    let pairs = p.iter().zip(q);
    pairs
        .map(|(p, q)| {
            if p.exp() == 0.0 {
                0.0
            } else {
                p.exp() * (p - q)
            }
        })
        .sum()
}

#[test]
fn at_every_temperature_a_student_that_equals_its_teacher_has_no_divergence() {
    for temperature in TEMPERATURES {
        for (count, deviation) in [(1, 2.0), (5, 2.0), (40, 2.0), (40, 1e4)] {
            let teacher = logits("teacher", 40, deviation, 0.0);
            let support = OwnedTopK::of(&teacher, count, temperature);
            let mass = 1.0 - support.tail(temperature);
            assert!(mass <= 1.0 + 1e-6, "{mass} at {temperature}");
            // With the whole vocabulary in the support, the student is the support itself: log-probabilities in f32.
            let mut student = to_f32(&teacher);
            for (&id, &log_prob) in support.ids.iter().zip(&support.log_probs) {
                if count == student.len() {
                    student[id as usize] = log_prob;
                }
            }
            for (weights, (way, room)) in everything() {
                let spec = LossSpec {
                    temperature: soft(temperature),
                    ..LossSpec::of(weights)
                };
                let (sums, slopes) = at(&spec, &student, target(&support), way);
                let bound = 4.0 * room * f64::from(temperature.max(1.0)).powi(2);
                let name = format!("{weights:?} at {temperature}, {count} ids, {way:?}");
                assert!(sums.total.abs() <= bound, "{name}: {}", sums.total);
                let is_near = |slope: &f32| f64::from(slope.abs()) <= bound;
                assert!(
                    weights[Term::Tvd] != 0.0 || slopes.iter().all(is_near),
                    "{name}: {slopes:?}"
                );
            }
        }
    }
}

#[test]
fn at_every_temperature_divergences_are_those_of_f64_and_slopes_are_finite() {
    for temperature in TEMPERATURES {
        for deviation in [0.5, 3.0, 1e4] {
            let teacher = logits("teacher", 40, deviation, 0.0);
            let student = to_f32(&logits("student", 40, deviation, 100.0));
            let support = OwnedTopK::of(&teacher, 40, temperature);
            let mut p = vec![0.0; 40];
            for (&id, &log_prob) in support.ids.iter().zip(&support.log_probs) {
                p[id as usize] = log_prob;
            }
            let (p, q) = (
                log_softmax(&p, temperature),
                log_softmax(&student, temperature),
            );
            let squared = f64::from(temperature).powi(2);
            for (weights, (way, room)) in everything() {
                let spec = LossSpec {
                    temperature: soft(temperature),
                    ..LossSpec::of(weights)
                };
                let (sums, slopes) = at(&spec, &student, target(&support), way);
                let name = format!("{weights:?} at {temperature}, deviation {deviation}, {way:?}");
                assert!(slopes.iter().all(|slope| slope.is_finite()), "{name}");
                let total: f64 = slopes.iter().map(|&slope| f64::from(slope)).sum();
                let scale: f64 = slopes.iter().map(|&slope| f64::from(slope.abs())).sum();
                // Each is a difference of logits times probabilities.
                let room_of_sum = room * (scale + 10.0 * deviation);
                assert!(total.abs() <= room_of_sum, "{name}: {total} of {scale}");
                let want = match weights {
                    _ if weights[Term::ForwardKl] > 0.0 => kl(&p, &q),
                    _ if weights[Term::ReverseKl] > 0.0 => kl(&q, &p),
                    _ => {
                        assert!(sums.total.is_finite(), "{name}: {}", sums.total);
                        continue;
                    }
                };
                let want = squared * want;
                let room = 2e-5 * want.abs() + 3e-6 * squared.max(f64::from(temperature));
                assert!(
                    (sums.total - want).abs() <= room,
                    "{name}: {} for {want}",
                    sums.total
                );
            }
        }
    }
}

#[test]
fn slopes_of_classes_that_a_low_temperature_rules_out_are_0_and_not_subnormal() {
    let teacher = logits("teacher", 40, 3.0, 0.0);
    let student = to_f32(&logits("student", 40, 3.0, 0.0));
    for temperature in [1e-6, 1e-4, 1e-3] {
        let support = OwnedTopK::of(&teacher, 3, temperature);
        let spec = LossSpec {
            temperature: soft(temperature),
            ..FORWARD_KL
        };
        let (_, slopes) = at(&spec, &student, target(&support), ReadBack::Free);
        assert!(
            !slopes.iter().any(|slope| slope.is_subnormal()),
            "{slopes:?}"
        );
        assert!(
            slopes.iter().any(|slope| slope.abs() > 0.5 * temperature),
            "{slopes:?}"
        );
    }
}
