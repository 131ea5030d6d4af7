//! The keys of passes; a part of the table that begins in `recipe_keys.rs`.

use std::ops::Bound::{Excluded, Included};

use super::keys::{
    ABOVE_0, Block, FROM_0, Key, Kind, MAX_SIZE, MAX_STEPS, SHARE_ABOVE_0, TEMPERATURE, or,
    required, rule,
};
use super::loss_keys::{LOSSES, TEMPERATURE_WALK};
use super::loss_plan::TailPlan;
use super::plan::PassWord;
use super::prune_keys::{GRADUAL, PRUNE, SHRINK};
use super::quantize_keys::QUANTIZE;
use super::schedule_plan::{HandOn, ScheduleWord, Shape};
use super::student_keys::ADAPTER;
use super::word::Word;

const SHARE: Kind = Kind::Number(Included(0.0), Included(1.0));
const DECAY_RATE: Kind = Kind::Number(Included(0.0), Excluded(1.0));

pub(super) static PASS: Block = Block {
    name: "pass",
    about: "One pass: takes a student and returns a student. `--set distill.steps=200` sets a key of every `distill` pass.",
    keys: &[&[
        required(
            PassWord::Distill.word(),
            Kind::Block(&DISTILL),
            "train against the cache and the text",
        ),
        required(
            PassWord::Prune.word(),
            Kind::Block(&PRUNE),
            "zero the least useful weights",
        ),
        required(
            PassWord::Shrink.word(),
            Kind::Block(&SHRINK),
            "take the least useful layers, channels, heads or dimensions out",
        ),
        required(
            PassWord::Quantize.word(),
            Kind::Block(&QUANTIZE),
            "put the weights on a quantised grid; the last pass",
        ),
    ]],
};

static DISTILL: Block = Block {
    name: "distill",
    about: "Train against the cache and the text. Masks of earlier passes hold.",
    keys: &[
        &[
            required("steps", STEPS, STEPS_ABOUT),
            rule(
                "adapter",
                Kind::Block(&ADAPTER),
                "none: all weights are trained",
                "what is trained in their place and merged into them at the end",
            ),
            rule(
                "prune",
                Kind::Block(&GRADUAL),
                "none",
                "weights that go while the others are trained",
            ),
        ],
        &FIT,
    ],
};

pub(super) const STEPS: Kind = Kind::Integer(1, MAX_STEPS);
pub(super) const STEPS_ABOUT: &str = "optimizer updates";

/// The keys of training, but for `steps`.
pub(super) static FIT: [Key; 24] = [
    or(
        "tokens_per_step",
        Kind::Tokens(1),
        "4096",
        "positions per update; a multiple of `data.sequence_length`",
    ),
    or(
        "micro_batch",
        Kind::Integer(1, MAX_SIZE),
        "4",
        "rows per forward and backward pass; memory against speed, never the gradient",
    ),
    or(
        "gradient_checkpointing",
        Kind::Switch,
        "false",
        "keep the input of each layer and run it again in the backward pass: a third of the arithmetic more for a fraction of the memory, the same gradient",
    ),
    or("learning_rate", SHARE_ABOVE_0, "1e-3", "peak learning rate"),
    or(
        "final_learning_rate_frac",
        SHARE,
        "0.1",
        "learning rate at the last step, as a share of the peak",
    ),
    rule(
        "warmup_steps",
        Kind::Integer(0, MAX_STEPS),
        "`steps / 20`, at least 1",
        "steps of linear warm-up; at most `steps`",
    ),
    or(
        "schedule",
        Kind::Word(ScheduleWord::WORDS),
        "cosine",
        "how the learning rate goes on after warm-up",
    ),
    rule(
        "decay_steps",
        Kind::Integer(1, MAX_STEPS),
        "`steps / 10`, at least 1",
        "last steps, in which `schedule: warmup_stable_decay` falls to the final rate",
    ),
    or(
        "decay_shape",
        Kind::Word(Shape::WORDS),
        "1-sqrt",
        "how it falls in them",
    ),
    or(
        "weight_decay",
        FROM_0,
        "0.01",
        "decay of the optimizer (AdamW), on matrices only",
    ),
    or(
        "decay_embeddings",
        Kind::Switch,
        "true",
        "whether `weight_decay` acts on the embedding, which may be the output layer, too",
    ),
    or(
        "betas",
        Kind::List(&DECAY_RATE, 2, 2),
        "[0.9, 0.999]",
        "decay rates of the optimizer's two moments",
    ),
    or(
        "epsilon",
        SHARE_ABOVE_0,
        "1e-8",
        "term added to the root of the second moment",
    ),
    or(
        "max_grad_norm",
        ABOVE_0,
        "1.0",
        "global norm above which gradients are scaled down",
    ),
    or(
        "temperature",
        Kind::Moving(&TEMPERATURE, &TEMPERATURE_WALK),
        "1.0",
        "temperature of the soft loss terms; one of `cache.temperatures`",
    ),
    rule(
        "losses",
        Kind::Block(&LOSSES),
        "`{ forward_kl: 1.0 }` with a teacher, else `{ cross_entropy: 1.0 }`",
        "weights of the loss terms",
    ),
    or(
        "tail",
        Kind::Word(TailPlan::WORDS),
        "bucket",
        "the teacher's mass outside `top_k`: one bucket, or shared out over the support (biased; to compare with)",
    ),
    rule(
        "ema",
        Kind::Number(Excluded(0.0), Excluded(1.0)),
        "no average",
        "decay of a moving average of the weights (after `n` steps at most `(1 + n) / (10 + n)`), which is what is measured and handed on",
    ),
    rule(
        "evaluate_every",
        Kind::Integer(1, MAX_STEPS),
        "never",
        "steps between measurements on the validation text, logged as `validation/loss`; the last step is measured, too",
    ),
    rule(
        "early_stop",
        Kind::Block(&EARLY_STOP),
        "the pass runs to its last step",
        "when to end before the last step; needs `evaluate_every`",
    ),
    rule(
        "hand_on",
        Kind::Word(HandOn::WORDS),
        "`best` with `early_stop`, else `last`",
        "the weights that are handed on: the last, or those with the lowest validation loss",
    ),
    or(
        "save_every",
        Kind::Integer(1, MAX_STEPS),
        "50",
        "steps between training states on disk",
    ),
    or(
        "keep_states",
        Kind::Integer(1, 1000),
        "2",
        "training states kept while the pass runs: should the newest be damaged, the one before it serves",
    ),
    or(
        "log_every",
        Kind::Integer(1, MAX_STEPS),
        "10",
        "steps between log lines",
    ),
];

static EARLY_STOP: Block = Block {
    name: "early_stop",
    about: "When to end a pass before its last step.",
    keys: &[&[
        required(
            "patience",
            Kind::Integer(1, MAX_STEPS),
            "measurements in a row without a lower validation loss, after which the pass ends",
        ),
        or(
            "min_delta",
            FROM_0,
            "0.0",
            "nats by which the loss must fall to count as lower",
        ),
    ]],
};
