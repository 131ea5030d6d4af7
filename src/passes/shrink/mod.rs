//! Removes whole layers, channels, heads and dimensions from the student.

mod plan;
mod sizes;

use std::io;
use std::path::Path;

pub(super) use self::plan::SHRINK;
use self::plan::contradictions;
pub use self::plan::{LayersBy, ShrinkPlan, ShrinkSizes, ShrinkTarget, Side};
use self::sizes::{NEAR, ShrinkError, shrunk_parts};
use super::removed::{Parts, Removed, StudentSizes};
use super::{Pass, PassError, PassFault, PassInputs, PassReport, calibration, saved};
use crate::calibration::Calibration;
use crate::cost::{F32_BYTES, StageCost};
use crate::diag::{Diagnostic, code_list};
use crate::model::{Decoder, DecoderConfig, num_parameters};
use crate::progress::log;
use crate::recipe::Fields;
use crate::student::{
    FromTeacherPlan, Importance, LayersPlan, PartSelection, Student, part_of_teacher, run_influence,
};
use crate::train::FitError;
use crate::train::evaluate::{Reference, measure};
use crate::train::fit::PassContext;

impl Pass for ShrinkPlan {
    fn contradictions(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
        contradictions(fields, faults);
    }

    fn leaves(&self, student: &DecoderConfig) -> Result<DecoderConfig, PassFault> {
        let parts = shrunk_parts(&self.target, student).map_err(|error| fault(&error))?;
        Ok(part_of_teacher(&parts, student))
    }

    fn check(&self, _: &PassInputs<'_>) -> Result<(), PassFault> {
        Ok(()) // `leaves` checks the sizes
    }

    fn notes(&self, inputs: &PassInputs<'_>) -> Vec<String> {
        let ShrinkTarget::Parameters { parameters, along } = &self.target else {
            return Vec::new();
        };
        let [there, left] =
            [inputs.student, inputs.left].map(|config| num_parameters(config) as f64);
        let found = left / there;
        if parameters - found <= NEAR {
            return Vec::new();
        }
        let more = if along.contains(&Side::IntermediateSize) {
            ""
        } else {
            ": with `intermediate_size` among them, channels would fill the rest"
        };
        let sides = code_list(along.iter().map(|side| side.word()));
        vec![format!(
            "`shrink` leaves {:.1} % of the parameters, not {:.1} %: whole steps of {sides} come no nearer{more}",
            100.0 * found,
            100.0 * parameters
        )]
    }

    /// Adds runs over the calibration text: two of the whole student, or one for each layer that might be removed next.
    fn add_cost(&self, cost: &mut StageCost, inputs: &PassInputs<'_>) {
        let [there, left] = [inputs.student, inputs.left].map(|config| config.num_hidden_layers);
        let runs = match (self.layers_by, self.contiguous) {
            (LayersBy::Loss, false) => 1 + (left + 1..=there).sum::<usize>(),
            (LayersBy::Loss, true) => 2 + left,
            (LayersBy::Influence, _) => 2,
        };
        let text = inputs.training(self.calibration_tokens);
        cost.add_runs(inputs.student, runs as u64, text);
        cost.memory_bytes += num_parameters(inputs.student) * F32_BYTES;
    }

    fn apply(&self, student: Student, context: &PassContext<'_>) -> Result<Student, PassError> {
        shrink(self, student, context)
    }

    fn report(&self, dir: &Path) -> io::Result<PassReport> {
        Removed::report(dir)
    }
}

/// Fault of a size that is impossible.
fn fault(error: &ShrinkError) -> PassFault {
    let help = match error {
        ShrinkError::Part { error, .. } => error.help(),
        ShrinkError::Nothing => "write smaller sizes, or delete the pass".to_owned(),
        ShrinkError::Parameters {
            smallest, there, ..
        } if smallest == there => "name sizes in `along` that can become smaller".to_owned(),
        ShrinkError::Parameters {
            smallest, there, ..
        } => {
            let share = (*smallest as f64 / *there as f64 * 1000.0).ceil() / 1000.0;
            format!("write at least `parameters: {share}`, or more sizes in `along`")
        }
    };
    let label = match error {
        ShrinkError::Nothing => "removes nothing",
        ShrinkError::Part { error, .. } => error.label(),
        ShrinkError::Parameters { .. } => "below the smallest size along these",
    };
    let fault = Diagnostic::new("shrink/size", error.to_string()).help(help);
    PassFault::at(error.key().unwrap_or_default(), label, fault)
}

