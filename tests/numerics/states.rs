//! Training states: what they hold, which are kept, and which are refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use alambic::files::write_atomically;
use alambic::kernels::grid::Grid;
use alambic::model::{DecoderConfig, Scheme};
use alambic::student::{STUDENT_FILE, Student};
use alambic::tensors::{self, to_vec};
use alambic::train::Validation;
use alambic::train::optim::AdamW;
use alambic::train::state::{StateError, States, Training};
use burn::tensor::Tensor;
use serde_json::{Value, json};

use super::tiny::{config, device, random_decoder};

fn states(dir: &Path) -> States<'_> {
    States {
        dir,
        made_by: "key",
        keep: 2,
        has_masks: false,
        has_scales: false,
    }
}

fn student(seed: u64) -> Student {
    Student::new(random_decoder(config(), seed))
}

/// Free weights of a student, to be compared.
fn bits_of(weights: &[Tensor<2>]) -> Vec<Vec<u32>> {
    let of = |weight: &Tensor<2>| to_vec(weight).into_iter().map(f32::to_bits).collect();
    weights.iter().map(of).collect()
}

/// Before the first step.
fn given(average: bool) -> Training {
    Training::new(student(1), average)
}

fn save(dir: &Path, training: &Training) {
    states(dir).save(training).unwrap();
}

/// A state after so many updates, with other numbers for each.
fn state(num_updates: usize) -> Training {
    let decoder = random_decoder(config(), num_updates as u64);
    let mut optimizer = AdamW::new(&student(100).trained());
    for (moments, (_, weight)) in optimizer.moments.iter_mut().zip(decoder.parameters()) {
        moments.first = weight.clone().mul_scalar(0.5);
        moments.second = weight.square();
    }
    optimizer.num_updates = num_updates;
    let mut validation = Validation::default();
    validation.note(num_updates, 1.0 / num_updates as f64, None);
    Training {
        student: Student::new(decoder),
        optimizer,
        average: Some(student(1000 + num_updates as u64).trained_matrices()),
        validation,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn path(dir: &Path, num_updates: usize) -> PathBuf {
    dir.join(format!("state-{num_updates:010}.safetensors"))
}

fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    write_atomically(path, |out| out.write_all(&bytes)).unwrap();
}

#[test]
fn a_state_comes_back_bit_for_bit_with_all_its_parts() {
    let dir = tempfile::tempdir().unwrap();
    let saved = state(7);
    save(dir.path(), &saved);
    let loaded = states(dir.path()).load(&given(true)).unwrap().unwrap();
    let students = (&loaded.student, &saved.student);
    assert_eq!(
        bits_of(&students.0.trained_matrices()),
        bits_of(&students.1.trained_matrices())
    );
    let averages = (loaded.average.unwrap(), saved.average.unwrap());
    assert_eq!(bits_of(&averages.0), bits_of(&averages.1));
    assert_eq!(loaded.optimizer.num_updates, 7);
    assert_eq!(loaded.validation, saved.validation);
    let moments = loaded
        .optimizer
        .moments
        .iter()
        .zip(&saved.optimizer.moments);
    for (got, want) in moments {
        assert_eq!(to_vec(&got.first), to_vec(&want.first));
        assert_eq!(to_vec(&got.second), to_vec(&want.second));
    }
    assert!(
        states(dir.path())
            .load(&given(false))
            .unwrap()
            .unwrap()
            .average
            .is_none()
    );
    let empty = tempfile::tempdir().unwrap();
    assert!(states(empty.path()).load(&given(true)).unwrap().is_none());
}

#[test]
fn the_newest_states_are_kept_and_what_lies_past_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let kept = |states: &[usize]| {
        let want: Vec<String> = states
            .iter()
            .map(|step| format!("state-{step:010}.safetensors"))
            .collect();
        assert_eq!(names(dir.path()), want);
    };
    for step in [4, 8, 12, 16] {
        save(dir.path(), &state(step));
    }
    kept(&[12, 16]);
    save(dir.path(), &state(14)); // went on from 12, since 16 was damaged
    kept(&[12, 14]);
}

