//! Output layer: from hidden states to logits.

use burn::tensor::Tensor;

use crate::kernels::{Arithmetic, Weight, product, soft_cap, soft_cap_slope};

/// The output layer: everything between hidden states and logits. No other code knows it.
#[derive(Debug, Clone)]
pub struct Head {
    /// `[V, D]`; the embedding if the two are tied.
    pub weight: Weight,
    /// Bound of the logits, if they have one.
    pub soft_cap: Option<f64>,
}

impl Head {
    /// Logits of hidden states.
    ///
    /// # Shapes
    ///
    /// `[P, D]` to `[P, V]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let logits = match self.weight.arithmetic() {
            Arithmetic::F32 => {
                let weight = self.weight.tensor().clone().transpose();
                product(hidden, weight, Arithmetic::F32) // [P, V]
            }
            Arithmetic::Bf16(_) => self.weight.linear(hidden),
        };
        match self.soft_cap {
            Some(cap) => soft_cap(logits, cap),
            None => logits,
        }
    }

    /// d logit / d product of hidden state and weight, element by element; `None` means 1 everywhere.
    ///
    /// # Shapes
    ///
    /// `[P, V]`, as is the result.
    pub fn slope(&self, logits: &Tensor<2>) -> Option<Tensor<2>> {
        let cap = self.soft_cap?;
        Some(soft_cap_slope(logits.clone(), cap))
    }
}
