//! Every key that a recipe may have: its type, range, default and meaning.
//!
//! The one table from which recipes are read, the JSON Schema printed and `docs/recipe.md` written.
//! A default that depends on other keys is worked out in `complete.rs`; its rule is told here.

use super::keys::{
    ABOVE_0, Block, Kind, MAX_SIZE, PathKind, SHARE_ABOVE_0, TEMPERATURE, or, required, rule,
};
use super::pass_keys::PASS;

const MAX_LAYERS: u64 = 1024;
const TEXTS: Kind = Kind::List(&Kind::Path(PathKind::FileOrFolder), 1, 10_000);
const CHECKPOINT: Kind = Kind::Path(PathKind::Checkpoint);

/// The whole recipe.
pub(super) static RECIPE: Block = Block {
    name: "the recipe",
    about: "What a run reads, trains, and leaves behind.",
    keys: &[&[
        required(
            "name",
            Kind::Name,
            "name of the recipe and of its run folders",
        ),
        or(
            "seed",
            Kind::Integer(0, u64::MAX),
            "0",
            "number from which every random choice follows",
        ),
        or(
            "output",
            Kind::Path(PathKind::Output),
            "checkpoints",
            "folder for run folders and caches",
        ),
        or(
            "device",
            Kind::Word(&["flex", "wgpu", "vulkan", "tch", "cuda"]),
            "flex",
            "device that computes; the program must be built with it",
        ),
        required("data", Kind::Block(&DATA), "text and tokenizer"),
        rule(
            "teacher",
            Kind::Block(&TEACHER),
            "no teacher; the student learns from text alone",
            "the model that is imitated",
        ),
        or(
            "cache",
            Kind::Block(&CACHE),
            "{}",
            "what is captured of the teacher",
        ),
        required(
            "student",
            Kind::Choice(&STUDENT),
            "the model that is trained",
        ),
        required(
            "passes",
            Kind::List(&Kind::Choice(&PASS), 1, 1000),
            "the schedule, in order",
        ),
        or(
            "export",
            Kind::Block(&EXPORT),
            "{}",
            "what is written at the end",
        ),
    ]],
};

static DATA: Block = Block {
    name: "data",
    about: "Text and tokenizer.",
    keys: &[&[
        required(
            "train",
            TEXTS,
            "files or folders of `.txt` and `.jsonl` to train on",
        ),
        required("validation", TEXTS, "files or folders to measure on"),
        or(
            "sequence_length",
            Kind::Integer(2, MAX_SIZE),
            "256",
            "positions per row",
        ),
        rule(
            "validation_tokens",
            Kind::Tokens(1),
            "all of them",
            "upper limit of validation positions measured",
        ),
        rule(
            "tokenizer",
            Kind::Choice(&TOKENIZER),
            "`teacher`; required without a teacher",
            "where the tokenizer comes from",
        ),
    ]],
};

static TOKENIZER: Block = Block {
    name: "tokenizer",
    about: "Where the tokenizer comes from.",
    keys: &[&[
        required(
            "teacher",
            Kind::Unit,
            "the teacher's own, from its `tokenizer.json` or `.gguf` file",
        ),
        required(
            "file",
            Kind::Path(PathKind::File),
            "a `tokenizer.json` or `.gguf` file",
        ),
        required(
            "train",
            Kind::Block(&TRAIN_TOKENIZER),
            "a byte-level BPE trained on the training text",
        ),
    ]],
};

static TRAIN_TOKENIZER: Block = Block {
    name: "train",
    about: "A byte-level BPE trained on the training text.",
    keys: &[&[required(
        "vocab_size",
        Kind::Integer(257, MAX_SIZE), // 256 bytes and the end-of-text token
        "number of tokens, special tokens included",
    )]],
};

static TEACHER: Block = Block {
    name: "teacher",
    about: "The model that is imitated.",
    keys: &[&[
        required(
            "checkpoint",
            CHECKPOINT,
            "Hugging Face folder or `.gguf` file",
        ),
        or(
            "batch_size",
            Kind::Integer(1, MAX_SIZE),
            "8",
            "rows that the capture takes at a time, on a CPU for each core",
        ),
    ]],
};

static CACHE: Block = Block {
    name: "cache",
    about: "What is captured of the teacher.",
    keys: &[&[
        rule(
            "tokens",
            Kind::Tokens(1),
            "all of them",
            "upper limit of training positions captured",
        ),
        or(
            "support",
            Kind::Choice(&SUPPORT),
            "{ top_k: 32 }",
            "token ids kept per position",
        ),
        or(
            "temperatures",
            Kind::List(&TEMPERATURE, 1, 64),
            "[1.0]",
            "temperatures at which the cached distribution is exact; samples serve temperature 1 alone",
        ),
        or(
            "sampling",
            Kind::Word(&["systematic", "independent"]),
            "systematic",
            "how `samples` are drawn: by equal steps from one random offset, or every draw for itself",
        ),
        or(
            "rows_per_shard",
            Kind::Integer(1, MAX_SIZE),
            "128",
            "rows per shard: what a killed capture loses at most",
        ),
    ]],
};

static SUPPORT: Block = Block {
    name: "support",
    about: "Which token ids the cache holds at a position.",
    keys: &[&[
        required(
            "top_k",
            Kind::Integer(1, MAX_SIZE),
            "the teacher's likeliest tokens, this many",
        ),
        required(
            "samples",
            Kind::Integer(1, 1 << 16),
            "tokens drawn from the teacher, this many draws: unbiased, smaller, and without a tail",
        ),
    ]],
};

static STUDENT: Block = Block {
    name: "student",
    about: "Where the student's first weights come from.",
    keys: &[&[
        required(
            "architecture",
            Kind::Block(&ARCHITECTURE),
            "fresh weights of these sizes",
        ),
        required(
            "from_teacher",
            Kind::Block(&FROM_TEACHER),
            "layers of the teacher, whole or narrower, with its embedding and head",
        ),
        required(
            "checkpoint",
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

const GGUF_TYPE: Kind = Kind::Word(&["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q4_k"]);
const ALL_LAYERS: &str = "all layers, unless `layers`, `every` or `highest_influence` is written";
const TEACHERS: &str = "the teacher's";

static EXPORT: Block = Block {
    name: "export",
    about: "What is written at the end and verified.",
    keys: &[&[
        or(
            "formats",
            Kind::List(
                &Kind::Word(&["huggingface", "compressed-tensors", "gguf"]),
                0,
                16,
            ),
            "[huggingface]",
            "formats to write: plain weights, packed integers with scales, or one file for llama.cpp",
        ),
        or(
            "dtype",
            Kind::Word(&["bf16", "f32"]),
            "bf16",
            "storage of weights that are not quantised",
        ),
        rule(
            "gguf_type",
            GGUF_TYPE,
            "`q4_0` or `q8_0` for a student on that grid (4 or 8 bits in groups of 32), else `dtype`",
            "type of the projections in a GGUF file",
        ),
        rule(
            "gguf_embedding_type",
            GGUF_TYPE,
            "`dtype`",
            "type of the embedding and the output matrix in a GGUF file",
        ),
        or(
            "max_logit_difference",
            ABOVE_0,
            "1e-3",
            "largest difference of a logit between the folder and the student in memory, where the format holds it exactly",
        ),
        or(
            "max_rounding_kl",
            ABOVE_0,
            "0.02",
            "largest KL(student in memory ‖ folder), nats per position, where weights are rounded on the way",
        ),
    ]],
};
