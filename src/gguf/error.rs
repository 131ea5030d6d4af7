//! Errors of reading a GGUF file.

use std::io;
use std::path::PathBuf;

/// Error of reading a GGUF file; every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file cannot be opened or mapped.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The contents of the file are invalid.
    #[error("`{}`: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Description of the fault.
        source: GgufFault,
    },
}

/// Faults inside a GGUF file; offsets count from the start of the file unless stated otherwise.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum GgufFault {
    #[error("not a GGUF file: it does not begin with `GGUF`")]
    NotGguf,
    #[error(
        "a big-endian GGUF file; alambic reads little-endian ones: convert the model again on a little-endian machine"
    )]
    BigEndian,
    #[error("GGUF version {version}; alambic reads versions 2 and 3")]
    Version { version: u32 },
    #[error(
        "{what} at byte {at} takes {num_bytes} bytes, but the file has {left} left: it is cut off or damaged"
    )]
    Truncated {
        what: String,
        at: usize,
        num_bytes: u64,
        left: usize,
    },
    #[error("{what} at byte {at} is not UTF-8")]
    NotUtf8 { what: String, at: usize },
    #[error("`{key}` has value type {id}, which GGUF does not define")]
    ValueType { key: String, id: u32 },
    #[error("`{key}` is an array of arrays, which no known key has")]
    NestedArray { key: String },
    #[error("`{key}` holds {byte} but must be 0 or 1, as a bool")]
    NotABool { key: String, byte: u8 },
    #[error("the key `{key}` occurs twice")]
    DuplicateKey { key: String },
    #[error("`general.alignment` must be a power of two, but is {alignment}")]
    Alignment { alignment: u64 },
    #[error("the tensor `{tensor}` occurs twice")]
    DuplicateTensor { tensor: String },
    #[error("`{tensor}` has {num_dims} dimensions; GGUF tensors have 1 to 4")]
    NumDims { tensor: String, num_dims: u32 },
    #[error(
        "`{tensor}` has shape {dims:?} (innermost first), which has no elements or more than a file can hold"
    )]
    Dims { tensor: String, dims: Vec<u64> },
    #[error("`{tensor}` is stored as {found}; alambic reads {}: requantise the model to one of these", known.join(", "))]
    TensorType {
        tensor: String,
        found: String,
        known: Vec<&'static str>,
    },
    #[error(
        "the rows of `{tensor}` have {cols} elements, which do not fill whole {kind} blocks of {block_len}"
    )]
    UnevenBlocks {
        tensor: String,
        cols: usize,
        kind: &'static str,
        block_len: usize,
    },
    #[error("`{tensor}` is at offset {offset} of the data, which is not a multiple of {alignment}")]
    Misaligned {
        tensor: String,
        offset: u64,
        alignment: u64,
    },
    #[error(
        "`{tensor}` takes {num_bytes} bytes at offset {offset} of the data, but the file holds {data_bytes}: it is cut off or damaged"
    )]
    OutsideFile {
        tensor: String,
        offset: u64,
        num_bytes: usize,
        data_bytes: usize,
    },
    #[error("`{first}` and `{second}` overlap")]
    Overlap { first: String, second: String },
    #[error(
        "{} ends at byte {end} of the data, and {next} follows at byte {start}: there is a gap, so the directory is not \
         that of the data",
        before.as_deref().unwrap_or("the directory")
    )]
    Gap {
        before: Option<String>,
        end: u64,
        next: String,
        start: u64,
    },
    #[error("it has no key `{key}`")]
    MissingKey { key: String },
    #[error("`{key}` must be {want}, but is {got}")]
    WrongValue {
        key: String,
        want: String,
        got: String,
    },
    #[error(
        "part {part} of {num_parts} of a model; alambic reads whole files: join them with `llama-gguf-split --merge`"
    )]
    Split { part: u64, num_parts: u64 },
    #[error("it has no tensor `{tensor}`")]
    MissingTensor { tensor: String },
}
