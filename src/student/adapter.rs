//! Low-rank adapters: what a pass trains in the place of the weights themselves.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::json;

use crate::files;
use crate::model::{DecoderConfig, ParameterKind, ParameterSpec, parameter_specs};
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
    /// By name of the weight they are added to.
    pairs: BTreeMap<String, Pair>,
}

#[derive(Debug, Clone)]
struct Pair {
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
                    a: kaiming_uniform([plan.rank, inputs], stream, device),
                    b: Tensor::zeros([outputs, plan.rank], device),
                };
                (spec.name, pair)
            })
            .collect();
        let plan = plan.clone();
        Self { plan, pairs }
    }

    /// Its matrices: A and B of each weight, in byte order of the weights' names.
    pub fn parameters(&self) -> Vec<(ParameterSpec, Tensor<2>)> {
        let of_pair = |(name, Pair { a, b }): (&String, &Pair)| {
            [("lora_A", a), ("lora_B", b)].map(|(part, matrix)| {
                let spec = ParameterSpec {
                    name: part_name(name, part),
                    shape: matrix.dims(),
                    kind: ParameterKind::Linear,
                };
                (spec, matrix.clone())
            })
        };
        self.pairs.iter().flat_map(of_pair).collect()
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
        let pairs = self.pairs.keys().map(|name| {
            let (a, b) = (next(), next());
            (name.clone(), Pair { a, b })
        });
        let pairs = pairs.collect();
        assert!(matrices.next().is_none(), "a matrix too many");
        let plan = self.plan.clone();
        Self { plan, pairs }
    }

    /// A weight and what the adapter adds to it.
    pub fn adapted(&self, spec: &ParameterSpec, weight: Tensor<2>) -> Tensor<2> {
        match self.pairs.get(&spec.name) {
            Some(Pair { a, b }) => weight + b.clone().matmul(a.clone()).mul_scalar(self.scale()),
            None => weight,
        }
    }

    /// Gradients of its matrices, in the order of [`Adapter::parameters`], from those of the sums by name:
    ///
    /// ```text
    /// dA = alpha / rank · Bᵀ · dW        dB = alpha / rank · dW · Aᵀ
    /// ```
    ///
    /// # Panics
    ///
    /// If that of a weight is missing.
    pub fn pull_back(&self, mut gradients: BTreeMap<String, Tensor<2>>) -> Vec<Tensor<2>> {
        let of_pair = |(name, Pair { a, b }): (&String, &Pair)| {
            let whole = gradients
                .remove(name)
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
        let runs = |(spec, matrix): (ParameterSpec, Tensor<2>)| {
            let (layer, part) = layer_and_part(&spec.name);
            let layers = layer * layer_repeats..(layer + 1) * layer_repeats;
            let name = move |layer| format!("base_model.model.model.layers.{layer}.{part}");
            layers
                .map(move |layer| (name(layer), matrix.clone()))
                .collect::<Vec<_>>()
        };
        let matrices: Vec<_> = self.parameters().into_iter().flat_map(runs).collect();
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
    let module = spec.module();
    let module = module.rsplit('.').next().unwrap_or(module);
    spec.kind == ParameterKind::Linear && plan.targets.iter().any(|target| target == module)
}

/// The layer that a matrix belongs to, and the rest of its name.
fn layer_and_part(name: &str) -> (usize, String) {
    let rest = name.strip_prefix("model.layers.");
    let (layer, part) = rest
        .and_then(|rest| rest.split_once('.'))
        .expect("linear layers stand inside blocks");
    let layer = layer.parse().expect("the table numbers its layers");
    (layer, part.to_owned())
}

/// Name of one matrix, as in `peft` behind `base_model.model.`.
fn part_name(weight: &str, part: &str) -> String {
    let module = weight.strip_suffix(".weight").unwrap_or(weight);
    format!("{module}.{part}.weight")
}
