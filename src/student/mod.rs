//! The student: a decoder with the masks and schemes that passes put on it.

mod adapter;
mod disk;
mod from_teacher;
mod importance;
mod loaded_grid;
mod new_tokens;
mod plan;
mod projection;
mod quantized;
mod scales;
mod sharing;

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use thiserror::Error;

pub use self::adapter::{Adapter, is_target};
pub use self::disk::StudentHeader;
pub(crate) use self::disk::mask_fault;
pub use self::from_teacher::{NoSuchPart, PartSelection, check_parts, part_of_teacher, with_sizes};
pub use self::importance::{Importance, run_influence};
pub use self::new_tokens::with_new_tokens;
pub(crate) use self::plan::{
    ADAPTER, MAX_LAYERS, STUDENT, StudentWord, check, check_adapter, fresh_sizes,
};
pub use self::plan::{
    AdapterPlan, ArchitecturePlan, ChangesPlan, FromTeacherPlan, LayersPlan, StudentPlan,
    StudentSource,
};
pub use self::projection::{NoSuchLayer, Projection, layer_pairs};
pub use self::scales::FixedScales;
use crate::checkpoint::CheckpointError;
use crate::kernels::grid::round_to_bf16;
use crate::model::{
    Architecture, Decoder, DecoderConfig, GroupScaling, InputLevels, LayerType, ParameterKind,
    ParameterSpec, Part, Rope, Schemes, WeightId, parameter_specs,
};
use crate::random::Stream;
use crate::tensors::{NotFinite, TensorsError};

/// File of a student inside an artifact.
pub const STUDENT_FILE: &str = "student.safetensors";

/// A model in training: free weights, and all that is between them and the model that runs.
///
/// The model that runs has the *effective* weights: weight × mask, rounded to the grid of its scheme. (Beside grids, a
/// weight without one is rounded to bf16: a quantised checkpoint is bf16 around integers.) Training moves the free
/// weights. The gradient of an effective weight is used as that of the free one where the mask is 1
/// (the straight-through estimator, Bengio et al. 2013, <https://arxiv.org/abs/1308.3432>). A grid's scale
/// follows the largest weight of its group, so no weight is ever further than half a step from the grid and
/// nothing is clipped. A scale may also be trained; weights beyond its range then have no gradient.
#[derive(Debug, Clone)]
pub struct Student {
    /// Free weights.
    pub decoder: Decoder,
    /// Number of times that each layer of `decoder` runs in a row, on one set of weights (Liu et al. 2024,
    /// MobileLLM, <https://arxiv.org/abs/2402.14905>: immediate block-wise sharing).
    pub layer_repeats: usize,
    /// 1 where a weight is kept, 0 where it was pruned.
    pub masks: BTreeMap<WeightId, Tensor<2>>,
    /// Schemes of the weights of `decoder`, once a pass has put them on a grid.
    pub schemes: Schemes,
    /// Scales that are trained or were chosen. The others follow the weights.
    pub scales: BTreeMap<WeightId, FixedScales>,
    /// Scalings of the codes of a checkpoint, if no pass has changed the student ([`Student::on_loaded_grids`]).
    pub loaded_grids: BTreeMap<WeightId, GroupScaling>,
    /// Adapter that is added to free weights and trained in their place, while a pass uses one.
    pub adapter: Option<Adapter>,
    /// Trained matrices that bring hidden states to the teacher's width in a comparison; no part of the model.
    pub projections: Vec<Projection>,
}

/// One of the matrices that training moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainedSpec {
    /// Name in training states.
    pub name: String,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Purpose.
    pub kind: ParameterKind,
    /// The trained weight; `None` for a matrix that is trained beside weights or in their place.
    pub weight: Option<WeightId>,
}

impl From<ParameterSpec> for TrainedSpec {
    fn from(spec: ParameterSpec) -> Self {
        Self {
            kind: spec.kind(),
            weight: Some(spec.id),
            name: spec.name,
            shape: spec.shape,
        }
    }
}

