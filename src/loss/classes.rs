//! The terms that compare student and teacher, at the classes of a position: `φ(p, q)` and its slope.
//!
//! Written once, for the numbers of one position on the host and for a tensor with those of many.

use std::ops::{Add, Div, Mul, Sub};

use burn::tensor::Tensor;

use super::spec::LossSpec;
use super::{Term, Terms};
use crate::support::{Samples, TopK};

/// Smallest tail mass whose logarithm a divergence takes: the rounding of a sum in f32, to which the tail of a support
/// is known.
const SMALLEST_TAIL: f64 = f32::EPSILON as f64;

/// Numbers that a divergence is computed with.
pub(super) trait Number:
    Clone + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// `factor · self`.
    fn times(self, factor: f64) -> Self;

    /// `self · other`, and 0 where `self` is 0.
    fn weigh(self, other: Self) -> Self;

    /// At least the smallest normal number.
    fn positive(self) -> Self;

    /// Natural logarithm.
    fn ln(self) -> Self;

    /// Absolute value.
    fn abs(self) -> Self;

    /// −1, 0 or 1.
    fn sign(self) -> Self;

    /// Sum over all classes, at each of them.
    fn total(self) -> Self;
}

/// Mass of the teacher's head, μ of Wu et al. 2024.
const HEAD_MASS: f64 = 0.5;

/// Numbers of the classes of one position.
#[derive(Debug, Clone, Default)]
pub(super) struct ClassValues(pub(super) Vec<f64>);

impl ClassValues {
    /// Sum, from the first to the last.
    pub(super) fn sum(&self) -> f64 {
        self.0.iter().fold(0.0, |sum, number| sum + number)
    }

    fn each(mut self, of: impl Fn(f64) -> f64) -> Self {
        self.0.iter_mut().for_each(|number| *number = of(*number));
        self
    }

    fn with(mut self, other: &Self, of: impl Fn(f64, f64) -> f64) -> Self {
        let pairs = self.0.iter_mut().zip(&other.0);
        pairs.for_each(|(number, other)| *number = of(*number, *other));
        self
    }
}

impl Add for ClassValues {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.with(&other, f64::add)
    }
}

impl Sub for ClassValues {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.with(&other, f64::sub)
    }
}

impl Mul for ClassValues {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        self.with(&other, f64::mul)
    }
}

impl Div for ClassValues {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        self.with(&other, f64::div)
    }
}

impl Number for ClassValues {
    fn times(self, factor: f64) -> Self {
        self.each(|number| factor * number)
    }

    fn weigh(self, other: Self) -> Self {
        self.with(&other, |a, b| if a == 0.0 { 0.0 } else { a * b })
    }

    fn positive(self) -> Self {
        self.each(|number| number.max(f64::MIN_POSITIVE))
    }

    fn ln(self) -> Self {
        self.each(f64::ln)
    }

    fn abs(self) -> Self {
        self.each(f64::abs)
    }

    fn sign(self) -> Self {
        self.each(|number| if number == 0.0 { 0.0 } else { number.signum() })
    }

    fn total(self) -> Self {
        let sum = self.sum();
        self.each(|_| sum)
    }
}

/// f32 tensors. Their makers keep logarithms finite, so that 0 times a logarithm is 0.
impl Number for Tensor<2> {
    fn times(self, factor: f64) -> Self {
        self.mul_scalar(factor)
    }

    fn weigh(self, other: Self) -> Self {
        self * other
    }

    fn positive(self) -> Self {
        self.clamp_min(f32::MIN_POSITIVE)
    }

    fn ln(self) -> Self {
        self.log()
    }

    fn abs(self) -> Self {
        self.abs()
    }

    fn sign(self) -> Self {
        self.sign()
    }

    fn total(self) -> Self {
        self.zeros_like() + self.sum_dim(1)
    }
}

