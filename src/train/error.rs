//! Errors of a pass that trains.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::MetricsError;
use super::fit::PassContext;
use super::pending_losses::UnsoundStep;
use super::state::{self, StateError};
use crate::cache::CacheError;

/// Reasons for a fit to end early.
#[derive(Debug, Error)]
pub enum FitError {
    /// The loss or the gradient is NaN or infinite.
    #[error("the {what} is {value} at step {step} of pass {label}; {last_good}")]
    NotFinite {
        /// `loss`, `gradient norm`, `largest weight` or `validation loss`.
        what: &'static str,
        /// NaN or infinity.
        value: f64,
        /// Zero-based step: not taken, or taken in memory alone and lost with it.
        step: usize,
        /// Updates that the pass had made; before the first, the learning rate is not the cause.
        num_updates: usize,
        /// Name of the pass.
        label: String,
        /// Sentence on the state that is left on disk.
        last_good: String,
    },
    /// A signal asked to stop; the state is saved.
    #[error(
        "stopped at step {step} of pass {label}; the state is in {path}: run the same command to resume"
    )]
    Interrupted {
        /// Steps done.
        step: usize,
        /// Name of the pass.
        label: String,
        /// Path of the state.
        path: PathBuf,
    },
    /// The cache cannot be read.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The state on disk cannot be resumed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The record of the pass cannot be written.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The state cannot be written.
    #[error("pass {label} cannot save its state: {source}")]
    Save {
        /// Name of the pass.
        label: String,
        /// Error of the system; it names the path.
        source: io::Error,
    },
}

/// Fails if a number is NaN or infinite after this many updates.
pub fn check_number(
    what: &'static str,
    value: f64,
    num_updates: usize,
    context: &PassContext<'_>,
) -> Result<(), FitError> {
    if value.is_finite() {
        return Ok(());
    }
    let step = num_updates.saturating_sub(1);
    let found = UnsoundStep { what, value, step };
    Err(not_finite(num_updates, found, context))
}

pub(super) fn not_finite(
    num_updates: usize,
    UnsoundStep { what, value, step }: UnsoundStep,
    context: &PassContext<'_>,
) -> FitError {
    FitError::NotFinite {
        what,
        value,
        step,
        num_updates,
        label: context.label.to_owned(),
        last_good: last_good(context.dir),
    }
}

/// Sentence on the state that a pass leaves on disk when it fails.
fn last_good(dir: &Path) -> String {
    match state::newest(dir) {
        Some(path) => format!("the last saved state, {}, is intact", path.display()),
        None => "no state was saved yet".to_owned(),
    }
}