impl From<StudentError> for CheckpointError {
    fn from(error: StudentError) -> Self {
        match error {
            StudentError::Tensors(error) => error.into(),
            StudentError::Parameter { path, name, .. } => Self::MissingTensor {
                dir: path.into(),
                tensor: name,
            },
            StudentError::NotFinite { path, source } => Self::NotFinite {
                path: path.into(),
                source,
            },
        }
    }
}

/// Errors of making or reading a student.
#[derive(Debug, Error)]
pub enum StudentError {
    /// The file cannot be read.
    #[error(transparent)]
    Tensors(#[from] TensorsError),
    /// The file holds other tensors than its architecture needs.
    #[error("{path}: no parameter `{name}` of shape {shape:?}")]
    Parameter {
        /// The file.
        path: String,
        /// The missing parameter.
        name: String,
        /// The shape needed.
        shape: [usize; 2],
    },
    /// The file holds NaN or an infinity.
    #[error("`{path}`: {source}")]
    NotFinite {
        /// The file.
        path: String,
        /// The number.
        source: NotFinite,
    },
}

impl StudentError {
    /// Suggests a remedy, if the message does not hold one.
    pub fn help(&self) -> Option<String> {
        matches!(self, Self::NotFinite { .. }).then(NotFinite::help)
    }
}

impl Student {
    /// A student without masks and schemes, each of whose layers runs once.
    pub fn new(decoder: Decoder) -> Self {
        let free = vec![InputLevels::default(); decoder.config.num_hidden_layers];
        Self {
            decoder: decoder.with_inputs(free),
            layer_repeats: 1,
            masks: BTreeMap::new(),
            schemes: Schemes::new(),
            scales: BTreeMap::new(),
            loaded_grids: BTreeMap::new(),
            adapter: None,
            projections: Vec::new(),
        }
    }

    /// Fresh weights: normal with deviation 0.02, divided by √(2·layers) where a layer writes into the residual
    /// stream (GPT-2; Radford et al. 2019), gains of norms at 1, biases at 0.
    ///
    /// `config` is that of the model that runs, in which `layer_repeats` layers in a row share their weights.
    ///
    /// # Panics
    ///
    /// If `layer_repeats` does not divide the layers: the recipe is checked.
    pub fn fresh(config: &DecoderConfig, layer_repeats: usize, seed: u64, device: &Device) -> Self {
        let num_runs = config.num_hidden_layers;
        assert!(num_runs.is_multiple_of(layer_repeats), "{num_runs} layers");
        let gain = 1.0 - config.family().gain_offset;
        let residual = 0.02 / (2.0 * num_runs as f64).sqrt();
        let own: Vec<usize> = (0..num_runs).step_by(layer_repeats).collect();
        let decoder = Decoder::from_parameters(config.with_layers(&own), |spec| {
            let writes_residual = matches!(spec.id.part, Part::Output | Part::Down);
            let deviation = if writes_residual { residual } else { 0.02 };
            Ok::<_, std::convert::Infallible>(match spec.kind() {
                ParameterKind::Norm => Tensor::full(spec.shape, gain, device),
                ParameterKind::Bias => Tensor::zeros(spec.shape, device),
                _ => normal(spec, seed, deviation, device),
            })
        });
        let decoder = match decoder {
            Ok(decoder) => decoder,
            Err(never) => match never {},
        };
        Self {
            layer_repeats,
            ..Self::new(decoder)
        }
    }

    /// The model that runs and is exported.
    pub fn effective(&self) -> Decoder {
        self.unroll(&self.effective_weights())
            .with_inputs(self.inputs())
    }

    /// The effective weights of the student's own layers, each once.
    pub fn effective_weights(&self) -> Decoder {
        if self.masks.is_empty() && self.schemes.is_empty() && self.adapter.is_none() {
            return self.decoder.clone();
        }
        self.decoder
            .map(|spec, weight| self.effective_weight(spec, weight))
    }

