//! Losses over the vocabulary, with their gradients in closed form.
//!
//! A row is one position: its logits, the teacher's prediction, and the token that came. Each function
//! here turns logits into a value and d value / d logits; [`chunked`] carries them through the output matrix
//! without ever keeping the logits of all positions. One term is not over the vocabulary: [`hidden_gradients`].
//!
//! Arithmetic is f32 within a row and f64 across rows. On a device that would stall at each read, the loss is a
//! chain of f32 tensor operations instead (`tensors.rs`). Both are checked against PyTorch in value and gradient:
//! `tests/golden/losses/reference.json`.

pub mod chunked;
mod classes;
mod counted;
mod divergence;
mod hidden;
mod likeliest;
mod plan;
mod row;
mod softmax;
mod spec;
mod statistics;
mod sums;
mod tensors;
mod terms;

pub use counted::counted_rows;
pub use hidden::{HiddenGradients, hidden_gradients};
pub use likeliest::likeliest;
pub use plan::LossWeights;
pub(crate) use plan::{LOSSES, OVER, check};
pub use row::{RowTarget, loss_row};
pub use softmax::{exps_in_place, kl_of_logits, log_prob, log_sum_exp, softened_log_sum_exp};
pub use spec::LossSpec;
pub use statistics::{RowStatistics, row_statistics, statistics_against, top_id};
pub use sums::{LossSums, PendingSums};
pub use terms::{Term, Terms};

#[cfg(test)]
mod tests;