#[test]
fn best_weights_stay_as_long_as_a_kept_state_may_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let states = states(dir.path());
    let weights = |step: usize| student(step as u64).trained_matrices();
    let best = |step: usize| {
        let training = Training::new(student(step as u64), false);
        states.save_best(step, &training)
    };
    let kept = |want: &[usize]| {
        let mut names = names(dir.path());
        names.retain(|name| name.starts_with("best-"));
        let want: Vec<String> = want
            .iter()
            .map(|step| format!("best-{step:010}.safetensors"))
            .collect();
        assert_eq!(names, want);
    };
    for step in [2, 4, 6, 10] {
        best(step).unwrap();
    }
    save(dir.path(), &state(8));
    kept(&[6, 10]);
    save(dir.path(), &state(12));
    kept(&[6, 10]);
    save(dir.path(), &state(16));
    kept(&[10]);
    let found = states.load_best(10, &student(1)).unwrap();
    assert_eq!(bits_of(&found), bits_of(&weights(10)));
    // A state names the best at its step or before: a later one has yet to be measured again.
    best(20).unwrap();
    states.load(&given(true)).unwrap();
    kept(&[10]);
}

#[test]
fn a_damaged_newest_state_gives_way_to_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let loaded = || states(dir.path()).load(&given(true));
    for step in [4, 8] {
        save(dir.path(), &state(step));
    }
    damage(&path(dir.path(), 8));
    let found = loaded().unwrap().unwrap();
    assert_eq!(found.optimizer.num_updates, 4);
    let students = (found.student, state(4).student);
    assert_eq!(
        bits_of(&students.0.trained_matrices()),
        bits_of(&students.1.trained_matrices())
    );
    damage(&path(dir.path(), 4));
    let told = loaded().unwrap_err().to_string();
    assert!(told.contains("state-0000000008.safetensors: "), "{told}");
    assert!(told.ends_with("delete the folder and run again"), "{told}");
}

/// A state with other facts.
fn with_facts(dir: &Path, change: impl FnOnce(&mut Value)) {
    save(dir, &state(3));
    let path = path(dir, 3);
    let (matrices, mut facts): (_, Value) = tensors::load(&path, &device()).unwrap();
    change(&mut facts);
    let matrices: Vec<_> = matrices.into_iter().collect();
    tensors::save(&path, &matrices, &facts).unwrap();
}

#[test]
fn a_state_of_another_version_architecture_or_pass_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let refused = |like: DecoderConfig, needles: &[&str]| {
        let error = states(dir)
            .load(&Training::new(Student::new(random_decoder(like, 1)), true))
            .unwrap_err();
        let told = format!("{error}\n{}", error.help().unwrap());
        for needle in needles {
            assert!(told.contains(needle), "no `{needle}` in: {told}");
        }
    };
    // A good state before it does not hide that the newest one belongs elsewhere.
    save(dir, &state(2));
    with_facts(dir, |facts| facts["version"] = json!(3));
    refused(
        config(),
        &[
            "state-0000000003.safetensors is a training state of format 3, and this program reads format 2",
            "finish it with the version of alambic that started it",
        ],
    );
    with_facts(dir, |_| {});
    let narrow = DecoderConfig {
        intermediate_size: 16,
        ..config()
    };
    refused(
        narrow,
        &[
            "is the training state of another architecture: its `intermediate_size` changed from 32 to 16",
            "delete it to start the pass again",
        ],
    );
    with_facts(dir, |facts| facts["made_by"] = json!("another"));
    refused(
        config(),
        &["of another pass: it was made under the key another, and this one has key"],
    );
}

#[test]
fn the_one_state_file_of_the_first_version_is_refused_and_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("state.safetensors");
    tensors::save(&old, &[], &40_usize).unwrap();
    let error = states(dir.path()).load(&given(false));
    assert!(matches!(
        error,
        Err(StateError::Version { found: 1, path }) if path == old
    ));
}

/// Writes a file of matrices anew, checksum and all, after a change of its matrices and facts.
fn anew(path: &Path, change: impl FnOnce(&mut BTreeMap<String, Tensor<2>>, &mut Value)) {
    let (mut matrices, mut facts): (_, Value) = tensors::load(path, &device()).unwrap();
    change(&mut matrices, &mut facts);
    let matrices: Vec<_> = matrices.into_iter().collect();
    tensors::save(path, &matrices, &facts).unwrap();
}

/// A change of a student's matrices and facts, and what is told of it.
type Misfit = (
    fn(&mut BTreeMap<String, Tensor<2>>, &mut Value),
    &'static str,
);

const UP: &str = "model.layers.0.mlp.up_proj.weight";

/// A matrix that a test makes.
type Made = fn() -> Tensor<2>;

