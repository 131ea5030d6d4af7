//! The rules of passes; the other half of `check.rs`.

use super::check::{distinct, division};
use super::complete::group_size;
use super::fields::Fields;
use super::loss_check::losses;
use super::pass_keys::FIT;
use super::prune_check::{gradual, prune, shrink};
use super::schedule_check::schedules;
use crate::diag::Diagnostic;
use crate::progress::thousands;

/// Group sizes that engines have kernels for; suggested where they divide.
const COMMON_GROUP_SIZES: [u64; 5] = [16, 32, 64, 128, 256];

/// Every contradiction within the schedule, or of it with text, cache and student.
pub(super) fn passes(recipe: &Fields, faults: &mut Vec<Diagnostic>) {
    let passes = recipe.items("passes");
    for (index, item) in passes.iter().enumerate() {
        let Some((name, pass)) = item.as_block().and_then(Fields::variant) else {
            continue;
        };
        if name == "quantize" && index + 1 < passes.len() {
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
            "distill" => {
                fit(recipe, fields, faults);
                if let Some(adapter) = fields.block("adapter") {
                    distinct::<String>(adapter, "targets", faults);
                }
                if let Some(prune) = fields.block("prune") {
                    gradual(fields, prune, faults);
                }
            }
            "prune" => prune(fields, faults),
            "shrink" => shrink(recipe, fields, faults),
            _ => quantize(recipe, fields, faults),
        }
    }
}

fn fit(recipe: &Fields, fields: &Fields, faults: &mut Vec<Diagnostic>) {
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

fn quantize(recipe: &Fields, fields: &Fields, faults: &mut Vec<Diagnostic>) {
    match fields.get::<String>("method").as_deref() {
        Some("qat") if fields.is_written("steps") => fit(recipe, fields, faults),
        Some("qat") => faults.push(
            Diagnostic::new("recipe/missing-key", "`quantize` lacks `steps`")
                .primary(fields.span("method"), "trains, and must know for how long")
                .help("add `steps`, or write `method: round-to-nearest`"),
        ),
        Some(_) => {
            let names = FIT.iter().map(|key| key.name).chain(["steps"]);
            for name in names {
                let label = "`round-to-nearest` trains nothing";
                unused(fields, name, "method", label, faults);
            }
        }
        None => {}
    }
    uneven_groups(recipe, fields, faults);
}

fn uneven_groups(recipe: &Fields, fields: &Fields, faults: &mut Vec<Diagnostic>) {
    let Some(("architecture", item)) = recipe.block("student").and_then(Fields::variant) else {
        return; // the sizes are in a checkpoint
    };
    let (Some(sizes), Some(group_size)) = (item.as_block(), group_size(fields)) else {
        return;
    };
    let Some(inputs) = layer_inputs(sizes) else {
        return;
    };
    let Some((layer, name, size)) = inputs.iter().find(|(_, _, size)| size % group_size != 0)
    else {
        return;
    };
    let divides_all = |group: &u64| inputs.iter().all(|(_, _, size)| size % group == 0);
    let good: Vec<String> = COMMON_GROUP_SIZES
        .iter()
        .filter(|group| divides_all(group))
        .map(u64::to_string)
        .collect();
    let help = if good.is_empty() {
        "write `group_size: channel`".to_owned()
    } else {
        format!("use {} or `channel`", good.join(", "))
    };
    faults.push(
        Diagnostic::new(
            "recipe/uneven-groups",
            format!("`group_size` does not divide the inputs of `{layer}`"),
        )
        .primary(fields.span("group_size"), division(*size, group_size))
        .secondary(
            sizes.span(name),
            format!("each row of `{layer}` has {} weights", thousands(*size)),
        )
        .help(help),
    );
}

/// A layer of each input width, the key it follows from, and the width.
fn layer_inputs(sizes: &Fields) -> Option<[(&'static str, &'static str, u64); 3]> {
    let hidden = sizes.get::<u64>("hidden_size")?;
    let num_heads = sizes.get::<u64>("num_attention_heads")?;
    let (attended, follows) = if sizes.is_written("head_dim") {
        (num_heads * sizes.get::<u64>("head_dim")?, "head_dim")
    } else {
        (hidden, "hidden_size")
    };
    Some([
        ("self_attn.q_proj", "hidden_size", hidden),
        ("self_attn.o_proj", follows, attended),
        (
            "mlp.down_proj",
            "intermediate_size",
            sizes.get("intermediate_size")?,
        ),
    ])
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
