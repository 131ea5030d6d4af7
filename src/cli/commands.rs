//! One function per command.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::{Failure, RecipeArgs, RunArgs, Trust, VERSION};
use crate::data::{SourcePlan, Tokenizer};
use crate::device;
use crate::estimate::{StageEstimate, estimate, secs_in_bf16};
use crate::fetched::{self, HubItem, Missing};
use crate::hashes::Hashes;
use crate::inspect as facts;
use crate::kernels::{Arithmetic, Sums};
use crate::machine;
use crate::memory;
use crate::opened::{Opened, StoredModel};
use crate::passes::PartDone;
use crate::plan::{self, Plan};
use crate::preflight;
use crate::progress::{self, bytes_cell, bytes_text, thousands};
use crate::rates::{self, Machine, Rates, Secs};
use crate::report::terminal_table;
use crate::run::{self, RunContext};
use crate::stages::Stages;

/// Where data goes and in what form.
pub(super) struct Output<'a> {
    pub(super) out: &'a mut dyn Write,
    pub(super) json: bool,
}

impl Output<'_> {
    pub(super) fn print(&mut self, text: &str, json: &impl Serialize) -> Result<(), Failure> {
        let written = if self.json {
            let json = serde_json::to_string(json).map_err(std::io::Error::other)?;
            writeln!(self.out, "{json}")
        } else {
            writeln!(self.out, "{}", text.trim_end())
        };
        match written {
            // A reader such as `head` has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            outcome => Ok(outcome?),
        }
    }
}

pub(super) fn run(args: &RunArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let plan = load_plan(&args.recipe, Missing::Fetch)?;
    let report = with_context(&plan, &args.recipe.set, args.trust, |context| {
        run::run(&plan, context)
    });
    remember_speeds(&plan);
    let report = report?;
    let mut text = terminal_table(&report.passes);
    for export in &report.exports {
        let _ = write!(
            text,
            "\nexport {}: {}, read back: {export}",
            export.format,
            bytes_text(export.size_bytes),
        );
    }
    let dir = plan.output.join(&plan.name);
    let _ = write!(text, "\nreport: {}", shown(&dir.join("report.md")));
    output.print(&text, &report)
}

pub(super) fn plan(args: &RecipeArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let plan = load_plan(args, Missing::Tell)?;
    device::open(&plan.device)?;
    let opened = Opened::open(&plan);
    let mut notes = preflight::check(&plan, &opened, &args.set)?;
    let hashes = Hashes::open(&plan.output, 0.0, false); // nothing is written, nor is it remembered
    let stages = Stages::of(&plan, opened, &hashes)?;
    let (rates, damage) = Rates::of(&Machine::here(VERSION, &plan.device));
    notes.extend(damage);
    notes.extend(preflight::check_away(&plan, &stages, &args.set)?);
    let estimates = estimate(&plan, &stages, &rates);
    notes.extend(stages.changes(&plan));
    let mut text = stage_table(&estimates);
    let to_do = estimates.iter().filter(|estimate| !estimate.done);
    let left: Secs = to_do.map(|estimate| estimate.time).sum();
    let _ = write!(text, "to do: about {left}{}", speed_note(left));
    let in_bf16 = secs_in_bf16(&plan, &estimates, &rates);
    if let Some(secs) = in_bf16.filter(|secs| left.likely - secs.likely >= WORTH_A_LINE_SECS) {
        let sums = Sums::of_this_machine();
        let _ = write!(
            text,
            "\nwith `--precision bf16`: about {secs} ({})",
            Arithmetic::Bf16(sums)
        );
    }
    let peak_bytes = memory::peak(&estimates).map_or(0, |estimate| estimate.cost.memory_bytes);
    let machine_bytes = machine::memory_bytes();
    if let Some(machine_bytes) = machine_bytes.filter(|_| peak_bytes > 0) {
        let (peak, machine) = (bytes_text(peak_bytes), bytes_text(machine_bytes));
        let _ = write!(
            text,
            "\npeak memory: about {peak}; this machine has {machine}"
        );
    }
    let room = memory::check(&plan, &stages, &estimates, machine_bytes, &args.set);
    if room.is_err() {
        text.push_str(": `run` will refuse without `--over-memory`");
    }
    for note in &notes {
        let _ = write!(text, "\nnote: {note}");
    }
    let found = json!({
        "stages": estimates,
        "secs_to_do": left.likely,
        "secs_to_do_least": left.least,
        "secs_to_do_most": left.most,
        "secs_to_do_in_bf16": in_bf16.map(|secs| secs.likely),
        "peak_memory_bytes": peak_bytes,
        "machine_memory_bytes": machine_bytes,
        "notes": notes,
    });
    output.print(&text, &found)
}

/// Seconds that bf16 must save of what is to do to be told of in the text of a plan.
const WORTH_A_LINE_SECS: f64 = 60.0;

