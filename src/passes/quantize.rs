//! Quantisation: every projection gets the scheme that the plan has for it.

use std::collections::BTreeMap;

use super::{PassError, Rounding, calibration, distill};
use crate::model::grid::{Grid, Levels};
use crate::model::{DecoderConfig, ParameterKind, Scheme, Schemes, parameter_specs};
use crate::quantization::{self, FinishedLayers, check_finite};
use crate::recipe::{
    Activations, CalibratedPlan, NumberType, QuantizeMethod, QuantizePlan, SchemePlan,
};
use crate::student::Student;
use crate::train::fit::FitContext;

/// Puts the student on the grids of the plan: by rounding, by what its weights see, or by training with the rounding in the
/// loop. Training is preceded by a measurement of what rounding alone costs.
pub fn quantize(
    plan: &QuantizePlan,
    student: Student,
    context: &FitContext<'_>,
) -> Result<Student, PassError> {
    let schemes = schemes(plan, &student.decoder.config);
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
        QuantizeMethod::Calibrated(plan) => calibrate(plan, on_grids(student), context),
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

/// The schemes of a student of this architecture, by the name of the weight.
pub fn schemes(plan: &QuantizePlan, config: &DecoderConfig) -> Schemes {
    let specs = parameter_specs(config).into_iter();
    let of = |name: &str| {
        let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (layer, module) = (layer.parse().ok()?, part.split('.').rev().nth(1)?);
        let own = plan.overrides.iter().rev();
        let mut own = own.filter(|one| one.names(layer, module));
        match own.next() {
            Some(one) => one.scheme,
            None => Some(plan.scheme),
        }
    };
    specs
        .filter(|spec| spec.kind == ParameterKind::Linear)
        .filter_map(|spec| Some((scheme(of(&spec.name)?), spec.name)))
        .map(|(scheme, name)| (name, scheme))
        .collect()
}

/// Puts a student that has its schemes on its grids by what the first training rows show; finished layers are kept in the
/// folder of the pass.
fn calibrate(
    plan: &CalibratedPlan,
    student: Student,
    context: &FitContext<'_>,
) -> Result<Student, PassError> {
    let finished = FinishedLayers {
        dir: context.dir,
        key: context.key,
    };
    let calibration = calibration(context, plan.calibration_tokens);
    let student = quantization::calibrate(student, plan, &calibration, &finished)?;
    Ok(student)
}

fn scheme(plan: SchemePlan) -> Scheme {
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
