//! Takes whole layers, channels, heads and dimensions out of the student.

mod plan;
mod sizes;

pub use self::plan::{LayersBy, ShrinkPlan, ShrinkSizes, ShrinkTarget, Side};
pub(super) use self::plan::{SHRINK, check};
pub use self::sizes::{ShrinkError, configs_of_passes, shrunk_parts};
use super::removed::{Parts, Removed, Sizes};
use super::{PassError, calibration, saved};
use crate::calibration::Calibration;
use crate::model::Decoder;
use crate::progress::say;
use crate::student::{FromTeacherPlan, Importance, Kept, LayersPlan, Student, run_influence};
use crate::train::FitError;
use crate::train::evaluate::{Opinion, measure};
use crate::train::fit::FitContext;

/// Keeps the parts that score highest, layers first: widths are scored in what is left of those. What was masked stays so.
///
/// # Panics
///
/// If the student has not what the plan keeps: headers were checked before.
pub fn shrink(
    plan: &ShrinkPlan,
    student: Student,
    context: &FitContext<'_>,
) -> Result<Student, PassError> {
    let calibration = calibration(context, plan.calibration_tokens);
    let whole = student.effective();
    let parts = shrunk_parts(&plan.target, &whole.config).expect("headers were checked");
    let layers = match parts.layers {
        Some(LayersPlan::HighestInfluence(count)) => layers(plan, count, &whole, &calibration)?,
        _ => (0..whole.config.num_hidden_layers).collect(),
    };
    let widths = FromTeacherPlan {
        layers: None,
        ..parts
    };
    let shallow = Kept::layers(&layers).cut(&whole);
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
    let kept = Kept {
        layers,
        ..Kept::choose(&widths, &shallow.config, &importance)
    };
    let small = kept.cut_student(&student);
    let parts = Parts {
        before: Sizes::of(&whole.config),
        after: Sizes::of(&small.decoder.config),
        kept,
    };
    say(&format!("{}: {}", context.label, parts.told()));
    saved(context, Removed::Parts(parts).write(context.dir))?;
    Ok(small)
}

/// The layers that stay, ascending.
fn layers(
    plan: &ShrinkPlan,
    count: usize,
    whole: &Decoder,
    calibration: &Calibration<'_>,
) -> Result<Vec<usize>, PassError> {
    let num_layers = whole.config.num_hidden_layers;
    let num_gone = num_layers - count;
    let all: Vec<usize> = (0..num_layers).collect();
    if num_gone == 0 {
        return Ok(all);
    }
    match (plan.layers_by, plan.contiguous) {
        (LayersBy::Influence, false) => {
            let importance = Importance::measure(whole, calibration)?;
            let parts = FromTeacherPlan {
                layers: Some(LayersPlan::HighestInfluence(count)),
                ..FromTeacherPlan::default()
            };
            Ok(Kept::choose(&parts, &whole.config, &importance).layers)
        }
        (LayersBy::Influence, true) => {
            let influence = run_influence(whole, num_gone, calibration)?;
            Ok(without_run(num_layers, lowest(&influence), num_gone))
        }
        (LayersBy::Loss, true) => {
            let runs = (0..=count).map(|start| without_run(num_layers, start, num_gone));
            let losses = losses(whole, runs, calibration)?;
            Ok(without_run(num_layers, lowest(&losses), num_gone))
        }
        (LayersBy::Loss, false) => {
            let mut kept = all;
            for _ in 0..num_gone {
                let fewer = (0..kept.len()).map(|place| without_run_of(&kept, place, 1));
                let losses = losses(whole, fewer, calibration)?;
                kept.remove(lowest(&losses));
            }
            Ok(kept)
        }
    }
}

/// The loss on the calibration text with nothing but these layers, for each choice of them.
fn losses(
    whole: &Decoder,
    choices: impl Iterator<Item = Vec<usize>>,
    calibration: &Calibration<'_>,
) -> Result<Vec<f64>, PassError> {
    let rows = calibration.read_rows();
    let mut losses = Vec::new();
    for layers in choices {
        calibration.check_stop()?;
        let decoder = Kept::layers(&layers).cut(whole);
        let measured = measure(&decoder, &rows, Opinion::None, |_| true);
        let measured = measured.map_err(FitError::from)?;
        losses.push(measured.expect("nothing ended it").loss_nats);
    }
    Ok(losses)
}

/// Place of the lowest score, the first of equals; NaN is above all numbers.
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
