//! Passes: each takes a student and returns a student.

mod distill;
mod prune;
pub mod quantize;
mod removed;
mod shrink;

use std::io;
use std::path::Path;

use serde::Serialize;
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
use crate::cost::{StageCost, Text};
use crate::diag::Diagnostic;
use crate::model::{DecoderConfig, Schemes};
use crate::recipe::{Fields, Kind, choice};
use crate::student::Student;
use crate::train::fit::PassContext;
use crate::train::{FitError, FitPlan, state};

choice! {
    pub enum PassPlan of PassWord in PASS = "pass", "One pass: takes a student and returns a student. `--set distill.steps=200` sets a key of every `distill` pass." {
        Distill(Box<FitPlan>) = "distill" also ["kd", "distillation", "train", "finetune", "sft"], Kind::Block(&DISTILL), "train against the cache and the text";
        Prune(PrunePlan) = "prune" also ["sparsify", "pruning"], Kind::Block(&PRUNE), "zero the least useful weights";
        Shrink(ShrinkPlan) = "shrink" also ["depth_prune", "width_prune", "cut"], Kind::Block(&SHRINK), "remove the least useful layers, channels, heads or dimensions";
        Quantize(QuantizePlan) = "quantize" also ["quant", "quantise", "quantization", "qat", "gptq", "awq"], Kind::Block(&QUANTIZE), "put the weights on a quantised grid; the last pass";
    }
}