/// Probabilities of classes and their natural logarithms.
#[derive(Debug, Clone, Default)]
pub(super) struct Mass<N> {
    pub(super) prob: N,
    pub(super) ln: N,
}

/// The teacher's side of classes: all that terms know about it.
///
/// The host computes it for each position; tensors hold a copy.
#[derive(Debug, Clone, Default)]
pub(super) struct TeacherSide<N> {
    pub(super) mass: Mass<N>,
    /// 1 at the classes of the head and 0 at others, if a term distinguishes them.
    head: Option<N>,
}

impl TeacherSide<ClassValues> {
    /// Side of a top-k support. Classes are its ids and, last, the tail, which is empty unless there are other classes.
    pub(super) fn of_top_k(top_k: &TopK<'_>, has_tail: bool, spec: &LossSpec) -> Self {
        let (mut ln, tail) = top_k.log_probs_and_tail(spec.temperature, spec.tail);
        let tail = if has_tail { tail } else { 0.0 };
        let mut prob: Vec<f64> = ln.iter().map(|ln| ln.exp()).collect();
        let has_head = spec.weights[Term::AdaptiveKl] != 0.0;
        let head = has_head.then(|| head(&prob));
        prob.push(tail);
        ln.push(tail.max(SMALLEST_TAIL).ln());
        Self {
            mass: Mass {
                prob: ClassValues(prob),
                ln: ClassValues(ln),
            },
            head,
        }
    }

    /// Side that gives the loss of samples. Probabilities are the shares drawn. The logarithm of each is minus the
    /// teacher's entropy: shares sum to one, so this becomes the constant of the loss.
    pub(super) fn of_samples(samples: &Samples<'_>) -> Self {
        let mut prob: Vec<f64> = samples.shares().collect();
        let mut ln = vec![-f64::from(samples.entropy); prob.len()];
        prob.push(0.0);
        ln.push(0.0);
        Self {
            mass: Mass {
                prob: ClassValues(prob),
                ln: ClassValues(ln),
            },
            head: None,
        }
    }
}

/// 1 at the teacher's likeliest ids, which have at most half of its mass together, and at the likeliest whatever its
/// mass; of equals the earlier come first. 0 at the others and, behind them, at the tail.
///
/// The host computes it for tensors, too: devices have no sort, and in f32 a sum near a half may cross it.
fn head(of_ids: &[f64]) -> ClassValues {
    let mut places: Vec<usize> = (0..of_ids.len()).collect();
    places.sort_by(|&a, &b| of_ids[b].total_cmp(&of_ids[a])); // equals keep their order
    let mut head = vec![0.0; of_ids.len() + 1];
    let mut mass = 0.0;
    for (rank, place) in places.into_iter().enumerate() {
        mass += of_ids[place];
        if rank > 0 && mass > HEAD_MASS {
            break;
        }
        head[place] = 1.0;
    }
    ClassValues(head)
}

impl<N> TeacherSide<N> {
    /// Joins the sides of many positions; `join` makes one number out of a number of each.
    pub(super) fn joined(
        predictions: &[TeacherSide<ClassValues>],
        join: impl Fn(Vec<&ClassValues>) -> N,
    ) -> Self {
        let all = |of: fn(&TeacherSide<ClassValues>) -> &ClassValues| {
            join(predictions.iter().map(of).collect())
        };
        let none = ClassValues::default(); // of a position without a prediction
        let heads = predictions
            .iter()
            .map(|prediction| prediction.head.as_ref());
        let has_head = heads.clone().any(|head| head.is_some());
        Self {
            mass: Mass {
                prob: all(|prediction| &prediction.mass.prob),
                ln: all(|prediction| &prediction.mass.ln),
            },
            head: has_head.then(|| join(heads.map(|head| head.unwrap_or(&none)).collect())),
        }
    }
}

