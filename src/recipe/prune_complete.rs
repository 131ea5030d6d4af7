//! From checked fields to the plan of pruning; a part of `complete.rs`.

use super::fields::Fields;
use super::prune_plan::{
    GradualPlan, LayersBy, Pattern, PruneMethod, PrunePlan, ShrinkPlan, ShrinkSizes, ShrinkTarget,
    Side, Within, Zeros,
};

pub(super) fn prune(fields: &Fields) -> Option<PrunePlan> {
    Some(PrunePlan {
        method: method(fields)?,
        zeros: zeros(fields)?,
        calibration_tokens: fields.get("calibration_tokens")?,
    })
}

pub(super) fn gradual(fields: &Fields, steps: usize) -> Option<GradualPlan> {
    Some(GradualPlan {
        method: method(fields)?,
        sparsity: fields.get("sparsity")?,
        within: within(fields)?,
        from_step: fields.get("from_step")?,
        to_step: match fields.get("to_step") {
            Some(step) => step,
            None => usize::try_from(to_step(steps as u64)).ok()?,
        },
        every: fields.get("every")?,
        calibration_tokens: fields.get("calibration_tokens")?,
    })
}

/// The step before which the last weights go, where it is not written: a quarter of the pass is left to make up for them.
pub(super) fn to_step(steps: u64) -> u64 {
    steps * 3 / 4
}

fn method(fields: &Fields) -> Option<PruneMethod> {
    Some(match fields.get::<String>("method")?.as_str() {
        "magnitude" => PruneMethod::Magnitude,
        "sparsegpt" => PruneMethod::SparseGpt {
            damping: fields.get("damping")?,
        },
        _ => PruneMethod::Wanda,
    })
}

fn zeros(fields: &Fields) -> Option<Zeros> {
    Some(match fields.get::<String>("pattern").as_deref() {
        Some("2:4") => Zeros::Pattern {
            pattern: Pattern::TwoOfFour,
        },
        Some(_) => Zeros::Pattern {
            pattern: Pattern::FourOfEight,
        },
        None => Zeros::Share {
            sparsity: fields.get("sparsity")?,
            within: within(fields)?,
        },
    })
}

fn within(fields: &Fields) -> Option<Within> {
    Some(match fields.get::<String>("within").as_deref() {
        Some("matrix") => Within::Matrix,
        None if matches!(method(fields)?, PruneMethod::SparseGpt { .. }) => Within::Matrix,
        _ => Within::Row,
    })
}

pub(super) fn shrink(fields: &Fields) -> Option<ShrinkPlan> {
    let side = |name: &String| match name.as_str() {
        "num_hidden_layers" => Side::NumHiddenLayers,
        "hidden_size" => Side::HiddenSize,
        "intermediate_size" => Side::IntermediateSize,
        _ => Side::NumKeyValueHeads,
    };
    Some(ShrinkPlan {
        target: match fields.get("parameters") {
            Some(parameters) => ShrinkTarget::Parameters {
                parameters,
                along: fields
                    .get::<Vec<String>>("along")?
                    .iter()
                    .map(side)
                    .collect(),
            },
            None => ShrinkTarget::Sizes(ShrinkSizes {
                num_hidden_layers: fields.get("num_hidden_layers"),
                hidden_size: fields.get("hidden_size"),
                intermediate_size: fields.get("intermediate_size"),
                num_key_value_heads: fields.get("num_key_value_heads"),
            }),
        },
        layers_by: match fields.get::<String>("layers_by")?.as_str() {
            "loss" => LayersBy::Loss,
            _ => LayersBy::Influence,
        },
        contiguous: fields.get("contiguous")?,
        calibration_tokens: fields.get("calibration_tokens")?,
    })
}
