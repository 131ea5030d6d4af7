//! Errors of reading and of writing checkpoints.

use std::io;
use std::path::{Path, PathBuf};

use ::safetensors::{Dtype, SafeTensorError};

use crate::data::TokenizerError;
use crate::gguf::GgufError;
use crate::gguf::tokenizer::NoGgufForm;
use crate::missing;
use crate::model::ConfigError;
use crate::tensors::{NotFinite, TensorsError};

/// Reason why a checkpoint is refused; every message names the file or the tensor.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CheckpointError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("`{}` is not JSON: {source}", path.display())]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("`{}`: {source}", path.display())]
    Config { path: PathBuf, source: ConfigError },
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("`{tensor}` in `{}` is an unknown scaling of rotary positions: it is not Llama 3's", path.display())]
    UnknownRope { path: PathBuf, tensor: String },
    #[error("`{}` has no `config.json`; its weights are in a GGUF file: give that file instead, `{}`", dir.display(), gguf.display())]
    IsAGgufFile { dir: PathBuf, gguf: PathBuf },
    #[error("`{}` is missing, so this is not a model folder", dir.join("config.json").display())]
    NotAModel { dir: PathBuf },
    #[error(
        "the run `{}` has no finished pass yet{}", dir.display(),
        begun.as_ref().map_or_else(String::new, |stage| format!(": `{stage}` is begun"))
    )]
    UnfinishedRun { dir: PathBuf, begun: Option<String> },
    #[error("`{}` holds the state of an unfinished stage, which is no model yet", dir.display())]
    UnfinishedStage { dir: PathBuf },
    #[error(transparent)]
    Student(#[from] TensorsError),
    #[error("`{}` has neither `model.safetensors` nor `model.safetensors.index.json`", dir.display())]
    NoWeights { dir: PathBuf },
    #[error(
        "`{}` is missing: {found} of {total} shards are there, and without `model.safetensors.index.json` all must be",
        path.display()
    )]
    IncompleteSet {
        path: PathBuf,
        found: usize,
        total: usize,
    },
    #[error("`{}` has shards of several models (of {}) and no `model.safetensors.index.json`: move all but one set away", dir.display(), numbers(totals))]
    SeveralSets { dir: PathBuf, totals: Vec<usize> },
    #[error("`{tensor}` is in `{}` and in a shard before it, and there is no `model.safetensors.index.json` to say which counts", path.display())]
    TwiceInShards { path: PathBuf, tensor: String },
    #[error("the header of `{}` takes {header_bytes} bytes, but the file has {file_bytes}", path.display())]
    HeaderBeyondFile {
        path: PathBuf,
        header_bytes: u64,
        file_bytes: usize,
    },
    #[error("`{}` ({file_bytes} bytes) is not a whole safetensors file: {source}", path.display())]
    NotSafetensors {
        path: PathBuf,
        file_bytes: usize,
        source: SafeTensorError,
    },
    #[error("`{}` has no `weight_map` from tensor names to file names", path.display())]
    NoWeightMap { path: PathBuf },
    #[error("`{}` looks for `{tensor}` in `{file}`, which is not the name of a file beside it", path.display())]
    OutsideFolder {
        path: PathBuf,
        tensor: String,
        file: String,
    },
    #[error("shard `{}` is missing; it holds `{tensor}`", path.display())]
    MissingShard { path: PathBuf, tensor: String },
    #[error("`{tensor}` is not in `{}`, where the index looks for it", path.display())]
    NotInShard { path: PathBuf, tensor: String },
    #[error("`{}` has no tensor `{tensor}`", dir.display())]
    MissingTensor { dir: PathBuf, tensor: String },
    #[error("`{}` has no tensor `{tensor}`, but `{found}`: {why}", dir.display())]
    Misnamed {
        dir: PathBuf,
        tensor: String,
        found: String,
        why: String,
    },
    #[error(
        "`{}` has no tensor `lm_head.weight`, and its config says that the output layer is not the embedding: write \
         `\"tie_word_embeddings\": true` in `config.json` if it is",
        dir.display()
    )]
    NoHead { dir: PathBuf },
    #[error("`{}` is an adapter{}, not a model: merge it first", dir.display(), of_base(base.as_deref()))]
    IsAnAdapter { dir: PathBuf, base: Option<String> },
    #[error(
        "`{tensor}` is stored as codes (`{found}`), but nothing in `config.json` says how to read them: it has no \
         `quantization_config`"
    )]
    CodesWithoutSettings { tensor: String, found: String },
    #[error(
        "`{tensor}` is stored as codes (`{found}`), but by `quantization_config` in `config.json` it is plain: take \
         `{module}` out of `ignore`, or add it to the `targets` of its group"
    )]
    CodesOfAPlainWeight {
        tensor: String,
        found: String,
        module: String,
    },
    #[error(
        "`{tensor}` is stored plain, but by `quantization_config` in `config.json` it is on a grid: add `{module}` to \
         `ignore`"
    )]
    PlainWeightOnAGrid { tensor: String, module: String },
    #[error(
        "`{tensor}` is stored plain, as are all weights, but `config.json` says that weights are on a grid: take \
         `quantization_config` (of MLX, `quantization`) out of it if they are not"
    )]
    NoCodes { tensor: String },
    #[error("`{}` has a tensor `{tensor}`, which alambic does not understand and must not ignore", dir.display())]
    UnknownTensor { dir: PathBuf, tensor: String },
    #[error(
        "`{}` has a `{tensor}` that is not its embedding, though `tie_word_embeddings` is true: write \
         `\"tie_word_embeddings\": false` in `config.json` if both were trained, or delete the tensor",
        dir.display()
    )]
    NotTied { dir: PathBuf, tensor: String },
    #[error("`{}`: {source}", path.display())]
    NotFinite { path: PathBuf, source: NotFinite },
    #[error("`{tensor}` must be {want}, but is {got}")]
    WrongDtype {
        tensor: String,
        want: String,
        got: Dtype,
    },
    #[error("`{tensor}` must have shape {want:?}, but has {got:?}")]
    WrongShape {
        tensor: String,
        want: Vec<usize>,
        got: Vec<usize>,
    },
    #[error("`{tensor}` must hold {want:?}, but holds {got:?}")]
    WrongPackedShape {
        tensor: String,
        want: [usize; 2],
        got: Vec<i64>,
    },
    #[error("`{tensor}` holds {code}, which does not fit {bits} bits")]
    CodeOutOfRange {
        tensor: String,
        code: i16,
        bits: u32,
    },
    #[error(
        "`{tensor}` has {codes} codes of {bits} bits side by side, which do not fill whole words of 32 bits"
    )]
    PartialWord {
        tensor: String,
        codes: usize,
        bits: u32,
    },
    #[error("`{tensor}`[{column}] is {found}, but there are {groups} groups, counted from 0")]
    NoSuchGroup {
        tensor: String,
        column: usize,
        found: i32,
        groups: usize,
    },
    #[error(
        "`{tensor}` holds zeros of {found}, but `\"sym\": true` says that every zero of the model is {middle}, stored as \
         {middle} or, in the first version of the format, as {}: write `\"sym\": false` in `config.json` if the zeros are right",
        middle - 1
    )]
    ZerosNotSymmetric {
        tensor: String,
        found: String,
        middle: u32,
    },
    #[error("`group_size` {group_size} does not divide the {cols} columns of `{tensor}`")]
    UnevenGroups {
        tensor: String,
        cols: usize,
        group_size: usize,
    },
}

