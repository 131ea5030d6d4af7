//! Keys of the pass that trains.

use crate::diag::Diagnostic;
use crate::pruning::{self, GRADUAL};
use crate::recipe::{Block, Fields, Kind, Row, required, rule};
use crate::student::{self, ADAPTER};
use crate::train::{self, FIT, STEPS};

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

/// Every contradiction within the pass.
pub(crate) fn check(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    train::check(fields, faults);
    if let Some(adapter) = fields.block("adapter") {
        student::check_adapter(adapter, faults);
    }
    if let Some(prune) = fields.block("prune") {
        pruning::check(fields, prune, faults);
    }
}
