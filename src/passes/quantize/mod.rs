//! Quantisation: every projection, the embedding and the output layer get the scheme that the plan has for them.

mod budget;
mod calibrate;
mod check;
mod measure_parts;
mod plan;
mod rounding;
mod rules;
mod sensitivity;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Instant;

pub use self::budget::Choice;
pub use self::calibrate::QuantizeError;
use self::calibrate::{FinishedLayers, calibrate, check_finite};
pub(super) use self::calibrate::{discard, is_of_finished_layers};
use self::measure_parts::measure_parts;
pub(super) use self::plan::QUANTIZE;
use self::plan::QuantizeWord;
pub(crate) use self::plan::group_size;
pub use self::plan::{
    Activations, BudgetPlan, CalibratedPlan, GptqPlan, NumberType, OverridePlan, QuantizeMethod,
    QuantizePlan, SchemePlan, SensitivityPlan,
};
pub use self::rounding::Rounding;
use self::rules::contradictions;
pub use self::sensitivity::{Cost, LayerPart, Sensitivity, WIDTHS};
use super::distill::{check_layers, distill};
use super::{PartDone, Pass, PassError, PassFault, PassInputs, PassReport, calibration, saved};
use crate::cost::{self, CalibrationSteps, F32_BYTES, LOSS_BYTES, StageCost, Text};
use crate::diag::Diagnostic;
use crate::kernels::grid::{Grid, Levels};
use crate::model::{
    DecoderConfig, ParameterKind, ParameterSpec, Scheme, Schemes, WeightId, num_parameters,
    parameter_specs,
};
use crate::progress::log;
use crate::rates::{self, Work, WorkKind};
use crate::recipe::Fields;
use crate::student::Student;
use crate::train::FitPlan;
use crate::train::fit::PassContext;

impl Pass for QuantizePlan {
    fn contradictions(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
        contradictions(fields, faults);
    }

    fn trains(fields: Fields<'_>) -> bool {
        fields.get("method") == Some(QuantizeWord::Qat) && fields.is_written("steps")
    }

    fn fit(&self) -> Option<&FitPlan> {
        match &self.method {
            QuantizeMethod::Qat(fit) => Some(fit),
            QuantizeMethod::RoundToNearest | QuantizeMethod::Calibrated(_) => None,
        }
    }

    fn check(&self, inputs: &PassInputs<'_>) -> Result<(), PassFault> {
        check::check(self, &inputs.own_layers())?;
        match self.fit() {
            Some(fit) => check_layers(fit, inputs),
            None => Ok(()),
        }
    }

    fn add_cost(&self, cost: &mut StageCost, inputs: &PassInputs<'_>) {
        if let Some(fit) = self.fit() {
            fit.add_cost(cost, inputs);
        }
        if let Some(sensitivity) = &self.sensitivity {
            add_sensitivity(cost, sensitivity, inputs);
        }
        if let QuantizeMethod::Calibrated(plan) = &self.method {
            add_calibration(cost, plan, inputs);
        }
    }

    fn part_done(&self, dir: &Path, student: &DecoderConfig) -> Option<PartDone> {
        match &self.method {
            QuantizeMethod::Qat(fit) => fit.part_done(dir, student),
            QuantizeMethod::Calibrated(_) => {
                let done = calibrate::num_finished(dir);
                (done > 0).then_some(PartDone {
                    done: done as u64,
                    of: student.num_hidden_layers as u64,
                    unit: "layers",
                })
            }
            QuantizeMethod::RoundToNearest => None,
        }
    }

    fn runs_apart(&self) -> bool {
        true
    }

    fn schemes(&self, student: &DecoderConfig) -> Option<Schemes> {
        Some(schemes(self, student))
    }

    fn apply(&self, student: Student, context: &PassContext<'_>) -> Result<Student, PassError> {
        quantize(self, student, context)
    }

    fn report(&self, dir: &Path) -> io::Result<PassReport> {
        let quantized = QuantizeReport {
            rounding: Rounding::read(dir)?,
            only_rounds: self.method == QuantizeMethod::RoundToNearest,
            sensitivity: Sensitivity::read(dir)?,
            choice: Choice::read(dir)?,
        };
        Ok(PassReport {
            quantized: Some(quantized),
            ..PassReport::default()
        })
    }
}

