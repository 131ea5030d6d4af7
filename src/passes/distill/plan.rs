//! Keys of the pass that trains.

use crate::pruning::GRADUAL;
use crate::recipe::{Block, Kind, Row, required, rule};
use crate::student::ADAPTER;
use crate::train::{FIT, STEPS};

pub(crate) static DISTILL: Block = Block {
    name: "distill",
    about: "Train against the cache and the text. Masks of earlier passes stay in force.",
    rows: &[
        required("steps", STEPS, "optimizer updates"),
        rule(
            "adapter",
            "none: all weights are trained",
            Kind::Block(&ADAPTER),
            "a low-rank adapter that is trained instead and merged at the end",
        ),
        rule(
            "prune",
            "none",
            Kind::Block(&GRADUAL),
            "weights to prune during training",
        ),
        Row::Group(FIT),
    ],
};
