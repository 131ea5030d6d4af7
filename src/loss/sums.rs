//! Sums of the loss over positions.

use burn::tensor::Tensor;

use super::{Term, Terms};

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

/// Sums of which a part may still lie on the device.
#[derive(Debug, Clone, Default)]
pub struct PendingSums {
    known: LossSums,
    unread: Option<UnreadSums>,
}

/// Terms on the device, all of positions that `known` already counts.
#[derive(Debug, Clone)]
struct UnreadSums {
    /// One number for each of [`Term::ALL`].
    terms: Tensor<1>,
    weights: Terms,
}

impl From<LossSums> for PendingSums {
    fn from(known: LossSums) -> Self {
        Self {
            known,
            unread: None,
        }
    }
}

impl PendingSums {
    /// Terms that were summed on the device, one number for each of [`Term::ALL`], and their weights in the total.
    pub(super) fn on_device(terms: Tensor<1>, weights: Terms, positions: u64) -> Self {
        Self {
            known: LossSums {
                positions,
                ..LossSums::default()
            },
            unread: Some(UnreadSums { terms, weights }),
        }
    }

    /// Distance of hidden states, summed over positions that another term counts: the known part, and the part that is
    /// still on the device, `[1]`.
    pub fn of_hidden(known: f64, unread: Option<Tensor<1>>, weights: &Terms) -> Self {
        let known = LossSums {
            total: weights[Term::HiddenMse] * known,
            terms: Terms::ZERO.with(Term::HiddenMse, known),
            positions: 0,
        };
        let unread = unread.map(|sum| {
            let of_term = |term| match term {
                Term::HiddenMse => sum.clone(),
                _ => sum.zeros_like(),
            };
            UnreadSums {
                terms: Tensor::cat(Term::ALL.map(of_term).to_vec(), 0),
                weights: *weights,
            }
        });
        Self { known, unread }
    }

    /// Number of positions counted, known without a read from the device.
    pub fn positions(&self) -> u64 {
        self.known.positions
    }

    /// Adds the sums of other positions, taken with the same weights.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let unread = match (self.unread, other.unread) {
            (Some(a), Some(b)) => {
                assert_eq!(a.weights, b.weights, "sums of one loss");
                Some(UnreadSums {
                    terms: a.terms + b.terms,
                    weights: a.weights,
                })
            }
            (a, b) => a.or(b),
        };
        Self {
            known: self.known.plus(other.known),
            unread,
        }
    }

    /// Numbers that [`PendingSums::with_read`] needs from the device, if any.
    pub fn unread(&self) -> Option<Tensor<1>> {
        Some(self.unread.as_ref()?.terms.clone())
    }

    /// Length of [`PendingSums::unread`].
    pub fn num_unread(&self) -> usize {
        self.unread.as_ref().map_or(0, |unread| {
            let [count] = unread.terms.dims();
            count
        })
    }

    /// All of the sums, given the numbers of [`PendingSums::unread`].
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn with_read(&self, numbers: &[f32]) -> LossSums {
        let Some(UnreadSums { weights, .. }) = &self.unread else {
            return self.known;
        };
        let terms = Terms::from_fn(|term| f64::from(numbers[term as usize]));
        self.known.plus(LossSums {
            total: terms.weighted(weights),
            terms,
            positions: 0,
        })
    }

    /// All of the sums, read now.
    pub fn read(&self) -> LossSums {
        let numbers = self.unread().map_or_else(Vec::new, |terms| {
            terms.try_into_vec_as::<f32>().expect("terms are f32")
        });
        self.with_read(&numbers)
    }
}
