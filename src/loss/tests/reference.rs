//! Every term in value and gradient, whole vocabulary and support.

use super::*;

/// Positions per chunk: one, two, and all.
const CHUNK_SIZES: [usize; 3] = [1, 2, 100];

/// File that `scripts/make_golden.py losses/on_support` writes over the logits of the other file.
#[derive(Deserialize)]
struct OnSupport {
    inputs: Shapes,
    expected: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Shapes {
    beta: f64,
    alpha: f64,
    label_smoothing: f64,
    weights: BTreeMap<String, f64>,
}

/// Weights by name.
fn terms(weights: &BTreeMap<String, f64>) -> Terms {
    let weight = |term: Term| weights.get(term.word()).copied().unwrap_or_default();
    let terms = Terms::from_fn(weight);
    let used = terms.iter().filter(|(_, weight)| **weight > 0.0);
    assert_eq!(used.count(), weights.len());
    terms
}

fn alone(name: &str) -> Terms {
    terms(&BTreeMap::from([(name.to_owned(), 1.0)]))
}

fn shapes(beta: f64, alpha: f64, label_smoothing: f64) -> Terms {
    Terms::ZERO
        .with(Term::Jsd, beta)
        .with(Term::SkewForwardKl, alpha)
        .with(Term::SkewReverseKl, alpha)
        .with(Term::CrossEntropy, label_smoothing)
}

/// Checks the loss in chunks of every size, computed in both ways.
fn assert_all<'a>(
    name: &str,
    reference: &'a Reference,
    spec: &LossSpec,
    support: impl Fn(usize) -> Option<Support<'a>> + Copy,
    want: &Case,
) {
    for (read_back, room) in WAYS {
        for chunk_size in CHUNK_SIZES {
            let got = run(reference, spec, support, chunk_size, read_back);
            assert_equal(&format!("{name} {read_back:?}"), &got, want, room);
        }
    }
}

#[test]
fn over_the_whole_vocabulary_every_term_is_exact() {
    let reference = reference();
    let vocab = reference.student_logits[0].len();
    let mut num_cases = 0;
    for temperature in [1.0, 2.0] {
        let logits = reference.teacher_logits.iter();
        let whole: Vec<OwnedTopK> = logits
            .map(|row| OwnedTopK::of(row, vocab, temperature))
            .collect();
        for (name, want) in &reference.cases {
            let Some(name) = name.strip_suffix(&format!("@T={temperature}")) else {
                continue;
            };
            let (term, shape) = match name {
                "jsd_0_5" => ("jsd", 0.5),
                "jsd_0_1" => ("jsd", 0.1),
                "skew_forward_kl_0_1" => ("skew_forward_kl", 0.1),
                "skew_reverse_kl_0_1" => ("skew_reverse_kl", 0.1),
                "forward_kl" | "reverse_kl" | "tvd" => (name, 0.5),
                _ => continue,
            };
            let spec = LossSpec {
                temperature: soft(temperature),
                shapes: shapes(shape, shape, 0.0),
                ..LossSpec::of(alone(term))
            };
            let support = |row: usize| Some(whole[row].support());
            assert_all(
                &format!("{name}@T={temperature}"),
                &reference,
                &spec,
                support,
                want,
            );
            num_cases += 1;
        }
    }
    assert_eq!(num_cases, 14);
}

/// File that `scripts/make_golden.py losses/adaptive_kl` writes over the logits of the other file.
#[derive(Deserialize)]
struct Adaptive {
    expected: BTreeMap<String, Case>,
}

#[test]
fn adaptive_kl_equals_torch_over_the_whole_vocabulary_and_over_a_support() {
    let reference = reference();
    let text = include_str!("../../../tests/golden/losses/adaptive_kl.json");
    let Adaptive { expected } = serde_json::from_str(text).unwrap();
    for temperature in [1.0, 2.0] {
        let spec = LossSpec {
            temperature: soft(temperature),
            ..LossSpec::of(alone("adaptive_kl"))
        };
        let logits = reference.teacher_logits.iter();
        let whole: Vec<OwnedTopK> = logits
            .map(|row| OwnedTopK::of(row, row.len(), temperature))
            .collect();
        for (over, supports) in [("whole", whole), ("bucket", top_k(&reference, temperature))] {
            let name = format!("{over}@T={temperature}");
            let support = |row: usize| Some(supports[row].support());
            assert_all(&name, &reference, &spec, support, &expected[&name]);
        }
    }
    assert_eq!(expected.len(), 4);
}

#[test]
fn forward_kl_on_a_support_equals_torch_with_a_bucket_and_renormalised() {
    let reference = reference();
    for temperature in [1.0, 2.0] {
        for (name, tail) in [
            ("topk_bucket", Tail::Bucket),
            ("topk_renormalized", Tail::Renormalize),
        ] {
            let spec = LossSpec {
                temperature: soft(temperature),
                tail,
                ..FORWARD_KL
            };
            let name = format!("{name}@T={temperature}");
            let supports = top_k(&reference, temperature);
            let support = |row: usize| Some(supports[row].support());
            assert_all(&name, &reference, &spec, support, &reference.cases[&name]);
        }
    }
}

#[test]
fn cross_entropy_equals_torch_and_is_never_softened() {
    let reference = reference();
    for temperature in [1.0, 2.0] {
        let spec = LossSpec {
            temperature: soft(temperature),
            ..CROSS_ENTROPY
        };
        let want = &reference.cases[&format!("hard_ce@T={temperature}")];
        assert_all("alone", &reference, &spec, |_| None, want);
        let supports = top_k(&reference, temperature);
        let support = |row: usize| Some(supports[row].support());
        assert_all("over a support", &reference, &spec, support, want);
    }
}

#[test]
fn every_term_on_a_support_and_all_of_them_at_once_equal_torch() {
    let reference = reference();
    let text = include_str!("../../../tests/golden/losses/on_support.json");
    let OnSupport { inputs, expected } = serde_json::from_str(text).unwrap();
    assert_eq!(expected.len(), 17);
    for (name, want) in &expected {
        let (name, temperature) = match name.split_once("@T=") {
            Some((name, temperature)) => (name, temperature.parse().unwrap()),
            None => (name.as_str(), 1.0),
        };
        let (weights, tail) = match name.split_once(' ') {
            Some(("mix", _)) => (terms(&inputs.weights), Tail::Bucket),
            Some(("smoothed", term) | (term, "bucket")) => (alone(term), Tail::Bucket),
            Some((term, "renormalize")) => (alone(term), Tail::Renormalize),
            _ => panic!("{name}"),
        };
        let spec = LossSpec {
            weights,
            shapes: shapes(inputs.beta, inputs.alpha, inputs.label_smoothing),
            temperature: soft(temperature),
            tail,
        };
        let supports = top_k(&reference, temperature);
        let support = |row: usize| Some(supports[row].support());
        assert_all(
            &format!("{name}@T={temperature}"),
            &reference,
            &spec,
            support,
            want,
        );
    }
}
