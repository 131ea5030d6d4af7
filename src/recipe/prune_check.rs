//! The rules of pruning; a part of `check.rs`.

use super::check::distinct;
use super::fields::Fields;
use super::pass_check::unused;
use super::prune_complete::to_step;
use super::prune_plan::{GradualWord, PruneWord, Side};
use super::student_plan::StudentWord;
use super::word::Word;
use crate::diag::Diagnostic;

pub(super) fn gradual(pass: &Fields, fields: &Fields, faults: &mut Vec<Diagnostic>) {
    if fields.get("method") == Some(GradualWord::Magnitude) {
        let label = "`magnitude` measures no activations";
        unused(fields, "calibration_tokens", "method", label, faults);
    }
    let (Some(steps), Some(from)) = (pass.get::<u64>("steps"), fields.get::<u64>("from_step"))
    else {
        return;
    };
    let to = match fields.get::<u64>("to_step") {
        Some(to) if to >= steps => {
            let message = format!("weights go until step {to}, but the pass has {steps}");
            faults.push(
                Diagnostic::new("recipe/late-prune", message)
                    .primary(
                        fields.span("to_step"),
                        "no step is left to make up for them",
                    )
                    .secondary(pass.span("steps"), "")
                    .help(format!("write at most `to_step: {}`", steps - 1)),
            );
            return;
        }
        Some(to) => to,
        None if fields.is_written("to_step") => return,
        None => to_step(steps),
    };
    if from >= to {
        let message = format!("weights begin to go at step {from} and have gone at step {to}");
        faults.push(
            Diagnostic::new("recipe/backward-prune", message)
                .primary(fields.span("from_step"), "not before they have all gone")
                .secondary(fields.span("to_step"), "")
                .help("write a smaller `from_step`, or a larger `to_step`"),
        );
    }
}

pub(super) fn prune(fields: &Fields, faults: &mut Vec<Diagnostic>) {
    let method = fields.get("method");
    if method == Some(PruneWord::Magnitude) {
        let label = "`magnitude` measures no activations";
        unused(fields, "calibration_tokens", "method", label, faults);
    }
    if method.is_some_and(|method| method != PruneWord::SparseGpt) {
        let label = "`sparsegpt` alone inverts what it measures";
        unused(fields, "damping", "method", label, faults);
    }
    if !fields.is_written("pattern") {
        if !fields.is_written("sparsity") && !fields.has_unknown {
            faults.push(
                Diagnostic::new("recipe/missing-key", "`prune` lacks `sparsity`")
                    .primary(fields.span("sparsity"), "zeros a share of the weights")
                    .help("add `sparsity: 0.5`, or `pattern: 2:4`"),
            );
        }
        return;
    }
    let label = "a pattern says how many weights go, and among which";
    for name in ["sparsity", "within"] {
        unused(fields, name, "pattern", label, faults);
    }
}

pub(super) fn shrink(recipe: &Fields, fields: &Fields, faults: &mut Vec<Diagnostic>) {
    shared_layers(recipe, fields, faults);
    distinct::<Side>(fields, "along", faults);
    let sizes: Vec<_> = Side::WORDS
        .iter()
        .copied()
        .filter(|size| fields.is_written(size))
        .collect();
    let by_share = fields.is_written("parameters");
    match (by_share, sizes.first()) {
        (true, Some(size)) => faults.push(
            Diagnostic::new(
                "recipe/two-targets",
                format!("`parameters` and `{size}` both say how small"),
            )
            .primary(fields.span("parameters"), "finds the sizes itself")
            .secondary(fields.span(size), "is one of them")
            .help("delete one of them; `along` names the sizes that may become smaller"),
        ),
        (false, None) if !fields.has_unknown => faults.push(
            Diagnostic::new("recipe/missing-key", "`shrink` does not say how small")
                .primary(fields.span("parameters"), "takes parts out")
                .help("add `parameters: 0.5`, or a size such as `num_hidden_layers: 24`"),
        ),
        (false, Some(size)) => {
            let label = "the sizes that become smaller are written";
            unused(fields, "along", size, label, faults);
        }
        _ => {}
    }
    let along = fields.get::<Vec<String>>("along").unwrap_or_default();
    let may_take_layers = fields.is_written("num_hidden_layers")
        || by_share && along.iter().any(|size| size == "num_hidden_layers");
    if !may_take_layers {
        for name in ["layers_by", "contiguous"] {
            unused(fields, name, "along", "no layers go", faults);
        }
    }
}

/// Layers that share weights cannot go one by one.
fn shared_layers(recipe: &Fields, fields: &Fields, faults: &mut Vec<Diagnostic>) {
    let student = recipe.block("student").and_then(Fields::variant);
    let Some((StudentWord::Architecture, item)) = student else {
        return;
    };
    let Some(sizes) = item.as_block() else {
        return;
    };
    if sizes
        .get::<u64>("layer_repeats")
        .is_some_and(|count| count > 1)
    {
        let message = "`shrink` cannot cut a student whose layers share weights";
        faults.push(
            Diagnostic::new("recipe/shared-layers", message)
                .primary(fields.holder.as_ref(), "takes parts out of each layer")
                .secondary(sizes.span("layer_repeats"), "layers in a row are one")
                .help("delete `layer_repeats`, or write a smaller `architecture`"),
        );
    }
}
