//! Why an export could not be written.

use std::io;
use std::path::PathBuf;

use super::verify::VerifyError;
use crate::data::TokenizerError;
use crate::gguf::tokenizer::NoGgufForm;

/// Why an export could not be written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ExportError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Verify(#[from] VerifyError),
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
        "llama.cpp has no key for `{key}` of this model, {found}, and would compute something else"
    )]
    NotInGguf { key: &'static str, found: String },
    #[error(transparent)]
    NoGgufForm(#[from] NoGgufForm),
    #[error(
        "the tokenizer in the GGUF file gives other ids than the student's: of {text:?} it makes {got:?}, not {want:?}"
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