    /// Effective form of a free weight of the student's own.
    pub fn effective_weight(&self, spec: &ParameterSpec, free: Tensor<2>) -> Tensor<2> {
        let weight = self.masked(spec.id, self.adapted(spec, free));
        match self.schemes.get(&spec.id) {
            Some(_) if self.loaded_grids.contains_key(&spec.id) => weight,
            Some(scheme) => {
                let shape = weight.dims();
                let on_grid = self.quantize(spec, *scheme, weight);
                on_grid.scaling.values(on_grid.codes).reshape(shape)
            }
            None if self.schemes.is_empty() || self.is_on_loaded_grids() => weight,
            None => round_to_bf16(weight),
        }
    }

    /// Matrices that training moves: those of the adapter if there is one, else all free weights and the factors of
    /// learned scales; then the projections.
    pub fn trained(&self) -> Vec<(TrainedSpec, Tensor<2>)> {
        let weights = |(spec, weight): (ParameterSpec, _)| (spec.into(), weight);
        let mut trained: Vec<(TrainedSpec, Tensor<2>)> = if let Some(adapter) = &self.adapter {
            adapter.parameters()
        } else {
            let free = self.decoder.parameters().into_iter().map(weights);
            free.chain(self.factors()).collect()
        };
        trained.extend(self.projections.iter().map(Projection::parameter));
        trained
    }

    /// The matrices of [`Student::trained`], without their specs.
    pub fn trained_matrices(&self) -> Vec<Tensor<2>> {
        let trained = self.trained().into_iter();
        trained.map(|(_, matrix)| matrix).collect()
    }

    /// Copy with other matrices in place of those of [`Student::trained`], in that order.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    #[must_use]
    pub fn with_trained(&self, mut matrices: Vec<Tensor<2>>) -> Self {
        let mut student = self.clone();
        let projected = matrices.split_off(matrices.len() - self.projections.len());
        for (projection, matrix) in student.projections.iter_mut().zip(projected) {
            projection.matrix = matrix;
        }
        if let Some(adapter) = &self.adapter {
            student.adapter = Some(adapter.with(matrices));
        } else {
            let mut matrices = matrices.into_iter();
            let mut next = || matrices.next().expect("a matrix for each free weight");
            student.decoder = self.decoder.map(|_, _| next());
            student.take_factors(next);
        }
        student
    }

    /// Gradients of the trained matrices, without the projections, from those of the effective weights.
    pub fn pull_back(&self, gradients: Vec<Tensor<2>>) -> Vec<Tensor<2>> {
        let gradients = self.fold(gradients);
        if self.masks.is_empty() && self.adapter.is_none() && self.scales.is_empty() {
            return gradients;
        }
        let specs = parameter_specs(&self.decoder.config);
        let mut gradients: Vec<_> = specs.iter().zip(gradients).collect();
        let of_factors = self.pull_back_scales(&mut gradients);
        let masked = gradients
            .into_iter()
            .map(|(spec, gradient)| (spec.id, self.masked(spec.id, gradient)));
        if let Some(adapter) = &self.adapter {
            return adapter.pull_back(masked.collect());
        }
        let weights = masked.map(|(_, gradient)| gradient);
        weights.chain(of_factors).collect()
    }

    /// The student with its adapter merged into the free weights, masks applied.
    #[must_use]
    pub fn merged(self) -> Self {
        let decoder = self.decoder.map(|spec, weight| self.adapted(spec, weight));
        let merged = Self {
            decoder,
            adapter: None,
            ..self
        };
        merged.zeroed()
    }

    /// The student whose masked free weights are 0, and not -0, which has a bit set.
    #[must_use]
    pub fn zeroed(self) -> Self {
        let decoder = self.decoder.map(|spec, weight| {
            if self.masks.contains_key(&spec.id) {
                self.masked(spec.id, weight).add_scalar(0.0) // -0 + 0 = 0
            } else {
                weight
            }
        });
        Self { decoder, ..self }
    }

    /// A parameter with its mask applied.
    pub fn masked(&self, id: WeightId, weight: Tensor<2>) -> Tensor<2> {
        match self.masks.get(&id) {
            Some(mask) => weight * mask.clone(),
            None => weight,
        }
    }

    fn adapted(&self, spec: &ParameterSpec, weight: Tensor<2>) -> Tensor<2> {
        match &self.adapter {
            Some(adapter) => adapter.adapted(spec, weight),
            None => weight,
        }
    }

