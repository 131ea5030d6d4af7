//! Passes: each takes a student and returns a student.

mod distill;
mod prune;
pub mod quantize;
mod removed;
mod shrink;

use std::io;
use std::path::Path;

use thiserror::Error;

use self::distill::DISTILL;
use self::prune::PRUNE;
pub use self::prune::{PruneError, PruneMethod, PrunePlan};
use self::quantize::QUANTIZE;
pub(crate) use self::quantize::group_size;
pub use self::quantize::{
    Activations, BudgetPlan, CalibratedPlan, Choice, Cost, GptqPlan, LayerPart, NumberType,
    OverridePlan, QuantizeError, QuantizeMethod, QuantizePlan, QuantizeReport, Rounding,
    SchemePlan, Sensitivity, SensitivityPlan, WIDTHS,
};
pub use self::removed::{Parts, Removed, StudentSizes};
use self::shrink::SHRINK;
pub use self::shrink::{LayersBy, ShrinkPlan, ShrinkSizes, ShrinkTarget, Side};
use crate::allocator;
use crate::calibration::{Calibration, Interrupted};
use crate::cost::StageCost;
use crate::diag::Diagnostic;
use crate::model::{DecoderConfig, Schemes};
use crate::recipe::{Fields, Kind, choice};
use crate::student::Student;
use crate::train::fit::PassContext;
use crate::train::{FitError, FitPlan, state};

choice! {
    pub enum PassPlan of PassWord in PASS = "pass", "One pass: takes a student and returns a student. `--set distill.steps=200` sets a key of every `distill` pass." {
        Distill(Box<FitPlan>) = "distill", Kind::Block(&DISTILL), "train against the cache and the text";
        Prune(PrunePlan) = "prune", Kind::Block(&PRUNE), "zero the least useful weights";
        Shrink(ShrinkPlan) = "shrink", Kind::Block(&SHRINK), "take the least useful layers, channels, heads or dimensions out";
        Quantize(QuantizePlan) = "quantize", Kind::Block(&QUANTIZE), "put the weights on a quantised grid; the last pass";
    }
}

