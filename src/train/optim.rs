//! AdamW and the global norm.

use burn::tensor::Tensor;

use crate::model::{ParameterKind, ParameterSpec};
use crate::recipe::FitPlan;

/// Moments of one parameter.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Running mean of the gradient.
    pub first: Tensor<2>,
    /// Running mean of its square.
    pub second: Tensor<2>,
}

/// AdamW with PyTorch's arithmetic (Loshchilov & Hutter 2019, <https://arxiv.org/abs/1711.05101>):
///
/// ```text
/// w ← w (1 − lr·decay)
/// m ← β₁ m + (1 − β₁) g           v ← β₂ v + (1 − β₂) g²
/// w ← w − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
/// ```
///
/// Decay acts on matrices and never on norms and biases, on the embedding unless the plan spares it. State is kept per entry of the parameter table, so a resumed run
/// finds it by name. Checked against PyTorch: `tests/golden/adamw.json`.
#[derive(Debug, Clone)]
pub struct AdamW {
    /// Moments in the order of the parameter table.
    pub moments: Vec<Moments>,
    /// Updates made.
    pub num_updates: usize,
}

impl AdamW {
    /// Fresh state: all moments zero.
    pub fn new(parameters: &[(ParameterSpec, Tensor<2>)]) -> Self {
        let zeros = |(_, parameter): &(ParameterSpec, Tensor<2>)| Moments {
            first: parameter.zeros_like(),
            second: parameter.zeros_like(),
        };
        Self {
            moments: parameters.iter().map(zeros).collect(),
            num_updates: 0,
        }
    }

    /// One update of all parameters.
    pub fn step(
        &mut self,
        parameters: Vec<(ParameterSpec, Tensor<2>)>,
        gradients: Vec<Tensor<2>>,
        learning_rate: f64,
        plan: &FitPlan,
    ) -> Vec<Tensor<2>> {
        self.num_updates += 1;
        let [beta1, beta2] = plan.betas;
        let updates = i32::try_from(self.num_updates).unwrap_or(i32::MAX); // past 2^31 the corrections are 1
        let step_size = learning_rate / (1.0 - beta1.powi(updates));
        let root_correction = (1.0 - beta2.powi(updates)).sqrt();
        let entries = parameters.into_iter().zip(gradients).zip(&mut self.moments);
        entries
            .map(|(((spec, weight), gradient), moments)| {
                let is_spared = spec.kind == ParameterKind::Embedding && !plan.decay_embeddings;
                let decay = if spec.is_vector() || is_spared {
                    0.0
                } else {
                    plan.weight_decay
                };
                moments.first = moments.first.clone().mul_scalar(beta1)
                    + gradient.clone().mul_scalar(1.0 - beta1);
                moments.second = moments.second.clone().mul_scalar(beta2)
                    + gradient.square().mul_scalar(1.0 - beta2);
                let denominator = moments
                    .second
                    .clone()
                    .sqrt()
                    .div_scalar(root_correction)
                    .add_scalar(plan.epsilon);
                let update = moments.first.clone() / denominator;
                weight.mul_scalar(1.0 - learning_rate * decay) - update.mul_scalar(step_size)
            })
            .collect()
    }
}

/// Euclidean norm over all gradients; one read from the device.
pub fn global_norm(gradients: &[Tensor<2>]) -> f32 {
    let squares: Vec<Tensor<1>> = gradients
        .iter()
        .map(|gradient| gradient.clone().square().sum())
        .collect();
    if squares.is_empty() {
        return 0.0;
    }
    Tensor::cat(squares, 0).sum().sqrt().into_scalar::<f32>()
}

/// Scales gradients down to `max_norm` if their norm is larger, as `clip_grad_norm_` of PyTorch does.
pub fn clip(gradients: Vec<Tensor<2>>, norm: f32, max_norm: f64) -> Vec<Tensor<2>> {
    let scale = max_norm / (f64::from(norm) + 1e-6);
    if scale >= 1.0 {
        return gradients;
    }
    gradients
        .into_iter()
        .map(|gradient| gradient.mul_scalar(scale))
        .collect()
}