    /// Share of zeros that the masks put into the linear layers inside blocks.
    pub fn sparsity(&self) -> f64 {
        let specs = parameter_specs(&self.decoder.config);
        let linear = specs
            .iter()
            .filter(|spec| spec.kind() == ParameterKind::Linear);
        let total: usize = linear.map(|spec| spec.shape[0] * spec.shape[1]).sum();
        let zeros: f64 = self
            .masks
            .values()
            .map(|mask| {
                let [rows, columns] = mask.dims();
                (rows * columns) as f64 - f64::from(mask.clone().sum().into_scalar::<f32>())
            })
            .sum();
        (zeros / total.max(1) as f64).max(0.0) // an empty sum of floats is -0
    }

    /// Size of the exported weights in bytes: codes and scales where there is a grid, bf16 elsewhere. A shared layer
    /// counts as often as it runs.
    pub fn size_bytes(&self) -> u64 {
        let specs = parameter_specs(&self.effective_config());
        let bits: u64 = specs
            .iter()
            .map(|spec| match self.grid_of(spec) {
                Some(grid) => grid.stored_bits(spec.shape),
                None => (spec.shape[0] * spec.shape[1]) as u64 * 16,
            })
            .sum();
        bits.div_ceil(8)
    }
}

impl StudentSource {
    /// Architecture of the student that enters the first pass: a fresh one for a tokenizer of `vocab_size` tokens, a
    /// part of the teacher, or that of the `given` checkpoint.
    ///
    /// # Panics
    ///
    /// If its source is missing: the recipe is checked.
    pub fn config(
        &self,
        teacher: Option<&DecoderConfig>,
        given: Option<&DecoderConfig>,
        vocab_size: usize,
        sequence_length: usize,
    ) -> DecoderConfig {
        match self {
            Self::Architecture(sizes) => architecture(sizes, vocab_size, sequence_length, None),
            Self::FromTeacher(parts) => {
                let teacher = teacher.expect("a checked recipe with `from_teacher` has a teacher");
                part_of_teacher(parts, teacher)
            }
            Self::Checkpoint(_) => given.expect("it was opened before the run").clone(),
        }
    }
}

/// The architecture of a fresh student for a tokenizer of `vocab_size` tokens.
pub fn architecture(
    plan: &ArchitecturePlan,
    vocab_size: usize,
    sequence_length: usize,
    end_of_text: Option<u32>,
) -> DecoderConfig {
    let (architecture, layer_type) = match plan.sliding_window {
        None => (Architecture::Llama, LayerType::Full),
        Some(_) => (Architecture::Mistral, LayerType::Sliding), // a Llama with a window
    };
    DecoderConfig {
        architecture,
        vocab_size,
        hidden_size: plan.hidden_size,
        intermediate_size: plan.intermediate_size,
        num_hidden_layers: plan.num_hidden_layers,
        num_attention_heads: plan.num_attention_heads,
        num_key_value_heads: plan.num_key_value_heads,
        head_dim: plan.head_dim,
        query_pre_attn_scalar: plan.head_dim,
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
        sliding_window: plan.sliding_window,
        layer_types: vec![layer_type; plan.num_hidden_layers],
        rms_norm_eps: plan.rms_norm_eps,
        rope: Rope::plain(plan.rope_theta),
        local_rope: None,
        layers_without_rope: vec![],
        max_position_embeddings: sequence_length,
        tie_word_embeddings: plan.tie_word_embeddings,
        bos_token_id: end_of_text,
        eos_token_ids: end_of_text.into_iter().collect(),
        pad_token_id: None,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
fn normal(spec: &ParameterSpec, seed: u64, deviation: f64, device: &Device) -> Tensor<2> {
    let mut stream = Stream::new(seed, &format!("init {}", spec.name));
    let values: Vec<f32> = (0..spec.num_elements())
        .map(|_| (deviation * stream.normal()) as f32)
        .collect();
    Tensor::from_data(TensorData::new(values, spec.shape), device)
}