/// What a run asks of a pass, whichever it is.
pub trait Pass {
    /// Contradictions within its keys in a recipe.
    fn contradictions(fields: Fields<'_>, faults: &mut Vec<Diagnostic>)
    where
        Self: Sized;

    /// Tells whether a pass with these keys trains and knows for how long.
    fn trains(_fields: Fields<'_>) -> bool
    where
        Self: Sized,
    {
        false
    }

    /// Tells whether a pass with these keys zeroes weights; there are none if what is written is no block.
    fn prunes(_fields: Option<Fields<'_>>) -> bool
    where
        Self: Sized,
    {
        false
    }

    /// How it trains, if it does.
    fn fit(&self) -> Option<&FitPlan> {
        None
    }

    /// The architecture that it leaves of a student.
    fn leaves(&self, student: &DecoderConfig) -> Result<DecoderConfig, PassFault> {
        Ok(student.clone())
    }

    /// Refuses what headers show to be wrong.
    fn check(&self, inputs: &PassInputs<'_>) -> Result<(), PassFault>;

    /// Adds what it takes to the cost of a measurement of the student.
    fn add_cost(&self, cost: &mut StageCost, inputs: &PassInputs<'_>);

    /// Tells whether the model that runs has weights beside the free ones from here on.
    fn runs_apart(&self) -> bool {
        false
    }

    /// The schemes that a student of this architecture has afterwards, before any budget; `None` of a pass that knows no grids.
    fn schemes(&self, _student: &DecoderConfig) -> Option<Schemes> {
        None
    }

    /// Makes the student that leaves it.
    fn apply(&self, student: Student, context: &PassContext<'_>) -> Result<Student, PassError>;

    /// Reads its part of the report, beside the figures of its student, from its folder.
    fn report(&self, _dir: &Path) -> io::Result<PassReport> {
        Ok(PassReport::default())
    }
}

/// Part of the report that a pass adds to the figures of its student.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PassReport {
    /// Parts that it took out.
    pub removed: Option<Removed>,
    /// Cost of quantising.
    pub quantized: Option<QuantizeReport>,
}

/// What is known of the models of a pass before it runs.
#[derive(Debug, Clone, Copy)]
pub struct PassInputs<'a> {
    /// The student that enters.
    pub student: &'a DecoderConfig,
    /// The student that leaves.
    pub left: &'a DecoderConfig,
    /// How often each of the student's own layers runs.
    pub layer_repeats: usize,
    /// The teacher, if there is one.
    pub teacher: Option<&'a DecoderConfig>,
    /// Positions of a row.
    pub sequence_length: usize,
}

impl PassInputs<'_> {
    /// The student that enters, without repeats of layers.
    pub fn own_layers(&self) -> DecoderConfig {
        let layers = 0..self.student.num_hidden_layers;
        let layers: Vec<usize> = layers.step_by(self.layer_repeats).collect();
        self.student.with_layers(&layers)
    }
}

/// Something that headers show to be wrong with a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassFault {
    /// Its key below that of the pass, such as `overrides.0.layers`; empty for the pass itself.
    pub key: String,
    /// The remark under the key.
    pub label: String,
    /// The fault, which points nowhere yet.
    pub fault: Box<Diagnostic>,
}

impl PassFault {
    fn at(key: impl Into<String>, label: impl Into<String>, fault: Diagnostic) -> Self {
        Self {
            key: key.into(),
            label: label.into(),
            fault: Box::new(fault),
        }
    }
}

impl PassPlan {
    /// The pass that a plan is of.
    pub fn pass(&self) -> &dyn Pass {
        match self {
            Self::Distill(pass) => &**pass,
            Self::Prune(pass) => pass,
            Self::Shrink(pass) => pass,
            Self::Quantize(pass) => pass,
        }
    }

    /// How it trains, if it does.
    pub fn fit(&self) -> Option<&FitPlan> {
        self.pass().fit()
    }

    /// The keys of a pass that quantises, if it does.
    pub fn quantize(&self) -> Option<&QuantizePlan> {
        let Self::Quantize(plan) = self else {
            return None;
        };
        Some(plan)
    }

    /// Short name, as in the recipe.
    pub fn name(&self) -> &'static str {
        self.word().word()
    }
}

/// What is asked of a pass while there are its keys only.
pub(crate) struct PassKeys {
    /// See [`Pass::trains`].
    pub(crate) trains: fn(Fields<'_>) -> bool,
    /// See [`Pass::prunes`].
    pub(crate) prunes: fn(Option<Fields<'_>>) -> bool,
    /// See [`Pass::contradictions`].
    pub(crate) contradictions: fn(Fields<'_>, &mut Vec<Diagnostic>),
}

impl PassKeys {
    /// Of the pass with this name.
    pub(crate) fn of(word: PassWord) -> Self {
        match word {
            PassWord::Distill => Self::of_pass::<FitPlan>(),
            PassWord::Prune => Self::of_pass::<PrunePlan>(),
            PassWord::Shrink => Self::of_pass::<ShrinkPlan>(),
            PassWord::Quantize => Self::of_pass::<QuantizePlan>(),
        }
    }

    fn of_pass<T: Pass>() -> Self {
        Self {
            trains: T::trains,
            prunes: T::prunes,
            contradictions: T::contradictions,
        }
    }
}

/// The architecture of the student that enters each pass, and at the end of the one that leaves the last; or the pass that
/// cannot take what enters it.
pub fn configs_of_passes(
    passes: &[PassPlan],
    first: &DecoderConfig,
) -> Result<Vec<DecoderConfig>, (usize, PassFault)> {
    let mut configs = vec![first.clone()];
    for (pass_idx, pass) in passes.iter().enumerate() {
        let left = pass.pass().leaves(&configs[pass_idx]);
        configs.push(left.map_err(|fault| (pass_idx, fault))?);
    }
    Ok(configs)
}

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

/// Runs one pass, and gives back the memory that it alone needed.
pub fn apply(
    pass: &PassPlan,
    student: Student,
    context: &PassContext<'_>,
) -> Result<Student, PassError> {
    let student = pass.pass().apply(student, context)?;
    allocator::give_freed_pages_back();
    Ok(student)
}

/// Deletes what only an unfinished pass needs from the folder of a finished one.
pub fn discard(dir: &Path) -> io::Result<()> {
    state::discard(dir)?;
    quantize::discard(dir)
}

/// Tells whether [`discard`] would delete what lies at this place inside of the folder.
pub fn is_temporary(inside: &Path) -> bool {
    state::is_state(inside) || quantize::is_of_finished_layers(inside)
}

/// What a pass measures over the first training rows, with its own name and signal.
fn calibration<'a>(context: &PassContext<'a>, num_tokens: usize) -> Calibration<'a> {
    Calibration {
        rows: context.rows,
        num_tokens,
        label: context.label,
        is_silent: false,
        stop: context.stop,
    }
}

/// The error of a pass whose folder cannot be written to or read.
fn saved<T>(context: &PassContext<'_>, outcome: io::Result<T>) -> Result<T, FitError> {
    outcome.map_err(|source| FitError::Save {
        label: context.label.to_owned(),
        source,
    })
}
