//! Errors of converting a checkpoint.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::cache::CacheError;
use crate::checkpoint::CheckpointError;
use crate::data::{DataError, TokenizerError};
use crate::export::ExportError;
use crate::formats::WriteError;
use crate::gguf::WrittenType;
use crate::passes::PassError;
use crate::recipe::RecipeFaults;
use crate::run::RunError;
use crate::stages::StagesError;
use crate::student::StudentError;

/// Error of converting a checkpoint.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ConvertError {
    #[error("`{}` already exists, and nothing is overwritten", out.display())]
    Exists { out: PathBuf },
    #[error("`{}` has no tokenizer", dir.display())]
    NoTokenizer { dir: PathBuf },
    #[error("the tokenizer has {num_tokens} tokens, but the model knows {num_rows}")]
    Vocabulary { num_tokens: usize, num_rows: usize },
    #[error(
        "`{format}` stores weights on a grid, but those of `{}` are on {}", checkpoint.display(),
        if *was_quantized { "one that cannot be kept" } else { "none" }
    )]
    NotQuantized {
        format: &'static str,
        checkpoint: PathBuf,
        was_quantized: bool,
    },
    #[error("`--set {key}=...` is not a key of this command")]
    NoSuchKey { key: String },
    #[error("`{}` is not UTF-8, but recipes must be", path.display())]
    NotUtf8 { path: PathBuf },
    #[error(transparent)]
    Input(#[from] StagesError),
    #[error("{fact}")]
    NotHeld { fact: String },
    #[error("`{name}` was pruned, and stretched grids have no 0")]
    NoZero { name: String },
    #[error("`gguf` has no blocks for {grid}: the file would hold plain weights")]
    NoBlocks { grid: String },
    #[error("`gguf_type` would round projections that are on {grid} a second time, to {}", kind.name())]
    RoundsAgain { grid: String, kind: WrittenType },
    #[error("`--set {assignment}` sets what `{option}` sets, too")]
    SetTwice { assignment: String, option: String },
    #[error("`--text {}` cannot be read: {source}", path.display())]
    NoText { path: PathBuf, source: io::Error },
    #[error("this command runs one `quantize` pass and no other")]
    OtherPasses,
    #[error("the loss is {loss} {when} quantising")]
    NoLoss { when: String, loss: f64 },
    #[error(
        "`{method}` with these options reads text to measure the inputs of projections, but none was given"
    )]
    NeedsText { method: String },
    #[error("`qat` trains, so it needs a text, a schedule and a recipe")]
    Trains,
    #[error("stopped; the unfinished output was removed")]
    Stopped,
    #[error("stopped; run the same command to resume")]
    StoppedHalfWay,
    /// Error of a stage that runs have, too.
    #[error(transparent)]
    Stage(#[from] RunError),
}

macro_rules! of_stage {
    ($($error:ty),*) => {$(
        impl From<$error> for ConvertError {
            fn from(error: $error) -> Self {
                Self::Stage(error.into())
            }
        }
    )*};
}

of_stage!(
    RecipeFaults,
    DataError,
    CheckpointError,
    CacheError,
    StudentError,
    PassError,
    ExportError,
    io::Error
);

impl From<TokenizerError> for ConvertError {
    fn from(error: TokenizerError) -> Self {
        DataError::from(error).into()
    }
}

impl ConvertError {
    /// Advice on what to do, if there is any.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Exists { out } => {
                format!("name another folder with `--out`, or delete `{}`", out.display())
            }
            Self::NoTokenizer { .. } => {
                "name one with `--tokenizer`: a model folder, a `tokenizer.json` or a `.gguf` file".to_owned()
            }
            Self::Vocabulary { .. } => "name the tokenizer of this model with `--tokenizer`".to_owned(),
            Self::NotQuantized { was_quantized: false, .. } => {
                "`alambic quantize` puts them on one and writes this format".to_owned()
            }
            Self::NotQuantized { was_quantized: true, .. } => {
                "write `--format huggingface` or `gguf`, or round them again with `alambic quantize`".to_owned()
            }
            Self::NoSuchKey { .. } => {
                "use `export.*`, or with `alambic quantize` also `passes.0.*`; for everything else use an option, see `--help`".to_owned()
            }
            Self::NotUtf8 { .. } => "give it another name".to_owned(),
            Self::NotHeld { .. } => {
                "write another `--format`, or put the weights on another grid with `alambic quantize`".to_owned()
            }
            Self::NoZero { .. } => "write `--set passes.0.quantize.type=ternary`, or other `--bits`".to_owned(),
            Self::NoBlocks { .. } => {
                "write `--bits 4 --group-size 32` or `--bits 8 --group-size 32`, whose blocks are Q4_0 and Q8_0, or another format".to_owned()
            }
            Self::RoundsAgain { kind, .. } => {
                format!(
                    "leave `export.gguf_type` out, or round once: `alambic export CHECKPOINT --format gguf --set \
                     export.gguf_type={}`",
                    kind.word()
                )
            }
            Self::SetTwice { .. } => "keep one of them".to_owned(),
            Self::NoText { .. } => "name a file of text or JSONL that exists, or a folder of them".to_owned(),
            Self::OtherPasses => "write a recipe, and run it with `alambic run`".to_owned(),
            Self::NoLoss { .. } => {
                "check the checkpoint with `alambic evaluate`".to_owned()
            }
            Self::NeedsText { .. } => {
                "name a file or folder with `--text`, in the language and of the kind that the model is for".to_owned()
            }
            Self::Trains => {
                "write a recipe with `student: { checkpoint: ... }` and this pass, and run it with `alambic run`".to_owned()
            }
            Self::Stage(RunError::Export(ExportError::Write(WriteError::InexactScale { dtype: "bfloat16", .. }))) => {
                "write `--dtype f16` for float16 scales, or put the weights on a new grid with `alambic quantize`"
                    .to_owned()
            }
            Self::Stage(RunError::Export(ExportError::Write(WriteError::InexactScale { .. }))) => {
                "write `--format compressed-tensors`, whose scales have the type of `--dtype`, or put the weights on a new grid with `alambic quantize`"
                    .to_owned()
            }
            Self::Stopped | Self::StoppedHalfWay | Self::Stage(_) | Self::Input(_) => return None,
        })
    }
}
