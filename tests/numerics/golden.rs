//! Golden files and the comparison with them.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// What `scripts/make_golden.py` writes; provenance (seed, dtype, versions) stands in the same file.
#[derive(Deserialize)]
pub(crate) struct Golden<I, E> {
    #[serde(flatten)]
    pub(crate) tolerance: Tolerance,
    pub(crate) inputs: I,
    pub(crate) expected: E,
}

/// Two numbers are close if they differ by at most `atol + rtol · |want|`.
#[derive(Deserialize, Clone, Copy)]
pub(crate) struct Tolerance {
    pub(crate) atol: f64,
    pub(crate) rtol: f64,
}

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// Files and folders in `tests/golden` whose names begin so, sorted.
pub(crate) fn names(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(path("")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

pub(crate) fn read<I: DeserializeOwned, E: DeserializeOwned>(file: &str) -> Golden<I, E> {
    let path = path(file);
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Says where `got` and `want` differ by more than the tolerance, if they do; NaN is close to nothing.
pub(crate) fn difference(
    name: &str,
    got: &[f32],
    want: &[f64],
    tolerance: Tolerance,
) -> Option<String> {
    if got.len() != want.len() {
        return Some(format!("{name}: {} numbers for {}", got.len(), want.len()));
    }
    let gap = |idx: usize| (f64::from(got[idx]) - want[idx]).abs();
    let is_close = |idx: &usize| gap(*idx) <= tolerance.atol + tolerance.rtol * want[*idx].abs();
    let far: Vec<usize> = (0..got.len()).filter(|idx| !is_close(idx)).collect();
    let first = *far.first()?;
    let largest =
        |gap_of: &dyn Fn(usize) -> f64| far.iter().map(|&idx| gap_of(idx)).fold(0.0, f64::max);
    Some(format!(
        "{name}[{first}]: got {}, want {}; {} of {} numbers differ, by up to {:.3e} absolute and {:.3e} relative",
        got[first],
        want[first],
        far.len(),
        got.len(),
        largest(&gap),
        largest(&|idx| gap(idx) / want[idx].abs().max(f64::MIN_POSITIVE)),
    ))
}

#[track_caller]
pub(crate) fn assert_close(name: &str, got: &[f32], want: &[f64], tolerance: Tolerance) {
    if let Some(difference) = difference(name, got, want, tolerance) {
        panic!("{difference}");
    }
}

#[test]
fn a_comparison_names_the_place_both_numbers_and_the_largest_differences() {
    let tolerance = Tolerance {
        atol: 0.1,
        rtol: 0.0,
    };
    let said = difference("w", &[1.0, 2.5, 4.0], &[1.05, 2.0, 5.0], tolerance);
    assert_eq!(
        said.as_deref(),
        Some(
            "w[1]: got 2.5, want 2; 2 of 3 numbers differ, by up to 1.000e0 absolute and 2.500e-1 relative"
        )
    );
    assert_eq!(difference("w", &[1.0], &[1.05], tolerance), None);
    assert!(difference("w", &[f32::NAN], &[1.0], tolerance).is_some());
    assert!(difference("w", &[], &[1.0], tolerance).is_some());
}