impl CheckpointError {
    /// Suggests a remedy, if the message does not hold one.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NotFinite { .. } => Some(NotFinite::help()),
            Self::NotAModel { dir } => not_a_model(dir),
            Self::IsAnAdapter { .. } => Some(
                "with peft: `AutoPeftModelForCausalLM.from_pretrained(ADAPTER).merge_and_unload().save_pretrained(MODEL)`"
                    .to_owned(),
            ),
            Self::UnfinishedRun { .. } | Self::UnfinishedStage { .. } => Some(
                "go on with `alambic run` and its recipe: the first finished pass is a model"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

fn of_base(base: Option<&str>) -> String {
    base.map_or_else(String::new, |base| format!(" of `{base}`"))
}

fn numbers(totals: &[usize]) -> String {
    let totals: Vec<String> = totals.iter().map(usize::to_string).collect();
    totals.join(" and of ")
}

/// The way from a path without `config.json` to a model.
fn not_a_model(dir: &Path) -> Option<String> {
    let advice = || {
        let advice = missing::place(dir, Path::new(""));
        advice.unwrap_or_else(|| "nothing is at this path".to_owned())
    };
    (!dir.exists()).then(advice)
}

/// Reason why a model could not be written in a format.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum WriteError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error("`{tensor}` has {want} elements, but {got} were given")]
    WrongLength {
        tensor: String,
        want: usize,
        got: usize,
    },
    #[error(
        "element {element_idx} of `{tensor}` is {value}, which {dtype} does not hold as a finite number"
    )]
    NotFinite {
        tensor: String,
        element_idx: usize,
        value: f32,
        dtype: &'static str,
    },
    #[error("scale {scale_idx} of `{tensor}` is {value}, which {dtype} does not hold exactly")]
    InexactScale {
        tensor: String,
        scale_idx: usize,
        value: f32,
        dtype: &'static str,
    },
    #[error(
        "llama.cpp has no key for `{key}`, which is {found} in this model, and would compute something else"
    )]
    NotInGguf { key: &'static str, found: String },
    #[error(transparent)]
    NoGgufForm(#[from] NoGgufForm),
    #[error(
        "the tokenizer in the GGUF file gives other ids than the student's: it encodes {text:?} as {got:?}, not {want:?}"
    )]
    OtherIds {
        text: String,
        got: Vec<u32>,
        want: Vec<u32>,
    },
    #[error("code {code_idx} of `{tensor}` is {code}, which does not fit {bits} bits")]
    CodeOutOfRange {
        tensor: String,
        code_idx: usize,
        code: f32,
        bits: u32,
    },
    #[error("`{tensor}` has {found}, for which compressed-tensors has no format")]
    NoFormat { tensor: String, found: String },
    #[error("{0}")]
    Refused(String),
    #[error("`group_size` {group_size} does not divide the {cols} columns of `{tensor}`")]
    UnevenGroups {
        tensor: String,
        cols: usize,
        group_size: usize,
    },
    #[error("`{}` has no `tokenizer.json`", source_dir.display())]
    NoTokenizer { source_dir: PathBuf },
    #[error("`{}` is not JSON: {source}", path.display())]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
}