/// Report of a pass that quantised.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizeReport {
    /// Cost of rounding alone, if that was measured.
    pub rounding: Option<Rounding>,
    /// True if the pass did nothing but round, so that its loss is that of rounding alone.
    pub only_rounds: bool,
    /// Cost of each part of the student at each width, if that was measured.
    pub sensitivity: Option<Sensitivity>,
    /// Widths that were chosen by it.
    pub choice: Option<Choice>,
}

impl QuantizePlan {
    /// Most tokens of the training text that the pass reads before weights reach their grids.
    pub fn tokens_read(&self) -> u64 {
        let calibrated = match &self.method {
            QuantizeMethod::Calibrated(plan) => plan.calibration_tokens,
            QuantizeMethod::RoundToNearest | QuantizeMethod::Qat(_) => 0,
        };
        let sensitivity = self.sensitivity.as_ref();
        calibrated.max(sensitivity.map_or(0, |plan| plan.tokens)) as u64
    }
}

/// Adds the cost of measuring sensitivity: for each layer and width, one run per part and one for the whole layer. A run
/// starts at its layer, so on average it is half of the layers and the output matrix. Memory holds the residual stream, the
/// logits of some rows, and one layer for each width.
fn add_sensitivity(cost: &mut StageCost, sensitivity: &SensitivityPlan, inputs: &PassInputs<'_>) {
    let config = inputs.student;
    let num_layers = config.num_hidden_layers;
    let runs = (num_layers * WIDTHS.len() * (LayerPart::CHOSEN.len() + 1)) as u64;
    let text = inputs.training(sensitivity.tokens);
    let half: Vec<usize> = (0..num_layers / 2).collect();
    let run = cost::run(
        WorkKind::Evaluate,
        &config.with_layers(&half),
        text.times(runs),
    );
    cost.tokens += runs * text.tokens;
    cost.work.push(Work {
        parameters: num_parameters(config),
        ..run
    });
    let layers = num_parameters(&config.with_layers(&[])).abs_diff(num_parameters(config));
    let copies = layers / num_layers as u64 * WIDTHS.len() as u64;
    let stream = 2 * text.tokens * config.hidden_size as u64;
    cost.memory_bytes += (copies + stream) * F32_BYTES + 2 * LOSS_BYTES;
}

/// Adds the cost of calibration before weights are rounded: as for SparseGPT, except that the free weights are dropped.
/// The disk also holds the finished layers for a time.
fn add_calibration(cost: &mut StageCost, plan: &CalibratedPlan, inputs: &PassInputs<'_>) {
    let config = inputs.student;
    let text = inputs.training(plan.calibration_tokens);
    let left = 1.0 - inputs.done as f64 / config.num_hidden_layers.max(1) as f64;
    cost.tokens += text.tokens;
    cost.work
        .push(calibration_work(plan, config, text).part(left));
    cost.disk_bytes += num_parameters(config) * F32_BYTES;
    cost.add_moments(config, text.tokens);
}

/// Calibration of all layers.
fn calibration_work(plan: &CalibratedPlan, config: &DecoderConfig, text: Text) -> Work {
    let steps = CalibrationSteps {
        scales: plan.awq,
        clips: plan.clip,
        corrects: plan.gptq.is_some(),
    };
    cost::calibrate(config, text, steps)
}

/// Puts the student on the grids of the plan: by rounding, by calibration, or by training with the rounding in the loop.
/// Before training, the cost of rounding alone is measured.
fn quantize(
    plan: &QuantizePlan,
    student: Student,
    context: &PassContext<'_>,
) -> Result<Student, PassError> {
    let schemes = match &plan.sensitivity {
        Some(sensitivity) => measured_schemes(plan, sensitivity, &student, context)?,
        None => schemes(plan, &student.decoder.config),
    };
    let on_grids = |student: Student| Student {
        schemes,
        scales: BTreeMap::new(), // its present ones belong to other schemes
        ..student
    };
    match &plan.method {
        QuantizeMethod::RoundToNearest => {
            let rounded = on_grids(student);
            check_finite(&rounded)?;
            Ok(rounded)
        }
        QuantizeMethod::Calibrated(plan) => calibrated(plan, on_grids(student), context),
        QuantizeMethod::Qat(fit) => {
            let mut rounded = on_grids(student.clone());
            Rounding::measure(&student, &rounded, context)?;
            drop(student);
            if plan.learn_scales {
                rounded.learn_scales();
            }
            Ok(distill(fit, rounded, context)?)
        }
    }
}

