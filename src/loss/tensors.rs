//! The loss of many positions at once, as a chain of tensor operations: the loss of [`loss_row`](super::loss_row), for
//! devices whose logits the host does not see.
//!
//! The arithmetic is f32 throughout, while rows use f64 over the support. Slopes that are small differences are off by
//! the rounding of the numbers subtracted: 3e-6 of the largest slope of their position. The host prepares the
//! teacher's side, which is small, and reads nothing.

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};

use super::classes::{ClassTerms, ClassValues, Mass, TeacherSide, class_terms};
use super::row::RowTarget;
use super::spec::LossSpec;
use super::{Term, Terms};
use crate::support::Support;

/// Smallest exponent, as in [`exp_nonpositive`](crate::vector::exp_nonpositive): it gives the smallest normal number.
const SMALLEST_EXPONENT: f64 = -87.0;

/// Terms and slopes of some positions.
pub(super) struct Losses {
    /// Sum of each of [`Term::ALL`] over the positions; that of hidden states is 0 here.
    pub(super) terms: Tensor<1>,
    /// d weighted sum of terms / d logits, `[P, V]`.
    pub(super) slopes: Tensor<2>,
}

/// Loss of every position.
///
/// # Shapes
///
/// `logits` is `[P, V]`; `targets` has `P` entries.
///
/// # Panics
///
/// Same as [`loss_row`](super::loss_row).
pub(super) fn losses(logits: Tensor<2>, targets: &[RowTarget<'_>], spec: &LossSpec) -> Losses {
    let shifted = logits.clone() - logits.max_dim(1); // [P, V], none above 0
    let exps = exponentials(shifted.clone());
    let (cross_entropy, mut slopes) = cross_entropy(&shifted, exps.clone(), targets, spec);
    let mut terms = Terms::from_fn(|_| None);
    let has_support = targets.iter().any(|target| target.support.is_some());
    if spec.is_soft() && has_support {
        let soft = soft_losses(shifted, exps, targets, spec);
        slopes = slopes + soft.slopes;
        terms = soft.terms;
    }
    terms[Term::CrossEntropy] = Some(cross_entropy);
    let zeros = || Tensor::zeros([1], &slopes.device());
    let terms = Term::ALL.map(|term| terms[term].take().unwrap_or_else(zeros));
    Losses {
        terms: Tensor::cat(terms.to_vec(), 0),
        slopes,
    }
}

fn exponentials(exponents: Tensor<2>) -> Tensor<2> {
    exponents.clamp_min(SMALLEST_EXPONENT).exp()
}

/// The cross-entropy, `[1]`, and its slopes times its weight.
fn cross_entropy(
    shifted: &Tensor<2>,
    exps: Tensor<2>,
    targets: &[RowTarget<'_>],
    spec: &LossSpec,
) -> (Tensor<1>, Tensor<2>) {
    let (weight, smoothing) = (spec.weights[Term::CrossEntropy], spec.label_smoothing());
    let [positions, vocab] = shifted.dims();
    let device = shifted.device();
    let labels = targets.iter().map(|target| target.label);
    let labels = ids_tensor(labels, vocab, [positions, 1], &device);
    let sum = exps.clone().sum_dim(1); // [P, 1]
    let mut of_labels = shifted.clone().gather(1, labels.clone()); // [P, 1]
    if smoothing > 0.0 {
        let of_all = shifted.clone().mean_dim(1);
        of_labels = of_labels.mul_scalar(1.0 - smoothing) + of_all.mul_scalar(smoothing);
    }
    let value = (sum.clone().log() - of_labels).sum();
    if weight == 0.0 {
        return (value, exps.zeros_like());
    }
    let mut slopes = exps * sum.recip().mul_scalar(weight);
    if smoothing > 0.0 {
        slopes = slopes.sub_scalar(weight * smoothing / vocab as f64);
    }
    let at_label = Tensor::full([positions, 1], -weight * (1.0 - smoothing), &device);
    let slopes = slopes.scatter(1, labels, at_label, IndexingUpdateOp::Add);
    (value, slopes)
}

/// The teacher's side of some positions: `K` ids each and, in the last column, the tail.
///
/// Positions differ in how many ids they have. The other classes have no mass on either side and add nothing to any
/// term: `is_class` is 0 there. It is 0 everywhere at a position without a prediction of the teacher.
///
/// # Shapes
///
/// `ids` is `[P, K]`, the others are `[P, K + 1]`.
struct Teacher {
    ids: Tensor<2, Int>,
    prediction: TeacherSide<Tensor<2>>,
    is_class: Tensor<2>,
}

impl Teacher {
    fn new(targets: &[RowTarget<'_>], vocab: usize, spec: &LossSpec, device: &Device) -> Self {
        let supports = || targets.iter().map(|target| target.support.as_ref());
        let num_ids = supports().map(|support| support.map_or(0, |support| support.ids().len()));
        let num_ids = num_ids.max().unwrap_or_default().max(1); // a device has no empty tensors
        let mut ids = Vec::with_capacity(targets.len() * num_ids);
        for support in supports() {
            let of_support = support.map_or(&[][..], |support| support.ids());
            ids.extend(of_support);
            ids.extend((of_support.len()..num_ids).map(|_| 0));
        }
        let predictions = supports().map(|support| match support {
            Some(Support::TopK(top_k)) => {
                TeacherSide::of_top_k(top_k, top_k.ids.len() < vocab, spec)
            }
            Some(Support::Samples(samples)) => {
                spec.check_samples();
                TeacherSide::of_samples(samples)
            }
            None => TeacherSide::default(),
        });
        let predictions: Vec<TeacherSide<ClassValues>> = predictions.collect();
        let ones = predictions
            .iter()
            .map(|prediction| ClassValues(vec![1.0; prediction.mass.prob.0.len()]));
        let ones: Vec<ClassValues> = ones.collect();
        Self {
            ids: ids_tensor(ids.into_iter(), vocab, [targets.len(), num_ids], device),
            prediction: TeacherSide::joined(&predictions, |rows| {
                side_by_side(&rows, num_ids + 1, device)
            }),
            is_class: side_by_side(&ones.iter().collect::<Vec<_>>(), num_ids + 1, device),
        }
    }
}

/// Numbers of the classes of each position, `[P, width]`: the tail in the last column, zeros where a position has fewer
/// ids, and only zeros where a row is empty.
#[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
fn side_by_side(rows: &[&ClassValues], width: usize, device: &Device) -> Tensor<2> {
    let mut numbers = Vec::with_capacity(rows.len() * width);
    for ClassValues(row) in rows {
        let (tail, of_ids) = row.split_last().unwrap_or((&0.0, &[]));
        let absent = (of_ids.len() + 1..width).map(|_| &0.0);
        let row = of_ids.iter().chain(absent).chain([tail]);
        // A logarithm of 0 becomes a number, so that 0 times it is 0.
        numbers.extend(row.map(|number| number.max(f64::from(f32::MIN)) as f32));
    }
    Tensor::from_data(TensorData::new(numbers, [rows.len(), width]), device)
}

struct SoftLosses {
    /// Each soft term that is on, `[1]`.
    terms: Terms<Option<Tensor<1>>>,
    slopes: Tensor<2>,
}

/// The terms that compare with the teacher.
///
/// With `h` the slope of the terms with respect to ln q of each class (see [`divergence`](super::divergence)):
///
/// ```text
/// T d/dz_j = h_j − q_j Σh                          on the support
///          = e_j / Σe · (h_tail − q_tail Σh)       outside, with the sum over the outside
/// ```
///
/// `exps` are the exponentials of `shifted`, the logits less their largest.
fn soft_losses(
    shifted: Tensor<2>,
    exps: Tensor<2>,
    targets: &[RowTarget<'_>],
    spec: &LossSpec,
) -> SoftLosses {
    let temperature = f64::from(spec.temperature.divisor());
    let Teacher {
        ids,
        prediction,
        is_class,
    } = Teacher::new(targets, shifted.dims()[1], spec, &shifted.device());
    let (softened, exps) = if spec.temperature.is_one() {
        (shifted, exps)
    } else {
        let softened = shifted.div_scalar(temperature);
        (softened.clone(), exponentials(softened))
    };
    let [_, num_ids] = ids.dims();
    let is_id = is_class.clone().narrow(1, 0, num_ids); // [P, K]
    // The tail is summed without the support: as 1 − Σ_K q it would be rounding noise once the student is sure of itself.
    let inside = exps
        .zeros_like()
        .scatter(1, ids.clone(), is_id.clone(), IndexingUpdateOp::Add);
    let outside = exps * inside.neg().add_scalar(1.0); // [P, V], 0 on the support
    let sum_outside = outside.clone().sum_dim(1); // [P, 1]
    let positive = sum_outside.clone().clamp_min(f32::MIN_POSITIVE);
    let exponents = softened.gather(1, ids.clone()); // [P, K]
    let of_ids = exponents.clone().exp() * is_id;
    let total = of_ids.clone().sum_dim(1) + sum_outside.clone(); // [P, 1]
    let student = Mass {
        prob: Tensor::cat(vec![of_ids, sum_outside], 1) / total.clone() * is_class,
        ln: Tensor::cat(vec![exponents, positive.clone().log()], 1) - total.log(),
    };

    let ClassTerms { mut values, slope } = class_terms(&prediction, &student, spec);
    let slope = slope.expect("a term is on");
    let slopes = slope.clone() - student.prob * slope.sum_dim(1); // [P, K + 1]
    let slopes = slopes.mul_scalar(temperature);
    let of_tail = slopes.clone().narrow(1, num_ids, 1);
    let of_ids = slopes.narrow(1, 0, num_ids);
    let slopes = outside / positive * of_tail; // in this order: the inverse of a tiny tail may be infinite
    SoftLosses {
        // Times T both before and after the sum: T² may be too small for f32, and the sum without it too large.
        terms: Terms::from_fn(|term| {
            let value = values[term].take()?.mul_scalar(temperature);
            Some(value.sum().mul_scalar(temperature))
        }),
        slopes: slopes.scatter(1, ids, of_ids, IndexingUpdateOp::Add),
    }
}

fn ids_tensor(
    ids: impl Iterator<Item = u32>,
    vocab: usize,
    shape: [usize; 2],
    device: &Device,
) -> Tensor<2, Int> {
    let id = |id: u32| {
        assert!((id as usize) < vocab, "token {id} of {vocab}");
        i32::try_from(id).expect("a vocabulary has fewer than 2^31 tokens")
    };
    let ids: Vec<i32> = ids.map(id).collect();
    Tensor::from_data(TensorData::new(ids, shape), device)
}
