//! A pass with more steps than before goes on from the state that the shorter one has kept.

use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

use super::stage::{Note, Stage};
use crate::difference::Difference;
use crate::files::UnfinishedDir;
use crate::passes::PassPlan;
use crate::progress::thousands;
use crate::train::{FitPlan, course, depends_on_steps, state};

/// Where a pass begins that was run before with fewer steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MoreSteps {
    /// After the steps that both have in common.
    After {
        /// Number of these steps.
        num_steps: usize,
        /// State of the shorter pass.
        state: PathBuf,
    },
    /// At its first step.
    Anew {
        /// Reason.
        because: String,
    },
}

impl fmt::Display for MoreSteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After { num_steps, .. } => {
                let num_steps = thousands(*num_steps as u64);
                write!(f, "goes on after step {num_steps} of an earlier run")
            }
            Self::Anew { because } => write!(f, "begins at its first step: {because}"),
        }
    }
}

/// Looks for a shorter run of a pass; `None` if there is none, or if this pass is done or begun.
pub fn more_steps(stage: &Stage, pass: &PassPlan) -> Option<MoreSteps> {
    let plan = pass.fit()?;
    let unfinished = UnfinishedDir::at(&stage.dir).ok()?;
    if stage.is_done() || state::newest(&unfinished).is_some() {
        return None;
    }
    let kept = kept_state(stage, plan);
    if let Some((num_steps, state)) = kept {
        return Some(MoreSteps::After { num_steps, state });
    }
    let because = why_anew(&stage.earlier()?, stage, plan)?;
    Some(MoreSteps::Anew { because })
}

/// The latest state on the course of this pass that another run of it has kept.
fn kept_state(stage: &Stage, plan: &FitPlan) -> Option<(usize, PathBuf)> {
    let origin = stage.origin.as_ref()?;
    let mut found: Vec<(usize, PathBuf)> = stage
        .siblings()
        .into_iter()
        .filter_map(|dir| state::kept(&dir).ok())
        .flatten()
        .filter(|(num_steps, _)| *num_steps <= plan.steps)
        .collect();
    found.sort();
    let is_on_course = |(num_steps, path): &(usize, PathBuf)| {
        state::maker(path).is_some_and(|maker| maker == course(plan, origin, *num_steps))
    };
    found.into_iter().rev().find(is_on_course)
}

/// Reason why a pass whose `steps` were raised begins anew; `None` if something else was changed, too, which is told anyway.
fn why_anew(earlier: &Note, stage: &Stage, plan: &FitPlan) -> Option<String> {
    let (mut was, mut is) = (earlier.made_from.clone(), stage.made_from.clone());
    let (old, new) = (training(&mut was)?, training(&mut is)?);
    let steps = |keys: &Value| keys.get("steps").and_then(Value::as_u64);
    if steps(old)? >= steps(new)? {
        return None;
    }
    if let Some(key) = depends_on_steps(plan) {
        return Some(format!("{key} depends on `steps`"));
    }
    for keys in [old, new] {
        keys.as_object_mut()?.shift_remove("steps");
        if let Some(decay) = keys.pointer_mut("/schedule/warmup_stable_decay") {
            decay.as_object_mut()?.shift_remove("decay_steps");
        }
    }
    Some(match Difference::first(&was, &is) {
        Some(difference) => {
            let key = difference.path.last().cloned().unwrap_or_default();
            format!("`{key}` {}", difference.describe("not set"))
        }
        None => "no state of it is kept".to_owned(),
    })
}

/// The keys of training in what a pass is made from.
fn training(made_from: &mut Value) -> Option<&mut Value> {
    fn find(value: &mut Value) -> Option<&mut Value> {
        if value.get("tokens_per_step").is_some() {
            return Some(value);
        }
        value.as_object_mut()?.values_mut().find_map(find)
    }
    find(made_from.get_mut("pass")?)
}

/// What a pass is made from without its keys of training: the rest of what decides its course.
pub(super) fn without_training(made_from: &Value) -> Value {
    let mut rest = made_from.clone();
    if let Some(keys) = training(&mut rest) {
        *keys = Value::Null;
    }
    rest
}
