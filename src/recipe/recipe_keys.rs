//! Every key that a recipe may have: its type, range, default and meaning.
//!
//! The one table from which recipes are read, the JSON Schema printed and `docs/recipe.md` written.
//! A default that depends on other keys is worked out in `complete.rs`; its rule is told here.

use super::keys::{ABOVE_0, Block, Kind, MAX_SIZE, PathKind, TEMPERATURE, or, required, rule};
use super::pass_keys::PASS;
use super::plan::{ExportDtype, ExportFormat, GgufType, Sampling, SupportWord, TokenizerWord};
use super::student_keys::STUDENT;
use super::word::Word;

const TEXTS: Kind = Kind::List(&Kind::Path(PathKind::FileOrFolder), 1, 10_000);
pub(super) const CHECKPOINT: Kind = Kind::Path(PathKind::Checkpoint);

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
    about: "Text and tokenizer. Documents are packed into rows one behind the other, an end-of-text token after each; a row begins \
            without context, and within it attention reaches into the documents before. Those tokens are trained on, too, \
            but no figure counts them: losses and all other measures are those of the text.",
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
            TokenizerWord::Teacher.word(),
            Kind::Unit,
            "the teacher's own, from its `tokenizer.json` or `.gguf` file",
        ),
        required(
            TokenizerWord::File.word(),
            Kind::Path(PathKind::File),
            "a `tokenizer.json` or `.gguf` file",
        ),
        required(
            TokenizerWord::Train.word(),
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
            Kind::Word(Sampling::WORDS),
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
            SupportWord::TopK.word(),
            Kind::Integer(1, MAX_SIZE),
            "the teacher's likeliest tokens, this many",
        ),
        required(
            SupportWord::Samples.word(),
            Kind::Integer(1, 1 << 16),
            "tokens drawn from the teacher, this many draws: unbiased, smaller, and without a tail",
        ),
    ]],
};

const GGUF_TYPE: Kind = Kind::Word(GgufType::WORDS);

pub(super) static EXPORT: Block = Block {
    name: "export",
    about: "What is written at the end and verified.",
    keys: &[&[
        or(
            "formats",
            Kind::List(&Kind::Word(ExportFormat::WORDS), 0, 16),
            "[huggingface]",
            "formats to write: plain weights; packed integers with scales, for vLLM (`compressed-tensors`, `gptq`, `awq`) or MLX; or one file for llama.cpp",
        ),
        or(
            "dtype",
            Kind::Word(ExportDtype::WORDS),
            "bf16",
            "storage of weights that are not quantised",
        ),
        or(
            "max_shard_size",
            Kind::Bytes(1),
            "50G", // as in transformers 5
            "bytes of weights in one safetensors file; more are spread over several with an index",
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
            "`q4_0` or `q8_0` for each of them on that grid, else `dtype`",
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