/// Operations that a run needs of every pass.
pub trait Pass {
    /// Reports contradictions among the pass's keys in a recipe.
    fn contradictions(fields: Fields<'_>, faults: &mut Vec<Diagnostic>)
    where
        Self: Sized;

    /// True if a pass with these keys trains and has its number of steps.
    fn trains(_fields: Fields<'_>) -> bool
    where
        Self: Sized,
    {
        false
    }

    /// True if a pass with these keys zeroes weights; the keys are `None` if the recipe holds no block there.
    fn prunes(_fields: Option<Fields<'_>>) -> bool
    where
        Self: Sized,
    {
        false
    }

    /// Training plan, if the pass trains.
    fn fit(&self) -> Option<&FitPlan> {
        None
    }

    /// Architecture of the student after the pass.
    fn leaves(&self, student: &DecoderConfig) -> Result<DecoderConfig, PassFault> {
        Ok(student.clone())
    }

    /// Refuses faults that headers show.
    fn check(&self, inputs: &PassInputs<'_>) -> Result<(), PassFault>;

    /// Adds the pass's own cost, without what is done of it, to that of measuring the student.
    fn add_cost(&self, cost: &mut StageCost, inputs: &PassInputs<'_>);

    /// Part that an interrupted run has done in the pass's unfinished folder, if a run would go on from it.
    fn part_done(&self, _dir: &Path, _student: &DecoderConfig) -> Option<PartDone> {
        None
    }

    /// True if, from this pass on, the model that runs has its own weights beside the free ones.
    fn runs_apart(&self) -> bool {
        false
    }

    /// Schemes of a student of this architecture after the pass, before any budget; `None` if the pass uses no grids.
    fn schemes(&self, _student: &DecoderConfig) -> Option<Schemes> {
        None
    }

    /// Remarks on what the pass will do to a student of this architecture.
    fn notes(&self, _inputs: &PassInputs<'_>) -> Vec<String> {
        Vec::new()
    }

    /// Runs the pass and returns its student.
    fn apply(&self, student: Student, context: &PassContext<'_>) -> Result<Student, PassError>;

    /// Reads the pass's own part of the report from its folder; the figures of its student are not in it.
    fn report(&self, _dir: &Path) -> io::Result<PassReport> {
        Ok(PassReport::default())
    }
}

/// Part of the report that a pass adds to the figures of its student.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PassReport {
    /// Parts that it removed.
    pub removed: Option<Removed>,
    /// Cost of quantising.
    pub quantized: Option<QuantizeReport>,
}

/// Facts about the models of a pass that are known before it runs.
#[derive(Debug, Clone, Copy)]
pub struct PassInputs<'a> {
    /// The student before the pass.
    pub student: &'a DecoderConfig,
    /// The student after the pass.
    pub left: &'a DecoderConfig,
    /// Number of times that each of the student's own layers runs.
    pub layer_repeats: usize,
    /// The teacher, if there is one.
    pub teacher: Option<&'a DecoderConfig>,
    /// The validation text.
    pub(crate) validation: Text,
    /// Number of its steps or layers that an interrupted run has done; see [`PartDone`].
    pub done: u64,
}

/// Part of a stage that an interrupted run has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PartDone {
    /// Units done.
    pub done: u64,
    /// Units of the whole stage.
    pub of: u64,
    /// Name of the units.
    pub unit: &'static str,
}

impl PassInputs<'_> {
    /// So many positions of the training text.
    pub(crate) fn training(&self, tokens: usize) -> Text {
        Text {
            tokens: tokens as u64,
            ..self.validation
        }
    }

    /// The student before the pass, without repeats of layers.
    pub fn own_layers(&self) -> DecoderConfig {
        let layers = 0..self.student.num_hidden_layers;
        let layers: Vec<usize> = layers.step_by(self.layer_repeats).collect();
        self.student.with_layers(&layers)
    }
}

/// Fault of a pass that headers show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassFault {
    /// Key within the pass, such as `overrides.0.layers`; empty for the pass itself.
    pub key: String,
    /// Label under the key.
    pub label: String,
    /// The fault, not yet located in the recipe.
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
    /// The pass of this plan.
    pub fn pass(&self) -> &dyn Pass {
        match self {
            Self::Distill(pass) => &**pass,
            Self::Prune(pass) => pass,
            Self::Shrink(pass) => pass,
            Self::Quantize(pass) => pass,
        }
    }

    /// Training plan, if the pass trains.
    pub fn fit(&self) -> Option<&FitPlan> {
        self.pass().fit()
    }

    /// Training plan that the reader of a recipe completes.
    pub(crate) fn fit_mut(&mut self) -> Option<&mut FitPlan> {
        match self {
            Self::Distill(fit) => Some(fit),
            Self::Quantize(plan) => match &mut plan.method {
                QuantizeMethod::Qat(fit) => Some(fit),
                QuantizeMethod::RoundToNearest | QuantizeMethod::Calibrated(_) => None,
            },
            Self::Prune(_) | Self::Shrink(_) => None,
        }
    }

    /// Plan of a quantising pass, if it is one.
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

/// Functions of a pass that need only its keys.
pub(crate) struct PassKeys {
    /// See [`Pass::trains`].
    pub(crate) trains: fn(Fields<'_>) -> bool,
    /// See [`Pass::prunes`].
    pub(crate) prunes: fn(Option<Fields<'_>>) -> bool,
    /// See [`Pass::contradictions`].
    pub(crate) contradictions: fn(Fields<'_>, &mut Vec<Diagnostic>),
}

impl PassKeys {
    /// Functions of the pass with this name.
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

/// Architectures of the student before each pass and, at the end, after the last; the error comes from the pass that
/// refuses its student.
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

/// Error that ends a pass early.
#[derive(Debug, Error)]
pub enum PassError {
    /// Training ended early.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// A signal asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Pruning failed.
    #[error(transparent)]
    Prune(PruneError),
    /// Quantising failed.
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

/// Runs one pass and then returns the memory that only it needed.
pub fn apply(
    pass: &PassPlan,
    student: Student,
    context: &PassContext<'_>,
) -> Result<Student, PassError> {
    let student = pass.pass().apply(student, context)?;
    allocator::give_freed_pages_back();
    Ok(student)
}

/// Deletes the files that only an unfinished pass needs from the folder of a finished one.
pub fn discard(dir: &Path) -> io::Result<()> {
    state::discard(dir)?;
    quantize::discard(dir)
}

/// True if [`discard`] would delete the file at this path inside the folder.
pub fn is_temporary(inside: &Path) -> bool {
    state::is_state(inside) || quantize::is_of_finished_layers(inside)
}

/// Settings for measuring on the first training rows, with the pass's own name and signal.
fn calibration<'a>(context: &PassContext<'a>, num_tokens: usize) -> Calibration<'a> {
    Calibration {
        rows: context.rows,
        num_tokens,
        label: context.label,
        is_silent: false,
        stop: context.stop,
    }
}

/// Turns an I/O error in the folder of a pass into that of the pass.
fn saved<T>(context: &PassContext<'_>, outcome: io::Result<T>) -> Result<T, FitError> {
    outcome.map_err(|source| FitError::Save {
        label: context.label.to_owned(),
        source,
    })
}
