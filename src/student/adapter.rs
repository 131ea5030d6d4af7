//! Low-rank adapters: what a pass trains in the place of the weights themselves.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::json;

use super::TrainedSpec;
use crate::files;
use crate::model::{
    DecoderConfig, Family, ParameterKind, ParameterSpec, WeightId, parameter_specs,
};
use crate::random::Stream;
use crate::student::AdapterPlan;
use crate::tensors;

/// Narrow matrices whose product is added to linear layers (Hu et al. 2021, LoRA, <https://arxiv.org/abs/2106.09685>,
/// section 4.1):
///
/// ```text
/// W + alpha / rank · B · A        A: [rank, in]    B: [out, rank]
/// ```
///
/// As in `peft`, A starts as Kaiming's uniform draws (within ±1 / √in) and B at 0, so that an adapter starts as nothing.
///
/// The gradients of both follow from that of the sum, which the step computes anyway: it saves the optimizer's moments
/// and the weights in training states, not the gradient. Checked against `peft`: `tests/golden/adapter.json`.
#[derive(Debug, Clone)]
pub struct Adapter {
    plan: AdapterPlan,
    family: &'static Family,
    /// By the weight they are added to.
    pairs: BTreeMap<WeightId, Pair>,
}

#[derive(Debug, Clone)]
struct Pair {
    /// Name of the weight.
    name: String,
    a: Tensor<2>, // [rank, in]
    b: Tensor<2>, // [out, rank]
}

impl Adapter {
    /// The adapter that a plan asks for, at its start.
    pub fn init(plan: &AdapterPlan, config: &DecoderConfig, seed: u64, device: &Device) -> Self {
        let specs = parameter_specs(config).into_iter();
        let pairs = specs
            .filter(|spec| is_target(plan, spec))
            .map(|spec| {
                let [outputs, inputs] = spec.shape;
                let stream = Stream::new(seed, &format!("adapter {}", spec.name));
                let pair = Pair {
                    name: spec.name,
                    a: kaiming_uniform([plan.rank, inputs], stream, device),
                    b: Tensor::zeros([outputs, plan.rank], device),
                };
                (spec.id, pair)
            })
            .collect();
        Self {
            plan: plan.clone(),
            family: config.family(),
            pairs,
        }
    }

    /// Its matrices: A and B of each weight, weight by weight.
    pub fn parameters(&self) -> Vec<(TrainedSpec, Tensor<2>)> {
        let of_pair = |pair: &Pair| {
            pair.named().map(|(name, matrix)| {
                let spec = TrainedSpec {
                    name,
                    shape: matrix.dims(),
                    kind: ParameterKind::Linear,
                    weight: None,
                };
                (spec, matrix)
            })
        };
        self.pairs.values().flat_map(of_pair).collect()
    }

    /// The same with other matrices, in the order of [`Adapter::parameters`].
    ///
    /// # Panics
    ///
    /// If there are not as many.
    #[must_use]
    pub fn with(&self, matrices: Vec<Tensor<2>>) -> Self {
        let mut matrices = matrices.into_iter();
        let mut next = || matrices.next().expect("a matrix for each of the adapter's");
        let pairs = self.pairs.iter().map(|(&id, pair)| {
            let name = pair.name.clone();
            let (a, b) = (next(), next());
            (id, Pair { name, a, b })
        });
        let pairs = pairs.collect();
        assert!(matrices.next().is_none(), "a matrix too many");
        Self {
            plan: self.plan.clone(),
            pairs,
            ..*self
        }
    }

    /// A weight and what the adapter adds to it.
    pub fn adapted(&self, spec: &ParameterSpec, weight: Tensor<2>) -> Tensor<2> {
        match self.pairs.get(&spec.id) {
            Some(Pair { a, b, .. }) => {
                weight + b.clone().matmul(a.clone()).mul_scalar(self.scale())
            }
            None => weight,
        }
    }

    /// Gradients of its matrices, in the order of [`Adapter::parameters`], from those of the sums:
    ///
    /// ```text
    /// dA = alpha / rank · Bᵀ · dW        dB = alpha / rank · dW · Aᵀ
    /// ```
    ///
    /// # Panics
    ///
    /// If that of a weight is missing.
    pub fn pull_back(&self, mut gradients: BTreeMap<WeightId, Tensor<2>>) -> Vec<Tensor<2>> {
        let of_pair = |(id, Pair { a, b, .. }): (&WeightId, &Pair)| {
            let whole = gradients
                .remove(id)
                .expect("the gradient of each weight is there")
                .mul_scalar(self.scale());
            [
                b.clone().transpose().matmul(whole.clone()),
                whole.matmul(a.clone().transpose()),
            ]
        };
        self.pairs.iter().flat_map(of_pair).collect()
    }

    /// Writes `adapter_config.json` and `adapter_model.safetensors` as `peft` does, into a folder that is made; the matrices
    /// of a layer that runs `layer_repeats` times stand there as often.
    pub fn save(&self, dir: &Path, layer_repeats: usize) -> io::Result<()> {
        std::fs::create_dir_all(dir).map_err(|error| files::with_path(error, dir))?;
        let runs = |(id, pair): (&WeightId, &Pair)| {
            let first = id.layer.expect("linear layers stand inside blocks") * layer_repeats;
            let of_run = |run| {
                let name = self.family.name_of(id.in_layer(|_| first + run));
                let pair = Pair {
                    name,
                    ..pair.clone()
                };
                let named = pair.named().into_iter();
                named.map(|(name, matrix)| (format!("base_model.model.{name}"), matrix))
            };
            (0..layer_repeats).flat_map(of_run).collect::<Vec<_>>()
        };
        let matrices: Vec<_> = self.pairs.iter().flat_map(runs).collect();
        tensors::save(&dir.join("adapter_model.safetensors"), &matrices, &())?;
        let config = json!({
            "alpha_pattern": {},
            "base_model_name_or_path": null,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": self.plan.alpha,
            "lora_dropout": 0.0,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.plan.rank,
            "rank_pattern": {},
            "target_modules": self.plan.targets,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": false,
        });
        files::write_json(&dir.join("adapter_config.json"), &config)
    }

    fn scale(&self) -> f64 {
        self.plan.alpha / self.plan.rank as f64
    }
}

/// Draws within ±1 / √in for a matrix `[out, in]`: what PyTorch's linear layers start as.
pub(super) fn kaiming_uniform(shape: [usize; 2], mut stream: Stream, device: &Device) -> Tensor<2> {
    let [outputs, inputs] = shape;
    let bound = (inputs as f64).sqrt().recip();
    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
    let values: Vec<f32> = (0..outputs * inputs)
        .map(|_| (bound * (2.0 * stream.uniform() - 1.0)) as f32)
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Whether a plan's adapter has matrices for this weight.
pub fn is_target(plan: &AdapterPlan, spec: &ParameterSpec) -> bool {
    let word = spec.id.part.word();
    spec.kind() == ParameterKind::Linear && plan.targets.iter().any(|target| target == word)
}

impl Pair {
    /// Both with their names, as in `peft` behind `base_model.model.`.
    fn named(&self) -> [(String, Tensor<2>); 2] {
        let module = self.name.strip_suffix(".weight").unwrap_or(&self.name);
        [("lora_A", &self.a), ("lora_B", &self.b)]
            .map(|(part, matrix)| (format!("{module}.{part}.weight"), matrix.clone()))
    }
}
