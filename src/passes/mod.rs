//! Passes: each takes a student and returns a student.

mod budget;
mod measure_parts;
pub mod prune;
pub mod quantize;
mod removed;
mod rounding;
mod sensitivity;
pub mod shrink;

use std::io;
use std::path::Path;

use thiserror::Error;

pub use self::budget::Choice;
pub use self::removed::{Parts, Removed, Sizes};
pub use self::rounding::Rounding;
pub use self::sensitivity::{Cost, Part, Sensitivity, WIDTHS};
use crate::allocator;
use crate::calibration::{Calibration, Interrupted};
use crate::pruning::PruneError;
use crate::quantization::{self, QuantizeError};
use crate::recipe::{FitPlan, PassPlan, Term};
use crate::student::{Adapter, Projection, Student, layer_pairs};
use crate::train::FitError;
use crate::train::fit::{FitContext, fit};
use crate::train::state;

/// Why a pass ended early.
#[derive(Debug, Error)]
pub enum PassError {
    /// Training did.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// A signal asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Pruning cannot.
    #[error(transparent)]
    Prune(PruneError),
    /// Quantising cannot.
    #[error(transparent)]
    Quantize(QuantizeError),
}

impl From<QuantizeError> for PassError {
    fn from(error: QuantizeError) -> Self {
        match error {
            QuantizeError::Interrupted(interrupted) => interrupted.into(),
            error => Self::Quantize(error),
        }
    }
}

impl From<PruneError> for PassError {
    fn from(error: PruneError) -> Self {
        match error {
            PruneError::Interrupted(interrupted) => interrupted.into(),
            error @ PruneError::Inputs { .. } => Self::Prune(error),
        }
    }
}

/// Short name of a pass, as in the recipe.
pub fn name(pass: &PassPlan) -> &'static str {
    match pass {
        PassPlan::Distill(_) => "distill",
        PassPlan::Prune(_) => "prune",
        PassPlan::Shrink(_) => "shrink",
        PassPlan::Quantize(_) => "quantize",
    }
}

/// Runs one pass, and gives back the memory that it alone needed.
pub fn apply(
    pass: &PassPlan,
    student: Student,
    context: &FitContext<'_>,
) -> Result<Student, PassError> {
    let student = match pass {
        PassPlan::Distill(plan) => distill(plan, student, context)?,
        PassPlan::Prune(plan) => prune::prune(plan, student, context)?,
        PassPlan::Shrink(plan) => shrink::shrink(plan, student, context)?,
        PassPlan::Quantize(plan) => quantize::quantize(plan, student, context)?,
    };
    allocator::give_freed_pages_back();
    Ok(student)
}

/// Deletes what only an unfinished pass needs from the folder of a finished one.
pub fn discard(dir: &Path) -> io::Result<()> {
    state::discard(dir)?;
    quantization::discard(dir)
}

/// Tells whether [`discard`] would delete what lies at this place inside of the folder.
pub fn is_temporary(inside: &Path) -> bool {
    state::is_state(inside) || quantization::is_of_finished_layers(inside)
}

/// Trains against the cache and the text, with whatever masks and schemes the student has.
///
/// Projections of hidden states are thrown away at the end. An adapter is merged; without masks it is also left for `peft`,
/// which knows no masks.
fn distill(
    plan: &FitPlan,
    student: Student,
    context: &FitContext<'_>,
) -> Result<Student, FitError> {
    let cache = context.cache.filter(|_| plan.losses.is_soft());
    let context = FitContext { cache, ..*context };
    let student = Student {
        projections: projections(plan, &student, &context),
        ..student
    };
    let Some(adapter) = &plan.adapter else {
        return Ok(without_projections(fit(plan, student, &context)?));
    };
    let (config, device) = (&student.decoder.config, student.decoder.device());
    let adapter = Adapter::init(adapter, config, context.seed, &device);
    let student = Student {
        adapter: Some(adapter),
        ..student
    };
    let student = fit(plan, student, &context)?;
    if let Some(adapter) = student
        .adapter
        .as_ref()
        .filter(|_| student.masks.is_empty())
    {
        let written = adapter.save(&context.dir.join("adapter"), student.layer_repeats);
        saved(&context, written)?;
    }
    Ok(without_projections(student.merged()))
}

/// What brings the student's hidden states to the width of the teacher's, if a loss term compares them and the widths differ.
fn projections(plan: &FitPlan, student: &Student, context: &FitContext<'_>) -> Vec<Projection> {
    let compares = plan.losses.uses(Term::HiddenMse);
    let Some(teacher) = context.teacher.filter(|_| compares) else {
        return Vec::new();
    };
    let config = student.effective_config();
    let depths = [&config, &teacher.config].map(|config| config.num_hidden_layers);
    let pairs = layer_pairs(&plan.losses, depths[0], depths[1]);
    Projection::init(
        &pairs.expect("the layers were looked up before the run"),
        config.hidden_size,
        teacher.config.hidden_size,
        context.seed,
        &student.decoder.device(),
    )
}

fn without_projections(student: Student) -> Student {
    Student {
        projections: Vec::new(),
        ..student
    }
}

/// What a pass measures over the first training rows, with its own name and signal.
fn calibration<'a>(context: &FitContext<'a>, num_tokens: usize) -> Calibration<'a> {
    Calibration {
        rows: context.rows,
        num_tokens,
        label: context.label,
        is_silent: false,
        stop: context.stop,
    }
}

/// The error of a pass whose folder cannot be written to or read.
fn saved<T>(context: &FitContext<'_>, outcome: io::Result<T>) -> Result<T, FitError> {
    outcome.map_err(|source| FitError::Save {
        label: context.label.to_owned(),
        source,
    })
}
