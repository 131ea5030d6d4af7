//! Losses over the vocabulary, with their gradients in closed form.
//!
//! A row is one position: its logits, what the teacher said of it, and the token that came. Each function
//! here turns logits into a value and d value / d logits; [`chunked`] carries them through the output matrix
//! without ever keeping the logits of all positions. One term is not over the vocabulary: [`hidden_gradients`].
//!
//! All arithmetic is f32 within a row and f64 across rows. Checked against PyTorch in value and gradient:
//! `tests/golden/losses/reference.json`.

pub mod chunked;
mod counted;
mod divergence;
mod hidden;
mod likeliest;
mod row;
mod softmax;
mod spec;
mod statistics;
mod support;

pub use hidden::{HiddenGradients, hidden_gradients};
pub use likeliest::likeliest;
pub use row::{RowTarget, loss_row};
pub use softmax::{exps_in_place, log_sum_exp};
pub use spec::{LossSpec, Terms};
pub use statistics::{RowStatistics, row_statistics};
pub use support::{Samples, Support, Tail, TopK};

/// Sums over counted positions; divide by `positions` for means.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSums {
    /// Weighted sum of the terms: what is minimised.
    pub total: f64,
    /// Each term that is on, in nats; the soft ones times T². The cross-entropy is always there.
    pub terms: Terms,
    /// Positions counted.
    pub positions: u64,
}

impl LossSums {
    /// Adds the sums of other positions.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            total: self.total + other.total,
            terms: self.terms.plus(&other.terms),
            positions: self.positions + other.positions,
        }
    }

    /// The same sums as means per counted position; zeros if nothing was counted.
    #[must_use]
    pub fn means(self) -> Self {
        let count = self.positions.max(1) as f64;
        Self {
            total: self.total / count,
            terms: self.terms.times(1.0 / count),
            positions: self.positions,
        }
    }
}

#[cfg(test)]
mod tests;
