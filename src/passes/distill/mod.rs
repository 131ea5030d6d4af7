//! Distillation: training against the cache and the text.

mod plan;

use std::path::Path;

pub(super) use self::plan::DISTILL;
use super::{PartDone, Pass, PassError, PassFault, PassInputs, saved};
use crate::cost::StageCost;
use crate::diag::Diagnostic;
use crate::loss::Term;
use crate::model::{DecoderConfig, parameter_specs};
use crate::pruning;
use crate::recipe::Fields;
use crate::student::{self, Adapter, AdapterPlan, Projection, Student, is_target, layer_pairs};
use crate::train::fit::{PassContext, fit};
use crate::train::{self, FitError, FitInputs, FitPlan, state};

impl Pass for FitPlan {
    fn contradictions(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
        train::check(fields, faults);
        if let Some(adapter) = fields.block("adapter") {
            student::check_adapter(adapter, faults);
        }
        if let Some(prune) = fields.block("prune") {
            pruning::check(fields, prune, faults);
        }
    }

    fn trains(_: Fields<'_>) -> bool {
        true
    }

    fn prunes(fields: Option<Fields<'_>>) -> bool {
        fields.is_some_and(|fields| fields.block("prune").is_some())
    }

    fn fit(&self) -> Option<&FitPlan> {
        Some(self)
    }

    fn check(&self, inputs: &PassInputs<'_>) -> Result<(), PassFault> {
        if let Some(adapter) = &self.adapter {
            check_rank(adapter, inputs.student)?;
        }
        check_layers(self, inputs)
    }

    fn add_cost(&self, cost: &mut StageCost, inputs: &PassInputs<'_>) {
        let fit_inputs = FitInputs {
            student: inputs.student,
            teacher: inputs.teacher,
            validation: inputs.validation,
            steps_done: usize::try_from(inputs.done).unwrap_or(usize::MAX),
        };
        train::add_fit(cost, self, fit_inputs);
    }

    fn part_done(&self, dir: &Path, _: &DecoderConfig) -> Option<PartDone> {
        Some(PartDone {
            done: state::newest_step(dir)? as u64,
            of: self.steps as u64,
            unit: "steps",
        })
    }

    fn apply(&self, student: Student, context: &PassContext<'_>) -> Result<Student, PassError> {
        Ok(distill(self, student, context)?)
    }
}

/// Refuses an adapter whose rank is above that of a weight it is added to.
fn check_rank(adapter: &AdapterPlan, student: &DecoderConfig) -> Result<(), PassFault> {
    let specs = parameter_specs(student).into_iter();
    let widths = specs
        .filter(|spec| is_target(adapter, spec))
        .map(|spec| (spec.shape[0].min(spec.shape[1]), spec.name));
    if let Some((width, name)) = widths.min().filter(|(width, _)| adapter.rank > *width) {
        let fact = format!("`rank` is {}, but `{name}` has rank {width}", adapter.rank);
        let fault = Diagnostic::new("distill/rank", fact)
            .help(format!("write at most {width}; 4 to 64 is common"));
        return Err(PassFault::at(
            "adapter.rank",
            "more than the weight's own",
            fault,
        ));
    }
    Ok(())
}

/// Refuses pairs of hidden states that name a layer one of the models does not have.
pub(super) fn check_layers(fit: &FitPlan, inputs: &PassInputs<'_>) -> Result<(), PassFault> {
    let Some(teacher) = inputs.teacher else {
        return Ok(());
    };
    let depths = [inputs.student, teacher].map(|config| config.num_hidden_layers);
    let Err(error) = layer_pairs(&fit.losses, depths[0], depths[1]) else {
        return Ok(());
    };
    let last = depths.map(|depth| depth - 1);
    let help = format!(
        "write `[student, teacher]` with layers from 0 to {} and from 0 to {}",
        last[0], last[1]
    );
    let fault = Diagnostic::new("losses/layers", error.to_string()).help(help);
    let key = "losses.hidden_mse.layers";
    Err(PassFault::at(key, "past the last layer", fault))
}

/// Trains against the cache and the text, with whatever masks and schemes the student has.
///
/// Projections of hidden states are discarded at the end. An adapter is merged; without masks it is also saved for `peft`,
/// which does not support masks.
pub(super) fn distill(
    plan: &FitPlan,
    student: Student,
    context: &PassContext<'_>,
) -> Result<Student, FitError> {
    let cache = context.cache.filter(|_| plan.losses.is_soft());
    let context = PassContext { cache, ..*context };
    let student = Student {
        projections: projections(plan, &student, &context),
        ..student
    };
    let Some(adapter) = &plan.adapter else {
        return Ok(without_projections(fit(plan, student, &context)?));
    };
    let (config, device) = (&student.decoder.config, student.decoder.device());
    let adapter = Adapter::init(adapter, config, context.seed, &device);
    let student = Student {
        adapter: Some(adapter),
        ..student
    };
    let student = fit(plan, student, &context)?;
    if let Some(adapter) = student
        .adapter
        .as_ref()
        .filter(|_| student.masks.is_empty())
    {
        let written = adapter.save(&context.dir.join("adapter"), student.layer_repeats);
        saved(&context, written)?;
    }
    Ok(without_projections(student.merged()))
}

/// Projections from the student's hidden size to the teacher's; none if no loss term compares hidden states or the sizes agree.
fn projections(plan: &FitPlan, student: &Student, context: &PassContext<'_>) -> Vec<Projection> {
    let compares = plan.losses.uses(Term::HiddenMse);
    let Some(teacher) = context.teacher.filter(|_| compares) else {
        return Vec::new();
    };
    let config = student.effective_config();
    let depths = [&config, &teacher.config].map(|config| config.num_hidden_layers);
    let pairs = layer_pairs(&plan.losses, depths[0], depths[1]);
    Projection::init(
        &pairs.expect("the layers were looked up before the run"),
        config.hidden_size,
        teacher.config.hidden_size,
        context.seed,
        &student.decoder.device(),
    )
}

fn without_projections(student: Student) -> Student {
    Student {
        projections: Vec::new(),
        ..student
    }
}
