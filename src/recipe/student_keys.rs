//! The keys of the student; a part of the table in `recipe_keys.rs`.

use super::keys::{ABOVE_0, Block, Kind, MAX_SIZE, SHARE_ABOVE_0, or, required, rule};
use super::recipe_keys::CHECKPOINT;
use super::student_plan::StudentWord;

pub(super) const MAX_LAYERS: u64 = 1024;

pub(super) static STUDENT: Block = Block {
    name: "student",
    about: "Where the student's first weights come from.",
    keys: &[&[
        required(
            StudentWord::Architecture.word(),
            Kind::Block(&ARCHITECTURE),
            "fresh weights of these sizes",
        ),
        required(
            StudentWord::FromTeacher.word(),
            Kind::Block(&FROM_TEACHER),
            "layers of the teacher, whole or narrower, with its embedding and head",
        ),
        required(
            StudentWord::Checkpoint.word(),
            CHECKPOINT,
            "an existing Hugging Face folder or `.gguf` file",
        ),
    ]],
};

static ARCHITECTURE: Block = Block {
    name: "architecture",
    about: "Sizes of a fresh student; the names are those of `config.json`.",
    keys: &[&[
        required(
            "num_hidden_layers",
            Kind::Integer(1, MAX_LAYERS),
            "decoder blocks",
        ),
        required(
            "hidden_size",
            Kind::Integer(1, MAX_SIZE),
            "width of the residual stream",
        ),
        required(
            "num_attention_heads",
            Kind::Integer(1, MAX_SIZE),
            "query heads",
        ),
        rule(
            "num_key_value_heads",
            Kind::Integer(1, MAX_SIZE),
            "`num_attention_heads`",
            "key and value heads; divides the query heads",
        ),
        required(
            "intermediate_size",
            Kind::Integer(1, MAX_SIZE),
            "width of the feed-forward layer",
        ),
        rule(
            "head_dim",
            Kind::Integer(2, MAX_SIZE),
            "`hidden_size / num_attention_heads`",
            "width of a head; even",
        ),
        or(
            "rope_theta",
            ABOVE_0,
            "10000",
            "base of the rotary wavelengths",
        ),
        or(
            "rms_norm_eps",
            SHARE_ABOVE_0,
            "1e-5",
            "term added to the mean square",
        ),
        or(
            "tie_word_embeddings",
            Kind::Switch,
            "true",
            "whether the output layer is the embedding",
        ),
        rule(
            "sliding_window",
            Kind::Integer(1, MAX_SIZE),
            "none: each position sees all before it",
            "positions that a layer sees, its own among them; the student is a Mistral then",
        ),
        or(
            "layer_repeats",
            Kind::Integer(1, MAX_LAYERS),
            "1",
            "layers in a row that share one set of weights; divides `num_hidden_layers`, and exports have all layers",
        ),
    ]],
};

static FROM_TEACHER: Block = Block {
    name: "from_teacher",
    about: "The teacher's own weights, of which some are kept; at least one of these keys says which.",
    keys: &[&[
        rule(
            "layers",
            Kind::List(&Kind::Integer(0, MAX_LAYERS - 1), 1, 1024),
            ALL_LAYERS,
            "keeps these zero-based layers, ascending",
        ),
        rule(
            "every",
            Kind::Integer(1, MAX_LAYERS),
            ALL_LAYERS,
            "keeps every n-th layer, the first among them",
        ),
        rule(
            "highest_influence",
            Kind::Integer(1, MAX_LAYERS),
            ALL_LAYERS,
            "keeps this many layers: those that turn what enters them the furthest",
        ),
        rule(
            "hidden_size",
            Kind::Integer(1, MAX_SIZE),
            TEACHERS,
            "keeps this many dimensions of the residual stream: those with the largest activations",
        ),
        rule(
            "intermediate_size",
            Kind::Integer(1, MAX_SIZE),
            TEACHERS,
            "keeps this many feed-forward channels, in each layer those with the largest activations",
        ),
        rule(
            "num_key_value_heads",
            Kind::Integer(1, MAX_SIZE),
            TEACHERS,
            "keeps this many key and value heads with their query heads, in each layer those with the largest activations",
        ),
        or(
            "calibration_tokens",
            Kind::Tokens(1),
            "32k",
            "training positions over which influence and activations are measured",
        ),
    ]],
};

const ALL_LAYERS: &str = "all layers, unless `layers`, `every` or `highest_influence` is written";
const TEACHERS: &str = "the teacher's";

pub(super) static ADAPTER: Block = Block {
    name: "adapter",
    about: "Low-rank matrices that are added to some weights (LoRA). Without masks, they are also left in the folder of the pass, as `adapter/`, for `peft`.",
    keys: &[&[
        required(
            "rank",
            Kind::Integer(1, MAX_SIZE),
            "width of the matrices; at most that of the weights they are added to",
        ),
        rule(
            "alpha",
            ABOVE_0,
            "`rank`",
            "what is added is multiplied by `alpha / rank`",
        ),
        or(
            "targets",
            Kind::List(&Kind::Word(&TARGETS), 1, TARGETS.len()),
            "[q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]",
            "modules of every layer whose weight is added to",
        ),
    ]],
};

pub(super) const TARGETS: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];
