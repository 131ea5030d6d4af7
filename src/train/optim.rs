//! AdamW and the global norm.

use std::mem;

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use crate::device::{self, ReadBack};
use crate::model::ParameterKind;
use crate::student::TrainedSpec;
use crate::train::FitPlan;
use crate::vector::vectorized;

/// Numbers in one task of a core: enough that scheduling costs nothing, few enough for the core's own cache.
const TASK: usize = 1 << 14;

/// Number that PyTorch adds to a norm before it divides by it.
const NORM_ROOM: f64 = 1e-6;

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
/// Decay acts on matrices, never on norms and biases, and on the embedding unless the plan spares it. State is kept per
/// entry of the parameter table, so a resumed run finds it by name. Checked against PyTorch: `tests/golden/adamw.json`.
#[derive(Debug, Clone)]
pub struct AdamW {
    /// Moments in the order of the parameter table.
    pub moments: Vec<Moments>,
    /// Updates made.
    pub num_updates: usize,
}

impl AdamW {
    /// Fresh state: all moments zero.
    pub fn new(parameters: &[(TrainedSpec, Tensor<2>)]) -> Self {
        let zeros = |(_, parameter): &(TrainedSpec, Tensor<2>)| Moments {
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
        parameters: Vec<(TrainedSpec, Tensor<2>)>,
        gradients: Vec<Tensor<2>>,
        learning_rate: f64,
        plan: &FitPlan,
    ) -> Vec<Tensor<2>> {
        self.num_updates += 1;
        let [beta1, beta2] = plan.betas;
        let num_updates = self.num_updates;
        let entries = parameters.into_iter().zip(gradients).zip(&mut self.moments);
        entries
            .map(|(((spec, weight), gradient), moments)| {
                let is_spared = spec.kind == ParameterKind::Embedding && !plan.decay_embeddings;
                let decay = if spec.kind.is_vector() || is_spared {
                    0.0
                } else {
                    plan.weight_decay
                };
                // Scales do not train before their grid is in force.
                let idle = match spec.kind {
                    ParameterKind::Scale => plan.start_step.min(num_updates - 1),
                    _ => 0,
                };
                let updates = i32::try_from(num_updates - idle).unwrap_or(i32::MAX); // past 2^31 the corrections are 1
                let rates = Rates {
                    betas: plan.betas,
                    kept: 1.0 - learning_rate * decay,
                    step_size: learning_rate / (1.0 - beta1.powi(updates)),
                    root_correction: (1.0 - beta2.powi(updates)).sqrt(),
                    epsilon: plan.epsilon,
                };
                if device::is_host(&weight.device()) {
                    rates.update_in_place(weight, gradient, moments)
                } else {
                    rates.update(weight, gradient, moments)
                }
            })
            .collect()
    }
}

/// Numbers of one update of one parameter.
struct Rates {
    betas: [f64; 2],
    /// Share of the weight that is left after decay.
    kept: f64,
    step_size: f64,
    root_correction: f64,
    epsilon: f64,
}

impl Rates {
    /// The update as a chain of tensor operations.
    fn update(&self, weight: Tensor<2>, gradient: Tensor<2>, moments: &mut Moments) -> Tensor<2> {
        let [beta1, beta2] = self.betas;
        moments.first =
            moments.first.clone().mul_scalar(beta1) + gradient.clone().mul_scalar(1.0 - beta1);
        moments.second =
            moments.second.clone().mul_scalar(beta2) + gradient.square().mul_scalar(1.0 - beta2);
        let denominator = moments
            .second
            .clone()
            .sqrt()
            .div_scalar(self.root_correction)
            .add_scalar(self.epsilon);
        let update = moments.first.clone() / denominator;
        weight.mul_scalar(self.kept) - update.mul_scalar(self.step_size)
    }

    /// The same update to the bit, in one pass through memory, on all cores.
    fn update_in_place(
        &self,
        weight: Tensor<2>,
        gradient: Tensor<2>,
        moments: &mut Moments,
    ) -> Tensor<2> {
        let (shape, device) = (weight.dims(), weight.device());
        let take = |moment: &mut Tensor<2>| {
            let nothing = Tensor::zeros([1, 1], &device);
            into_vec(mem::replace(moment, nothing))
        };
        let (mut first, mut second) = (take(&mut moments.first), take(&mut moments.second));
        let (mut weights, gradient) = (into_vec(weight), into_vec(gradient));
        weights
            .par_chunks_mut(TASK)
            .zip(gradient.par_chunks(TASK))
            .zip(first.par_chunks_mut(TASK))
            .zip(second.par_chunks_mut(TASK))
            .for_each(|(((weights, gradient), first), second)| {
                vectorized(|| self.update_task(weights, gradient, first, second));
            });
        let tensor = |values| Tensor::from_data(TensorData::new(values, shape), &device);
        moments.first = tensor(first);
        moments.second = tensor(second);
        tensor(weights)
    }

