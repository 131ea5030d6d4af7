//! Terms of the loss: one list defines the enum of recipes, losses, logs and plans.

use std::ops::{Index, IndexMut};

use crate::recipe::words;

macro_rules! terms {
    ($($(#[$about:meta])* $Variant:ident = $word:literal,)+) => {
        words! {
            /// A term of the loss. `p` is the teacher, `q` the student; formulas are in [`loss_row`](crate::loss::loss_row).
            pub enum Term {
                $($(#[$about])* $Variant = $word,)+
            }
        }

        impl Term {
            /// All of them, in the order of recipes and logs.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$Variant),+];
        }
    };
}

terms! {
    /// KL(p ‖ q).
    ForwardKl = "forward_kl",
    /// KL(q ‖ p).
    ReverseKl = "reverse_kl",
    /// Generalised Jensen-Shannon divergence, a mean of the KLs of both to a mixture.
    Jsd = "jsd",
    /// KL(p ‖ mixture).
    SkewForwardKl = "skew_forward_kl",
    /// KL(q ‖ mixture).
    SkewReverseKl = "skew_reverse_kl",
    /// Total variation distance, half the sum of |p − q|.
    Tvd = "tvd",
    /// KL(p ‖ q) and KL(q ‖ p), weighted by the shares of the likeliest tokens and of all others in Σ |p − q|.
    AdaptiveKl = "adaptive_kl",
    /// Negative log-likelihood of the text, never softened; with smoothed labels if the spec asks for them.
    CrossEntropy = "cross_entropy",
    /// Squared distance of hidden states from the teacher's, see [`hidden_gradients`](crate::loss::hidden_gradients);
    /// not in nats, and independent of logits.
    HiddenMse = "hidden_mse",
}

impl Term {
    /// True if it compares with the teacher's predictions.
    pub const fn is_soft(self) -> bool {
        !matches!(self, Self::CrossEntropy | Self::HiddenMse)
    }

    /// True if it is infinite where the student has mass and the teacher has none.
    pub const fn needs_tail(self) -> bool {
        matches!(self, Self::ReverseKl | Self::AdaptiveKl)
    }
}

/// One value for each term of the loss: its weight, its number of nats, or something else.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Terms<T = f64>([T; Term::ALL.len()]);

impl<T> Terms<T> {
    /// The value that `of` gives for each term.
    pub fn from_fn(mut of: impl FnMut(Term) -> T) -> Self {
        Self(std::array::from_fn(|place| of(Term::ALL[place])))
    }

    /// Each term with its value, in the order of [`Term::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Term, &T)> {
        Term::ALL.into_iter().zip(&self.0)
    }
}

impl<T: Copy> Terms<T> {
    /// Copy with another value for one term.
    #[must_use]
    pub const fn with(mut self, term: Term, value: T) -> Self {
        self.0[term as usize] = value;
        self
    }
}

impl Terms {
    /// 0 for every term.
    pub const ZERO: Self = Self([0.0; Term::ALL.len()]);

    /// Σ weight · value.
    pub fn weighted(&self, weights: &Self) -> f64 {
        let pairs = self.0.iter().zip(&weights.0);
        pairs.map(|(value, weight)| weight * value).sum()
    }

    /// Sum, term by term.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self::from_fn(|term| self[term] + other[term])
    }

    /// Every term times `factor`.
    #[must_use]
    pub fn times(&self, factor: f64) -> Self {
        Self::from_fn(|term| factor * self[term])
    }
}

impl<T> Index<Term> for Terms<T> {
    type Output = T;

    fn index(&self, term: Term) -> &T {
        &self.0[term as usize]
    }
}

impl<T> IndexMut<Term> for Terms<T> {
    fn index_mut(&mut self, term: Term) -> &mut T {
        &mut self.0[term as usize]
    }
}
