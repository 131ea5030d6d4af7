//! The terms that compare student and teacher, at one class: `φ(p, q)` and its slope.
//!
//! Written once, for the number of one class and for a tensor of those of many.

use std::ops::{Add, Div, Mul, Sub};

use burn::tensor::Tensor;

use super::spec::LossSpec;

/// What a divergence is computed with.
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

    /// Without its sign.
    fn abs(self) -> Self;

    /// −1, 0 or 1.
    fn sign(self) -> Self;
}

impl Number for f64 {
    fn times(self, factor: f64) -> Self {
        factor * self
    }

    fn weigh(self, other: Self) -> Self {
        if self == 0.0 { 0.0 } else { self * other }
    }

    fn positive(self) -> Self {
        self.max(Self::MIN_POSITIVE)
    }

    fn ln(self) -> Self {
        self.ln()
    }

    fn abs(self) -> Self {
        self.abs()
    }

    fn sign(self) -> Self {
        if self == 0.0 { 0.0 } else { self.signum() }
    }
}

/// Of f32; whoever makes one sees to it that logarithms are finite, so that 0 times one of them is 0.
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
}

/// A probability and its natural logarithm.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mass<N> {
    pub(super) prob: N,
    pub(super) ln: N,
}

/// What a class adds to the loss.
pub(super) struct ClassTerms<N> {
    /// `φ(p, q)` of each term that is on, in the order of [`Terms::soft`](super::Terms::soft).
    pub(super) values: [Option<N>; 6],
    /// `h = q ∂φ/∂q`, up to a multiple of `q`, summed over the terms by their weights; `None` if none is on.
    pub(super) slope: Option<N>,
}

/// Terms and slope of a class to which the teacher gives `p` and the student `q`.
pub(super) fn class_terms<N: Number>(p: &Mass<N>, q: &Mass<N>, spec: &LossSpec) -> ClassTerms<N> {
    let weights = &spec.weights;
    let mut slope: Option<N> = None;
    let mut add = |part: N| {
        slope = Some(match slope.take() {
            Some(slope) => slope + part,
            None => part,
        });
    };
    let forward_kl = (weights.forward_kl != 0.0).then(|| {
        add(p.prob.clone().times(-weights.forward_kl));
        relative(p, &q.ln)
    });
    let reverse_kl = (weights.reverse_kl != 0.0).then(|| {
        let value = relative(q, &p.ln);
        add(value.clone().times(weights.reverse_kl));
        value
    });
    let jsd = (weights.jsd != 0.0).then(|| {
        let beta = spec.jsd_beta;
        let middle = mixture(p, beta, q);
        let student = relative(q, &middle.ln).times(1.0 - beta);
        add(student.clone().times(weights.jsd));
        relative(p, &middle.ln).times(beta) + student
    });
    let skew_forward_kl = (weights.skew_forward_kl != 0.0).then(|| {
        let alpha = spec.skew_forward_alpha;
        let middle = mixture(p, alpha, q);
        let teacher = p
            .prob
            .clone()
            .times(-weights.skew_forward_kl * (1.0 - alpha));
        add(teacher * q.prob.clone() / middle.prob);
        relative(p, &middle.ln)
    });
    let skew_reverse_kl = (weights.skew_reverse_kl != 0.0).then(|| {
        let alpha = spec.skew_reverse_alpha;
        let middle = mixture(q, alpha, p);
        let value = relative(q, &middle.ln);
        let share = q.prob.clone().times(alpha) * q.prob.clone() / middle.prob;
        add((value.clone() - share).times(weights.skew_reverse_kl));
        value
    });
    let tvd = (weights.tvd != 0.0).then(|| {
        let difference = q.prob.clone() - p.prob.clone();
        add(q.prob.clone().times(weights.tvd * 0.5) * difference.clone().sign());
        difference.abs().times(0.5)
    });
    ClassTerms {
        values: [
            forward_kl,
            reverse_kl,
            jsd,
            skew_forward_kl,
            skew_reverse_kl,
            tvd,
        ],
        slope,
    }
}

/// `a (ln a − ln b)`, 0 at `a = 0`.
fn relative<N: Number>(a: &Mass<N>, ln_b: &N) -> N {
    a.prob.clone().weigh(a.ln.clone() - ln_b.clone())
}

/// A share of one and the rest of the other.
fn mixture<N: Number>(a: &Mass<N>, share: f64, b: &Mass<N>) -> Mass<N> {
    let rest = b.prob.clone().times(1.0 - share);
    let prob = (a.prob.clone().times(share) + rest).positive();
    Mass {
        ln: prob.clone().ln(),
        prob,
    }
}
