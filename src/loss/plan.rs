//! Keys of what a pass minimises.

use std::ops::Bound::{Excluded, Included};

use crate::diag::Diagnostic;
use crate::recipe::{
    Block, FROM_0, Fields, Kind, MAX_SIZE, RampShape, Read, Row, Scheduled, Word, distinct, keys,
    or, required, rule, words,
};

words! {
    /// What becomes of the teacher's mass outside a top-k support.
    pub enum TailPlan {
        /// One bucket on both sides.
        Bucket = "bucket",
        /// Shared out over the support in proportion.
        Renormalize = "renormalize",
    }
}

keys! {
    /// None is negative and at every step at least one is positive.
    #[derive(Default)]
    pub struct LossWeights in LOSSES = "losses", "Weights of the loss terms; at every step at least one is above 0. `p` is the teacher, `q` the student, both at the temperature of \
        the pass. Over `top_k` the tokens outside are one bucket, which sees the mass there but not how it is spread; over \
        `samples` there is `forward_kl` alone." {
        forward_kl: Scheduled = or("0.0", MOVING_WEIGHT, "KL(p ‖ q), or its unbiased estimate from samples");
        reverse_kl: Scheduled = or("0.0", MOVING_WEIGHT, "KL(q ‖ p): punishes mass where the teacher has none, in the bucket only as a whole, so take a large `top_k`") unless |losses| !losses.reverse_kl.is_used();
        jsd: JsdPlan = or("0.0", Kind::Short(&JSD), "generalised Jensen-Shannon divergence, between forward and reverse") unless |losses| !losses.jsd.weight.is_used();
        skew_forward_kl: SkewPlan = or("0.0", Kind::Short(&SKEW_FORWARD_KL), "KL(p ‖ mixture), bounded where the student has no mass") unless |losses| !losses.skew_forward_kl.weight.is_used();
        skew_reverse_kl: SkewPlan = or("0.0", Kind::Short(&SKEW_REVERSE_KL), "KL(q ‖ mixture), bounded where the teacher has no mass") unless |losses| !losses.skew_reverse_kl.weight.is_used();
        tvd: Scheduled = or("0.0", MOVING_WEIGHT, "total variation distance, half the sum of the differences of p and q") unless |losses| !losses.tvd.is_used();
        cross_entropy: CrossEntropyPlan = or("0.0", Kind::Short(&CROSS_ENTROPY), "negative log-likelihood of the text, at temperature 1");
        hidden_mse: HiddenPlan = or("0.0", Kind::Short(&HIDDEN_MSE), "squared distance of hidden states from the teacher's, which then runs along") unless |losses| !losses.hidden_mse.weight.is_used();
    }
}

/// A weight of a loss term.
const MOVING_WEIGHT: Kind = Kind::Moving(&FROM_0, &WEIGHT_RAMP);
const INSIDE: Kind = Kind::Number(Excluded(0.0), Excluded(1.0));

keys! {
    /// Zeros if it is off.
    #[derive(Copy, Default)]
    pub struct JsdPlan in JSD = "jsd", "β KL(p ‖ m) + (1 − β) KL(q ‖ m) with m = β p + (1 − β) q. A bare number is the weight." {
        weight: Scheduled = required(MOVING_WEIGHT, "weight of the term");
        beta: f64 = or("0.5", INSIDE, "the teacher's share of the mixture") from beta;
    }
}

keys! {
    /// Zeros if it is off; for `skew_reverse_kl`, shares are the student's.
    #[derive(Copy, Default)]
    pub struct SkewPlan in SKEW_FORWARD_KL = "skew_forward_kl", "KL(p ‖ α p + (1 − α) q). A bare number is the weight." {
        weight: Scheduled = required(MOVING_WEIGHT, "weight of the term");
        alpha: f64 = or("0.1", INSIDE, "the teacher's share of the mixture") from alpha;
    }
}

