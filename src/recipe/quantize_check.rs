//! The rules of the pass that quantises; a part of `pass_check.rs`.

use std::iter;

use super::check::{distinct, division};
use super::fields::{Fields, Item};
use super::pass_check::{fit, unused};
use super::pass_keys::FIT;
use super::plan::PassWord;
use super::quantize_complete::group_size;
use super::quantize_plan::{Activations, NumberType, QuantizeWord};
use super::student_plan::StudentWord;
use crate::diag::Diagnostic;
use crate::progress::thousands;

/// Group sizes that engines have kernels for; suggested where they divide.
const COMMON_GROUP_SIZES: [u64; 5] = [16, 32, 64, 128, 256];

/// Formats that hold projections of unlike widths.
const MIXED_WIDTHS: [&str; 2] = ["huggingface", "compressed-tensors"];

/// Every contradiction within a quantising pass, or of it with text, cache and student.
pub(super) fn quantize(recipe: &Fields, fields: &Fields, faults: &mut Vec<Diagnostic>) {
    match fields.get("method") {
        Some(method @ QuantizeWord::Qat) if fields.is_written("steps") => {
            fit(recipe, fields, faults);
            calibrated(fields, method, faults);
            start_step(fields, faults);
        }
        Some(QuantizeWord::Qat) => faults.push(
            Diagnostic::new("recipe/missing-key", "`quantize` lacks `steps`")
                .primary(fields.span("method"), "trains, and must know for how long")
                .help("add `steps`, or write `method: round-to-nearest`"),
        ),
        Some(method) => {
            let names = FIT.iter().map(|key| key.name);
            let names = names.chain(["steps", "start_step", "learn_scales"]);
            for name in names {
                let label = format!("`{method}` trains nothing");
                unused(fields, name, "method", &label, faults);
            }
            calibrated(fields, method, faults);
        }
        None => {}
    }
    scheme(fields, faults);
    if fields.get("type") != Some(NumberType::Int) {
        unused(
            fields,
            "sensitivity",
            "type",
            "only `int` has widths",
            faults,
        );
    }
    if let Some(bits) = fields.block("bits") {
        budget(recipe, fields, bits, faults);
    }
    matrices(recipe, fields, faults);
    fixed_scales(fields, faults);
    no_zero(recipe, fields, faults);
    if fields.items("overrides").is_empty() {
        uneven_groups(recipe, fields, faults);
    }
    for item in fields.items("overrides") {
        let Some(one) = item.as_block() else {
            continue;
        };
        distinct::<String>(one, "modules", faults);
        distinct::<u64>(one, "layers", faults);
        if one.get("keep") == Some(true) {
            for name in ["type", "bits", "group_size", "symmetric", "activations"] {
                let label = "what is kept as it is has no scheme";
                unused(one, name, "keep", label, faults);
            }
        } else {
            scheme(one, faults);
        }
    }
}

fn clips(fields: &Fields) -> bool {
    fields.get("clip") == Some(true)
}

/// The keys of methods that measure what enters a projection.
fn calibrated(fields: &Fields, method: QuantizeWord, faults: &mut Vec<Diagnostic>) {
    if !method.is_gptq() {
        for name in ["act_order", "damping"] {
            let label = format!("`{method}` makes up for no error");
            unused(fields, name, "method", &label, faults);
        }
    }
    if method == QuantizeWord::Qat {
        let label = "training finds its own scales";
        unused(fields, "clip", "method", label, faults);
    }
    let measures = match method {
        QuantizeWord::Qat => false,
        QuantizeWord::RoundToNearest => clips(fields),
        QuantizeWord::Gptq | QuantizeWord::Awq | QuantizeWord::AwqGptq => true,
    };
    if !measures {
        let label = format!("`{method}` measures nothing");
        unused(fields, "calibration_tokens", "method", &label, faults);
    }
}

fn scheme(fields: &Fields, faults: &mut Vec<Diagnostic>) {
    number(fields, faults);
    if is_int(fields)
        && fields.get("symmetric") == Some(false)
        && fields.get("activations") == Some(Activations::PerToken)
    {
        let message = "`activations: per_token` needs a grid around 0";
        faults.push(
            Diagnostic::new("recipe/asymmetric-product", message)
                .primary(
                    fields.span("symmetric"),
                    "no engine multiplies rounded activations with such weights",
                )
                .secondary(fields.span("activations"), "")
                .help("write `symmetric: true`, or delete `activations`"),
        );
    }
}

/// Keys without a choice beside the kind of number.
fn number(fields: &Fields, faults: &mut Vec<Diagnostic>) {
    if !is_int(fields) {
        for name in ["bits", "symmetric"] {
            unused(fields, name, "type", "only `int` has a choice", faults);
        }
    }
}

fn is_int(fields: &Fields) -> bool {
    let number: Option<NumberType> = fields.get("type");
    number.is_none_or(|number| number == NumberType::Int)
}

