//! Quantisation: every projection, the embedding and the output layer get the scheme that the plan has for them.

mod budget;
mod calibrate;
mod measure_parts;
mod plan;
mod rounding;
mod rules;
mod sensitivity;

use std::collections::BTreeMap;

pub use self::budget::Choice;
pub use self::calibrate::QuantizeError;
use self::calibrate::{FinishedLayers, calibrate, check_finite};
pub(super) use self::calibrate::{discard, is_of_finished_layers};
use self::measure_parts::measure_parts;
pub(crate) use self::plan::group_size;
pub use self::plan::{
    Activations, BudgetPlan, CalibratedPlan, GptqPlan, NumberType, OverridePlan, QuantizeMethod,
    QuantizePlan, SchemePlan, SensitivityPlan,
};
pub(super) use self::plan::{QUANTIZE, trains};
pub use self::rounding::Rounding;
pub(super) use self::rules::check;
pub use self::sensitivity::{Cost, Part, Sensitivity, WIDTHS};
use super::distill::distill;
use super::{PassError, calibration, saved};
use crate::kernels::grid::{Grid, Levels};
use crate::model::{
    DecoderConfig, ParameterKind, ParameterSpec, Scheme, Schemes, WeightId, parameter_specs,
};
use crate::progress::say;
use crate::student::Student;
use crate::train::fit::FitContext;

/// Puts the student on the grids of the plan: by rounding, by what its weights see, or by training with the rounding in the
/// loop. Training is preceded by a measurement of what rounding alone costs.
pub fn quantize(
    plan: &QuantizePlan,
    student: Student,
    context: &FitContext<'_>,
) -> Result<Student, PassError> {
    let schemes = match &plan.sensitivity {
        Some(sensitivity) => measured_schemes(plan, sensitivity, &student, context)?,
        None => schemes(plan, &student.decoder.config),
    };
    let on_grids = |student: Student| Student {
        schemes,
        scales: BTreeMap::new(), // those that it has are of other schemes
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

/// The schemes of a student whose sensitivity is measured, and which may have a budget.
fn measured_schemes(
    plan: &QuantizePlan,
    sensitivity: &SensitivityPlan,
    student: &Student,
    context: &FitContext<'_>,
) -> Result<Schemes, PassError> {
    let config = &student.decoder.config;
    let found = measure_parts(plan, sensitivity.tokens, student, context)?;
    let mut schemes = schemes(plan, config);
    let Some(budget) = &sensitivity.budget else {
        return Ok(schemes);
    };
    let choice = Choice::best(&found, budget);
    say(&format!("{}: {choice}", context.label));
    saved(context, choice.write(context.dir))?;
    for spec in parameter_specs(config) {
        let bits = Part::of(&spec).and_then(|(layer, part)| choice.bits_of(layer, part));
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

/// The schemes of a student of this architecture.
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

/// Puts a student that has its schemes on its grids by what the first training rows show; finished layers are kept in the
/// folder of the pass.
fn calibrated(
    plan: &CalibratedPlan,
    student: Student,
    context: &FitContext<'_>,
) -> Result<Student, PassError> {
    let finished = FinishedLayers {
        dir: context.dir,
        key: context.key,
    };
    let calibration = calibration(context, plan.calibration_tokens);
    let student = calibrate(student, plan, &calibration, &finished)?;
    Ok(student)
}

/// What a plan says of this weight alone: the last that names it.
pub(super) fn override_of(plan: &QuantizePlan, id: WeightId) -> Option<&OverridePlan> {
    let layer = id.layer?;
    let mut own = plan.overrides.iter().rev();
    own.find(|one| one.names(layer, id.part.word()))
}

/// The scheme that a plan stands for.
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
