//! Contradictions within the pass that quantises.

use super::plan::{Activations, NumberType, QuantizeWord};
use crate::diag::Diagnostic;
use crate::model::Part;
use crate::progress::thousands;
use crate::recipe::{Fields, distinct, keys_of, unused};
use crate::train::{self, FIT};

/// Reports every contradiction within a quantising pass.
pub(super) fn contradictions(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    match fields.get("method") {
        Some(method @ QuantizeWord::Qat) if fields.is_written("steps") => {
            train::check(fields, faults);
            calibrated(fields, method, faults);
            start_step(fields, faults);
        }
        Some(QuantizeWord::Qat) => faults.push(
            Diagnostic::new("recipe/missing-key", "`quantize` lacks `steps`")
                .primary(fields.span("method"), "trains, and needs a number of steps")
                .help("add `steps`, or write `method: round-to-nearest`"),
        ),
        Some(method) => {
            let names = keys_of(FIT).into_iter().map(|key| key.name);
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
        budget(bits, faults);
    }
    for name in ["embedding", "output"] {
        if let Some(matrix) = fields.block(name) {
            number(matrix, faults);
        }
    }
    fixed_scales(fields, faults);
    for one in fields.blocks("overrides") {
        distinct::<Part>(one, "modules", faults);
        distinct::<u64>(one, "layers", faults);
        if one.get("keep") == Some(true) {
            for name in ["type", "bits", "group_size", "symmetric", "activations"] {
                let label = "kept projections have no scheme";
                unused(one, name, "keep", label, faults);
            }
        } else {
            scheme(one, faults);
        }
    }
}

/// Reports a budget that no choice of widths can meet.
fn budget(bits: Fields<'_>, faults: &mut Vec<Diagnostic>) {
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
}

fn clips(fields: Fields<'_>) -> bool {
    fields.get("clip") == Some(true)
}

/// Checks the keys of methods that measure the inputs of projections.
fn calibrated(fields: Fields<'_>, method: QuantizeWord, faults: &mut Vec<Diagnostic>) {
    if !method.is_gptq() {
        for name in ["act_order", "damping"] {
            let label = format!("`{method}` corrects no error");
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

fn scheme(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
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

/// Reports keys that have no choice with this kind of number.
fn number(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    if !is_int(fields) {
        for name in ["bits", "symmetric"] {
            unused(fields, name, "type", "only `int` has a choice", faults);
        }
    }
}

fn is_int(fields: Fields<'_>) -> bool {
    let number: Option<NumberType> = fields.get("type");
    number.is_none_or(|number| number == NumberType::Int)
}

/// Reports a grid that would begin after the last step.
fn start_step(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
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

fn fixed_scales(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
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