static SKEW_REVERSE_KL: Block = Block {
    name: "skew_reverse_kl",
    about: "KL(q ‖ (1 − α) p + α q). A bare number is the weight.",
    rows: &[
        required("weight", MOVING_WEIGHT, "weight of the term"),
        or("alpha", "0.1", INSIDE, "the student's share of the mixture"),
    ],
};

keys! {
    #[derive(Copy, Default)]
    pub struct CrossEntropyPlan in CROSS_ENTROPY = "cross_entropy", "Negative log-likelihood of the text. A bare number is the weight." {
        weight: Scheduled = required(MOVING_WEIGHT, "weight of the term");
        label_smoothing: f64 = or("0.0", Kind::Number(Included(0.0), Excluded(1.0)), "share of the label that is spread evenly over all tokens") from label_smoothing;
    }
}

keys! {
    #[derive(Default)]
    pub struct HiddenPlan in HIDDEN_MSE = "hidden_mse", "Mean over positions, pairs of layers and the teacher's width of the squared difference between the residual streams behind \
        two layers, one of the student and one of the teacher. Where the widths differ, the student's goes through a matrix for \
        each pair, which is trained beside it and thrown away after the pass. Squares are plain: where a stream is large, as many \
        models have it at the first position, it weighs most. A bare number is the weight." {
        weight: Scheduled = required(MOVING_WEIGHT, "weight of the term");
        layers: Option<Vec<[usize; 2]>> = rule("all layers of the shallower model, spread evenly over the deeper one, the last on the last", Kind::List(&LAYER_PAIR, 1, 1 << 20), "pairs of a student's and a teacher's layer, counted from 0: `[[1, 2], [3, 5]]`") from layers;
    }
}

const LAYER_PAIR: Kind = Kind::List(&Kind::Integer(0, MAX_SIZE), 2, 2);

/// Labels as they are.
impl From<Scheduled> for CrossEntropyPlan {
    fn from(weight: Scheduled) -> Self {
        Self {
            weight,
            label_smoothing: 0.0,
        }
    }
}

/// A key of a term that is off is as good as not written.
fn of_used<T: crate::recipe::Value + Default>(term: Fields<'_>, name: &str) -> Option<T> {
    if term.get::<Scheduled>("weight")?.is_used() {
        term.get(name)
    } else {
        Some(T::default())
    }
}

fn beta(term: Fields<'_>) -> Option<f64> {
    of_used(term, "beta")
}

fn alpha(term: Fields<'_>) -> Option<f64> {
    of_used(term, "alpha")
}

fn label_smoothing(term: Fields<'_>) -> Option<f64> {
    of_used(term, "label_smoothing")
}

fn layers(term: Fields<'_>) -> Read<Option<Vec<[usize; 2]>>> {
    of_used(term, "layers")
}

/// How long a number moves.
pub(crate) const OVER: Row = rule(
    "over",
    "all steps of the pass",
    Kind::StepsOrShare,
    "steps that it takes, or their share of the pass",
);

static WEIGHT_RAMP: Block = Block {
    name: "weight",
    about: "A weight that moves, as that of any loss term may.",
    rows: &[
        required("from", FROM_0, "weight at the first step"),
        required("to", FROM_0, "weight at the end of the way, where it stays"),
        OVER,
        or(
            "shape",
            "linear",
            Kind::Word(RampShape::WORDS),
            "a straight line, or half a cosine",
        ),
    ],
};

impl LossWeights {
    /// Whether any term compares with the teacher's predictions.
    pub fn is_soft(&self) -> bool {
        self.soft().iter().any(|(_, weight)| weight.is_used())
    }

    /// Weights of all terms by name, in the order of the recipe's table.
    pub fn terms(&self) -> Vec<(&'static str, Scheduled)> {
        let mut terms = self.soft().to_vec();
        terms.push(("cross_entropy", self.cross_entropy.weight));
        terms.push(("hidden_mse", self.hidden_mse.weight));
        terms
    }

