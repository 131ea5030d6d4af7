//! What moves during a pass: the learning rate, and numbers that a recipe lets go from one value to another.
//!
//! What each of them is at a step is said by `train/schedule.rs`.

use serde::Serialize;

use super::word::words;

/// How the learning rate goes on from its peak, which a linear warm-up reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RateSchedule {
    /// It stays.
    Constant,
    /// A straight line to the final rate.
    Linear,
    /// Half a cosine to the final rate.
    #[default]
    Cosine,
    /// It stays, and falls to the final rate in the last steps (Hu et al. 2024, arXiv 2404.06395).
    WarmupStableDecay {
        /// The last steps.
        decay_steps: usize,
        /// How it falls.
        decay_shape: Shape,
    },
}

impl RateSchedule {
    /// Whether it is the default one: plans that were made before there was a choice keep their keys.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

words! {
    /// The way from one value to another.
    pub enum Shape {
        /// In equal steps.
        Linear = "linear",
        /// Half a cosine: slow at both ends.
        Cosine = "cosine",
        /// Fast at first: the root of the way gone (Hägele et al. 2024, arXiv 2405.18392).
        OneMinusSqrt = "1-sqrt",
    }
}

/// A number that stands still or moves with the step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Scheduled {
    /// The same at every step.
    Constant(f64),
    /// It moves.
    Ramp(Ramp),
}

impl Default for Scheduled {
    fn default() -> Self {
        Self::Constant(0.0)
    }
}

/// From one value to another, where it stays.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ramp {
    /// Value at the first step.
    pub from: f64,
    /// Value at step `over` (counted from 1) and after.
    pub to: f64,
    /// Steps; at least two, at most those of the pass.
    pub over: usize,
    /// The way between them.
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

    /// Whether it has two values or more.
    pub fn moves(self) -> bool {
        let [first, last] = self.ends();
        first.to_bits() != last.to_bits()
    }

    /// Whether it is 0 at every step.
    pub(super) fn is_off(&self) -> bool {
        !self.is_used()
    }

    /// Whether it is above 0 at some step.
    pub fn is_used(self) -> bool {
        self.ends().iter().any(|&value| value > 0.0)
    }
}

/// The temperature of the soft loss terms.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum TemperaturePlan {
    /// The same at every step; one that the cache declares.
    Constant(f64),
    /// It moves through temperatures that the cache declares.
    Walk(TemperatureWalk),
}

/// From one declared temperature to another through all those between, for equal numbers of steps each.
///
/// A cache is exact at the temperatures that it declares and at no other, so a temperature cannot glide.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TemperatureWalk {
    /// The first.
    pub from: f64,
    /// The last; it stays.
    pub to: f64,
    /// Steps; at least two, at most those of the pass.
    pub over: usize,
    /// The declared temperatures from the first to the last: a part of the cache, whose key has them.
    #[serde(skip)]
    pub stops: Vec<f64>,
}

words! {
    /// Which weights a pass hands on.
    #[derive(Default)]
    pub enum HandOn {
        /// Those after the last step.
        #[default]
        Last = "last",
        /// Those with the lowest validation loss of all that were measured.
        Best = "best",
    }
}

impl HandOn {
    /// Whether it is the default; see [`RateSchedule::is_default`].
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// When a pass ends before its last step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EarlyStopPlan {
    /// Measurements in a row that are not better than the best before them by `min_delta`.
    pub patience: usize,
    /// Nats by which the validation loss must fall to count as better.
    pub min_delta: f64,
}

/// Whether a switch stands as it does by default; see [`RateSchedule::is_default`].
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(super) fn is_true(switch: &bool) -> bool {
    *switch
}

words! {
    /// Schedules of the learning rate, as they are written; see [`RateSchedule`].
    pub(super) enum ScheduleWord {
        Constant = "constant",
        Linear = "linear",
        Cosine = "cosine",
        WarmupStableDecay = "warmup_stable_decay",
    }
}

words! {
    /// The shapes that a ramp may have: [`Shape`] without the one that is made for a rate that falls to 0.
    pub(super) enum RampShape {
        Linear = "linear",
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
