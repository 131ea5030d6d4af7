//! Recipe keys of the loss of a pass.

use std::ops::Bound::{Excluded, Included};
use std::path::Path;

use serde::ser::{Serialize, Serializer};
use serde_json::{Map, json};

use super::{Term, Terms};
use crate::diag::Diagnostic;
use crate::recipe::{
    Block, FROM_0, Fields, Key, Keys, Kind, MAX_SIZE, RampShape, Read, Row, Scheduled, Word, also,
    distinct, or, required, rule,
};

/// Weights of the loss terms and their further keys. None is negative, and at every step at least one is positive.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LossWeights {
    /// Weight of each term.
    pub weights: Terms<Scheduled>,
    /// Number that a term has beside its weight: a share of a mixture, or the smoothed share of the label. 0 where a
    /// term has none or is off.
    pub shapes: Terms,
    /// Layers of the student and of the teacher whose outputs `hidden_mse` compares, counted from 0. `None` if it is
    /// off, or if they are spread evenly over both models, whose depths are known later.
    pub hidden_layers: Option<Vec<[usize; 2]>>,
}

pub(crate) static LOSSES: Block = Block {
    name: "losses",
    about: "Weights of the loss terms; at every step at least one is above 0. `p` is the teacher, `q` the student, both at the temperature of \
            the pass. Over `top_k` the tokens outside are one bucket, which sees the mass there but not how it is spread; over \
            `samples` there is `forward_kl` alone.",
    rows: &TERMS,
};

/// A key for each term, in their order.
static TERMS: [Row; Term::ALL.len()] = [
    term(
        Term::ForwardKl,
        MOVING_WEIGHT,
        "KL(p ‖ q), or its unbiased estimate from samples",
        &["kl", "kd", "kld", "kl_div", "soft", "fkl"],
    ),
    term(
        Term::ReverseKl,
        MOVING_WEIGHT,
        "KL(q ‖ p): punishes mass where the teacher has none, but in the bucket only as a whole, so use a large `top_k`",
        &["rkl", "minillm"],
    ),
    term(
        Term::Jsd,
        Kind::Short(&JSD),
        "generalised Jensen-Shannon divergence, between forward and reverse",
        &["js", "gkd", "jensen_shannon"],
    ),
    term(
        Term::SkewForwardKl,
        Kind::Short(&SKEW_FORWARD_KL),
        "KL(p ‖ mixture), bounded where the student has no mass",
        &["skl", "skewed_kl", "skew_kl"],
    ),
    term(
        Term::SkewReverseKl,
        Kind::Short(&SKEW_REVERSE_KL),
        "KL(q ‖ mixture), bounded where the teacher has no mass",
        &["srkl"],
    ),
    term(
        Term::Tvd,
        MOVING_WEIGHT,
        "total variation distance, half the sum of the differences of p and q",
        &["tv", "total_variation"],
    ),
    term(
        Term::AdaptiveKl,
        MOVING_WEIGHT,
        "forward and reverse KL, weighted at each position by the share of the difference on the teacher's likeliest tokens, up to half of its mass, and on all others",
        &["akl"],
    ),
    term(
        Term::CrossEntropy,
        Kind::Short(&CROSS_ENTROPY),
        "negative log-likelihood of the text, at temperature 1",
        &["ce", "nll", "lm", "hard", "crossentropy"],
    ),
    term(
        Term::HiddenMse,
        Kind::Short(&HIDDEN_MSE),
        "squared distance between hidden states of student and teacher; the teacher runs during the pass",
        &["mse", "hidden", "feature", "hidden_states"],
    ),
];

