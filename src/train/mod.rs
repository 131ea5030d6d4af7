//! Training one student: the loop, the optimizer, the schedule, what resumes it and the record of how it went.
//!
//! Nothing here knows where a student came from or what becomes of it: those are the passes.

pub mod evaluate;
pub mod fit;
pub mod gradient;
mod metrics;
pub mod optim;
mod schedule;
pub mod state;
mod targets;
pub mod tensorboard;

pub use metrics::{MetricsError, MetricsLine, MetricsLog, read_metrics};
pub use schedule::learning_rate;
pub use targets::row_targets;
