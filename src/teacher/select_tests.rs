//! The kept part of a distribution, compared with the distribution and the laws of its draws.

use super::*;

fn top_k(logits: &[f32], top_k: usize, temperatures: &[f64]) -> (Vec<u32>, Vec<f32>, Vec<f32>) {
    let TopKSupports {
        ids,
        log_probs,
        lse,
        ..
    } = top_k_support(logits, top_k, temperatures);
    let lse = lse.into_iter().flat_map(|lse| lse.of_positions).collect();
    (ids, log_probs, lse)
}

fn sampled(
    logits: &[f32],
    num_draws: usize,
    sampling: Sampling,
    uniforms: &[f64],
) -> (Vec<u32>, Vec<u32>, f32) {
    let supports = sampled_support(logits, num_draws, sampling, uniforms);
    (supports.ids, supports.counts, supports.entropies[0])
}

#[test]
fn a_support_is_the_likeliest_ids_in_ascending_order_with_exact_log_sum_exps() {
    let logits = [0.0, 3.0, 1.0, 3.0, -2.0];
    let (ids, log_probs, lse) = top_k(&logits, 3, &[1.0, 2.0]);
    assert_eq!(ids, [1, 2, 3]);
    let sum: f64 = logits.iter().map(|z| f64::from(*z).exp()).sum();
    for (id, log_prob) in ids.iter().zip(&log_probs) {
        assert!((f64::from(*log_prob) - (f64::from(logits[*id as usize]) - sum.ln())).abs() < 2e-6);
    }
    assert!(lse[0].abs() < 1e-6);
    let softened: f64 = logits
        .iter()
        .map(|z| ((f64::from(*z) - 3.0) / 2.0).exp())
        .sum();
    assert!((f64::from(lse[1]) - softened.ln()).abs() < 1e-6);
}

#[test]
fn of_equal_logits_the_lower_id_is_kept() {
    assert_eq!(top_k(&[1.0; 6], 2, &[1.0]).0, [0, 1]);
    assert_eq!(top_k(&[1.0; 6], 6, &[1.0]).0, [0, 1, 2, 3, 4, 5]);
}

/// Distribution of the worked example in `docs`: softmax of (2, 1, 0.5, 0, -1), by its logits.
const LOGITS: [f32; 5] = [2.0, 1.0, 0.0, 0.5, -1.0];

fn probs() -> [f64; 5] {
    let sum: f64 = LOGITS.iter().map(|z| f64::from(*z).exp()).sum();
    LOGITS.map(|z| f64::from(z).exp() / sum)
}

/// Shares over many supports: mean per id, sum over ids of the variance, mean number of ids; also checks each support.
fn law(num_draws: usize, sampling: Sampling, trials: usize) -> ([f64; 5], f64, f64) {
    let mut stream = Stream::new(5, "law");
    let (mut sums, mut squares, mut num_ids) = ([0.0; 5], 0.0, 0);
    let per_position = if sampling == Sampling::Systematic {
        1
    } else {
        num_draws
    };
    for _ in 0..trials {
        let uniforms: Vec<f64> = (0..per_position).map(|_| stream.uniform()).collect();
        let (ids, counts, _) = sampled(&LOGITS, num_draws, sampling, &uniforms);
        assert_eq!(counts.iter().sum::<u32>() as usize, num_draws);
        assert!(ids.is_sorted_by(|a, b| a < b) && !counts.contains(&0));
        num_ids += ids.len();
        let mut shares = [0.0; 5];
        for (id, count) in ids.iter().zip(&counts) {
            shares[*id as usize] = f64::from(*count) / num_draws as f64;
        }
        for ((share, prob), sum) in shares.iter().zip(probs()).zip(&mut sums) {
            if sampling == Sampling::Systematic {
                assert!((share - prob).abs() * (num_draws as f64) < 1.0 + 1e-6);
            }
            squares += (share - prob).powi(2);
            *sum += share;
        }
    }
    let trials = trials as f64;
    (
        sums.map(|sum| sum / trials),
        squares / trials,
        num_ids as f64 / trials,
    )
}

#[test]
fn systematic_draws_are_unbiased_with_the_variance_of_their_fractions() {
    const TRIALS: usize = 40_000;
    for num_draws in [4, 13, 50] {
        let (means, variance, num_ids) = law(num_draws, Sampling::Systematic, TRIALS);
        let draws = num_draws as f64;
        let fractions = probs().map(|prob| (prob * draws).fract());
        let variances = fractions.map(|f| f * (1.0 - f) / (draws * draws));
        for ((mean, prob), variance) in means.iter().zip(probs()).zip(variances) {
            let error = (variance / TRIALS as f64).sqrt();
            assert!(
                (mean - prob).abs() < 3.0 * error + 1e-9,
                "{mean} for {prob}"
            );
        }
        let want: f64 = variances.iter().sum();
        assert!(
            (variance / want - 1.0).abs() < 0.03,
            "{variance} for {want}"
        );
        let want: f64 = probs().iter().map(|prob| (prob * draws).min(1.0)).sum();
        assert!((num_ids - want).abs() < 0.02, "{num_ids} ids for {want}");
    }
}

