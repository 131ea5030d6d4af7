//! What keys mean together: every rule over more than one key, and over the entries of a list.
//!
//! A rule speaks only if the keys it needs are good: what `file.rs` refused is not told twice.

use super::fields::{Checked, Fields, FromChecked, Item};
use super::pass_check::passes;
use super::plan::{ExportFormat, PassWord, SupportWord, TokenizerWord};
use super::student_complete::chooses_by_importance;
use super::student_plan::StudentWord;
use crate::diag::Diagnostic;
use crate::progress::thousands;

/// Every contradiction, in no order.
pub(super) fn contradictions(recipe: &Fields) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    reserved_name(recipe, &mut faults);
    needs_teacher(recipe, &mut faults);
    if let Some(cache) = recipe.block("cache") {
        distinct::<f64>(cache, "temperatures", &mut faults);
        support(cache, &mut faults);
    }
    student(recipe, &mut faults);
    passes(recipe, &mut faults);
    export(recipe, &mut faults);
    faults
}

/// The folder of a run lies beside those of rows and caches, which all recipes share, and is locked as they are.
fn reserved_name(recipe: &Fields, faults: &mut Vec<Diagnostic>) {
    let Some(name) = recipe.get::<String>("name") else {
        return;
    };
    let lower = name.to_lowercase(); // some file systems take both for the same
    let mut shared = ["data-", "cache-"].into_iter();
    let is_shared = shared.any(|prefix| {
        let key = lower.strip_prefix(prefix);
        key.is_some_and(|key| key.len() == 8 && key.bytes().all(|byte| byte.is_ascii_hexdigit()))
    });
    if is_shared || lower.starts_with("unfinished-") || lower == "hashes.json" {
        faults.push(
            Diagnostic::new(
                "recipe/reserved-name",
                format!("`name` must not be `{name}`"),
            )
            .primary(
                recipe.span("name"),
                "the output folder holds rows, caches and their hashes under such names",
            )
            .help("choose another name"),
        );
    }
}

fn needs_teacher(recipe: &Fields, faults: &mut Vec<Diagnostic>) {
    let data = recipe.block("data");
    let tokenizer = data.and_then(|data| data.block("tokenizer")?.variant::<TokenizerWord>());
    if recipe.is_written("teacher") {
        if let (Some(data), Some((TokenizerWord::Train, _))) = (data, tokenizer) {
            let message = "a tokenizer is trained, but the teacher has its own";
            faults.push(
                Diagnostic::new("recipe/foreign-tokenizer", message)
                    .primary(
                        data.span("tokenizer"),
                        "teacher and student share one vocabulary",
                    )
                    .secondary(recipe.span("teacher"), "")
                    .help("delete `tokenizer`: the teacher's is the default"),
            );
        }
        return;
    }
    let mut lacks = |fields: &Fields, name: &str, label: &str| {
        let message = format!("`{name}` needs a teacher, and there is none");
        faults.push(
            Diagnostic::new("recipe/no-teacher", message)
                .primary(fields.span(name), label)
                .help("add `teacher: { checkpoint: ... }`"),
        );
    };
    if recipe.is_written("cache") {
        lacks(recipe, "cache", "it holds the teacher's predictions");
    }
    if let Some(student) = recipe.block("student")
        && let Some((StudentWord::FromTeacher, _)) = student.variant()
    {
        lacks(student, "from_teacher", "the student is made of its layers");
    }
    match (data, tokenizer) {
        (Some(data), Some((TokenizerWord::Teacher, _))) => {
            lacks(data, "tokenizer", "`tokenizer.json` of the teacher");
        }
        (Some(data), None) if !data.is_written("tokenizer") => {
            lacks(
                data,
                "tokenizer",
                "by default, the teacher's `tokenizer.json`",
            );
        }
        _ => {}
    }
}

