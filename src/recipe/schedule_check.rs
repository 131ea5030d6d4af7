//! The rules of what moves during a pass, and of when it ends; called by `pass_check.rs`.

use super::complete::{decay_steps, over};
use super::fields::Fields;
use super::loss_keys::{TEMPERATURE_WALK, WEIGHT_RAMP};
use super::schedule_plan::{HandOn, ScheduleWord};
use crate::diag::Diagnostic;
use crate::progress::thousands;

/// Every contradiction among the schedules of a pass.
pub(super) fn schedules(fields: &Fields, faults: &mut Vec<Diagnostic>) {
    rate(fields, faults);
    if let Some(steps) = fields.get::<usize>("steps") {
        warmup_and_decay(fields, steps, faults);
        for (name, ramp) in ramps(fields) {
            length(fields, name, ramp, steps, faults);
        }
    }
    measurements(fields, faults);
}

/// What moves in a block and in those that it holds.
fn ramps(block: &Fields) -> Vec<(&'static str, &Fields)> {
    let mut found = Vec::new();
    for entry in &block.entries {
        if let Some(inner) = entry.item.as_block() {
            let is = |kind| std::ptr::eq(inner.block, kind);
            if is(&raw const WEIGHT_RAMP) || is(&raw const TEMPERATURE_WALK) {
                found.push((entry.key.name, inner));
            } else {
                let named = ramps(inner).into_iter().map(|(name, ramp)| match name {
                    "weight" => (entry.key.name, ramp), // of a loss term
                    name => (name, ramp),
                });
                found.extend(named);
            }
        }
    }
    found
}

/// Keys that the chosen schedule does not look at.
fn rate(fields: &Fields, faults: &mut Vec<Diagnostic>) {
    let Some(schedule) = fields.get::<ScheduleWord>("schedule") else {
        return;
    };
    let mut unused = |name: &str, label: &str, help: String| {
        if fields.is_written(name) {
            let message = format!("`{name}` has no effect: the schedule is `{schedule}`");
            faults.push(
                Diagnostic::new("recipe/unused-key", message)
                    .primary(fields.span(name), label)
                    .secondary(fields.span("schedule"), "")
                    .help(help),
            );
        }
    };
    if schedule != ScheduleWord::WarmupStableDecay {
        for name in ["decay_steps", "decay_shape"] {
            let help = format!("delete `{name}`, or write `schedule: warmup_stable_decay`");
            unused(name, "of the last steps of `warmup_stable_decay`", help);
        }
    }
    if schedule == ScheduleWord::Constant {
        let name = "final_learning_rate_frac";
        unused(name, "the rate never falls", format!("delete `{name}`"));
    }
}

fn warmup_and_decay(fields: &Fields, steps: usize, faults: &mut Vec<Diagnostic>) {
    let warmup: usize = fields.get("warmup_steps").unwrap_or(0);
    if warmup > steps {
        let message = format!(
            "`warmup_steps` is {}, but the pass has {} steps",
            thousands(warmup as u64),
            thousands(steps as u64)
        );
        faults.push(
            Diagnostic::new("recipe/long-warmup", message)
                .primary(fields.span("warmup_steps"), "")
                .secondary(fields.span("steps"), ""),
        );
        return;
    }
    let schedule = fields.get("schedule");
    let decay = decay_steps(fields, steps);
    if schedule == Some(ScheduleWord::WarmupStableDecay) && warmup + decay > steps {
        let message = format!(
            "warm-up and decay take {} steps, but the pass has {}",
            thousands((warmup + decay) as u64),
            thousands(steps as u64)
        );
        faults.push(
            Diagnostic::new("recipe/long-decay", message)
                .primary(
                    fields.span("decay_steps"),
                    format!("{} steps of decay", thousands(decay as u64)),
                )
                .secondary(
                    fields.span("warmup_steps"),
                    format!("{} of warm-up", thousands(warmup as u64)),
                )
                .help(format!(
                    "write `decay_steps: {}` or less",
                    (steps - warmup).max(1)
                )),
        );
    }
}

/// A way longer than the pass would end somewhere else than the recipe says.
fn length(fields: &Fields, name: &str, ramp: &Fields, steps: usize, faults: &mut Vec<Diagnostic>) {
    let Some(over) = over(ramp, steps).map(|over| over.max(2)) else {
        return;
    };
    if over <= steps {
        return;
    }
    let message = format!(
        "`{name}` moves over {} steps, but the pass has {}",
        thousands(over as u64),
        thousands(steps as u64)
    );
    let help = if steps < 2 {
        format!("write a number for `{name}`: a single step does not move")
    } else {
        "write fewer, or a share such as `over: 0.5`".to_owned()
    };
    faults.push(
        Diagnostic::new("recipe/long-schedule", message)
            .primary(ramp.span("over"), "it would not arrive")
            .secondary(fields.span("steps"), "")
            .help(help),
    );
}

/// What is decided by the validation loss needs measurements of it.
fn measurements(fields: &Fields, faults: &mut Vec<Diagnostic>) {
    if fields.is_written("evaluate_every") {
        return;
    }
    let wants_best = fields.get("hand_on") == Some(HandOn::Best);
    let (name, label) = match (fields.is_written("early_stop"), wants_best) {
        (true, _) => ("early_stop", "waits for a lower validation loss"),
        (false, true) => ("hand_on", "the weights with the lowest validation loss"),
        (false, false) => return,
    };
    let every = fields
        .get::<u64>("steps")
        .map_or(100, |steps| (steps / 10).max(1));
    let message = format!("`{name}` needs `evaluate_every`: nothing is measured during the pass");
    faults.push(
        Diagnostic::new("recipe/never-measured", message)
            .primary(fields.span(name), label)
            .help(format!("add, for example, `evaluate_every: {every}`")),
    );
}
