//! Numbers that may change over the steps of a pass.

use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::fields::{Fields, Item};
use super::value::Value;
use super::words::words;

words! {
    /// Course from one value to another.
    pub enum Shape {
        /// In equal steps.
        Linear = "linear",
        /// Half a cosine: slow at both ends.
        Cosine = "cosine",
        /// Fast at first: the square root of the progress (Hägele et al. 2024, arXiv 2405.18392).
        OneMinusSqrt = "1-sqrt",
    }
}

words! {
    /// Shapes that a ramp may have: [`Shape`] without the one that is made for a rate that falls to 0.
    pub enum RampShape {
        /// In equal steps.
        Linear = "linear",
        /// Half a cosine.
        Cosine = "cosine",
    }
}

impl From<RampShape> for Shape {
    fn from(shape: RampShape) -> Self {
        match shape {
            RampShape::Linear => Self::Linear,
            RampShape::Cosine => Self::Cosine,
        }
    }
}

/// A number that is constant or changes with the step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Scheduled {
    /// The same at every step.
    Constant(f64),
    /// A value that changes.
    Ramp(Ramp),
}

impl Default for Scheduled {
    fn default() -> Self {
        Self::Constant(0.0)
    }
}

/// A course from one value to another, where it stays.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ramp {
    /// Value at the first step.
    pub from: f64,
    /// Value at step `over` (counted from 1) and after.
    pub to: f64,
    /// Number of steps; at least two, at most those of the pass.
    pub over: usize,
    /// Course between the two values.
    pub shape: Shape,
}

impl Scheduled {
    /// Values at the first and at the last step; all others lie between them.
    pub fn ends(self) -> [f64; 2] {
        match self {
            Self::Constant(value) => [value; 2],
            Self::Ramp(ramp) => [ramp.from, ramp.to],
        }
    }

    /// True if it has two values or more.
    pub fn moves(self) -> bool {
        let [first, last] = self.ends();
        first.to_bits() != last.to_bits()
    }

    /// True if it is above 0 at some step.
    pub fn is_used(self) -> bool {
        self.ends().iter().any(|&value| value > 0.0)
    }
}

impl Value for Scheduled {
    fn read(item: &Item, holder: Fields<'_>) -> Option<Self> {
        let Some(ramp) = holder.inside(item) else {
            return f64::read(item, holder).map(Self::Constant);
        };
        Some(Self::Ramp(Ramp {
            from: ramp.get("from")?,
            to: ramp.get("to")?,
            over: over(ramp)?,
            shape: ramp.get::<RampShape>("shape")?.into(),
        }))
    }

    fn write(&self, _: &Path) -> serde_json::Value {
        json!(self)
    }
}

/// Number of steps that a number moves for: `over`, its share of the enclosing block's steps, or all of these.
pub fn over(ramp: Fields<'_>) -> Option<usize> {
    let steps = || ramp.nearest("steps")?.get::<usize>("steps");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of the steps"
    )]
    let of_share = |steps: usize, share: f64| ((steps as f64 * share).round() as usize).max(2);
    match ramp.get("over") {
        None if ramp.is_written("over") => Some(of_share(steps()?, ramp.get("over")?)),
        None => steps(),
        written => written,
    }
}
