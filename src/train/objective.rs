//! The loss of a step, its rows, and its logged numbers.

use super::gradient::MicroBatch;
use super::{row_targets, scheduled, temperature};
use crate::data::TokenRows;
use crate::loss::{LossSpec, LossSums, Term, Terms};
use crate::support::{Supports, Temperature};
use crate::train::{FitPlan, TemperaturePlan};

/// The loss of a step, counted from 0.
pub(super) fn loss_spec(plan: &FitPlan, step: usize) -> LossSpec {
    let losses = &plan.losses;
    LossSpec {
        weights: Terms::from_fn(|term| scheduled(losses.weights[term], step)),
        shapes: losses.shapes,
        temperature: Temperature::new(temperature(&plan.temperature, step)),
        tail: plan.tail,
    }
}

/// Rows of a step in micro-batches, with the target of each position.
pub(super) fn micro_batches<'a>(
    plan: &FitPlan,
    rows: &'a TokenRows,
    row_idxs: &[usize],
    supports: Option<&'a [Supports]>,
) -> Vec<MicroBatch<'a>> {
    let entries: Vec<(usize, Option<&Supports>)> = row_idxs
        .iter()
        .enumerate()
        .map(|(entry, &row_idx)| (row_idx, supports.map(|all| &all[entry])))
        .collect();
    entries
        .chunks(plan.micro_batch)
        .map(|entries| MicroBatch {
            inputs: entries
                .iter()
                .map(|&(row_idx, _)| rows.inputs(row_idx))
                .collect(),
            targets: entries
                .iter()
                .flat_map(|&(row_idx, supports)| row_targets(rows, row_idx, supports))
                .collect(),
        })
        .collect()
}

/// Means of the terms that compare with the teacher, if they are on, by their names in the log.
pub(super) fn logged_terms(means: &LossSums, spec: &LossSpec) -> Vec<(String, f64)> {
    let is_logged = |term: &Term| *term != Term::CrossEntropy && spec.weights[*term] != 0.0;
    let terms = Term::ALL.into_iter().filter(is_logged);
    terms
        .map(|term| (format!("train/{term}"), means.terms[term]))
        .collect()
}

/// The temperature and the weights of the loss terms at a step, if they change, by their names in the log.
pub(super) fn logged_schedules(plan: &FitPlan, step: usize) -> Vec<(String, f64)> {
    let moves = match &plan.temperature {
        TemperaturePlan::Constant(_) => false,
        TemperaturePlan::Walk(walk) => walk.stops.len() > 1,
    };
    let mut moving = Vec::new();
    if moves {
        let value = temperature(&plan.temperature, step);
        moving.push(("train/temperature".to_owned(), value));
    }
    let weights = plan.losses.weights.iter();
    let weights = weights.filter(|(_, weight)| weight.moves());
    moving.extend(weights.map(|(term, weight)| {
        let name = format!("train/weight/{term}");
        (name, scheduled(*weight, step))
    }));
    moving
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::LossWeights;
    use crate::recipe::{Ramp, Scheduled, Shape};
    use crate::train::TemperatureWalk;
    use crate::train::schedule::tests::plan;

    fn ramp(from: f64, to: f64) -> Scheduled {
        Scheduled::Ramp(Ramp {
            from,
            to,
            over: 3,
            shape: Shape::Linear,
        })
    }

    fn logged(plan: &FitPlan, step: usize) -> Vec<(String, f64)> {
        logged_schedules(plan, step)
    }

    #[test]
    fn what_moves_is_logged_as_it_is_at_the_step_and_what_does_not_is_not() {
        assert_eq!(logged(&plan(8, 1), 3), []);
        let walk = |stops: &[f64]| {
            TemperaturePlan::Walk(TemperatureWalk {
                from: stops[0],
                to: stops[stops.len() - 1],
                over: 4,
                stops: stops.to_vec(),
            })
        };
        let moving = FitPlan {
            temperature: walk(&[4.0, 1.0]),
            losses: LossWeights {
                weights: Terms::from_fn(|term| match term {
                    Term::ForwardKl => ramp(1.0, 0.0),
                    Term::Jsd => ramp(0.0, 0.5),
                    Term::Tvd => ramp(0.25, 0.25),
                    Term::CrossEntropy => Scheduled::Constant(1.0),
                    _ => Scheduled::default(),
                }),
                shapes: Terms::ZERO.with(Term::Jsd, 0.5),
                ..LossWeights::default()
            },
            ..plan(8, 1)
        };
        let want = |temperature, forward_kl, jsd| {
            [
                ("train/temperature".to_owned(), temperature),
                ("train/weight/forward_kl".to_owned(), forward_kl),
                ("train/weight/jsd".to_owned(), jsd),
            ]
        };
        assert_eq!(logged(&moving, 0), want(4.0, 1.0, 0.0));
        assert_eq!(logged(&moving, 1), want(4.0, 0.5, 0.25));
        assert_eq!(logged(&moving, 7), want(1.0, 0.0, 0.5));
        let still = FitPlan {
            temperature: walk(&[2.0]),
            ..plan(8, 1)
        };
        assert_eq!(logged(&still, 0), []);
    }

    #[test]
    fn a_temperature_below_all_of_f32_is_one_that_logits_can_be_divided_by() {
        for (temperature, want) in [(1e-300, 1e-20_f32), (0.05, 0.05), (100.0, 100.0)] {
            let plan = FitPlan {
                temperature: TemperaturePlan::Constant(temperature),
                ..plan(8, 1)
            };
            assert_eq!(
                loss_spec(&plan, 0).temperature.divisor().to_bits(),
                want.to_bits()
            );
        }
    }
}
