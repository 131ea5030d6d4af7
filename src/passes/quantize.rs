//! Quantisation: every projection gets the scheme that the plan has for it.

use super::{PassError, calibration};
use crate::model::grid::{Grid, Levels};
use crate::model::{DecoderConfig, ParameterKind, Scheme, Schemes, parameter_specs};
use crate::quantization::{self, FinishedLayers};
use crate::recipe::{Activations, CalibratedPlan, NumberType, QuantizePlan, SchemePlan};
use crate::student::Student;
use crate::train::fit::FitContext;

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
pub(super) fn calibrate(
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
