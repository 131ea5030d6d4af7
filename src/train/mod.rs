//! Training of one student: the loop, the optimizer, the schedules, the training states and the metrics.
//!
//! Nothing here depends on the source of a student or its later use: those are the passes.

mod average;
mod change;
mod cost;
mod course;
mod error;
pub mod evaluate;
pub mod fit;
pub mod gradient;
mod gradual_pruning;
mod grid_start;
mod hidden;
mod metrics;
mod objective;
pub mod optim;
mod parts;
mod pending_losses;
mod plan;
mod predictions;
mod schedule;
pub mod state;
mod targets;
pub mod tensorboard;
mod trunk;
mod validation;

pub use average::averaged;
pub(crate) use cost::{FitInputs, add_fit};
pub use course::{course, depends_on_steps, kept_after};
pub use error::{FitError, check_number};
pub use metrics::{MetricsError, MetricsLine, MetricsLog, read_metrics};
pub use plan::{EarlyStopPlan, FitPlan, HandOn, RateSchedule, TemperaturePlan, TemperatureWalk};
pub(crate) use plan::{FIT, STEPS, STEPS_ELSEWHERE, check};
pub use predictions::{Predictions, Predictor};
pub use schedule::{learning_rate, scheduled, temperature};
pub use targets::row_targets;
pub use validation::{Best, Validation};
