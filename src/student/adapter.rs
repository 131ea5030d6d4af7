//! Low-rank adapters: matrices that a pass trains in place of the weights themselves.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Map, json};

use super::{AdapterPlan, TrainedSpec};
use crate::files;
use crate::model::{
    DecoderConfig, ParameterKind, ParameterSpec, Part, TensorSpec, WeightId, parameter_specs,
    tensor_specs,
};
use crate::random::Stream;
use crate::tensors;

/// Narrow matrices whose product is added to linear layers (Hu et al. 2021, LoRA, <https://arxiv.org/abs/2106.09685>,
/// section 4.1):
///
/// ```text
/// W + alpha / rank · B · A        A: [rank, in]    B: [out, rank]
/// ```
///
/// As in `peft`, A starts as Kaiming's uniform draws (within ±1 / √in) and B at 0, so that an adapter starts as zero.
///
/// The gradients of both follow from that of the sum, which the step computes anyway. An adapter saves the optimizer's
/// moments and the weights in training states, not the gradient. Checked against `peft`: `tests/golden/adapter.json`.
#[derive(Debug, Clone)]
pub struct Adapter {
    plan: AdapterPlan,
    config: DecoderConfig,
    /// Pairs by the weight they are added to.
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
    /// The adapter of a plan, in its initial state.
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
            config: config.clone(),
            pairs,
        }
    }

    /// Matrices A and B of each weight, weight by weight.
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

    /// Copy with other matrices, in the order of [`Adapter::parameters`].
    ///
    /// # Panics
    ///
    /// If their number differs.
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
            config: self.config.clone(),
            pairs,
        }
    }

    /// A weight plus the adapter's product for it, if there is one.
    pub fn adapted(&self, spec: &ParameterSpec, weight: Tensor<2>) -> Tensor<2> {
        match self.pairs.get(&spec.id) {
            Some(Pair { a, b, .. }) => {
                weight + b.clone().matmul(a.clone()).mul_scalar(self.scale())
            }
            None => weight,
        }
    }

    /// Gradients of the adapter's matrices, in the order of [`Adapter::parameters`], from those of the sums:
    ///
    /// ```text
    /// dA = alpha / rank · Bᵀ · dW        dB = alpha / rank · dW · Aᵀ
    /// ```
    ///
    /// # Panics
    ///
    /// If the gradient of a weight is missing.
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

    /// Writes `adapter_config.json` and `adapter_model.safetensors` as `peft` does, and creates the folder. The
    /// matrices of a layer that runs `layer_repeats` times are repeated as often.
    ///
    /// Weights that the family stores as one matrix give one module. The A of the adapted ones are stacked, and each B
    /// fills the rows of its weight and the columns of its A. Rank and alpha are both multiplied by the number of
    /// adapted weights, so the scale stays the same.
    pub fn save(&self, dir: &Path, layer_repeats: usize) -> io::Result<()> {
        std::fs::create_dir_all(dir).map_err(|error| files::with_path(error, dir))?;
        let num_runs = self.config.num_hidden_layers * layer_repeats;
        let runs: Vec<usize> = (0..num_runs).map(|run| run / layer_repeats).collect();
        let mut matrices = Vec::new();
        let (mut modules, mut ranks, mut alphas) = (Vec::new(), Map::new(), Map::new());
        for tensor in tensor_specs(&self.config.with_layers(&runs)) {
            let pair_of = |part: &ParameterSpec| self.pairs.get(&part.id.in_layer(|run| runs[run]));
            let pairs: Vec<Option<&Pair>> = tensor.parts.iter().map(pair_of).collect();
            let Some(joined) = Pair::joined(&tensor, &pairs) else {
                continue;
            };
            let named = joined.named().into_iter();
            matrices
                .extend(named.map(|(name, matrix)| (format!("base_model.model.{name}"), matrix)));
            let module = tensor.module_in_layer();
            let module = module.rsplit_once('.').map_or(module, |(_, module)| module);
            let parts = tensor.parts.iter().zip(&pairs);
            let adapted = parts.filter_map(|(part, pair)| pair.map(|_| part.id.part));
            let adapted: Vec<Part> = adapted.collect();
            let times = adapted.len();
            if times > 1 {
                ranks.insert(module.to_owned(), json!(times * self.plan.rank));
                alphas.insert(module.to_owned(), json!(times as f64 * self.plan.alpha));
            }
            modules.extend(adapted.into_iter().map(|part| (part, module.to_owned())));
        }
        let mut targets: Vec<&str> = Vec::new();
        for target in &self.plan.targets {
            let found = modules.iter().find(|(part, _)| part == target);
            let module = found.map_or(target.word(), |(_, module)| module);
            if !targets.contains(&module) {
                targets.push(module);
            }
        }
        tensors::save(&dir.join("adapter_model.safetensors"), &matrices, &())?;
        let config = json!({
            "alpha_pattern": alphas,
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
            "rank_pattern": ranks,
            "target_modules": targets,
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

/// Draws within ±1 / √in for a matrix `[out, in]`, as PyTorch initializes linear layers.
pub(super) fn kaiming_uniform(shape: [usize; 2], mut stream: Stream, device: &Device) -> Tensor<2> {
    let [outputs, inputs] = shape;
    let bound = (inputs as f64).sqrt().recip();
    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
    let values: Vec<f32> = (0..outputs * inputs)
        .map(|_| (bound * (2.0 * stream.uniform() - 1.0)) as f32)
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// True if a plan's adapter has matrices for this weight.
pub fn is_target(plan: &AdapterPlan, spec: &ParameterSpec) -> bool {
    spec.kind() == ParameterKind::Linear && plan.targets.contains(&spec.id.part)
}

impl Pair {
    /// Joins the pairs of the weights of a tensor into one pair; `None` if there are none.
    fn joined(tensor: &TensorSpec, pairs: &[Option<&Self>]) -> Option<Self> {
        let there: Vec<&Self> = pairs.iter().copied().flatten().collect();
        let first = there.first()?;
        let ([rank, _], device) = (first.a.dims(), first.a.device());
        let zeros = |rows, num_ranks: usize| Tensor::zeros([rows, num_ranks * rank], &device);
        let mut before = 0;
        let rows = tensor.parts.iter().zip(pairs).map(|(part, pair)| {
            let [rows, _] = part.shape;
            let Some(pair) = pair else {
                return zeros(rows, there.len());
            };
            let after = there.len() - before - 1;
            let row = vec![zeros(rows, before), pair.b.clone(), zeros(rows, after)];
            before += 1;
            let is_there = |x: &Tensor<2>| x.shape().num_elements() > 0;
            Tensor::cat(row.into_iter().filter(is_there).collect(), 1)
        });
        let b = Tensor::cat(rows.collect(), 0); // [out, times · rank]
        let a = Tensor::cat(there.iter().map(|pair| pair.a.clone()).collect(), 0); // [times · rank, in]
        let name = tensor.name.clone();
        Some(Self { name, a, b })
    }

    /// Both matrices with their names, as in `peft` behind `base_model.model.`.
    fn named(&self) -> [(String, Tensor<2>); 2] {
        let module = self.name.strip_suffix(".weight").unwrap_or(&self.name);
        [("lora_A", &self.a), ("lora_B", &self.b)]
            .map(|(part, matrix)| (format!("{module}.{part}.weight"), matrix.clone()))
    }
}
