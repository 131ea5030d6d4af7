//! The keys of pruning; a part of the table in `recipe_keys.rs`.

use std::ops::Bound::{Excluded, Included};

use super::keys::{Block, Key, Kind, MAX_SIZE, MAX_STEPS, SHARE_ABOVE_0, or, required, rule};
use super::prune_plan::{GradualWord, LayersBy, Pattern, PruneWord, Side, Within};
use super::word::Word;

const SPARSITY: Kind = Kind::Number(Included(0.0), Included(0.95));

pub(super) static PRUNE: Block = Block {
    name: "prune",
    about: "Zero the least useful weights of every linear layer inside blocks. Masks of earlier passes hold.",
    keys: &[&[
        or(
            "method",
            Kind::Word(PruneWord::WORDS),
            "wanda",
            "how a weight is scored: its size, its size times the norm of its input, or what is lost with it when the weights after it make up for it, as they then do",
        ),
        rule(
            "sparsity",
            SPARSITY,
            "required, unless `pattern` is written",
            "share of zeros: a fraction, not a percentage",
        ),
        rule(
            "pattern",
            Kind::Word(Pattern::WORDS),
            "none: zeros stand anywhere",
            "so many of every 4 or 8 neighbours in a row are zero, as sparse tensor cores want it; in the place of `sparsity`",
        ),
        rule(
            "within",
            Kind::Word(Within::WORDS),
            "`row`, with `sparsegpt` `matrix`",
            "what loses this share: each output row, or the matrix as a whole, some rows more and some less (with `sparsegpt`, each 128 of its columns)",
        ),
        or(
            "damping",
            SHARE_ABOVE_0,
            "0.01",
            "what `sparsegpt` adds to the mean square of every input, as a share of their mean: the more, the less the others make up for",
        ),
        or(
            "calibration_tokens",
            Kind::Tokens(1),
            "32k",
            "training positions over which `wanda` and `sparsegpt` measure activations",
        ),
    ]],
};

/// Pruning while a pass trains.
pub(super) static GRADUAL: Block = Block {
    name: "prune",
    about: "Weights that go during the pass, more and more of them, on a cubic curve (Zhu & Gupta 2017). What was masked before the pass stays masked.",
    keys: &[&[
        or(
            "method",
            Kind::Word(GradualWord::WORDS),
            "magnitude",
            "how a weight is scored: its size, or its size times the norm of its input",
        ),
        required(
            "sparsity",
            SPARSITY,
            "share of zeros from `to_step` on: a fraction, not a percentage",
        ),
        or(
            "within",
            Kind::Word(Within::WORDS),
            "row",
            "what loses this share: each output row, or the matrix as a whole",
        ),
        or(
            "from_step",
            Kind::Integer(0, MAX_STEPS),
            "0",
            "step before which the first weights may go, counted from 0",
        ),
        rule(
            "to_step",
            Kind::Integer(1, MAX_STEPS),
            "`steps * 3 / 4`",
            "step before which the last weights go; above `from_step`, and below `steps`, so that something is left to make up for them",
        ),
        or(
            "every",
            Kind::Integer(1, MAX_STEPS),
            "10",
            "steps between the times when weights go",
        ),
        or(
            "calibration_tokens",
            Kind::Tokens(1),
            "4k",
            "training positions over which `wanda` measures activations each time",
        ),
    ]],
};

const fn size(name: &'static str, about: &'static str) -> Key {
    rule(name, Kind::Integer(1, MAX_SIZE), "as it is", about)
}

/// Structured pruning.
pub(super) static SHRINK: Block = Block {
    name: "shrink",
    about: "Take the least useful layers, channels, heads or dimensions out, so that a smaller model is left: the same as one that has them at zero. Either \
            `parameters` says how small, or sizes do.",
    keys: &[&[
        rule(
            "parameters",
            Kind::Number(Excluded(0.0), Excluded(1.0)),
            "what the sizes come to",
            "share of the parameters that is left at most, embedding and all: a fraction, not a percentage",
        ),
        or(
            "along",
            Kind::List(&Kind::Word(Side::WORDS), 1, Side::WORDS.len()),
            "[hidden_size, intermediate_size]",
            "sizes that become smaller to reach `parameters`, all in one proportion; widths stay multiples of 32, narrow ones of a smaller power of two",
        ),
        size("num_hidden_layers", "layers that are left"),
        size(
            "hidden_size",
            "dimensions of the residual stream that are left: those with the largest activations",
        ),
        size(
            "intermediate_size",
            "feed-forward channels that are left, in each layer those with the largest activations",
        ),
        size(
            "num_key_value_heads",
            "key and value heads that are left, with their query heads, in each layer those with the largest activations",
        ),
        or(
            "layers_by",
            Kind::Word(LayersBy::WORDS),
            "influence",
            "which layers go: those that turn what enters them the least, or those whose loss costs the least on the calibration text, which takes as many runs over it as \
             there are layers, for each that goes",
        ),
        or(
            "contiguous",
            Kind::Switch,
            "false",
            "whether the layers that go stand in a row, scored as one",
        ),
        or(
            "calibration_tokens",
            Kind::Tokens(1),
            "32k",
            "training positions over which parts are scored",
        ),
    ]],
};
