//! The rules of passes; the other half of `check.rs`.

use super::check::{distinct, division};
use super::complete::{group_size, loss_weight};
use super::fields::Fields;
use super::pass_keys::FIT;
use super::schedule_check::schedules;
use super::schedule_plan::Scheduled;
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
            }
            "prune" => prune(fields, faults),
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

/// The terms that compare with the teacher.
const SOFT_TERMS: [&str; 6] = [
    "forward_kl",
    "reverse_kl",
    "jsd",
    "skew_forward_kl",
    "skew_reverse_kl",
    "tvd",
];

fn losses(recipe: &Fields, fields: &Fields, faults: &mut Vec<Diagnostic>) {
    let has_teacher = recipe.is_written("teacher");
    let mut is_soft = has_teacher;
    if fields.is_written("losses") {
        let Some(losses) = fields.block("losses") else {
            return;
        };
        let num_steps = usize::MAX; // the ends of a weight are asked for, not how long it takes
        let weight = |term: &'static str| Some((term, loss_weight(losses, term, num_steps)?));
        let soft: Option<Vec<_>> = SOFT_TERMS.into_iter().map(weight).collect();
        let (Some(mut soft), Some((_, hard))) = (soft, weight("cross_entropy")) else {
            return;
        };
        soft.retain(|(_, weight)| weight.is_used());
        is_soft = !soft.is_empty();
        let weights = soft.iter().map(|(_, weight)| *weight).chain([hard]);
        let sums = weights.map(Scheduled::ends);
        let [first, last] = sums.fold([0.0; 2], |[a, b], [c, d]| [a + c, b + d]);
        let when = match (first > 0.0, last > 0.0) {
            (true, true) => None,
            (false, true) => Some(" at the first step"),
            (true, false) => Some(" at the last step"),
            (false, false) => Some(""),
        };
        if let Some(when) = when.filter(|_| !losses.has_unknown) {
            let message = format!("no loss term has a weight above 0{when}");
            faults.push(
                Diagnostic::new("recipe/no-loss", message)
                    .primary(fields.span("losses"), "the student would learn nothing")
                    .help("write `losses: { forward_kl: 1.0 }`"),
            );
        }
        if is_soft && !has_teacher {
            for (term, _) in soft {
                let message = format!("`{term}` needs a teacher, and there is none");
                faults.push(
                    Diagnostic::new("recipe/no-teacher", message)
                        .primary(
                            losses.span(term),
                            "divergence from the teacher's predictions",
                        )
                        .help("write `losses: { cross_entropy: 1.0 }`, or add `teacher`"),
                );
            }
            return;
        }
        for (term, _) in soft {
            unserved(recipe, fields, losses, term, faults);
        }
    }
    temperatures(recipe, fields, is_soft, faults);
    tail(recipe, fields, faults);
}

/// A term that the support has no value for.
fn unserved(
    recipe: &Fields,
    fields: &Fields,
    losses: &Fields,
    term: &str,
    faults: &mut Vec<Diagnostic>,
) {
    let support = recipe
        .block("cache")
        .and_then(|cache| cache.block("support"));
    if let Some((support, "samples")) = support
        .and_then(|support| Some((support, support.variant()?.0)))
        .filter(|_| term != "forward_kl")
    {
        let message = format!("`{term}` cannot be estimated from samples");
        faults.push(
            Diagnostic::new("recipe/samples-term", message)
                .primary(
                    losses.span(term),
                    "not linear in the teacher's probabilities: any estimate is biased",
                )
                .secondary(support.span("samples"), "holds counts of draws")
                .help("write `support: { top_k: 64 }`, or `losses: { forward_kl: 1.0 }`"),
        );
    } else if term == "reverse_kl" && fields.get::<String>("tail").as_deref() == Some("renormalize")
    {
        let message = "`reverse_kl` is infinite with `tail: renormalize`";
        faults.push(
            Diagnostic::new("recipe/infinite-term", message)
                .primary(
                    losses.span(term),
                    "the student has mass where the teacher is made to have none",
                )
                .secondary(fields.span("tail"), "")
                .help("write `tail: bucket`, or `skew_reverse_kl` for `reverse_kl`"),
        );
    }
}

fn tail(recipe: &Fields, fields: &Fields, faults: &mut Vec<Diagnostic>) {
    let support = recipe
        .block("cache")
        .and_then(|cache| cache.block("support"));
    let Some(support) = support.filter(|_| fields.is_written("tail")) else {
        return;
    };
    if let Some(("samples", _)) = support.variant() {
        let message = "`tail` has no effect: samples have no tail";
        faults.push(
            Diagnostic::new("recipe/unused-key", message)
                .primary(fields.span("tail"), "the mass outside `top_k`")
                .secondary(support.span("samples"), "")
                .help("delete it"),
        );
    }
}

/// Every temperature of a pass that a soft term uses.
fn temperatures(recipe: &Fields, fields: &Fields, is_soft: bool, faults: &mut Vec<Diagnostic>) {
    match fields.block("temperature") {
        Some(walk) if is_soft => {
            temperature(recipe, walk, "from", faults);
            if walk.get::<f64>("from") != walk.get("to") {
                temperature(recipe, walk, "to", faults);
            }
        }
        Some(_) => {
            let message = "`temperature` has no effect: no soft loss term has a weight above 0";
            faults.push(
                Diagnostic::new("recipe/unused-key", message)
                    .primary(fields.span("temperature"), "moves")
                    .help("delete it"),
            );
        }
        None if is_soft => temperature(recipe, fields, "temperature", faults),
        None => {}
    }
}

/// A temperature, the key `name` of some fields, must be one of the cache's.
fn temperature(recipe: &Fields, fields: &Fields, name: &str, faults: &mut Vec<Diagnostic>) {
    let Some(used) = fields.get::<f64>(name) else {
        return;
    };
    let Some(cache) = recipe.block("cache") else {
        return;
    };
    let declared = cache.get::<Vec<f64>>("temperatures");
    let Some(mut declared) = declared.filter(|declared| !declared.contains(&used)) else {
        return;
    };
    let message = format!("the cache is not exact at temperature {used}");
    let label = format!("the cache declares {declared:?}");
    let is_sampled = cache.block("support").and_then(Fields::variant);
    let help = if is_sampled.is_some_and(|(name, _)| name == "samples") {
        "write `temperature: 1.0`, the only one that samples serve".to_owned()
    } else {
        declared.push(used);
        format!("write `temperatures: {declared:?}` in `cache`")
    };
    faults.push(
        Diagnostic::new("recipe/undeclared-temperature", message)
            .primary(fields.span(name), label)
            .secondary(cache.span("temperatures"), "")
            .help(help),
    );
}

fn prune(fields: &Fields, faults: &mut Vec<Diagnostic>) {
    let method = fields.get::<String>("method");
    if method.as_deref() == Some("magnitude") {
        unused(
            fields,
            "calibration_tokens",
            "`magnitude` measures no activations",
            faults,
        );
    }
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
                unused(fields, name, "`round-to-nearest` trains nothing", faults);
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

fn unused(fields: &Fields, name: &str, label: &str, faults: &mut Vec<Diagnostic>) {
    if fields.is_written(name) {
        let message = format!("`{name}` has no effect here");
        faults.push(
            Diagnostic::new("recipe/unused-key", message)
                .primary(fields.span(name), label)
                .secondary(fields.span("method"), "")
                .help(format!("delete `{name}`")),
        );
    }
}
