//! Training one student: the schedule, and the record of how it went.
//!
//! Nothing here knows where a student came from or what becomes of it: those are the passes.

mod metrics;
mod schedule;
pub mod tensorboard;

pub use metrics::{MetricsError, MetricsLine, MetricsLog, read_metrics};
pub use schedule::learning_rate;
