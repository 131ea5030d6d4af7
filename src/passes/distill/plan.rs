//! Keys of the pass that trains.

use crate::pruning::GRADUAL;
use crate::recipe::{Block, Kind, Row, also, required, rule};
use crate::student::ADAPTER;
use crate::train::{FIT, STEPS, STEPS_ELSEWHERE};

pub(crate) static DISTILL: Block = Block {
    name: "distill",
    about: "Train against the cache and the text. Masks of earlier passes stay in force.",
    rows: &[
        also(
            required("steps", STEPS, "optimizer updates"),
            STEPS_ELSEWHERE,
        ),
        also(
            rule(
                "adapter",
                "none: all weights are trained",
                Kind::Block(&ADAPTER),
                "a low-rank adapter that is trained instead and merged at the end",
            ),
            &["lora", "peft"],
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