/// Terms at some classes, and their slope.
pub(super) struct ClassTerms<N> {
    /// `φ(p, q)` of each term that is on.
    pub(super) values: Terms<Option<N>>,
    /// `h = q ∂φ/∂q`, up to a multiple of `q`, summed over the terms by their weights; `None` if none is on.
    pub(super) slope: Option<N>,
}

/// Terms and slope at classes: the ids of a support and, as the last, the tail.
pub(super) fn class_terms<N: Number>(
    teacher: &TeacherSide<N>,
    student: &Mass<N>,
    spec: &LossSpec,
) -> ClassTerms<N> {
    let mut terms = ClassTerms {
        values: Terms::from_fn(|_| None),
        slope: None,
    };
    for (term, &weight) in spec.weights.iter() {
        if weight == 0.0 || !term.is_soft() {
            continue;
        }
        let (value, slope) = soft_term(term, teacher, student, weight, spec.shapes[term]);
        terms.values[term] = Some(value);
        terms.slope = Some(match terms.slope.take() {
            Some(others) => others + slope,
            None => slope,
        });
    }
    terms
}

/// `φ(p, q)` of a term, and `h` times its weight. `shape` is the term's own number, see [`LossSpec::shapes`].
fn soft_term<N: Number>(
    term: Term,
    teacher: &TeacherSide<N>,
    q: &Mass<N>,
    weight: f64,
    shape: f64,
) -> (N, N) {
    let p = &teacher.mass;
    let [p_prob, q_prob] = [p, q].map(|mass| || mass.prob.clone());
    match term {
        Term::ForwardKl => (relative(p, &q.ln), p_prob().times(-weight)),
        Term::ReverseKl => {
            let value = relative(q, &p.ln);
            (value.clone(), value.times(weight))
        }
        Term::Jsd => {
            let middle = mixture(p, shape, q);
            let student = relative(q, &middle.ln).times(1.0 - shape);
            let value = relative(p, &middle.ln).times(shape) + student.clone();
            (value, student.times(weight))
        }
        Term::SkewForwardKl => {
            let middle = mixture(p, shape, q);
            let teacher = p_prob().times(-weight * (1.0 - shape));
            (relative(p, &middle.ln), teacher * q_prob() / middle.prob)
        }
        Term::SkewReverseKl => {
            let middle = mixture(q, shape, p);
            let value = relative(q, &middle.ln);
            let share = q_prob().times(shape) * q_prob() / middle.prob;
            (value.clone(), (value - share).times(weight))
        }
        Term::Tvd => {
            let difference = q_prob() - p_prob();
            let slope = q_prob().times(weight * 0.5) * difference.clone().sign();
            (difference.abs().times(0.5), slope)
        }
        Term::AdaptiveKl => {
            let head = teacher.head.clone().expect("made where the term is on");
            let gap = (q_prob() - p_prob()).abs();
            let of_head = gap.clone() * head;
            let whole = gap.clone().total().positive();
            let share = |gap: N| gap.total() / whole.clone();
            let (head, tail) = (share(of_head.clone()), share(gap - of_head));
            let reverse = tail.weigh(relative(q, &p.ln));
            let value = head.clone().weigh(relative(p, &q.ln)) + reverse.clone();
            (value, (reverse - head * p_prob()).times(weight))
        }
        Term::CrossEntropy | Term::HiddenMse => {
            unreachable!("`{term}` does not compare with the teacher's predictions")
        }
    }
}

/// `a (ln a − ln b)`, 0 at `a = 0`.
fn relative<N: Number>(a: &Mass<N>, ln_b: &N) -> N {
    a.prob.clone().weigh(a.ln.clone() - ln_b.clone())
}

/// Mixture of a share of `a` and the rest of `b`.
fn mixture<N: Number>(a: &Mass<N>, share: f64, b: &Mass<N>) -> Mass<N> {
    let rest = b.prob.clone().times(1.0 - share);
    let prob = (a.prob.clone().times(share) + rest).positive();
    Mass {
        ln: prob.clone().ln(),
        prob,
    }
}
