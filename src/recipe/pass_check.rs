//! The rules of passes; the other half of `check.rs`.

use super::check::{distinct, division};
use super::fields::Fields;
use super::loss_check::losses;
use super::plan::PassWord;
use super::prune_check::{gradual, prune, shrink};
use super::quantize_check::quantize;
use super::schedule_check::schedules;
use crate::diag::Diagnostic;
use crate::progress::thousands;

/// Every contradiction within the schedule, or of it with text, cache and student.
pub(super) fn passes(recipe: &Fields, faults: &mut Vec<Diagnostic>) {
    let passes = recipe.items("passes");
    for (index, item) in passes.iter().enumerate() {
        let Some((name, pass)) = item.as_block().and_then(Fields::variant::<PassWord>) else {
            continue;
        };
        if name == PassWord::Quantize && index + 1 < passes.len() {
            let message = "`quantize` must be the last pass";
            let next = passes.get(index + 1).and_then(|item| item.span.as_ref());
            faults.push(
                Diagnostic::new("recipe/quantize-not-last", message)
                    .primary(pass.span.as_ref(), "puts the weights on a grid")
                    .secondary(next, "would take them off again"),
            );
        }
        let Some(fields) = pass.as_block() else {
            continue;
        };
        match name {
            PassWord::Distill => {
                fit(recipe, fields, faults);
                if let Some(adapter) = fields.block("adapter") {
                    distinct::<String>(adapter, "targets", faults);
                }
                if let Some(prune) = fields.block("prune") {
                    gradual(fields, prune, faults);
                }
            }
            PassWord::Prune => prune(fields, faults),
            PassWord::Shrink => shrink(recipe, fields, faults),
            PassWord::Quantize => quantize(recipe, fields, faults),
        }
    }
}

/// Every contradiction within the keys of training, or of them with text and cache.
pub(super) fn fit(recipe: &Fields, fields: &Fields, faults: &mut Vec<Diagnostic>) {
    losses(recipe, fields, faults);
    let data = recipe.block("data");
    if let (Some(data), Some(tokens)) = (data, fields.get::<u64>("tokens_per_step"))
        && let Some(length) = data.get::<u64>("sequence_length")
        && tokens % length != 0
    {
        let rows = (tokens / length).max(1);
        let message = "`tokens_per_step` is not a multiple of `sequence_length`";
        faults.push(
            Diagnostic::new("recipe/uneven-step", message)
                .primary(fields.span("tokens_per_step"), division(tokens, length))
                .secondary(
                    data.span("sequence_length"),
                    format!("{} positions per row", thousands(length)),
                )
                .help(format!("write `tokens_per_step: {}`", rows * length)),
        );
    }
    schedules(fields, faults);
}

/// A key that another one, `because`, leaves nothing to do.
pub(super) fn unused(
    fields: &Fields,
    name: &str,
    because: &str,
    label: &str,
    faults: &mut Vec<Diagnostic>,
) {
    if fields.is_written(name) {
        let message = format!("`{name}` has no effect here");
        faults.push(
            Diagnostic::new("recipe/unused-key", message)
                .primary(fields.span(name), label)
                .secondary(fields.span(because), "")
                .help(format!("delete `{name}`")),
        );
    }
}
