//! Counted positions, taken out of a matrix and put back.

use burn::tensor::{Int, Tensor, TensorData};

/// Rows of the counted positions, in order; at least one.
///
/// Other positions must not enter a product: 0 times NaN is NaN.
///
/// # Shapes
///
/// `x` is `[P, D]`, `is_counted` has `P` entries.
pub fn counted_rows(x: &Tensor<2>, is_counted: &[bool]) -> Tensor<2> {
    if is_counted.iter().all(|&counts| counts) {
        return x.clone();
    }
    let places = is_counted.iter().enumerate().filter(|(_, counts)| **counts);
    rows_at(x, &places.map(|(place, _)| place).collect::<Vec<_>>())
}

/// Rows of a matrix, `[N, D]`, at `N` places that ascend; at least one.
pub(super) fn rows_at(x: &Tensor<2>, places: &[usize]) -> Tensor<2> {
    let (first, last) = (places[0], places[places.len() - 1]);
    if last - first + 1 == places.len() {
        return x.clone().narrow(0, first, places.len());
    }
    let places = places
        .iter()
        .map(|&place| i32::try_from(place).expect("positions fit into 31 bits"));
    x.clone().select(0, indices(places.collect(), x))
}

/// Puts the rows of [`counted_rows`] back at their places, with zeros at all others, `[P, D]`.
pub(super) fn at_their_places(rows: Tensor<2>, is_counted: &[bool]) -> Tensor<2> {
    let [count, size] = rows.dims();
    if count == is_counted.len() {
        return rows;
    }
    // All others take the row of zeros at the end.
    let with_zeros = Tensor::cat(
        vec![rows.clone(), Tensor::zeros([1, size], &rows.device())],
        0,
    );
    let zeros = i32::try_from(count).expect("positions fit into 31 bits");
    let mut num_before = 0;
    let origins = is_counted.iter().map(|counts| {
        if *counts {
            num_before += 1;
            num_before - 1
        } else {
            zeros
        }
    });
    with_zeros.select(0, indices(origins.collect(), &rows))
}

fn indices(places: Vec<i32>, like: &Tensor<2>) -> Tensor<1, Int> {
    let count = places.len();
    Tensor::from_data(TensorData::new(places, [count]), &like.device())
}