    /// Weights of the terms that compare with the teacher's predictions, by name.
    fn soft(&self) -> [(&'static str, Scheduled); 6] {
        [
            ("forward_kl", self.forward_kl),
            ("reverse_kl", self.reverse_kl),
            ("jsd", self.jsd.weight),
            ("skew_forward_kl", self.skew_forward_kl.weight),
            ("skew_reverse_kl", self.skew_reverse_kl.weight),
            ("tvd", self.tvd),
        ]
    }
}

/// The terms that compare with the teacher's predictions.
const SOFT_TERMS: [&str; 6] = [
    "forward_kl",
    "reverse_kl",
    "jsd",
    "skew_forward_kl",
    "skew_reverse_kl",
    "tvd",
];

/// Terms of the teacher whose weight is above 0 at some step.
pub(crate) struct Used {
    /// Those that compare with its predictions.
    pub(crate) soft: Vec<&'static str>,
    /// Whether hidden states are compared.
    pub(crate) hidden: bool,
}

/// Every contradiction within the losses of a pass; `None` if a weight is faulty.
pub(crate) fn check(pass: Fields<'_>, faults: &mut Vec<Diagnostic>) -> Option<Used> {
    let losses = pass.block("losses")?;
    let soft = SOFT_TERMS.map(|term| Some((term, ends(losses, term)?)));
    let soft: Vec<_> = soft.into_iter().collect::<Option<_>>()?;
    let (hard, hidden) = (ends(losses, "cross_entropy")?, ends(losses, "hidden_mse")?);
    let is_used = |ends: [f64; 2]| ends.iter().any(|&weight| weight > 0.0);
    let weights = soft.iter().map(|(_, ends)| *ends).chain([hard, hidden]);
    let [first, last] = weights.fold([0.0; 2], |[a, b], [c, d]| [a + c, b + d]);
    let when = match (first > 0.0, last > 0.0) {
        (true, true) => None,
        (false, true) => Some(" at the first step"),
        (true, false) => Some(" at the last step"),
        (false, false) => Some(""),
    };
    if let Some(when) = when.filter(|_| !losses.has_unknown()) {
        let message = format!("no loss term has a weight above 0{when}");
        faults.push(
            Diagnostic::new("recipe/no-loss", message)
                .primary(pass.span("losses"), "the student would learn nothing")
                .help("write `losses: { forward_kl: 1.0 }`"),
        );
    }
    hidden_states(losses, is_used(hidden), faults);
    let soft = soft.into_iter().filter(|(_, ends)| is_used(*ends));
    Some(Used {
        soft: soft.map(|(term, _)| term).collect(),
        hidden: is_used(hidden),
    })
}

/// Weights of a term at the first and at the last step, whatever lies between.
fn ends(losses: Fields<'_>, term: &str) -> Option<[f64; 2]> {
    let (holder, name) = match losses.block(term).filter(|keys| keys.knows("weight")) {
        Some(keys) => (keys, "weight"),
        None => (losses, term),
    };
    match holder.block(name) {
        Some(ramp) => Some([ramp.get("from")?, ramp.get("to")?]),
        None => Some([holder.get(name)?; 2]),
    }
}

/// Pairs of layers that are there twice, or for nothing.
fn hidden_states(losses: Fields<'_>, is_used: bool, faults: &mut Vec<Diagnostic>) {
    let Some(keys) = losses.block("hidden_mse") else {
        return;
    };
    distinct::<Vec<u64>>(keys, "layers", faults);
    if keys.is_written("layers") && !is_used {
        let message = "`layers` has no effect: the weight of `hidden_mse` is 0";
        faults.push(
            Diagnostic::new("recipe/unused-key", message)
                .primary(keys.span("layers"), "nothing is compared")
                .help("delete `hidden_mse`, or give it a weight"),
        );
    }
}
