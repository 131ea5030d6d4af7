//! Distances worked by hand, and positions that do not count.
#![expect(clippy::float_cmp, reason = "these numbers are exact or wrong")]

use burn::tensor::{Device, Tensor};

use super::super::hidden_gradients;
use crate::tensors::to_vec;

fn matrix<const R: usize, const C: usize>(values: [[f32; C]; R]) -> Tensor<2> {
    Tensor::from_data(values, &Device::flex())
}

#[test]
fn a_distance_worked_by_hand() {
    let student = matrix([[1.0, 2.0], [3.0, -1.0]]);
    let teacher = matrix([[0.0, 4.0], [3.0, -2.0]]);
    let got = hidden_gradients(&student, &teacher, None, &[true, true]);
    assert_eq!(got.sum(), 2.5 + 0.5, "squares 1 and 4, 0 and 1");
    assert_eq!(to_vec(&got.student), [1.0, -2.0, 0.0, 1.0]);
    assert!(got.projection.is_none());

    // A teacher of three dimensions, a student of two: x, y and x + y.
    let projection = matrix([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]);
    let teacher = matrix([[1.0, 2.0, 0.0], [3.0, 2.0, 2.0]]);
    let got = hidden_gradients(&student, &teacher, Some(&projection), &[true, true]);
    assert!(
        (got.sum() - (9.0 + 9.0) / 3.0).abs() < 1e-6,
        "{}",
        got.sum()
    );
    // Differences (0, 0, 3) and (0, -3, 0), times 2/3, back through the projection.
    assert_eq!(to_vec(&got.student), [2.0, 2.0, 0.0, -2.0]);
    let want = [0.0, 0.0, -6.0, 2.0, 2.0, 4.0];
    assert_eq!(to_vec(&got.projection.unwrap()), want);
}

#[test]
fn a_position_that_does_not_count_adds_nothing_even_if_it_is_nan() {
    let student = matrix([[1.0, 2.0], [f32::NAN, 0.0], [3.0, -1.0]]);
    let teacher = matrix([[1.0, 0.0, 2.0], [0.0, f32::NAN, 0.0], [0.5, 1.0, 1.5]]);
    let projection = matrix([[0.5, -1.0], [2.0, 1.0], [0.25, 1.0]]);
    let got = hidden_gradients(&student, &teacher, Some(&projection), &[true, false, true]);

    let rows = |x: &Tensor<2>| {
        Tensor::cat(
            vec![x.clone().narrow(0, 0, 1), x.clone().narrow(0, 2, 1)],
            0,
        )
    };
    let (student, teacher) = (rows(&student), rows(&teacher));
    let want = hidden_gradients(&student, &teacher, Some(&projection), &[true, true]);
    assert_eq!(got.sum(), want.sum());
    let [first, second, third, fourth] = to_vec(&want.student)[..] else {
        panic!("two rows of two")
    };
    assert_eq!(
        to_vec(&got.student),
        [first, second, 0.0, 0.0, third, fourth]
    );
    let [got, want] = [got, want].map(|gradients| to_vec(&gradients.projection.unwrap()));
    assert_eq!(got, want);
}

#[test]
fn where_nothing_counts_there_is_no_distance_and_no_slope() {
    let nan = matrix([[f32::NAN; 2]; 3]);
    let got = hidden_gradients(&nan, &nan, Some(&matrix([[1.0; 2]; 2])), &[false; 3]);
    assert_eq!(got.sum(), 0.0);
    assert_eq!(to_vec(&got.student), [0.0; 6]);
    assert_eq!(to_vec(&got.projection.unwrap()), [0.0; 4]);
}
