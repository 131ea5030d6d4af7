//! Checks of a pass's schemes against the headers of the student.

use super::{QuantizePlan, SchemePlan, SensitivityPlan, WIDTHS, schemes};
use crate::diag::Diagnostic;
use crate::model::{
    DecoderConfig, ParameterKind, ParameterSpec, Schemes, uneven_groups, unlike_parts,
};
use crate::passes::PassFault;

/// Refuses schemes that do not fit their projections, or that differ where engines join projections.
///
/// `config` has the student's own layers.
pub(super) fn check(plan: &QuantizePlan, config: &DecoderConfig) -> Result<(), PassFault> {
    let schemes = schemes(plan, config);
    layers_exist(plan, config)?;
    output_is_its_own(plan, config)?;
    groups(plan, &schemes, config)?;
    parts_are_alike(&schemes, config)?;
    parts_are_chosen_whole(plan, config)
}

fn layers_exist(plan: &QuantizePlan, config: &DecoderConfig) -> Result<(), PassFault> {
    let num_layers = config.num_hidden_layers;
    for (idx, one) in plan.overrides.iter().enumerate() {
        let layers = one.layers.iter().flatten();
        if let Some(layer) = layers.copied().find(|&layer| layer >= num_layers) {
            let fact = format!("the student has no layer {layer}");
            let fault = Diagnostic::new("quantize/layers", fact)
                .help(format!("layers count from 0 to {}", num_layers - 1));
            let key = format!("overrides.{idx}.layers");
            return Err(PassFault::at(key, "past the last layer", fault));
        }
    }
    Ok(())
}

/// Refuses a scheme for a tied output layer, which is the embedding and has its scheme.
fn output_is_its_own(plan: &QuantizePlan, config: &DecoderConfig) -> Result<(), PassFault> {
    if plan.output.is_none() || !config.tie_word_embeddings {
        return Ok(());
    }
    let fact =
        "the student's output layer has no matrix of its own: it is `model.embed_tokens.weight`";
    let fault = Diagnostic::new("quantize/tied-output", fact)
        .help("write `embedding` in place of `output`");
    Err(PassFault::at("output", "there is no such matrix", fault))
}

fn groups(plan: &QuantizePlan, schemes: &Schemes, config: &DecoderConfig) -> Result<(), PassFault> {
    let Some((spec, group_size)) = uneven_groups(schemes, config) else {
        return Ok(());
    };
    let columns = spec.shape[1];
    let fact = format!(
        "`group_size` {group_size} does not divide the {columns} columns of `{}`",
        spec.name
    );
    let (of, help) = match spec.kind() {
        ParameterKind::Embedding => ("embedding.group_size", "use a divisor, or `channel`"),
        ParameterKind::Head => ("output.group_size", "use a divisor, or `channel`"),
        _ => (
            match plan.scheme.group_size {
                Some(size) if size == group_size => "group_size",
                _ => "overrides",
            },
            "use a divisor, or `channel`, for all projections or in an override",
        ),
    };
    let fault = Diagnostic::new("quantize/uneven-groups", fact).help(help);
    let label = format!(
        "{columns} / {group_size} leaves {} over",
        columns % group_size
    );
    Err(PassFault::at(of, label, fault))
}

fn parts_are_alike(schemes: &Schemes, config: &DecoderConfig) -> Result<(), PassFault> {
    let Some([one, other]) = unlike_parts(schemes, config) else {
        return Ok(());
    };
    let scheme_text = |spec: &ParameterSpec| match schemes.get(&spec.id) {
        Some(scheme) => scheme.to_string(),
        None => "not quantised".to_owned(),
    };
    let fact = format!(
        "`{one}` and `{other}` are one matrix in engines, but have two schemes: {}, and {}",
        scheme_text(&one),
        scheme_text(&other),
        one = one.name,
        other = other.name,
    );
    let fault = Diagnostic::new("quantize/unlike-parts", fact).help(
        "name both in one override: `q_proj`, `k_proj` and `v_proj`, or `gate_proj` and `up_proj`",
    );
    Err(PassFault::at("overrides", "separates them", fault))
}

/// Refuses, under a budget, overrides that name only some projections of a part: the part's width might differ from
/// theirs.
fn parts_are_chosen_whole(plan: &QuantizePlan, config: &DecoderConfig) -> Result<(), PassFault> {
    let has_budget = |sensitivity: &SensitivityPlan| sensitivity.budget.is_some();
    if !plan.sensitivity.as_ref().is_some_and(has_budget) {
        return Ok(());
    }
    for bits in WIDTHS {
        let scheme = SchemePlan {
            bits,
            ..plan.scheme
        };
        let uniform = QuantizePlan {
            scheme,
            ..plan.clone()
        };
        parts_are_alike(&schemes(&uniform, config), config)?;
    }
    Ok(())
}