/// Keeps the parts that score highest, layers first: widths are scored in the remaining layers. Masked weights stay masked.
///
/// # Panics
///
/// If the student lacks what the plan keeps; headers were checked before.
fn shrink(
    plan: &ShrinkPlan,
    student: Student,
    context: &PassContext<'_>,
) -> Result<Student, PassError> {
    let calibration = calibration(context, plan.calibration_tokens);
    let whole = student.effective();
    let parts = shrunk_parts(&plan.target, &whole.config).expect("headers were checked");
    let (layers, influence) = match parts.layers {
        Some(LayersPlan::HighestInfluence(count)) => layers(plan, count, &whole, &calibration)?,
        _ => ((0..whole.config.num_hidden_layers).collect(), None),
    };
    let widths = FromTeacherPlan {
        layers: None,
        ..parts
    };
    let shallow = PartSelection::layers(&layers).cut(&whole);
    let has_widths = [
        widths.hidden_size,
        widths.intermediate_size,
        widths.num_key_value_heads,
    ];
    let importance = if has_widths.iter().any(Option::is_some) {
        Importance::measure(&shallow, &calibration)?
    } else {
        Importance::unmeasured(&shallow.config)
    };
    let kept = PartSelection {
        layers,
        ..PartSelection::choose(&widths, &shallow.config, &importance)
    };
    let small = kept.cut_student(&student);
    let parts = Parts {
        before: StudentSizes::of(&whole.config),
        after: StudentSizes::of(&small.decoder.config),
        kept,
        influence,
    };
    log(&format!("{}: {}", context.label, parts.describe()));
    saved(context, Removed::Parts(parts).write(context.dir))?;
    Ok(small)
}

/// The layers that stay, ascending; and the influence of each layer there was, if that chose them.
fn layers(
    plan: &ShrinkPlan,
    count: usize,
    whole: &Decoder,
    calibration: &Calibration<'_>,
) -> Result<(Vec<usize>, Option<Vec<f64>>), PassError> {
    let num_layers = whole.config.num_hidden_layers;
    let num_gone = num_layers - count;
    let all: Vec<usize> = (0..num_layers).collect();
    if num_gone == 0 {
        return Ok((all, None));
    }
    match (plan.layers_by, plan.contiguous) {
        (LayersBy::Influence, false) => {
            let importance = Importance::measure(whole, calibration)?;
            let parts = FromTeacherPlan {
                layers: Some(LayersPlan::HighestInfluence(count)),
                ..FromTeacherPlan::default()
            };
            let kept = PartSelection::choose(&parts, &whole.config, &importance).layers;
            let is_finite = importance.influence.iter().all(|score| score.is_finite());
            Ok((kept, is_finite.then_some(importance.influence))) // JSON has finite numbers only
        }
        (LayersBy::Influence, true) => {
            let influence = run_influence(whole, num_gone, calibration)?;
            Ok((without_run(num_layers, lowest(&influence), num_gone), None)) // of runs, not of layers
        }
        (LayersBy::Loss, true) => {
            let runs = (0..=count).map(|start| without_run(num_layers, start, num_gone));
            let losses = losses(whole, runs, calibration)?;
            Ok((without_run(num_layers, lowest(&losses), num_gone), None))
        }
        (LayersBy::Loss, false) => {
            let mut kept = all;
            for _ in 0..num_gone {
                let fewer = (0..kept.len()).map(|place| without_run_of(&kept, place, 1));
                let losses = losses(whole, fewer, calibration)?;
                kept.remove(lowest(&losses));
            }
            Ok((kept, None))
        }
    }
}

/// Loss on the calibration text with only these layers, for each choice of them.
fn losses(
    whole: &Decoder,
    choices: impl Iterator<Item = Vec<usize>>,
    calibration: &Calibration<'_>,
) -> Result<Vec<f64>, PassError> {
    let rows = calibration.read_rows();
    let mut losses = Vec::new();
    for layers in choices {
        calibration.check_stop()?;
        let decoder = PartSelection::layers(&layers).cut(whole);
        let measured = measure(&decoder, &rows, Reference::None, |_| true);
        let measured = measured.map_err(FitError::from)?;
        losses.push(measured.expect("nothing ended it").loss_nats);
    }
    Ok(losses)
}

/// Index of the lowest score, the first of equals; NaN is above all numbers.
fn lowest(scores: &[f64]) -> usize {
    let places = 0..scores.len();
    let lowest = places.min_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    lowest.expect("there is a choice")
}

fn without_run(num_layers: usize, start: usize, length: usize) -> Vec<usize> {
    let all: Vec<usize> = (0..num_layers).collect();
    without_run_of(&all, start, length)
}

fn without_run_of(layers: &[usize], start: usize, length: usize) -> Vec<usize> {
    let mut rest = layers.to_vec();
    rest.drain(start..start + length);
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_score_goes_and_the_other_layers_keep_their_order() {
        assert_eq!(without_run(6, 2, 3), [0, 1, 5]);
        assert_eq!(lowest(&[3.0, 1.0, f64::NAN, 1.0]), 1);
    }
}
