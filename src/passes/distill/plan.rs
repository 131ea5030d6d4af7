//! Keys of the pass that trains.

use crate::pruning::GRADUAL;
use crate::recipe::{Block, Kind, Row, required, rule};
use crate::student::ADAPTER;
use crate::train::{FIT, STEPS};

pub(crate) static DISTILL: Block = Block {
    name: "distill",
    about: "Train against the cache and the text. Masks of earlier passes hold.",
    rows: &[
        required("steps", STEPS, "optimizer updates"),
        rule(
            "adapter",
            "none: all weights are trained",
            Kind::Block(&ADAPTER),
            "what is trained in their place and merged into them at the end",
        ),
        rule(
            "prune",
            "none",
            Kind::Block(&GRADUAL),
            "weights that go while the others are trained",
        ),
        Row::Group(FIT),
    ],
};
