//! The keys of the pass that quantises; a part of the table in `pass_keys.rs`.

use std::ops::Bound::Included;

use super::keys::{Block, Key, Kind, MAX_SIZE, MAX_STEPS, SHARE_ABOVE_0, or, required, rule};
use super::pass_keys::{FIT, STEPS, STEPS_ABOUT};
use super::quantize_plan::{Activations, NumberType, QuantizeWord};
use super::student_keys::{MAX_LAYERS, TARGETS};
use super::word::Word;

pub(super) static QUANTIZE: Block = Block {
    name: "quantize",
    about: "Put the weights on a quantised grid. The keys of training are for `method: qat` alone.",
    keys: &[
        &[required(
            "method",
            Kind::Word(QuantizeWord::WORDS),
            "round; round column by column, each error made up for by the columns after it; round when columns that see large inputs were made larger, and the inputs smaller; both; or train with the rounding in the loop. The middle three work layer after layer, on what the quantised ones before give",
        )],
        &NUMBER,
        &BITS_OR_BUDGET,
        &SCHEME,
        &ACTIVATIONS,
        &CALIBRATED,
        &[
            rule(
                "sensitivity",
                Kind::Block(&SENSITIVITY),
                "measured if `bits` has a `budget`",
                "what is measured before weights reach their grid",
            ),
            or(
                "overrides",
                Kind::List(&Kind::Block(&OVERRIDE), 0, 1024),
                "[]",
                "projections that have a scheme of their own; the last that names one holds",
            ),
            rule(
                "embedding",
                Kind::Block(&EMBEDDING),
                "left as it is",
                "scheme of the token embedding, which is the output layer, too, where the two are tied",
            ),
            rule(
                "output",
                Kind::Block(&OUTPUT),
                "left as it is",
                "scheme of an output layer that has a matrix of its own",
            ),
            or(
                "learn_scales",
                Kind::Switch,
                "false",
                "whether the scales of grids around 0 are trained, too; if not, they follow the largest weight of their group",
            ),
            or(
                "start_step",
                Kind::Integer(0, MAX_STEPS),
                "0",
                "updates before the grid: until then the weights are trained as they are; below `steps`",
            ),
            rule("steps", STEPS, "required with `method: qat`", STEPS_ABOUT),
        ],
        &FIT,
    ],
};

/// How weights reach their grids by what they see.
static CALIBRATED: [Key; 4] = [
    or(
        "act_order",
        Kind::Switch,
        "true",
        "whether `gptq` begins with the columns of the largest inputs; groups stay where they are, so that files need no order of columns",
    ),
    or(
        "damping",
        SHARE_ABOVE_0,
        "0.01",
        "what `gptq` adds to the mean square of every input, as a share of their mean: the more, the less the others make up for",
    ),
    or(
        "clip",
        Kind::Switch,
        "false",
        "whether a scale may leave out the largest weights of its group, where the outputs lose less by it; of every method but `qat`",
    ),
    or(
        "calibration_tokens",
        Kind::Tokens(1),
        "32k",
        "training positions over which `gptq`, `awq` and `clip` measure what enters a projection",
    ),
];

/// Kind of number that a code is.
static NUMBER: [Key; 1] = [or(
    "type",
    Kind::Word(NumberType::WORDS),
    "int",
    "whole numbers; floats of 8 bits (E4M3); -1, 0 and 1; two bits without a 0, for the middles of four equal parts",
)];

const WIDTH: Kind = Kind::IntegerOf(&[2, 3, 4, 8]);
const WIDTH_RULE: &str = "4, or that of another `type`";

static BITS: [Key; 1] = [rule("bits", WIDTH, WIDTH_RULE, "width of a weight")];

static BITS_OR_BUDGET: [Key; 1] = [rule(
    "bits",
    Kind::Moving(&WIDTH, &BUDGET),
    WIDTH_RULE,
    "width of a weight, or under which average widths are chosen",
)];

static BUDGET: Block = Block {
    name: "bits",
    about: "Widths that cost least, as `sensitivity` tells: one for `q_proj`, `k_proj` and `v_proj` of a layer, one for `o_proj`, one for `gate_proj` and `up_proj`, \
            one for `down_proj`. Exported as `compressed-tensors` or `huggingface`; what an override names has the width given there and is not counted.",
    keys: &[&[
        required(
            "budget",
            Kind::Number(Included(2.0), Included(8.0)),
            "most bits of a weight's code on average; scales come on top, as many at every width",
        ),
        or(
            "widths",
            Kind::List(&WIDTH, 1, 4),
            "[2, 3, 4, 8]",
            "widths to choose from; vLLM loads 4 and 8",
        ),
    ]],
};

static SENSITIVITY: Block = Block {
    name: "sensitivity",
    about: "What rounding each part of a layer, and each whole layer, costs at 2, 3, 4 and 8 bits: the KL from the student as it came, left as a table and a picture in the \
            folder of the pass and in the report. Time: that of some ten runs of the student over these positions for each of its layers.",
    keys: &[&[or(
        "tokens",
        Kind::Tokens(1),
        "2048",
        "positions of training text to measure on, in whole rows",
    )]],
};

/// Further of how a weight is quantised.
static SCHEME: [Key; 2] = [
    rule(
        "group_size",
        Kind::IntegerOr(8, MAX_SIZE, "channel"),
        "32 below 8 bits, `channel` with 8",
        "weights that share a scale, along the input; `channel`: one scale per output row",
    ),
    or(
        "symmetric",
        Kind::Switch,
        "true",
        "whether 0 is the middle of the grid; if not, each group has a zero of its own",
    ),
];

/// What becomes of what enters a projection.
static ACTIVATIONS: [Key; 1] = [or(
    "activations",
    Kind::Word(Activations::WORDS),
    "none",
    "what enters a projection: left as it is, or rounded while the model runs, to 8 bits of the same `type`, each position with its own scale",
)];

/// Of a matrix beside the projections.
static MATRIX: [&[Key]; 3] = [&NUMBER, &BITS, &SCHEME];

static EMBEDDING: Block = Block {
    name: "embedding",
    about: "How the token embedding is quantised, and with it the output layer of a tied model; a key that is left out has its default, whatever the pass says of projections. \
            Rounded to nearest, or with `method: qat` trained like every weight. `mlx` holds it, and `gguf` with 4 or 8 bits in groups of 32; other formats of codes do not.",
    keys: &MATRIX,
};

static OUTPUT: Block = Block {
    name: "output",
    about: "How an output layer with a matrix of its own is quantised, as `embedding`. `compressed-tensors` and `mlx` hold it, and `gguf` with 4 or 8 bits in groups of 32.",
    keys: &MATRIX,
};

static OVERRIDE: Block = Block {
    name: "override",
    about: "Projections with a scheme of their own; a key that is left out has its default, whatever the pass says. Engines join `q_proj`, `k_proj` and `v_proj`, \
            and `gate_proj` and `up_proj`: those of a layer have one scheme.",
    keys: &[
        &[
            or(
                "modules",
                Kind::List(&Kind::Word(&TARGETS), 1, TARGETS.len()),
                "[q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]",
                "which projections of a layer",
            ),
            rule(
                "layers",
                Kind::List(&Kind::Integer(0, MAX_LAYERS - 1), 1, 1024),
                "all layers",
                "of which layers, counted from 0",
            ),
            or(
                "keep",
                Kind::Switch,
                "false",
                "whether they are not quantised at all; no further key then",
            ),
        ],
        &NUMBER,
        &BITS,
        &SCHEME,
        &ACTIVATIONS,
    ],
};
