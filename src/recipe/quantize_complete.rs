//! From checked fields to the plan of a quantising pass; a part of `complete.rs`.

use super::calibrated_plan::{CalibratedPlan, GptqPlan};
use super::fields::Fields;
use super::quantize_plan::{
    Activations, BudgetPlan, NumberType, OverridePlan, QuantizeMethod, QuantizeWord, SchemePlan,
    SensitivityPlan,
};

/// What a budget measures on if `sensitivity` is not written, as its own default.
const SENSITIVITY_TOKENS: usize = 2048;

/// How weights reach their grids without training.
pub(super) fn without_training(method: QuantizeWord, fields: &Fields) -> Option<QuantizeMethod> {
    let clip = fields.get("clip")?;
    let gptq = if method.is_gptq() {
        Some(GptqPlan {
            act_order: fields.get("act_order")?,
            damping: fields.get("damping")?,
        })
    } else if method.is_awq() || clip {
        None
    } else {
        return Some(QuantizeMethod::RoundToNearest);
    };
    Some(QuantizeMethod::Calibrated(CalibratedPlan {
        awq: method.is_awq(),
        clip,
        gptq,
        calibration_tokens: fields.get("calibration_tokens")?,
    }))
}

/// How projections are quantised.
pub(super) fn scheme(fields: &Fields) -> Option<SchemePlan> {
    Some(SchemePlan {
        activations: fields.get("activations")?,
        ..weights(fields)?
    })
}

/// How weights are quantised, whatever they are multiplied by.
pub(super) fn weights(fields: &Fields) -> Option<SchemePlan> {
    Some(SchemePlan {
        bits: u32::try_from(bits(fields)?).ok()?,
        group_size: group_size(fields).map(usize::try_from).transpose().ok()?,
        number: fields.get("type")?,
        symmetric: fields.get("symmetric")?,
        activations: Activations::None,
    })
}

/// Whether something is measured first: the recipe asks for it, or a budget needs it.
pub(super) fn is_measured(fields: &Fields) -> bool {
    fields.block("sensitivity").is_some() || fields.block("bits").is_some()
}

/// What is measured first.
pub(super) fn sensitivity(fields: &Fields) -> Option<SensitivityPlan> {
    Some(SensitivityPlan {
        tokens: match fields.block("sensitivity") {
            Some(written) => written.get("tokens")?,
            None => SENSITIVITY_TOKENS,
        },
        budget: match fields.block("bits") {
            Some(bits) => {
                let mut widths: Vec<u32> = bits.get("widths")?;
                widths.sort_unstable();
                Some(BudgetPlan {
                    budget: bits.get("budget")?,
                    widths,
                })
            }
            None => None,
        },
    })
}

/// Projections that have a scheme of their own.
pub(super) fn overrides(fields: &Fields) -> Option<Vec<OverridePlan>> {
    let one = |fields: &Fields| {
        let keep: bool = fields.get("keep")?;
        Some(OverridePlan {
            modules: fields.get("modules")?,
            layers: fields.get("layers"),
            scheme: if keep { None } else { Some(scheme(fields)?) },
        })
    };
    let items = fields.items("overrides").iter();
    items.map(|item| one(item.as_block()?)).collect()
}

/// Width of a weight.
fn bits(fields: &Fields) -> Option<u64> {
    if fields.is_written("bits") && fields.block("bits").is_none() {
        return fields.get("bits");
    }
    Some(match fields.get("type")? {
        NumberType::Fp8 => 8,
        NumberType::Ternary | NumberType::Stretched => 2,
        NumberType::Int => 4,
    })
}

/// Weights that share a scale; `None` is one scale per row. By default 32 below 8 bits, the group that
/// compressed-tensors, GGUF, GPTQ and AWQ share, and rows with 8 bits, where groups gain little.
pub(super) fn group_size(fields: &Fields) -> Option<u64> {
    if fields.is_written("group_size") {
        return fields.get("group_size");
    }
    (bits(fields)? < 8).then_some(32)
}