/// Row of the table for a term that is off where it is not written.
const fn term(term: Term, kind: Kind, about: &'static str, names: &'static [&'static str]) -> Row {
    also(or(term.word(), "0.0", kind, about), names)
}

/// A weight of a loss term.
const MOVING_WEIGHT: Kind = Kind::Moving(&FROM_0, &WEIGHT_RAMP);
const WEIGHT: Row = required("weight", MOVING_WEIGHT, "weight of the term");
const INSIDE: Kind = Kind::Number(Excluded(0.0), Excluded(1.0));

static JSD: Block = Block {
    name: "jsd",
    about: "β KL(p ‖ m) + (1 − β) KL(q ‖ m) with m = β p + (1 − β) q. A bare number is the weight.",
    rows: &[
        WEIGHT,
        or("beta", "0.5", INSIDE, "the teacher's share of the mixture"),
    ],
};

static SKEW_FORWARD_KL: Block = Block {
    name: "skew_forward_kl",
    about: "KL(p ‖ α p + (1 − α) q). A bare number is the weight.",
    rows: &[
        WEIGHT,
        or("alpha", "0.1", INSIDE, "the teacher's share of the mixture"),
    ],
};

static SKEW_REVERSE_KL: Block = Block {
    name: "skew_reverse_kl",
    about: "KL(q ‖ (1 − α) p + α q). A bare number is the weight.",
    rows: &[
        WEIGHT,
        or("alpha", "0.1", INSIDE, "the student's share of the mixture"),
    ],
};

static CROSS_ENTROPY: Block = Block {
    name: "cross_entropy",
    about: "Negative log-likelihood of the text. A bare number is the weight.",
    rows: &[
        WEIGHT,
        or(
            "label_smoothing",
            "0.0",
            Kind::Number(Included(0.0), Excluded(1.0)),
            "share of the label spread evenly over all tokens",
        ),
    ],
};

static HIDDEN_MSE: Block = Block {
    name: "hidden_mse",
    about: "Mean over positions, pairs of layers and the teacher's width of the squared difference between the residual streams behind \
            two layers, one of the student and one of the teacher. Where the widths differ, the student's goes through a matrix for \
            each pair, which is trained beside it and thrown away after the pass. Squares are plain: where a stream is large, as many \
            models have it at the first position, it weighs most. A bare number is the weight.",
    rows: &[
        WEIGHT,
        rule(
            "layers",
            "all layers of the shallower model, spread evenly over the deeper one; the last layers form a pair",
            Kind::List(&LAYER_PAIR, 1, 1 << 20),
            "pairs of a student layer and a teacher layer, counted from 0: `[[1, 2], [3, 5]]`",
        ),
    ],
};

const LAYER_PAIR: Kind = Kind::List(&Kind::Integer(0, MAX_SIZE), 2, 2);

/// Keys of a term beside its weight, if it has any.
fn block(term: Term) -> Option<&'static Block> {
    match TERMS.get(term as usize)? {
        Row::Key(Key {
            kind: Kind::Short(block),
            ..
        }) => Some(block),
        _ => None,
    }
}

/// The key of the number that a term has beside its weight, if it has one.
fn shape_key(term: Term) -> Option<&'static str> {
    let mut keys = block(term)?.iter();
    let number = keys.find(|key| matches!(key.kind, Kind::Number(..)));
    number.map(|key| key.name)
}

/// Fields that hold the weight of a term, and the key of the weight in them.
fn holder(losses: Fields<'_>, term: Term) -> Option<(Fields<'_>, &'static str)> {
    match block(term) {
        Some(_) => Some((losses.block(term.word())?, "weight")),
        None => Some((losses, term.word())),
    }
}

impl Keys for LossWeights {
    fn read_keys(losses: Fields<'_>) -> Read<Self> {
        let mut plan = Self::default();
        for term in Term::ALL {
            let (keys, name) = holder(losses, term)?;
            plan.weights[term] = keys.get(name)?;
            // The shape of a term that is off counts as not written.
            if let Some(key) = shape_key(term).filter(|_| plan.uses(term)) {
                plan.shapes[term] = keys.get(key)?;
            }
        }
        let hidden = losses.block(Term::HiddenMse.word())?;
        if plan.uses(Term::HiddenMse) {
            plan.hidden_layers = hidden.get_or_default("layers")?;
        }
        Some(plan)
    }