fn stage_table(estimates: &[StageEstimate]) -> String {
    let done = |estimate: &StageEstimate| match estimate.part_done {
        _ if estimate.done => "yes".to_owned(),
        Some(PartDone { done, of, unit }) => {
            format!("{} of {} {unit}", thousands(done), thousands(of))
        }
        None => "no".to_owned(),
    };
    let done: Vec<String> = estimates.iter().map(done).collect();
    let times = estimates.iter().map(|estimate| estimate.time.to_string());
    let times: Vec<String> = times.collect();
    let widest = |cells: &[String], least| cells.iter().map(String::len).fold(least, usize::max);
    let (width, time_width) = (widest(&done, 5), widest(&times, 10));
    let mut text = format!(
        "{:<14} {:<8} {:<width$} {:>12} {:>10} {:>10} {:>time_width$}\n",
        "stage", "key", "done", "tokens", "memory", "disk", "time"
    );
    for ((estimate, done), time) in estimates.iter().zip(&done).zip(&times) {
        let StageEstimate { stage, cost, .. } = estimate;
        let _ = writeln!(
            text,
            "{:<14} {:<8} {done:<width$} {:>12} {:>10} {:>10} {time:>time_width$}",
            stage.name,
            &stage.key[..8],
            thousands(cost.tokens),
            bytes_text(cost.memory_bytes),
            bytes_cell(cost.disk_bytes),
        );
    }
    text
}

/// Remark behind an estimated time: where it comes from.
pub(super) fn speed_note(time: Secs) -> &'static str {
    if time.is_known() {
        " on this machine if it is idle"
    } else {
        " (a range, because no run has measured the speed of this machine yet)"
    }
}

pub(super) fn schema(output: &mut Output<'_>) -> Result<(), Failure> {
    let schema = plan::schema();
    let text = serde_json::to_string_pretty(&schema).map_err(std::io::Error::other)?;
    output.print(&text, &schema)
}

pub(super) fn inspect(
    path: &Path,
    against: Option<&Path>,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let failed = |error| Failure::input("inspect", &error);
    let here = |path: &Path| fetched::argument(path, &HubItem::Model, Missing::Tell);
    let path = &here(path)?;
    if let Some(other) = against {
        let (text, found) = facts::against(path, &here(other)?).map_err(failed)?;
        return output.print(&text, &found);
    }
    let found = facts::inspect(path).map_err(failed)?;
    output.print(&facts::text(&found), &found)
}

pub(super) fn load_plan(args: &RecipeArgs, missing: Missing) -> Result<Plan, Failure> {
    let mut plan = fetched::load_plan(&args.recipe, &args.set, missing)?;
    if let Some(device) = &args.device {
        plan.device.clone_from(device);
    }
    if let Some(precision) = args.precision.as_deref().and_then(Arithmetic::of_word) {
        plan.compute_in(precision);
    }
    Ok(plan)
}

/// Adds the speeds that this process has measured to those of the machine. A run never depends on them, nor fails for them.
pub(super) fn remember_speeds(plan: &Plan) {
    if let Err(error) = rates::save(&Machine::here(VERSION, &plan.device)) {
        progress::log(&format!(
            "note: {error}; the speed of this machine is not remembered"
        ));
    }
}

/// A flag that the first SIGINT or SIGTERM sets; the second ends the process at once.
pub(super) fn stop_on_signals() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Opens the device, listens to signals and calls `work`: the first SIGINT or SIGTERM sets the stop flag, the
/// second ends the process at once.
pub(super) fn with_context<T>(
    plan: &Plan,
    overrides: &[String],
    trust: Trust,
    work: impl FnOnce(&RunContext<'_>) -> Result<T, run::RunError>,
) -> Result<T, Failure> {
    let device = device::open(&plan.device)?;
    let stop = stop_on_signals()?;
    #[expect(
        clippy::disallowed_methods,
        reason = "the clock enters here, once, for the TensorBoard events"
    )]
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64());
    let context = RunContext {
        device: &device,
        stop: &stop,
        wall_time: now,
        overrides,
        over_memory: trust.over_memory,
        verify: trust.verify,
    };
    Ok(work(&context)?)
}

/// Opens a model, which is fetched if it is named by an id, and says what is to be noted of it, such as which folder of a run
/// it is.
pub(super) fn open_model(path: &Path) -> Result<StoredModel, Failure> {
    let model = StoredModel::open(&fetched(path, &HubItem::Model)?)?;
    progress::log_notes(&model.notes());
    Ok(model)
}

/// The path that an argument means, which is fetched if it is an id.
pub(super) fn fetched(path: &Path, item: &HubItem) -> Result<PathBuf, Failure> {
    Ok(fetched::argument(path, item, Missing::Fetch)?)
}

/// Sources of the texts of a command, which are fetched if they are ids.
pub(super) fn fetched_texts(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let rows = |path: &PathBuf| fetched(path, &HubItem::Rows(SourcePlan::default()));
    paths.iter().map(rows).collect()
}

pub(super) fn open_tokenizer(model: &StoredModel) -> Result<Tokenizer, Failure> {
    let tokenizer = model
        .tokenizer()
        .map_err(|error| Failure::input("data/tokenizer", &error))?;
    let vocab_size = model.config().vocab_size;
    if tokenizer.vocab_size() > vocab_size {
        let fact = format!(
            "the tokenizer has {} tokens, but the model knows {vocab_size}",
            tokenizer.vocab_size()
        );
        return Err(Failure::input("data/vocabulary", &fact));
    }
    Ok(tokenizer)
}

/// A path as short as it can be told.
pub(super) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here)
        .unwrap_or(path)
        .display()
        .to_string()
}
