//! The rules of what a pass minimises; called by `pass_check.rs`.

use super::check::distinct;
use super::complete::loss_weight;
use super::fields::Fields;
use super::loss_plan::TailPlan;
use super::loss_terms::Term;
use super::plan::SupportWord;
use crate::diag::Diagnostic;

/// Every contradiction of the loss with the teacher, its cache and the temperature.
pub(super) fn losses(recipe: &Fields, fields: &Fields, faults: &mut Vec<Diagnostic>) {
    let has_teacher = recipe.is_written("teacher");
    let mut is_soft = has_teacher;
    if fields.is_written("losses") {
        let Some(losses) = fields.block("losses") else {
            return;
        };
        let num_steps = usize::MAX; // the ends of a weight are asked for, not how long it takes
        let weight = |term: Term| Some((term, loss_weight(losses, term, num_steps)?));
        let weights: Option<Vec<_>> = Term::ALL.into_iter().map(weight).collect();
        let Some(mut used) = weights else {
            return;
        };
        used.retain(|(_, weight)| weight.is_used());
        let used_terms = || used.iter().map(|(term, _)| *term);
        let compares_hidden = used_terms().any(|term| term == Term::HiddenMse);
        is_soft = used_terms().any(Term::is_soft);
        let sums = used.iter().map(|(_, weight)| weight.ends());
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
        hidden_states(losses, compares_hidden, faults);
        if !has_teacher {
            for term in used_terms().filter(|term| *term != Term::CrossEntropy) {
                no_teacher(losses, term, faults);
            }
            if is_soft {
                return;
            }
        }
        for term in used_terms().filter(|term| term.is_soft()) {
            unserved(recipe, fields, losses, term, faults);
        }
    }
    temperatures(recipe, fields, is_soft, faults);
    tail(recipe, fields, faults);
}

fn no_teacher(losses: &Fields, term: Term, faults: &mut Vec<Diagnostic>) {
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

/// Pairs of layers that are there twice, or for nothing.
fn hidden_states(losses: &Fields, is_used: bool, faults: &mut Vec<Diagnostic>) {
    let Some(keys) = losses.block(Term::HiddenMse.word()) else {
        return;
    };
    distinct::<Vec<u64>>(keys, "layers", faults);
    if keys.is_written("layers") && !is_used {
        let message = "`layers` has no effect: the weight of `hidden_mse` is 0";
        faults.push(
            Diagnostic::new("recipe/unused-key", message)
                .primary(keys.span("layers"), "nothing is compared")
                .help("delete `hidden_mse`, or give it a weight"),
        );
    }
}

/// A term that the support has no value for.
fn unserved(
    recipe: &Fields,
    fields: &Fields,
    losses: &Fields,
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
    } else if term == Term::ReverseKl && fields.get("tail") == Some(TailPlan::Renormalize) {
        let message = "`reverse_kl` is infinite with `tail: renormalize`";
        faults.push(
            Diagnostic::new("recipe/infinite-term", message)
                .primary(
                    losses.span(term.word()),
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
    let support = cache.block("support").and_then(Fields::variant);
    let help = if let Some((SupportWord::Samples, _)) = support {
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