    #[expect(
        clippy::inline_always,
        reason = "compiled for a vector width only where it is inlined"
    )]
    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
    #[inline(always)]
    fn update_task(
        &self,
        weights: &mut [f32],
        gradient: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) {
        let [beta1, beta2] = self.betas.map(|beta| beta as f32);
        let [rest1, rest2] = self.betas.map(|beta| (1.0 - beta) as f32);
        let (kept, step_size) = (self.kept as f32, self.step_size as f32);
        let (root_correction, epsilon) = (self.root_correction as f32, self.epsilon as f32);
        let entries = weights.iter_mut().zip(gradient).zip(first).zip(second);
        for (((weight, gradient), first), second) in entries {
            *first = *first * beta1 + gradient * rest1;
            *second = *second * beta2 + gradient * gradient * rest2;
            let update = *first / (second.sqrt() / root_correction + epsilon);
            *weight = *weight * kept - update * step_size;
        }
    }
}

/// The numbers of a tensor, without a copy if nothing else holds it and they came from a vector.
fn into_vec(tensor: Tensor<2>) -> Vec<f32> {
    tensor
        .try_into_vec_as::<f32>()
        .expect("weights, gradients and moments are f32")
}

/// Euclidean norm over all gradients, `[1]`; nothing is read from the device.
///
/// # Panics
///
/// If there is no gradient.
pub fn global_norm(gradients: &[Tensor<2>]) -> Tensor<1> {
    let squares: Vec<Tensor<1>> = gradients
        .iter()
        .map(|gradient| gradient.clone().square().sum())
        .collect();
    Tensor::cat(squares, 0).sum().sqrt()
}

/// Scales gradients down to `max_norm` if their norm is larger, as `clip_grad_norm_` of PyTorch does.
///
/// Where a read stalls, the scale stays on the device, and all gradients are multiplied by it: by 1 if their norm is
/// small enough.
pub fn clip(
    gradients: Vec<Tensor<2>>,
    norm: &Tensor<1>,
    max_norm: f64,
    read_back: ReadBack,
) -> Vec<Tensor<2>> {
    let gradients = gradients.into_iter();
    match read_back {
        ReadBack::Free => {
            let norm = f64::from(norm.clone().into_scalar::<f32>());
            let scale = max_norm / (norm + NORM_ROOM);
            let is_large = scale < 1.0 || scale.is_nan();
            gradients
                .map(|gradient| {
                    if is_large {
                        gradient.mul_scalar(scale)
                    } else {
                        gradient
                    }
                })
                .collect()
        }
        ReadBack::Stalls => {
            let scale = norm.clone().add_scalar(NORM_ROOM).recip();
            let scale = scale.mul_scalar(max_norm).clamp_max(1.0).unsqueeze::<2>(); // [1, 1]
            gradients.map(|gradient| gradient * scale.clone()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn gradients_are_clipped_alike_whether_their_norm_is_read_or_not() {
        let gradients = || {
            [[3.0_f32, -4.0], [0.0, 12.0]].map(|row| {
                let row = TensorData::new(row.to_vec(), [1, 2]);
                Tensor::<2>::from_data(row, &Device::flex())
            })
        };
        let norm = global_norm(&gradients());
        assert!((norm.clone().into_scalar::<f32>() - 13.0).abs() < 1e-6);
        for (max_norm, scale) in [(1.0, 1.0 / 13.0), (13.1, 1.0)] {
            for read_back in [ReadBack::Free, ReadBack::Stalls] {
                let got = clip(gradients().to_vec(), &norm, max_norm, read_back);
                let got = got.into_iter().flat_map(into_vec);
                for (got, want) in got.zip([3.0, -4.0, 0.0, 12.0]) {
                    let (got, want) = (f64::from(got), scale * want);
                    assert!(
                        (got - want).abs() <= 2e-7 * want.abs(),
                        "{got}, want {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_update_in_place_is_the_chain_of_operations_to_the_bit() {
        let shape = [3, 20_001]; // several tasks, and a rest
        let tensor = |seed: f32| {
            let values: Vec<f32> = (0..60_003)
                .map(|at| ((at as f32).sin() * seed).cos())
                .collect();
            Tensor::<2>::from_data(TensorData::new(values, shape), &Device::flex())
        };
        let moments = Moments {
            first: tensor(2.0),
            second: tensor(3.0).square(),
        };
        let rates = Rates {
            betas: [0.9, 0.999],
            kept: 0.99,
            step_size: 3e-3,
            root_correction: 0.3,
            epsilon: 1e-8,
        };
        let bits = |weight: Tensor<2>, moments: Moments| {
            [weight, moments.first, moments.second]
                .map(|tensor| into_vec(tensor).into_iter().map(f32::to_bits).collect())
        };
        let [got, want]: [[Vec<u32>; 3]; 2] =
            [Rates::update_in_place, Rates::update].map(|update| {
                let mut moments = moments.clone();
                let weight = update(&rates, tensor(5.0), tensor(7.0), &mut moments);
                bits(weight, moments)
            });
        assert!(got == want);
        assert!(want[0] != bits(tensor(5.0), moments)[0], "nothing moved");
    }
}
