//! Rules between a pass's losses and the teacher, its cache and the temperature.

use crate::cache::SupportWord;
use crate::diag::Diagnostic;
use crate::loss::{self, Term};
use crate::recipe::Fields;
use crate::support::Tail;

/// Reports every contradiction of the losses, among themselves or with the teacher, its cache and the temperature.
pub(super) fn losses(recipe: Fields<'_>, fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    let has_teacher = recipe.is_written("teacher");
    let mut is_soft = has_teacher;
    if fields.is_written("losses") {
        let (Some(losses), Some(used)) = (fields.block("losses"), loss::check(fields, faults))
        else {
            return;
        };
        is_soft = used.iter().any(|term| term.is_soft());
        if !has_teacher {
            for &term in used.iter().filter(|term| **term != Term::CrossEntropy) {
                no_teacher(losses, term, faults);
            }
            if is_soft {
                return;
            }
        }
        for term in used.into_iter().filter(|term| term.is_soft()) {
            refuse_samples(recipe, fields, losses, term, faults);
        }
    }
    temperatures(recipe, fields, is_soft, faults);
    tail(recipe, fields, faults);
}

fn no_teacher(losses: Fields<'_>, term: Term, faults: &mut Vec<Diagnostic>) {
    let what = if term.is_soft() {
        "divergence from the teacher's predictions"
    } else {
        "distance from the teacher's hidden states"
    };
    let message = format!("`{term}` needs a teacher, and there is none");
    faults.push(
        Diagnostic::new("recipe/no-teacher", message)
            .primary(losses.span(term.word()), what)
            .help("write `losses: { cross_entropy: 1.0 }`, or add `teacher`"),
    );
}

/// Reports a term that the support has no value for.
fn refuse_samples(
    recipe: Fields<'_>,
    fields: Fields<'_>,
    losses: Fields<'_>,
    term: Term,
    faults: &mut Vec<Diagnostic>,
) {
    let support = recipe
        .block("cache")
        .and_then(|cache| cache.block("support"));
    if let Some((support, SupportWord::Samples)) = support
        .and_then(|support| Some((support, support.variant()?.0)))
        .filter(|_| term != Term::ForwardKl)
    {
        let message = format!("`{term}` cannot be estimated from samples");
        faults.push(
            Diagnostic::new("recipe/samples-term", message)
                .primary(
                    losses.span(term.word()),
                    "not linear in the teacher's probabilities: any estimate is biased",
                )
                .secondary(support.span("samples"), "holds counts of draws")
                .help("write `support: { top_k: 64 }`, or `losses: { forward_kl: 1.0 }`"),
        );
    } else if term.needs_tail() && fields.get("tail") == Some(Tail::Renormalize) {
        let message = format!("`{term}` is infinite with `tail: renormalize`");
        faults.push(
            Diagnostic::new("recipe/infinite-term", message)
                .primary(
                    losses.span(term.word()),
                    "the student has mass where the renormalised teacher has none",
                )
                .secondary(fields.span("tail"), "")
                .help(format!(
                    "write `tail: bucket`, or `skew_reverse_kl` for `{term}`"
                )),
        );
    }
}

fn tail(recipe: Fields<'_>, fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    let support = recipe
        .block("cache")
        .and_then(|cache| cache.block("support"));
    let Some(support) = support.filter(|_| fields.is_written("tail")) else {
        return;
    };
    if let Some((SupportWord::Samples, _)) = support.variant() {
        let message = "`tail` has no effect: samples have no tail";
        faults.push(
            Diagnostic::new("recipe/unused-key", message)
                .primary(fields.span("tail"), "the mass outside `top_k`")
                .secondary(support.span("samples"), "")
                .help("delete it"),
        );
    }
}

/// Checks every temperature of a pass that a soft term uses.
fn temperatures(
    recipe: Fields<'_>,
    fields: Fields<'_>,
    is_soft: bool,
    faults: &mut Vec<Diagnostic>,
) {
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

/// Refuses a temperature, the key `name` of some fields, that is not one of the cache's.
fn temperature(recipe: Fields<'_>, fields: Fields<'_>, name: &str, faults: &mut Vec<Diagnostic>) {
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
    let support = cache.block("support").and_then(Fields::variant);
    let help = if let Some((SupportWord::Samples, _)) = support {
        "write `temperature: 1.0`, the only one that samples support".to_owned()
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