#[test]
fn independent_draws_are_unbiased_with_the_variance_of_a_multinomial() {
    const TRIALS: usize = 40_000;
    for num_draws in [4, 13, 50] {
        let (means, variance, num_ids) = law(num_draws, Sampling::Independent, TRIALS);
        let draws = num_draws as f64;
        for (mean, prob) in means.iter().zip(probs()) {
            let error = (prob * (1.0 - prob) / draws / TRIALS as f64).sqrt();
            assert!((mean - prob).abs() < 3.0 * error, "{mean} for {prob}");
        }
        let want = probs().iter().map(|prob| prob * (1.0 - prob)).sum::<f64>() / draws;
        assert!(
            (variance / want - 1.0).abs() < 0.03,
            "{variance} for {want}"
        );
        let missed = |prob: f64| (1.0 - prob).powf(draws);
        let want: f64 = probs().iter().map(|&prob| 1.0 - missed(prob)).sum();
        assert!((num_ids - want).abs() < 0.02, "{num_ids} ids for {want}");
    }
}

#[test]
fn the_entropy_beside_the_samples_is_that_of_the_whole_distribution() {
    let want: f64 = probs().iter().map(|prob| -prob * prob.ln()).sum();
    let (.., entropy) = sampled(&LOGITS, 3, Sampling::Systematic, &[0.5]);
    assert!(
        (f64::from(entropy) - want).abs() < 1e-6,
        "{entropy} for {want}"
    );
    let (ids, counts, entropy) = sampled(
        &[0.0, f32::NEG_INFINITY, 0.0],
        4,
        Sampling::Systematic,
        &[0.999],
    );
    assert_eq!((ids, counts), (vec![0, 2], vec![2, 2]));
    assert!((entropy - 2.0_f32.ln()).abs() < 1e-6);
}

#[test]
fn draws_are_those_of_the_row_wherever_it_stands() {
    let support = |sampling| SupportPlan::Samples {
        num_draws: 3,
        sampling,
    };
    let selection = Selection {
        support: support(Sampling::Systematic),
        temperatures: &[1.0],
    };
    let draws = |tokens: &[u32]| selection.draws(tokens).uniforms;
    assert_eq!(draws(&[1, 2, 3]).len(), 2);
    assert_eq!(draws(&[1, 2, 3]), draws(&[1, 2, 3]));
    assert_ne!(draws(&[1, 2, 3]), draws(&[1, 2, 4]));
    let independent = Selection {
        support: support(Sampling::Independent),
        temperatures: &[1.0],
    };
    assert_eq!(independent.draws(&[1, 2, 3]).uniforms.len(), 6);
}

/// Probabilities of a support at a temperature.
fn softened_probs(log_probs: &[f32], temperature: f64, lse: f32) -> Vec<f64> {
    let soft = crate::support::softened(log_probs, temperature, lse);
    soft.map(f64::exp).collect()
}

#[test]
fn no_support_holds_more_than_all_probability_at_any_temperature() {
    let temperatures = [1e-300, 1e-40, 1e-6, 1e-4, 1e-3, 0.05, 0.9, 1.0, 100.0];
    let mut stream = Stream::new(5, "low temperatures");
    for scale in [0.5, 3.0, 1e4] {
        #[expect(clippy::cast_possible_truncation, reason = "logits are f32")]
        let mut logits: Vec<f32> = (0..200).map(|_| (scale * stream.normal()) as f32).collect();
        logits[7] = 4.0 * logits.iter().copied().fold(0.0, f32::max);
        logits[90] = logits[7].next_down(); // nearly equal, most critical at a low temperature
        for count in [1, 2, 8, 200] {
            let (ids, log_probs, lse) = top_k(&logits, count, &temperatures);
            for (&temperature, &lse) in temperatures.iter().zip(&lse) {
                let probs = softened_probs(&log_probs, temperature, lse);
                let mass: f64 = probs.iter().sum();
                let name = format!("{count} ids at {temperature}, scale {scale}");
                assert!(mass <= 1.0 + 1e-6, "{name}: {mass}");
                assert!(count < 200 || mass >= 1.0 - 1e-5, "{name}: {mass}");
                // The distribution itself; where f32 barely distinguishes two ids, only their common mass.
                let largest = f64::from(logits[7]);
                let exp = |logit: &f32| ((f64::from(*logit) - largest) / temperature).exp();
                let total: f64 = logits.iter().map(exp).sum();
                let want: f64 = ids
                    .iter()
                    .map(|&id| exp(&logits[id as usize]) / total)
                    .sum();
                let is_split = count == 1; // rounding may hide the margin between the two
                assert!(
                    is_split || (mass - want).abs() < 1e-5,
                    "{name}: {mass} for {want}"
                );
            }
        }
    }
}

#[test]
fn a_teacher_with_huge_logits_has_the_probabilities_of_one_with_small_ones() {
    let small = [2.0, 1.0, 0.5, 0.0, -1.0];
    let (_, want, want_lse) = top_k(&small, 3, &[1.0, 2.0]);
    for shift in [1e4_f32, -1e4, 3e5] {
        let (ids, got, lse) = top_k(&small.map(|logit| logit + shift), 3, &[1.0, 2.0]);
        assert_eq!(ids, [0, 1, 2]);
        for (got, want) in got.iter().chain(&lse).zip(want.iter().chain(&want_lse)) {
            assert!((got - want).abs() < 1e-6, "{got} for {want}");
        }
    }
}
