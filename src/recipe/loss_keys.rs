//! The keys of what a pass minimises; a part of the table that begins in `recipe_keys.rs`.

use std::ops::Bound::{Excluded, Included};

use super::keys::{Block, FROM_0, Key, Kind, MAX_SIZE, TEMPERATURE, or, required, rule};
use super::loss_terms::Term;
use super::schedule_plan::RampShape;
use super::word::Word;

pub(super) static LOSSES: Block = Block {
    name: "losses",
    about: "Weights of the loss terms; at every step at least one is above 0. `p` is the teacher, `q` the student, both at the temperature of \
            the pass. Over `top_k` the tokens outside are one bucket, which sees the mass there but not how it is spread; over \
            `samples` there is `forward_kl` alone.",
    keys: &[&TERMS],
};

/// A key for each term.
static TERMS: [Key; Term::ALL.len()] = [
    or(
        Term::ForwardKl.word(),
        MOVING_WEIGHT,
        "0.0",
        "KL(p ‖ q), or its unbiased estimate from samples",
    ),
    or(
        Term::ReverseKl.word(),
        MOVING_WEIGHT,
        "0.0",
        "KL(q ‖ p): punishes mass where the teacher has none, in the bucket only as a whole, so take a large `top_k`",
    ),
    or(
        Term::Jsd.word(),
        Kind::Short(&JSD),
        "0.0",
        "generalised Jensen-Shannon divergence, between forward and reverse",
    ),
    or(
        Term::SkewForwardKl.word(),
        Kind::Short(&SKEW_FORWARD_KL),
        "0.0",
        "KL(p ‖ mixture), bounded where the student has no mass",
    ),
    or(
        Term::SkewReverseKl.word(),
        Kind::Short(&SKEW_REVERSE_KL),
        "0.0",
        "KL(q ‖ mixture), bounded where the teacher has no mass",
    ),
    or(
        Term::Tvd.word(),
        MOVING_WEIGHT,
        "0.0",
        "total variation distance, half the sum of the differences of p and q",
    ),
    or(
        Term::CrossEntropy.word(),
        Kind::Short(&CROSS_ENTROPY),
        "0.0",
        "negative log-likelihood of the text, at temperature 1",
    ),
    or(
        Term::HiddenMse.word(),
        Kind::Short(&HIDDEN_MSE),
        "0.0",
        "squared distance of hidden states from the teacher's, which then runs along",
    ),
];

/// The key of the number that a term has beside its weight, if it has one.
pub(super) fn shape_key(term: Term) -> Option<&'static str> {
    let Kind::Short(block) = TERMS.get(term as usize)?.kind else {
        return None;
    };
    let number = |key: &&Key| matches!(key.kind, Kind::Number(..));
    block.iter().find(number).map(|key| key.name)
}

const WEIGHT: Key = required("weight", MOVING_WEIGHT, "weight of the term");
const INSIDE: Kind = Kind::Number(Excluded(0.0), Excluded(1.0));

static JSD: Block = Block {
    name: "jsd",
    about: "β KL(p ‖ m) + (1 − β) KL(q ‖ m) with m = β p + (1 − β) q. A bare number is the weight.",
    keys: &[&[
        WEIGHT,
        or("beta", INSIDE, "0.5", "the teacher's share of the mixture"),
    ]],
};

static SKEW_FORWARD_KL: Block = Block {
    name: "skew_forward_kl",
    about: "KL(p ‖ α p + (1 − α) q). A bare number is the weight.",
    keys: &[&[
        WEIGHT,
        or("alpha", INSIDE, "0.1", "the teacher's share of the mixture"),
    ]],
};

static SKEW_REVERSE_KL: Block = Block {
    name: "skew_reverse_kl",
    about: "KL(q ‖ (1 − α) p + α q). A bare number is the weight.",
    keys: &[&[
        WEIGHT,
        or("alpha", INSIDE, "0.1", "the student's share of the mixture"),
    ]],
};

static CROSS_ENTROPY: Block = Block {
    name: "cross_entropy",
    about: "Negative log-likelihood of the text. A bare number is the weight.",
    keys: &[&[
        WEIGHT,
        or(
            "label_smoothing",
            Kind::Number(Included(0.0), Excluded(1.0)),
            "0.0",
            "share of the label that is spread evenly over all tokens",
        ),
    ]],
};

static HIDDEN_MSE: Block = Block {
    name: "hidden_mse",
    about: "Mean over positions, pairs of layers and the teacher's width of the squared difference between the residual streams behind \
            two layers, one of the student and one of the teacher. Where the widths differ, the student's goes through a matrix for \
            each pair, which is trained beside it and thrown away after the pass. Squares are plain: where a stream is large, as many \
            models have it at the first position, it weighs most. A bare number is the weight.",
    keys: &[&[
        WEIGHT,
        rule(
            "layers",
            Kind::List(&LAYER_PAIR, 1, 1 << 20),
            "all layers of the shallower model, spread evenly over the deeper one, the last on the last",
            "pairs of a student's and a teacher's layer, counted from 0: `[[1, 2], [3, 5]]`",
        ),
    ]],
};

const LAYER_PAIR: Kind = Kind::List(&Kind::Integer(0, MAX_SIZE), 2, 2);

/// A weight of a loss term.
const MOVING_WEIGHT: Kind = Kind::Moving(&FROM_0, &WEIGHT_RAMP);
const OVER: Key = rule(
    "over",
    Kind::StepsOrShare,
    "all steps of the pass",
    "steps that it takes, or their share of the pass",
);

/// How the weight of a loss term moves.
pub(super) static WEIGHT_RAMP: Block = Block {
    name: "weight",
    about: "A weight that moves, as that of any loss term may.",
    keys: &[&[
        required("from", FROM_0, "weight at the first step"),
        required("to", FROM_0, "weight at the end of the way, where it stays"),
        OVER,
        or(
            "shape",
            Kind::Word(RampShape::WORDS),
            "linear",
            "a straight line, or half a cosine",
        ),
    ]],
};

/// How the temperature moves.
pub(super) static TEMPERATURE_WALK: Block = Block {
    name: "temperature",
    about: "A temperature that moves through those of `cache.temperatures` between two of them, for equal numbers of steps each: a cache is exact at no other.",
    keys: &[&[
        required("from", TEMPERATURE, "temperature at the first step"),
        required("to", TEMPERATURE, "temperature at the end, where it stays"),
        OVER,
    ]],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_term_has_its_key_at_its_place() {
        let names = LOSSES.names().collect::<Vec<_>>();
        assert_eq!(names, Term::ALL.map(Term::word));
    }
}
