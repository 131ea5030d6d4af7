//! Check that a run fits into the memory of this machine.

use crate::diag::Diagnostic;
use crate::estimate::StageEstimate;
use crate::plan::{Plan, fault_at};
use crate::progress::bytes_text;
use crate::recipe::RecipeFaults;
use crate::stages::Stages;

/// Estimate with the highest memory among the stages that are still to run; the first among equals.
pub fn peak(estimates: &[StageEstimate]) -> Option<&StageEstimate> {
    let to_do = estimates.iter().filter(|estimate| !estimate.done);
    to_do
        .rev()
        .max_by_key(|estimate| estimate.cost.memory_bytes)
}

/// Refuses a run on the CPU if any stage is estimated to need more memory than there is.
///
/// # Errors
///
/// The error points at the key that sets how much is held at a time, if it is written.
pub fn check(
    plan: &Plan,
    stages: &Stages,
    estimates: &[StageEstimate],
    machine_bytes: Option<u64>,
    overrides: &[String],
) -> Result<(), RecipeFaults> {
    let Some((estimate, machine_bytes)) = peak(estimates).zip(machine_bytes) else {
        return Ok(());
    };
    if plan.device != "flex" || estimate.cost.memory_bytes <= machine_bytes {
        return Ok(());
    }
    let fact = format!(
        "stage `{}` needs about {}, but this machine has {}",
        estimate.stage.name,
        bytes_text(estimate.cost.memory_bytes),
        bytes_text(machine_bytes)
    );
    let pass_idx = stages
        .passes
        .iter()
        .position(|stage| stage == &estimate.stage);
    let (key, remedy) = match pass_idx.map(|idx| (idx, &plan.passes[idx])) {
        Some((idx, pass)) if pass.fit().is_some() => {
            (format!("passes.{idx}.{}.micro_batch", pass.name()), FIT)
        }
        Some(_) => ("student".to_owned(), "use a smaller student"),
        None => (
            "teacher.batch_size".to_owned(),
            "write a smaller `batch_size` under `teacher`",
        ),
    };
    let help = format!("{remedy}, or run with `--over-memory` to ignore this estimate");
    let fault = Diagnostic::new("run/memory", fact).help(help);
    Err(fault_at(
        plan,
        overrides,
        &key,
        "needs more memory than this machine has",
        fault,
    ))
}

const FIT: &str = "write a smaller `micro_batch` or `gradient_checkpointing: true`";
