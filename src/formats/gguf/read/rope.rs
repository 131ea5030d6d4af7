//! Recovers Llama 3's long-context rotary scaling from the divisors that llama.cpp stores.

use std::f64::consts::TAU;

use serde_json::{Value, json};

/// Ratios of all releases of Llama 3.1 to 3.3: waves longer than the trained context are stretched fully, waves shorter
/// than a quarter of it not at all.
const LOW_FREQ_FACTOR: f64 = 1.0;
const HIGH_FREQ_FACTOR: f64 = 4.0;
/// Relative tolerance: divisors were computed in f32, some from other f32 numbers.
const TOLERANCE: f64 = 1e-4;

/// Llama 3's `rope_scaling` in `config.json` that gives these divisors of the frequencies of `theta`; `None` if there
/// is none.
///
/// The divisors hold the stretch and, for the waves in between, the start of stretching. Different contexts (in tokens)
/// can give the same divisors, and so the same model; powers of two are tried first.
pub(super) fn llama3_scaling(divisors: &[f64], theta: f64) -> Option<Value> {
    let num_pairs = divisors.len();
    let wavelength = |pair: usize| TAU * theta.powf(pair as f64 / num_pairs as f64);
    let factor = divisors.iter().copied().fold(1.0, f64::max);
    if divisors.iter().all(|&divisor| is_close(divisor, 1.0)) {
        return Some(json!({ "rope_type": "default" }));
    }
    let explains = |context: f64| {
        let expected = (0..num_pairs).map(|pair| divisor(wavelength(pair), factor, context));
        expected
            .zip(divisors)
            .all(|(want, &got)| is_close(want, got))
    };
    // A wave in between determines the context; without one, any power of two in the gap fits.
    let between = divisors.iter().position(|&divisor| {
        divisor > 1.0 && !is_close(divisor, 1.0) && !is_close(divisor, factor)
    });
    let solved = between.map(|pair| {
        let smooth = (factor / divisors.get(pair)? - 1.0) / (factor - 1.0);
        let ratio = smooth * (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR) + LOW_FREQ_FACTOR;
        Some((wavelength(pair) * ratio).round())
    });
    let powers = (5..=24).map(|power| f64::from(1_u32 << power));
    let context = powers
        .chain(solved.flatten())
        .find(|&context| explains(context))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number of tokens, above 0 since it explains the divisors"
    )]
    let context = context as u64;
    Some(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW_FREQ_FACTOR,
        "high_freq_factor": HIGH_FREQ_FACTOR,
        "original_max_position_embeddings": context,
    }))
}

/// Divisor that Llama 3's scaling applies to the frequency of this wavelength.
fn divisor(wavelength: f64, factor: f64, context: f64) -> f64 {
    if wavelength < context / HIGH_FREQ_FACTOR {
        return 1.0;
    }
    if wavelength > context / LOW_FREQ_FACTOR {
        return factor;
    }
    let smooth = (context / wavelength - LOW_FREQ_FACTOR) / (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR);
    1.0 / ((1.0 - smooth) / factor + smooth)
}

fn is_close(got: f64, want: f64) -> bool {
    (got - want).abs() <= TOLERANCE * want.abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Divisors as a converter writes them, in f32.
    fn divisors(num_pairs: usize, theta: f64, factor: f64, context: f64) -> Vec<f64> {
        let wavelength = |pair: usize| TAU * theta.powf(pair as f64 / num_pairs as f64);
        #[expect(clippy::cast_possible_truncation, reason = "files hold f32")]
        let stored = |pair| divisor(wavelength(pair), factor, context) as f32;
        (0..num_pairs).map(|pair| f64::from(stored(pair))).collect()
    }

    #[test]
    fn the_settings_of_every_llama_3_release_are_found_again() {
        for (head_dim, factor) in [(128, 8.0), (64, 32.0), (128, 32.0)] {
            let found = llama3_scaling(&divisors(head_dim / 2, 5e5, factor, 8192.0), 5e5).unwrap();
            assert_eq!(found["rope_type"], "llama3");
            assert_eq!(found["factor"], factor);
            assert_eq!(found["original_max_position_embeddings"], 8192);
            assert_eq!(found["low_freq_factor"], 1.0);
            assert_eq!(found["high_freq_factor"], 4.0);
        }
    }

    #[test]
    fn a_context_that_is_no_power_of_two_is_found_too() {
        let found = llama3_scaling(&divisors(64, 5e5, 16.0, 6000.0), 5e5).unwrap();
        assert_eq!(found["original_max_position_embeddings"], 6000);
        assert_eq!(found["factor"], 16.0);
    }

    #[test]
    fn divisors_of_one_are_no_scaling_and_strange_ones_are_not_explained() {
        let found = llama3_scaling(&[1.0; 32], 5e5).unwrap();
        assert_eq!(found["rope_type"], "default");
        let mut strange = divisors(64, 5e5, 8.0, 8192.0);
        strange[40] *= 1.01;
        assert_eq!(llama3_scaling(&strange, 5e5), None);
        assert_eq!(llama3_scaling(&[2.0, 1.0, f64::NAN], 5e5), None);
        let rising: Vec<f64> = (0..32).map(|pair| 1.0 + 0.1 * f64::from(pair)).collect();
        assert_eq!(llama3_scaling(&rising, 5e5), None, "a longrope table");
    }
}