/// What the kind of support leaves without meaning.
fn support(cache: &Fields, faults: &mut Vec<Diagnostic>) {
    let Some(support) = cache.block("support") else {
        return;
    };
    match support.variant() {
        Some((SupportWord::TopK, _)) if cache.is_written("sampling") => {
            let message = "`sampling` has no effect: the support is `top_k`";
            faults.push(
                Diagnostic::new("recipe/unused-key", message)
                    .primary(cache.span("sampling"), "how `samples` are drawn")
                    .secondary(support.holder.as_ref(), "")
                    .help("delete it, or write `support: { samples: 50 }`"),
            );
        }
        Some((SupportWord::Samples, _)) => {
            let declared = cache.get::<Vec<f64>>("temperatures");
            if let Some(declared) = declared.filter(|declared| *declared != [1.0]) {
                let message = "samples serve temperature 1 alone";
                faults.push(
                    Diagnostic::new("recipe/samples-temperature", message)
                        .primary(cache.span("temperatures"), format!("declares {declared:?}"))
                        .secondary(
                            support.span("samples"),
                            "drawn from the teacher at temperature 1",
                        )
                        .help("delete `temperatures`, or write `support: { top_k: 64 }`"),
                );
            }
        }
        _ => {}
    }
}

fn student(recipe: &Fields, faults: &mut Vec<Diagnostic>) {
    let variant = recipe.block("student").and_then(Fields::variant);
    match variant {
        Some((StudentWord::Architecture, item)) => {
            if let Some(sizes) = item.as_block() {
                heads(sizes, faults);
                repeats(sizes, faults);
            }
        }
        Some((StudentWord::FromTeacher, item)) => {
            if let Some(fields) = item.as_block() {
                ascending(fields, "layers", faults);
                from_teacher(fields, faults);
            }
        }
        Some((StudentWord::Checkpoint, _)) | None => {}
    }
}

fn from_teacher(fields: &Fields, faults: &mut Vec<Diagnostic>) {
    let choices = ["layers", "every", "highest_influence"];
    let mut written = choices.iter().filter(|name| fields.is_written(name));
    let first = written.next();
    if let Some(first) = first {
        for other in written {
            let message = format!("`{first}` and `{other}` both choose the layers");
            faults.push(
                Diagnostic::new("recipe/two-choices", message)
                    .primary(fields.span(other), "one of them")
                    .secondary(fields.span(first), "the other")
                    .help("delete one of the two"),
            );
        }
    }
    if chooses_by_importance(fields) || fields.has_unknown {
        return;
    }
    if fields.is_written("calibration_tokens") {
        let message = "`calibration_tokens` has no effect here";
        let label = "nothing is chosen by what is measured";
        faults.push(
            Diagnostic::new("recipe/unused-key", message)
                .primary(fields.span("calibration_tokens"), label)
                .help("delete it, or write `highest_influence` or a width"),
        );
    } else if first.is_none() {
        let message = "`from_teacher` chooses nothing";
        faults.push(
            Diagnostic::new("recipe/nothing-chosen", message)
                .primary(fields.holder.as_ref(), "the student would be the teacher")
                .help("write `every: 2`, or `student: { checkpoint: ... }` for the whole teacher"),
        );
    }
}

fn repeats(sizes: &Fields, faults: &mut Vec<Diagnostic>) {
    let (Some(layers), Some(repeats)) = (
        sizes.get::<u64>("num_hidden_layers"),
        sizes.get::<u64>("layer_repeats"),
    ) else {
        return;
    };
    if layers % repeats != 0 {
        let message = "`layer_repeats` does not divide `num_hidden_layers`";
        faults.push(
            Diagnostic::new("recipe/uneven-repeats", message)
                .primary(sizes.span("layer_repeats"), division(layers, repeats))
                .secondary(sizes.span("num_hidden_layers"), "all layers that run")
                .help(format!(
                    "write `num_hidden_layers: {}`",
                    layers.next_multiple_of(repeats)
                )),
        );
    }
}

