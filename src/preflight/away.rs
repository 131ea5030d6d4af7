//! Checks of a run whose teacher or text is on another machine: what is done must be enough.

use super::Preflight;
use crate::diag::Diagnostic;
use crate::hashes::Hashes;
use crate::hub::HubId;
use crate::loss::Term;
use crate::plan::Plan;
use crate::recipe::RecipeFaults;
use crate::stages::{Stage, Stages};
use crate::student::StudentSource;

/// Help if the teacher is needed.
pub const BRING_TEACHER: &str = "copy the teacher to this machine, or do this stage where the teacher is, and copy the `output` folder again";

/// Help if the text is needed.
pub const BRING_TEXT: &str = "copy the text to this machine, or run `alambic cache build` with this recipe where it is, and copy the \
                              `output` folder again";

/// Refuses a plan that needs its teacher or its text where they are not; `stages` says what is done.
///
/// Returns notes about what is used in their place.
///
/// # Errors
///
/// Every stage that needs what is not here, with the line of the recipe that names it.
pub fn check_away(
    plan: &Plan,
    stages: &Stages,
    overrides: &[String],
) -> Result<Vec<String>, RecipeFaults> {
    let (away, Some(kept)) = (stages.inputs.away, &stages.inputs.kept) else {
        return Ok(Vec::new());
    };
    let preflight = Preflight { plan, overrides };
    let mut notes = Vec::new();
    let mut faults = Vec::new();
    let cache = kept.cache_dir().display();
    if away.teacher {
        let needs = needs_of_teacher(plan, stages);
        let id = plan.teacher.as_ref();
        let id = id.and_then(|teacher| HubId::of_path(&teacher.checkpoint));
        let help = id.map_or_else(
            || BRING_TEACHER.to_owned(),
            |id| format!("`alambic fetch {id}` brings it"),
        );
        notes.push(format!(
            "the teacher is not here; its cached predictions are used (`{cache}`)"
        ));
        faults.extend(needs.into_iter().map(|(fact, label)| {
            let fault = Diagnostic::new("run/teacher-away", fact).help(help.as_str());
            preflight.fault("teacher.checkpoint", label, fault)
        }));
    }
    if away.text {
        notes.push(format!(
            "the text is not here; the token rows that were made of it are used (`{}`)",
            stages.data.dir.display()
        ));
        if kept.rows(&stages.data.key).is_none() || !stages.data.is_sound() {
            let fact = format!(
                "the text is not here, nor are the rows that were made of it for this recipe: `{}` is not complete",
                stages.data.dir.display()
            );
            let texts = plan.data.train.iter().chain(&plan.data.validation);
            let ids = texts.filter_map(|source| HubId::of_path(&source.path));
            let commands: Vec<String> = ids
                .map(|id| format!("`alambic fetch {id} --dataset`"))
                .collect();
            let help = match commands.as_slice() {
                [] => BRING_TEXT.to_owned(),
                commands => format!("{} brings it", commands.join(" and ")),
            };
            let fault = Diagnostic::new("run/text-away", fact).help(help);
            faults.push(preflight.fault("data.train", "a path of it names nothing", fault));
        }
    }
    match faults.into_iter().reduce(RecipeFaults::and) {
        None => Ok(notes),
        Some(faults) => Err(faults),
    }
}

/// Stages that are not done and need the teacher, as messages; with each, a label for the key that names it.
fn needs_of_teacher(plan: &Plan, stages: &Stages) -> Vec<(String, &'static str)> {
    let mut needs = Vec::new();
    if let Some(cache) = stages.cache.as_ref().filter(|_| !stages.cache_is_done()) {
        let fact = format!(
            "the teacher is not here, and its predictions are not all cached: `{}` lacks rows that this recipe wants",
            cache.dir.display()
        );
        return vec![(fact, "captures them")]; // the key of all other stages may hang on it
    }
    let unmeasured = |stage: &&Stage| {
        let unremembered = Hashes::of_this_process(0.0);
        !stage.is_sound() && stage.twin(&plan.output, &unremembered).is_none()
    };
    if let Some(teacher) = stages.teacher.as_ref().filter(unmeasured) {
        let fact = format!(
            "the teacher is not here, and its own figures are not measured yet: `{}` is missing",
            teacher.dir.display()
        );
        needs.push((fact, "is measured"));
    }
    let first = stages.passes.first().unwrap_or(&stages.export);
    if matches!(plan.student.source, StudentSource::FromTeacher(_)) && !first.is_sound() {
        let fact = format!(
            "the teacher is not here, and the student is made of its weights: {} is not done",
            first.name
        );
        needs.push((fact, "gives `student.from_teacher` its weights"));
    }
    for (pass, stage) in plan.passes.iter().zip(&stages.passes) {
        let compares = |losses: &crate::loss::LossWeights| losses.uses(Term::HiddenMse);
        if !stage.is_sound() && pass.fit().is_some_and(|fit| compares(&fit.losses)) {
            let fact = format!(
                "the teacher is not here, and {} runs it along for `hidden_mse`",
                stage.name
            );
            needs.push((fact, "runs along with a pass"));
        }
    }
    needs
}
