//! Rules between stages: contradictions between keys of one and keys of another.

use std::iter;

use super::losses::losses;
use crate::data::TokenizerWord;
use crate::diag::Diagnostic;
use crate::formats::Format;
use crate::passes::{self, NumberType, PassKeys, PassWord};
use crate::progress::thousands;
use crate::recipe::{Fields, Value, division};
use crate::student::{self, StudentWord, fresh_sizes};
use crate::{cache, export};

/// Group sizes that engines have kernels for; suggested if they divide.
const COMMON_GROUP_SIZES: [u64; 5] = [16, 32, 64, 128, 256];

/// Reports every contradiction, in no order.
pub(super) fn contradictions(recipe: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    reserved_name(recipe, faults);
    needs_teacher(recipe, faults);
    if let Some(fields) = recipe.block("cache") {
        cache::check(fields, faults);
    }
    if let Some(fields) = recipe.block("student") {
        student::check(fields, faults);
    }
    passes(recipe, faults);
    if let Some(fields) = recipe.block("export") {
        export::check(fields, faults);
        not_quantized(recipe, fields, faults);
    }
}

/// Refuses a name that clashes with the folders of rows and caches. All recipes share these; they lie beside a run's folder.
fn reserved_name(recipe: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    let Some(name) = recipe.get::<String>("name") else {
        return;
    };
    let lower = name.to_lowercase(); // some file systems ignore case
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

fn needs_teacher(recipe: Fields<'_>, faults: &mut Vec<Diagnostic>) {
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
    let mut lacks = |fields: Fields<'_>, name: &str, label: &str| {
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

/// Reports every contradiction within the schedule, or between it and text, cache and student.
fn passes(recipe: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    let items = recipe.items("passes");
    for (index, item) in items.iter().enumerate() {
        let Some((choice, (word, pass))) = recipe
            .inside(item)
            .and_then(|choice| Some((choice, choice.variant::<PassWord>()?)))
        else {
            continue;
        };
        if word == PassWord::Quantize && index + 1 < items.len() {
            let message = "`quantize` must be the last pass";
            let next = items.get(index + 1).and_then(|item| item.span.as_ref());
            faults.push(
                Diagnostic::new("recipe/quantize-not-last", message)
                    .primary(pass.span.as_ref(), "puts the weights on a grid")
                    .secondary(next, "would move them off the grid"),
            );
        }
        let Some(fields) = choice.inside(pass) else {
            continue;
        };
        let keys = PassKeys::of(word);
        if (keys.trains)(fields) {
            losses(recipe, fields, faults);
            uneven_step(recipe, fields, faults);
        }
        if word == PassWord::Shrink {
            shared_layers(recipe, fields, faults);
        }
        (keys.contradictions)(fields, faults);
        match word {
            PassWord::Quantize => {
                mixed_widths(recipe, fields, faults);
                tied_output(recipe, fields, faults);
                no_zero(recipe, fields, faults);
                if fields.items("overrides").is_empty() {
                    uneven_groups(recipe, fields, faults);
                }
            }
            PassWord::Distill | PassWord::Prune | PassWord::Shrink => {}
        }
    }
}

/// Refuses a step that is not made of whole rows.
fn uneven_step(recipe: Fields<'_>, fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    if let (Some(data), Some(tokens)) = (recipe.block("data"), fields.get::<u64>("tokens_per_step"))
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
}

/// Refuses to shrink a student whose layers share weights: its layers cannot be removed one by one.
fn shared_layers(recipe: Fields<'_>, fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    let Some(sizes) = fresh_sizes(recipe) else {
        return;
    };
    if sizes
        .get::<u64>("layer_repeats")
        .is_some_and(|count| count > 1)
    {
        let message = "`shrink` cannot cut a student whose layers share weights";
        faults.push(
            Diagnostic::new("recipe/shared-layers", message)
                .primary(fields.holder(), "removes parts of each layer")
                .secondary(
                    sizes.span("layer_repeats"),
                    "consecutive layers are the same",
                )
                .help("delete `layer_repeats`, or write a smaller `architecture`"),
        );
    }
}

/// Refuses a scheme of a tied output layer. For a checkpoint, its headers decide later.
fn tied_output(recipe: Fields<'_>, fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    let Some(sizes) = fresh_sizes(recipe) else {
        return;
    };
    if fields.is_written("output") && sizes.get("tie_word_embeddings") == Some(true) {
        let message = "`output` has no matrix: the output layer is the embedding";
        faults.push(
            Diagnostic::new("recipe/tied-output", message)
                .primary(fields.span("output"), "there is no such matrix")
                .secondary(sizes.span("tie_word_embeddings"), "tied")
                .help("write `embedding` instead, or `tie_word_embeddings: false`"),
        );
    }
}