/// Schemes of embedding and output layer; whether a checkpoint has the latter, its headers show.
fn matrices(recipe: &Fields, fields: &Fields, faults: &mut Vec<Diagnostic>) {
    for name in ["embedding", "output"] {
        if let Some(matrix) = fields.block(name) {
            number(matrix, faults);
        }
    }
    let student = recipe.block("student").and_then(Fields::variant);
    let Some((StudentWord::Architecture, item)) = student else {
        return;
    };
    let Some(sizes) = item.as_block() else {
        return;
    };
    if fields.is_written("output") && sizes.get("tie_word_embeddings") == Some(true) {
        let message = "`output` has no matrix: the output layer is the embedding";
        faults.push(
            Diagnostic::new("recipe/tied-output", message)
                .primary(fields.span("output"), "a scheme of nothing")
                .secondary(sizes.span("tie_word_embeddings"), "tied")
                .help("write `embedding` in its place, or `tie_word_embeddings: false`"),
        );
    }
}

/// Widths that no choice of them allows, or that an export cannot hold.
fn budget(recipe: &Fields, fields: &Fields, bits: &Fields, faults: &mut Vec<Diagnostic>) {
    distinct::<u64>(bits, "widths", faults);
    let widths: Option<Vec<u64>> = bits.get("widths");
    let least = widths.and_then(|widths| widths.into_iter().min());
    if let (Some(least), Some(budget)) = (least, bits.get::<f64>("budget"))
        && budget < least as f64
    {
        let message = "`budget` is below every width";
        faults.push(
            Diagnostic::new("recipe/small-budget", message)
                .primary(bits.span("budget"), format!("the least width is {least}"))
                .secondary(bits.span("widths"), "")
                .help(format!("write at least `budget: {least}`")),
        );
    }
    let Some(export) = recipe.block("export") else {
        return;
    };
    let formats: Vec<String> = export.get("formats").unwrap_or_default();
    let is_mixed = |format: &&String| MIXED_WIDTHS.contains(&format.as_str());
    if let Some(format) = formats.iter().find(|format| !is_mixed(format)) {
        let message =
            format!("`{format}` holds one width for all projections, and `budget` chooses several");
        faults.push(
            Diagnostic::new("recipe/mixed-widths", message)
                .primary(export.span("formats"), "would round them again")
                .secondary(fields.span("bits"), "")
                .help("write `formats: [compressed-tensors]`, or one number for `bits`"),
        );
    }
}

/// A grid that is to come after the last step.
fn start_step(fields: &Fields, faults: &mut Vec<Diagnostic>) {
    let (Some(start), Some(steps)) = (fields.get::<u64>("start_step"), fields.get::<u64>("steps"))
    else {
        return;
    };
    if start >= steps {
        let message = "`start_step` leaves no step on the grid";
        faults.push(
            Diagnostic::new("recipe/late-grid", message)
                .primary(fields.span("start_step"), "counted from 0")
                .secondary(
                    fields.span("steps"),
                    format!("the last step is {}", thousands(steps - 1)),
                )
                .help(format!("write at most {}", steps - 1)),
        );
    }
}

fn fixed_scales(fields: &Fields, faults: &mut Vec<Diagnostic>) {
    let is_float = fields.get("type") == Some(NumberType::Fp8);
    let is_asymmetric = fields.get("symmetric") == Some(false);
    if fields.get("learn_scales") == Some(true) && (is_float || is_asymmetric) {
        let because = if is_float { "type" } else { "symmetric" };
        let message = "`learn_scales` needs whole numbers around 0";
        faults.push(
            Diagnostic::new("recipe/fixed-scales", message)
                .primary(fields.span("learn_scales"), "would train nothing")
                .secondary(fields.span(because), "")
                .help("delete it"),
        );
    }
}

/// Weights that a pass before has zeroed would not stay zero.
fn no_zero(recipe: &Fields, fields: &Fields, faults: &mut Vec<Diagnostic>) {
    let of_overrides = fields.items("overrides").iter().filter_map(Item::as_block);
    let is_stretched = |keys: &&Fields| keys.get("type") == Some(NumberType::Stretched);
    let Some(keys) = iter::once(fields).chain(of_overrides).find(is_stretched) else {
        return;
    };
    let passes = recipe.items("passes").iter();
    let mut variants = passes.filter_map(|item| item.as_block()?.variant());
    let prunes = |(name, pass): &(PassWord, &Item)| {
        *name == PassWord::Prune
            || pass
                .as_block()
                .is_some_and(|keys| keys.block("prune").is_some())
    };
    if let Some((_, pruned)) = variants.find(prunes) {
        let message = "`type: stretched` has no 0, but a pass prunes";
        faults.push(
            Diagnostic::new("recipe/no-zero", message)
                .primary(keys.span("type"), "moves pruned weights away from 0")
                .secondary(pruned.span.as_ref(), "zeroes weights")
                .help("write `type: ternary`, or `bits: 2`"),
        );
    }
}

/// Of a pass with one scheme for all projections; whether overrides name all that a group does not divide, the headers of
/// the student show.
fn uneven_groups(recipe: &Fields, fields: &Fields, faults: &mut Vec<Diagnostic>) {
    let Some((StudentWord::Architecture, item)) = recipe.block("student").and_then(Fields::variant)
    else {
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