fn heads(sizes: &Fields, faults: &mut Vec<Diagnostic>) {
    let num_heads = sizes.get::<u64>("num_attention_heads");
    if let (Some(num_heads), Some(num_shared)) = (num_heads, sizes.get("num_key_value_heads"))
        && num_heads % num_shared != 0
    {
        let message = "`num_key_value_heads` does not divide `num_attention_heads`";
        faults.push(
            Diagnostic::new("recipe/uneven-heads", message)
                .primary(
                    sizes.span("num_key_value_heads"),
                    division(num_heads, num_shared),
                )
                .secondary(sizes.span("num_attention_heads"), "query heads"),
        );
    }
    if sizes.is_written("head_dim") {
        if let Some(head_dim) = sizes.get::<u64>("head_dim").filter(|size| size % 2 != 0) {
            faults.push(odd_head_dim(sizes, "head_dim", head_dim));
        }
        return;
    }
    if let (Some(hidden), Some(num_heads)) = (sizes.get::<u64>("hidden_size"), num_heads) {
        if hidden % num_heads != 0 {
            let message = "`num_attention_heads` does not divide `hidden_size`";
            faults.push(
                Diagnostic::new("recipe/uneven-heads", message)
                    .primary(
                        sizes.span("num_attention_heads"),
                        division(hidden, num_heads),
                    )
                    .secondary(sizes.span("hidden_size"), "width of all heads together")
                    .help("change one of them, or give `head_dim`"),
            );
        } else if hidden / num_heads % 2 != 0 {
            faults.push(odd_head_dim(
                sizes,
                "num_attention_heads",
                hidden / num_heads,
            ));
        }
    }
}

fn odd_head_dim(sizes: &Fields, name: &str, head_dim: u64) -> Diagnostic {
    let message = format!(
        "the width of a head must be even, but is {}",
        thousands(head_dim)
    );
    Diagnostic::new("recipe/odd-head-dim", message)
        .primary(sizes.span(name), "rotary positions turn pairs of numbers")
}

fn export(recipe: &Fields, faults: &mut Vec<Diagnostic>) {
    let Some(export) = recipe.block("export") else {
        return;
    };
    distinct::<ExportFormat>(export, "formats", faults);
    // A faulty pass may have been meant as the missing one.
    let is_quantize = |item: &Item| match item.as_block().and_then(Fields::variant::<PassWord>) {
        Some((pass, _)) => pass == PassWord::Quantize,
        None => true,
    };
    if recipe.items("passes").iter().any(is_quantize) {
        return;
    }
    for item in export.items("formats") {
        let format = item.value.as_ref().and_then(ExportFormat::from_checked);
        if let Some(format) = format.filter(|format| !format.holds_plain_weights()) {
            let message = format!("`{format}` holds quantised weights, but no pass quantises");
            faults.push(
                Diagnostic::new("recipe/not-quantized", message)
                    .primary(item.span.as_ref(), "")
                    .secondary(
                        recipe.span("passes"),
                        "the passes end here without `quantize`",
                    )
                    .help("add the pass `- quantize: { method: round-to-nearest }`"),
            );
        }
    }
}

pub(super) fn distinct<T: FromChecked + PartialEq>(
    fields: &Fields,
    name: &str,
    faults: &mut Vec<Diagnostic>,
) {
    let mut seen: Vec<T> = Vec::new();
    for item in fields.items(name) {
        let Some(value) = item.value.as_ref().and_then(T::from_checked) else {
            continue;
        };
        if seen.contains(&value) {
            let message = format!("an entry of `{name}` is there twice");
            faults.push(
                Diagnostic::new("recipe/repeated-entry", message)
                    .primary(item.span.as_ref(), "delete this one"),
            );
        }
        seen.push(value);
    }
}

fn ascending(fields: &Fields, name: &str, faults: &mut Vec<Diagnostic>) {
    let mut last: Option<u64> = None;
    for item in fields.items(name) {
        let value = match &item.value {
            Some(Checked::Integer(value)) => *value,
            _ => continue,
        };
        if let Some(last) = last.filter(|&last| value <= last) {
            let message = format!("`{name}` must ascend, but {value} follows {last}");
            faults.push(
                Diagnostic::new("recipe/unordered-layers", message).primary(item.span.as_ref(), ""),
            );
        }
        last = Some(value);
    }
}

pub(super) fn division(whole: u64, part: u64) -> String {
    format!(
        "{} / {} leaves {} over",
        thousands(whole),
        thousands(part),
        thousands(whole % part)
    )
}
