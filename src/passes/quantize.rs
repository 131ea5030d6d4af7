//! Quantisation: every projection gets the scheme that the plan has for it.

use crate::model::grid::{Grid, Levels};
use crate::model::{DecoderConfig, ParameterKind, Scheme, Schemes, parameter_specs};
use crate::recipe::{Activations, NumberType, QuantizePlan, SchemePlan};

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
