//! A weight that products read.

use burn::tensor::Tensor;

use super::{Arithmetic, product};
#[cfg(feature = "flex")]
use crate::kernels::flex;

/// Passes that read a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passes {
    /// Forward.
    Forward,
    /// Forward, and backward to the slopes of what enters.
    ForwardAndBackward,
}

/// A weight `[out, in]`, as checkpoints store it, and the arithmetic of its products.
///
/// A clone copies no numbers.
#[derive(Debug, Clone)]
pub struct Weight {
    tensor: Tensor<2>,
    arithmetic: Arithmetic,
    #[cfg(feature = "flex")]
    packed: flex::PackedWeight,
}

impl Weight {
    /// A weight that is packed anew for each product that needs it packed.
    pub fn new(tensor: Tensor<2>, arithmetic: Arithmetic) -> Self {
        Self {
            tensor,
            arithmetic,
            #[cfg(feature = "flex")]
            packed: flex::PackedWeight::default(),
        }
    }

    /// Same weight, packed once for all products of these passes.
    #[must_use]
    pub fn packed(self, passes: Passes) -> Self {
        #[cfg(feature = "flex")]
        if let Arithmetic::Bf16(sums) = self.arithmetic {
            let packed = flex::pack(self.tensor.clone(), sums, passes);
            return Self { packed, ..self };
        }
        let _ = passes;
        self
    }

    /// Same weight for linear layers alone: if it is packed, its tensor is given up for one of NaN, which takes no memory.
    #[must_use]
    pub fn without_tensor(self) -> Self {
        #[cfg(feature = "flex")]
        if self.packed.is_packed() {
            let nan = Tensor::<2>::full([1, 1], f32::NAN, &self.tensor.device());
            let tensor = nan.expand(self.tensor.dims());
            return Self { tensor, ..self };
        }
        self
    }

    /// Same numbers in another tensor: with or without autodiff.
    #[must_use]
    pub fn in_tensor(&self, function: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Self {
        Self {
            tensor: function(self.tensor.clone()),
            ..self.clone()
        }
    }

    /// Its numbers alone.
    pub fn into_tensor(self) -> Tensor<2> {
        self.tensor
    }

    /// Its numbers.
    pub fn tensor(&self) -> &Tensor<2> {
        &self.tensor
    }

    /// Arithmetic of its products.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// `x · weightᵀ`: a linear layer. In f32, a transposed view costs nothing, so no weight is kept in another orientation.
    ///
    /// # Shapes
    ///
    /// `x` is `[P, in]`; returns `[P, out]`.
    pub fn linear(&self, x: Tensor<2>) -> Tensor<2> {
        #[cfg(feature = "flex")]
        if let Arithmetic::Bf16(sums) = self.arithmetic
            && flex::takes(&x)
        {
            return flex::linear_bf16(x, self.tensor.clone(), self.packed.clone(), sums);
        }
        self.arithmetic.assert_f32();
        let ([rows, _], weight) = (x.dims(), self.tensor.clone().transpose());
        if rows == 1 {
            product(x, weight, Arithmetic::F32) // a token that is generated: all cores read the weight
        } else {
            x.matmul(weight)
        }
    }

    /// `slope · weight`: slopes of what enters a linear layer, given those of what leaves it. Without autodiff.
    ///
    /// # Shapes
    ///
    /// `slope` is `[P, out]`; returns `[P, in]`.
    pub fn slope_of_input(&self, slope: Tensor<2>) -> Tensor<2> {
        #[cfg(feature = "flex")]
        if let Arithmetic::Bf16(sums) = self.arithmetic
            && flex::takes(&slope)
        {
            return flex::slope_of_input_bf16(
                slope,
                self.tensor.clone(),
                self.packed.clone(),
                sums,
            );
        }
        self.arithmetic.assert_f32();
        slope.matmul(self.tensor.clone())
    }
}
