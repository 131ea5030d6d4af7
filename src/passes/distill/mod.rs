//! Distillation: training against the cache and the text.

mod plan;

pub(super) use self::plan::{DISTILL, check};
use super::saved;
use crate::loss::Term;
use crate::student::{Adapter, Projection, Student, layer_pairs};
use crate::train::fit::{FitContext, fit};
use crate::train::{FitError, FitPlan};

/// Trains against the cache and the text, with whatever masks and schemes the student has.
///
/// Projections of hidden states are thrown away at the end. An adapter is merged; without masks it is also left for `peft`,
/// which knows no masks.
pub(super) fn distill(
    plan: &FitPlan,
    student: Student,
    context: &FitContext<'_>,
) -> Result<Student, FitError> {
    let cache = context.cache.filter(|_| plan.losses.is_soft());
    let context = FitContext { cache, ..*context };
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

/// What brings the student's hidden states to the width of the teacher's, if a loss term compares them and the widths differ.
fn projections(plan: &FitPlan, student: &Student, context: &FitContext<'_>) -> Vec<Projection> {
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