/// Refuses several widths if an export cannot hold them.
fn mixed_widths(recipe: Fields<'_>, fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    let (Some(_), Some(export)) = (fields.block("bits"), recipe.block("export")) else {
        return;
    };
    let formats: Vec<Format> = export.get("formats").unwrap_or_default();
    if let Some(format) = formats.iter().find(|format| !format.holds_mixed_widths()) {
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

/// Refuses a grid without a 0 after a pass that prunes: pruned weights would not stay zero.
fn no_zero(recipe: Fields<'_>, fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    let is_stretched = |keys: &Fields<'_>| keys.get("type") == Some(NumberType::Stretched);
    let mut schemes = iter::once(fields).chain(fields.blocks("overrides"));
    let Some(keys) = schemes.find(is_stretched) else {
        return;
    };
    let pruned = recipe.blocks("passes").find_map(|choice| {
        let (word, pass) = choice.variant::<PassWord>()?;
        (PassKeys::of(word).prunes)(choice.inside(pass)).then_some(pass)
    });
    if let Some(pruned) = pruned {
        let message = "`type: stretched` has no 0, but a pass prunes";
        faults.push(
            Diagnostic::new("recipe/no-zero", message)
                .primary(keys.span("type"), "moves pruned weights away from 0")
                .secondary(pruned.span.as_ref(), "zeroes weights")
                .help("write `type: ternary`, or `bits: 2`"),
        );
    }
}

/// Refuses groups that do not divide their inputs, for a pass with one scheme for all projections. With overrides, the
/// student's headers decide later.
fn uneven_groups(recipe: Fields<'_>, fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    let Some(sizes) = fresh_sizes(recipe) else {
        return; // the sizes are in a checkpoint
    };
    let Some(Some(group_size)) = passes::group_size(fields) else {
        return;
    };
    let group_size = group_size as u64;
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

/// One layer of each input width, the key that the width follows from, and the width.
fn layer_inputs(sizes: Fields<'_>) -> Option<[(&'static str, &'static str, u64); 3]> {
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

/// Refuses formats of grids for a student that is on none.
fn not_quantized(recipe: Fields<'_>, export: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    // A faulty pass may have been meant as the missing one.
    let mut passes = recipe.items("passes").iter();
    let is_quantize = passes.any(|item| {
        let pass = recipe.inside(item).and_then(Fields::variant::<PassWord>);
        pass.is_none_or(|(pass, _)| pass == PassWord::Quantize)
    });
    if is_quantize {
        return;
    }
    for item in export.items("formats") {
        let format = Format::read(item, export);
        if let Some(format) = format.filter(|format| !format.holds_plain_weights()) {
            let message = format!("`{format}` holds quantised weights, but no pass quantises");
            faults.push(
                Diagnostic::new("recipe/not-quantized", message)
                    .primary(item.span.as_ref(), "")
                    .secondary(
                        recipe.span("passes"),
                        "the passes end here without `quantize`",
                    )
                    .help("add the pass `- quantize: { method: round-to-nearest }`, or write `formats: [huggingface]`"),
            );
        }
    }
}
