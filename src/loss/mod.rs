//! Losses over the vocabulary, with their gradients in closed form.
//!
//! A row is one position: its logits, what the teacher said of it, and the token that came. Each function
//! here turns logits into a value and d value / d logits; [`chunked`] carries them through the output matrix
//! without ever keeping the logits of all positions.
//!
//! All arithmetic is f32 within a row and f64 across rows. Checked against PyTorch in value and gradient:
//! `tests/golden/losses/reference.json`.

pub mod chunked;
mod likeliest;
mod row;
mod softmax;
mod statistics;
mod support;

pub use likeliest::likeliest;
pub use row::{LossSpec, RowTarget, loss_row};
pub use softmax::{exps_in_place, log_sum_exp};
pub use statistics::{RowStatistics, row_statistics};
pub use support::{Samples, Support, Tail, TopK};

/// Sums over counted positions; divide by `positions` for means.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSums {
    /// Weighted sum of the terms: what is minimised.
    pub total: f64,
    /// KL(teacher ‖ student), in nats, times T².
    pub forward_kl: f64,
    /// Negative log-likelihood of the text, in nats.
    pub cross_entropy: f64,
    /// Positions counted.
    pub positions: u64,
}

impl LossSums {
    /// Adds the sums of other positions.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            total: self.total + other.total,
            forward_kl: self.forward_kl + other.forward_kl,
            cross_entropy: self.cross_entropy + other.cross_entropy,
            positions: self.positions + other.positions,
        }
    }

    /// The same sums as means per counted position; zeros if nothing was counted.
    #[must_use]
    pub fn means(self) -> Self {
        let count = self.positions.max(1) as f64;
        Self {
            total: self.total / count,
            forward_kl: self.forward_kl / count,
            cross_entropy: self.cross_entropy / count,
            positions: self.positions,
        }
    }
}

#[cfg(test)]
mod tests;