#[test]
fn a_mask_of_another_shape_in_a_state_with_a_new_checksum_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let masked = States {
        has_masks: true,
        ..states(dir.path())
    };
    let mut training = state(3);
    let mut weights = training.student.decoder.parameters().into_iter();
    let (spec, up) = weights.find(|(spec, _)| spec.name == UP).unwrap();
    training.student.masks.insert(spec.id, up.ones_like());
    let load = || masked.load(&given(true));
    masked.save(&training).unwrap();
    assert_eq!(load().unwrap().unwrap().student.masks.len(), 1);
    let cases: [(Made, &str); 4] = [
        (
            || Tensor::ones([16, 32], &device()),
            "has shape [16, 32], and the weight [32, 16]",
        ),
        (
            || Tensor::ones([1, 1], &device()),
            "has shape [1, 1], and the weight [32, 16]",
        ),
        (
            || Tensor::full([32, 16], 0.5, &device()),
            "holds 0.5, which is neither 0 nor 1",
        ),
        (
            || Tensor::full([32, 16], -1.0, &device()),
            "holds -1, which is neither 0 nor 1",
        ),
    ];
    for (mask, told) in cases {
        masked.save(&training).unwrap();
        anew(&path(dir.path(), 3), |matrices, _| {
            matrices.insert(format!("mask.{UP}"), mask()).unwrap();
        });
        let error = load().unwrap_err().to_string();
        assert!(
            error.contains(&format!("the mask of `{UP}` {told}")),
            "{error}"
        );
    }
    masked.save(&training).unwrap();
    anew(&path(dir.path(), 3), |_, facts| {
        facts["num_updates"] = json!(u64::MAX);
    });
    let error = load().unwrap_err().to_string();
    let told = "it is the state after 18446744073709551615 updates";
    assert!(error.contains(told), "{error}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn a_student_with_a_new_checksum_is_refused_if_anything_does_not_fit_its_weights() {
    let dir = tempfile::tempdir().unwrap();
    let mut student = student(1);
    let grid = Grid::asymmetric(4, Some(8));
    for (spec, weight) in student.decoder.parameters() {
        if spec.name == UP {
            student.masks.insert(spec.id, weight.ones_like());
            let scheme = Scheme {
                weight: grid,
                input: None,
            };
            student.schemes.insert(spec.id, scheme);
            let scaling = grid.scaling(weight);
            student.scales.insert(spec.id, scaling.into());
        }
    }
    let file = dir.path().join(STUDENT_FILE);
    student.save(dir.path()).unwrap();
    Student::load(dir.path(), &device()).unwrap();
    let cases: [Misfit; 12] = [
        (
            |matrices, _| drop(matrices.insert(format!("mask.{UP}"), ones([16, 32]))),
            "has shape [16, 32], and the weight [32, 16]",
        ),
        (
            |matrices, _| drop(matrices.insert("mask.lm_head.weight".into(), ones([1, 1]))),
            "the mask of `lm_head.weight` has shape [1, 1]",
        ),
        (
            |matrices, _| drop(matrices.insert(format!("{UP}_scale"), ones([32, 3]))),
            "are not those of int4 asymmetric, groups of 8",
        ),
        (
            |matrices, _| drop(matrices.insert(format!("{UP}_zero"), ones([16, 2]))),
            "are not those of int4 asymmetric, groups of 8",
        ),
        (
            |matrices, _| drop(matrices.remove(&format!("{UP}_zero"))),
            "are not those of int4 asymmetric, groups of 8",
        ),
        (
            |matrices, _| drop(matrices.insert("mask.lost".into(), ones([1, 1]))),
            "`mask.lost` belongs to no weight of it",
        ),
        (
            |_, facts| facts["schemes"][UP]["weight"]["group_size"] = json!(0),
            "is on a grid of int4 asymmetric, groups of 0",
        ),
        (
            |_, facts| {
                facts["schemes"][UP]["weight"]["levels"] = json!({ "symmetric": { "bits": 40 } });
            },
            "is on a grid of int40, groups of 8",
        ),
        (
            |_, facts| facts["schemes"]["lost"] = facts["schemes"][UP].clone(),
            "`lost` belongs to no weight of it",
        ),
        (
            |_, facts| facts["config"]["layer_types"] = json!([]),
            "no decoder has this config: 0 `layer_types` for 1 layers",
        ),
        (
            |_, facts| facts["config"]["num_hidden_layers"] = json!(1_u64 << 40),
            "no decoder has this config: `num_hidden_layers` is 1099511627776",
        ),
        (
            |_, facts| facts["layer_repeats"] = json!(1_u64 << 40),
            "1099511627776 layers would run",
        ),
    ];
    for (change, told) in cases {
        student.save(dir.path()).unwrap();
        anew(&file, change);
        let error = Student::load(dir.path(), &device()).unwrap_err();
        assert!(error.to_string().contains(told), "no `{told}` in: {error}");
    }
}

fn ones(shape: [usize; 2]) -> Tensor<2> {
    Tensor::ones(shape, &device())
}
