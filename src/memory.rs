//! Check that a run fits into the memory of this machine.

use std::path::Path;

use crate::diag::Diagnostic;
use crate::estimate::StageEstimate;
use crate::files;
use crate::plan::{Plan, fault_at};
use crate::progress::bytes_text;
use crate::recipe::RecipeFaults;
use crate::stages::Stages;

/// Bytes that this process may use: the memory of the machine, or the lowest limit of the process's control groups.
/// `None` if the system does not report it.
pub fn machine_bytes() -> Option<u64> {
    let machine = files::read_to_string(Path::new("/proc/meminfo"))
        .ok()
        .and_then(|text| total_bytes(&text));
    let groups = files::read_to_string(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let group = Path::new("/sys/fs/cgroup").join(group.unwrap_or_default());
    let limits = group.ancestors().filter_map(|dir| {
        let text = files::read_to_string(&dir.join("memory.max")).ok()?;
        text.trim().parse().ok() // `max` is no limit
    });
    limits.chain(machine).min()
}

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

/// Parses the first line of `/proc/meminfo`.
fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_machine_is_read_in_kib() {
        let text = "MemTotal:       24605012 kB\nMemFree:         5 kB\n";
        assert_eq!(total_bytes(text), Some(24_605_012 * 1024));
        for damaged in ["", "MemTotal: 5 MB\n", "MemTotal: many kB\n"] {
            assert_eq!(total_bytes(damaged), None, "{damaged:?}");
        }
    }
}
