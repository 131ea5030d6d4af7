//! From checked fields to the plan of pruning; a part of `complete.rs`.

use super::fields::Fields;
use super::prune_plan::{
    GradualPlan, GradualWord, PruneMethod, PrunePlan, PruneWord, ShrinkPlan, ShrinkSizes,
    ShrinkTarget, Within, Zeros,
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
        method: match fields.get("method")? {
            GradualWord::Magnitude => PruneMethod::Magnitude,
            GradualWord::Wanda => PruneMethod::Wanda,
        },
        sparsity: fields.get("sparsity")?,
        within: fields.get("within")?,
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
    Some(match fields.get("method")? {
        PruneWord::Magnitude => PruneMethod::Magnitude,
        PruneWord::Wanda => PruneMethod::Wanda,
        PruneWord::SparseGpt => PruneMethod::SparseGpt {
            damping: fields.get("damping")?,
        },
    })
}

fn zeros(fields: &Fields) -> Option<Zeros> {
    Some(match fields.get("pattern") {
        Some(pattern) => Zeros::Pattern { pattern },
        None => Zeros::Share {
            sparsity: fields.get("sparsity")?,
            within: within(fields)?,
        },
    })
}

fn within(fields: &Fields) -> Option<Within> {
    let by_method = match method(fields)? {
        PruneMethod::SparseGpt { .. } => Within::Matrix,
        PruneMethod::Magnitude | PruneMethod::Wanda => Within::Row,
    };
    Some(fields.get("within").unwrap_or(by_method))
}

pub(super) fn shrink(fields: &Fields) -> Option<ShrinkPlan> {
    Some(ShrinkPlan {
        target: match fields.get("parameters") {
            Some(parameters) => ShrinkTarget::Parameters {
                parameters,
                along: fields.get("along")?,
            },
            None => ShrinkTarget::Sizes(ShrinkSizes {
                num_hidden_layers: fields.get("num_hidden_layers"),
                hidden_size: fields.get("hidden_size"),
                intermediate_size: fields.get("intermediate_size"),
                num_key_value_heads: fields.get("num_key_value_heads"),
            }),
        },
        layers_by: fields.get("layers_by")?,
        contiguous: fields.get("contiguous")?,
        calibration_tokens: fields.get("calibration_tokens")?,
    })
}