/// Schemes of a student whose sensitivity is measured, and which may have a budget.
fn measured_schemes(
    plan: &QuantizePlan,
    sensitivity: &SensitivityPlan,
    student: &Student,
    context: &PassContext<'_>,
) -> Result<Schemes, PassError> {
    let config = &student.decoder.config;
    let found = measure_parts(plan, sensitivity.tokens, student, context)?;
    let mut schemes = schemes(plan, config);
    let Some(budget) = &sensitivity.budget else {
        return Ok(schemes);
    };
    let choice = Choice::best(&found, budget);
    log(&format!("{}: {choice}", context.label));
    saved(context, choice.write(context.dir))?;
    for spec in parameter_specs(config) {
        let bits = LayerPart::of(&spec).and_then(|(layer, part)| choice.bits_of(layer, part));
        if let Some(bits) = bits {
            let chosen = SchemePlan {
                bits,
                ..plan.scheme
            };
            schemes.insert(spec.id, scheme(chosen));
        }
    }
    Ok(schemes)
}

/// Schemes of a student of this architecture.
pub fn schemes(plan: &QuantizePlan, config: &DecoderConfig) -> Schemes {
    let specs = parameter_specs(config).into_iter();
    let of = |spec: &ParameterSpec| match spec.kind() {
        ParameterKind::Linear => match override_of(plan, spec.id) {
            Some(one) => one.scheme,
            None => Some(plan.scheme),
        },
        ParameterKind::Embedding => plan.embedding,
        ParameterKind::Head => plan.output,
        ParameterKind::Norm | ParameterKind::Bias | ParameterKind::Scale => None,
    };
    specs
        .filter_map(|spec| Some((spec.id, scheme(of(&spec)?))))
        .collect()
}

/// Puts a student that has its schemes on its grids, calibrated on the first training rows; finished layers are kept in
/// the folder of the pass.
fn calibrated(
    plan: &CalibratedPlan,
    student: Student,
    context: &PassContext<'_>,
) -> Result<Student, PassError> {
    let finished = FinishedLayers {
        dir: context.dir,
        key: context.key,
    };
    let calibration = calibration(context, plan.calibration_tokens);
    let is_whole = calibrate::num_finished(context.dir) == 0;
    let since = Instant::now();
    let student = calibrate(student, plan, &calibration, &finished)?;
    if is_whole {
        let config = student.unrolled().decoder.config;
        let work = calibration_work(plan, &config, calibration.text());
        rates::note(work, since.elapsed());
    }
    Ok(student)
}

/// Override of a weight: the last one that names it.
pub(super) fn override_of(plan: &QuantizePlan, id: WeightId) -> Option<&OverridePlan> {
    let layer = id.layer?;
    let mut own = plan.overrides.iter().rev();
    own.find(|one| one.names(layer, id.part))
}

/// Scheme of a plan.
pub(super) fn scheme(plan: SchemePlan) -> Scheme {
    let bits = plan.bits;
    let levels = match plan.number {
        NumberType::Int if plan.symmetric => Levels::Symmetric { bits },
        NumberType::Int => Levels::Asymmetric { bits },
        NumberType::Fp8 => Levels::Fp8,
        NumberType::Ternary => Levels::Ternary,
        NumberType::Stretched => Levels::Stretched,
    };
    let rounded = match levels {
        Levels::Fp8 => Levels::Fp8,
        _ => Levels::Symmetric { bits: 8 },
    };
    Scheme {
        weight: Grid {
            levels,
            group_size: plan.group_size,
        },
        input: (plan.activations == Activations::PerToken).then_some(rounded),
    }
}
