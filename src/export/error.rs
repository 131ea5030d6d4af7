//! Errors of an export.

use std::io;

use super::verify::VerifyError;
use crate::formats::{Refusal, WriteError};

/// Error of an export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A format could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The written files differ from the model.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

impl From<io::Error> for ExportError {
    fn from(error: io::Error) -> Self {
        Self::Write(error.into())
    }
}

impl From<Refusal> for ExportError {
    fn from(refusal: Refusal) -> Self {
        Self::Write(refusal.into())
    }
}