    fn write_keys(&self, _: &Path, keys: &mut Map<String, serde_json::Value>) {
        for (term, &weight) in self.weights.iter() {
            let is_always_written = matches!(term, Term::ForwardKl | Term::CrossEntropy);
            if !weight.is_used() && !is_always_written {
                continue;
            }
            let shape = self.shapes[term];
            let value = match (shape_key(term), term, &self.hidden_layers) {
                (Some(key), ..) if shape != 0.0 => json!({"weight": weight, key: shape}),
                (_, Term::HiddenMse, Some(layers)) => json!({"weight": weight, "layers": layers}),
                (_, Term::HiddenMse, None) => json!({"weight": weight}),
                _ => json!(weight),
            };
            keys.insert(term.word().to_owned(), value);
        }
    }
}

/// Writes the losses as a recipe does.
impl Serialize for LossWeights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut keys = Map::new();
        self.write_keys(Path::new(""), &mut keys);
        keys.serialize(serializer)
    }
}

/// Duration of the change of a number.
pub(crate) const OVER: Row = rule(
    "over",
    "all steps of the pass",
    Kind::StepsOrShare,
    "number of steps that the change takes, or their share of the pass",
);

static WEIGHT_RAMP: Block = Block {
    name: "weight",
    about: "A weight that changes during the pass. Any loss term may have one.",
    rows: &[
        required("from", FROM_0, "weight at the first step"),
        required("to", FROM_0, "weight at the end of the change and after it"),
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
    /// One term alone, of weight 1 and without further keys.
    pub fn only(term: Term) -> Self {
        let mut losses = Self::default();
        losses.weights[term] = Scheduled::Constant(1.0);
        losses
    }

    /// True if a term has a weight above 0 at some step.
    pub fn uses(&self, term: Term) -> bool {
        self.weights[term].is_used()
    }

    /// True if any term compares with the teacher's predictions.
    pub fn is_soft(&self) -> bool {
        let mut soft = Term::ALL.into_iter().filter(|term| term.is_soft());
        soft.any(|term| self.uses(term))
    }
}

/// Reports every contradiction within the losses of a pass. Returns the terms whose weight is above 0 at some step, or
/// `None` if one is faulty.
pub(crate) fn check(pass: Fields<'_>, faults: &mut Vec<Diagnostic>) -> Option<Vec<Term>> {
    let losses = pass.block("losses")?;
    let ends = Term::ALL.map(|term| Some((term, ends(losses, term)?)));
    let mut used: Vec<_> = ends.into_iter().collect::<Option<_>>()?;
    used.retain(|(_, ends)| ends.iter().any(|&weight| weight > 0.0));
    let weights = used.iter().map(|(_, ends)| *ends);
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
    let used: Vec<Term> = used.into_iter().map(|(term, _)| term).collect();
    hidden_states(losses, used.contains(&Term::HiddenMse), faults);
    Some(used)
}

/// Weights of a term at the first and at the last step, whatever lies between.
fn ends(losses: Fields<'_>, term: Term) -> Option<[f64; 2]> {
    let (holder, name) = holder(losses, term)?;
    match holder.block(name) {
        Some(ramp) => Some([ramp.get("from")?, ramp.get("to")?]),
        None => Some([holder.get(name)?; 2]),
    }
}

/// Reports pairs of layers that are written twice or have no effect.
fn hidden_states(losses: Fields<'_>, is_used: bool, faults: &mut Vec<Diagnostic>) {
    let Some(keys) = losses.block(Term::HiddenMse.word()) else {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_term_has_its_key_at_its_place() {
        let names: Vec<_> = LOSSES.names().collect();
        assert_eq!(names, Term::ALL.map(Term::word));
    }
}
