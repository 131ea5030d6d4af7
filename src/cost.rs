//! Costs of running a model: the basis of every estimate, and of every speed that a run measures.

use serde::Serialize;

use crate::data::TokenRows;
use crate::kernels::Arithmetic;
use crate::model::{
    DecoderConfig, ParameterKind, ParameterSpec, Site, num_parameters, parameter_specs,
};
use crate::rates::{Work, WorkKind};

/// Bytes of an f32.
pub(crate) const F32_BYTES: u64 = 4;

/// Logits of a chunk of positions, with what a matrix product packs.
const LOGITS_BYTES: u64 = 32 << 20;

/// The same, with slopes or draws.
pub(crate) const LOSS_BYTES: u64 = 48 << 20;

/// Text, tokenizer and code: the memory of the process beside models.
pub(crate) const PROCESS_BYTES: u64 = 72 << 20;

/// Operations of a product that take as long as one exponential, logarithm or comparison of a logit.
const OF_LOGIT: f64 = 30.0;

/// The same for drawing from a distribution: its cumulated sum is in f64, and one number after the other.
const OF_DRAWN_LOGIT: f64 = 1500.0;

/// Operations of a product that take as long as the update of a weight: its gradient, moments and value come from memory
/// and go back to it.
const OF_UPDATE: f64 = 800.0;

/// The same for rounding a weight to its grid.
const OF_ROUNDING: f64 = 60.0;

/// The same for an operation in f64 of the factor of second moments.
const OF_FACTOR: f64 = 6.0;

/// The same for a weight that corrects for the one before it: an operation for each number from a cache.
const OF_CORRECTION: f64 = 4.0;

/// Numbers, each as large as an f32, that are held for a pair of inputs of a layer: the sum of their products, the matrix
/// that is factored and the inverse of its factor in f64; the last product and the inverse as it is used in f32.
const MOMENTS_FLOATS: u64 = 8;

/// Estimated cost of a stage.
#[derive(Debug, Clone, Serialize)]
pub struct StageCost {
    /// Tokens that pass through a model.
    pub tokens: u64,
    /// Peak memory.
    pub memory_bytes: u64,
    /// Size of its output on disk.
    pub disk_bytes: u64,
    /// What it computes, reads and writes.
    #[serde(skip)]
    pub work: Vec<Work>,
}

impl StageCost {
    /// Cost of running a text forward through a model: on each core, so many positions at a time.
    ///
    /// Memory holds the weights, and for each core the activations of one layer and a chunk of logits.
    pub(crate) fn of_run(config: &DecoderConfig, work: Work, text: Text, positions: u64) -> Self {
        let at_once = text.tokens.min(positions);
        let logits = match work.kind {
            WorkKind::Capture => LOSS_BYTES,
            WorkKind::CaptureBf16 => 2 * LOSS_BYTES, // larger chunks
            _ => LOGITS_BYTES,
        };
        let weights = match work.kind {
            WorkKind::CaptureBf16 => packed_bytes(config),
            _ => num_parameters(config) * F32_BYTES,
        };
        let of_core = at_once
            .saturating_mul(layer_floats(config) as u64 * F32_BYTES)
            .saturating_add(logits);
        let cores = (text.tokens.div_ceil(positions.max(1))).clamp(1, num_cores());
        Self {
            tokens: text.tokens,
            memory_bytes: of_core
                .saturating_mul(cores)
                .saturating_add(weights + PROCESS_BYTES),
            disk_bytes: 1 << 12,
            work: vec![work],
        }
    }

    /// Adds a number of measurements of a model on a text.
    pub(crate) fn add_runs(&mut self, config: &DecoderConfig, runs: u64, text: Text) {
        let text = text.times(runs);
        self.tokens += text.tokens;
        self.work.push(run(WorkKind::Evaluate, config, text));
    }

    /// Adds the residual stream of a text, and the second moments of the widest input with their factor.
    pub(crate) fn add_moments(&mut self, config: &DecoderConfig, tokens: u64) {
        let widest = config.intermediate_size.max(config.hidden_size) as u64;
        let held = tokens * config.hidden_size as u64 * F32_BYTES
            + MOMENTS_FLOATS * widest * widest * F32_BYTES;
        self.memory_bytes += held;
    }
}

/// Rows, or batches of rows, that are computed at the same time on the CPU.
pub(crate) fn num_cores() -> u64 {
    rayon::current_num_threads() as u64
}

/// Amount of text that a model runs over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text {
    /// Positions.
    pub(crate) tokens: u64,
    /// Positions of a row, over which attention reaches.
    pub(crate) sequence_length: usize,
}

impl Text {
    /// All rows of a text.
    pub(crate) fn of(rows: &TokenRows) -> Self {
        Self {
            tokens: rows.num_positions(),
            sequence_length: rows.sequence_length(),
        }
    }

    /// A text read so many times.
    pub(crate) fn times(self, count: u64) -> Self {
        Self {
            tokens: self.tokens.saturating_mul(count),
            ..self
        }
    }

    fn positions(self) -> f64 {
        self.tokens as f64
    }
}

/// A model forward over a text, with something computed from its logits.
pub(crate) fn run(kind: WorkKind, config: &DecoderConfig, text: Text) -> Work {
    let at_position = trunk(config, text) + head(config) + config.vocab_size as f64 * OF_LOGIT;
    work(kind, config, at_position * text.positions())
}

/// A model forward over a text as far as its hidden states, beside training.
pub(crate) fn trunk_run(config: &DecoderConfig, text: Text, arithmetic: Arithmetic) -> Work {
    work(
        train_kind(arithmetic),
        config,
        trunk(config, text) * text.positions(),
    )
}

/// The teacher forward over a text, and the choice of what is kept of its predictions at the positions that count.
pub(crate) fn capture(
    config: &DecoderConfig,
    arithmetic: Arithmetic,
    text: Text,
    num_counted: u64,
    draws: bool,
) -> Work {
    let chosen = if draws { OF_DRAWN_LOGIT } else { OF_LOGIT };
    let at_counted = head(config) + config.vocab_size as f64 * chosen;
    let amount = trunk(config, text) * text.positions() + at_counted * num_counted as f64;
    let kind = match arithmetic {
        Arithmetic::F32 => WorkKind::Capture,
        Arithmetic::Bf16(_) => WorkKind::CaptureBf16,
    };
    work(kind, config, amount)
}

/// Training steps over a text: forward, backward, and forward again if activations are recomputed; then the updates.
pub(crate) fn train(
    config: &DecoderConfig,
    arithmetic: Arithmetic,
    text: Text,
    steps: u64,
    recomputes: bool,
) -> Work {
    let trunk_runs = if recomputes { 4.0 } else { 3.0 }; // the backward pass has two products for each one forward
    let at_position = trunk_runs * trunk(config, text)
        + 3.0 * head(config)
        + config.vocab_size as f64 * 2.0 * OF_LOGIT;
    let updates = steps as f64 * num_parameters(config) as f64 * OF_UPDATE;
    work(
        train_kind(arithmetic),
        config,
        at_position * text.positions() + updates,
    )
}

fn train_kind(arithmetic: Arithmetic) -> WorkKind {
    match arithmetic {
        Arithmetic::F32 => WorkKind::Train,
        Arithmetic::Bf16(_) => WorkKind::TrainBf16,
    }
}

/// What is done to each weight when a model is calibrated.
#[derive(Debug, Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "three steps, each done or not"
)]
pub(crate) struct CalibrationSteps {
    /// Columns are scaled first.
    pub(crate) scales: bool,
    /// Scales may clip.
    pub(crate) clips: bool,
    /// Weights correct for those before them.
    pub(crate) corrects: bool,
}

/// Scales that are tried where columns are scaled, and shares of the range where it is clipped.
const NUM_TRIED: [f64; 2] = [20.0, 10.0];

/// A text through a model layer by layer, with the second moments of what enters its weights, and what is done to these.
///
/// Each layer runs as far as each place whose inputs are observed, and once more as a whole.
pub(crate) fn calibrate(config: &DecoderConfig, text: Text, steps: CalibrationSteps) -> Work {
    let layers = config.num_hidden_layers.max(1) as f64;
    let observed = if steps.scales { 2.0 } else { 1.0 };
    let layer = trunk(config, text) / layers;
    let attention = attention(config, text) / layers;
    let mut reached = 0.0; // operations from the layer's input to the place
    let mut before = 0.0;
    let (mut moments, mut solved) = (0.0, 0.0);
    let first = config.with_layers(&[0]);
    let specs = parameter_specs(&first);
    for site in Site::OF_LAYER {
        if site == Site::AttentionOutput {
            before += attention;
        }
        reached += before;
        let mut size = 0.0;
        for spec in &specs {
            if spec.kind() != ParameterKind::Linear || spec.id.input() != Some((0, site)) {
                continue;
            }
            let [outputs, inputs] = spec.shape.map(|size| size as f64);
            let weights = outputs * inputs;
            before += 2.0 * weights;
            size = inputs;
            let mut of_weight = 4.0 * inputs; // what rounding it loses of its outputs, and the outputs
            if steps.scales {
                of_weight += NUM_TRIED[0] * (2.0 * inputs + OF_ROUNDING);
            }
            if steps.clips {
                of_weight += NUM_TRIED[1] * OF_ROUNDING;
            }
            if steps.corrects {
                of_weight += OF_CORRECTION * inputs;
            }
            solved += weights * (of_weight + OF_ROUNDING);
        }
        moments += 2.0 * size * size;
        if steps.corrects {
            solved += OF_FACTOR * size * size * size;
        }
    }
    let at_position = layer + observed * (reached + moments);
    let amount = layers * (at_position * text.positions() + solved);
    work(WorkKind::Calibrate, config, amount)
}

/// Weights that are written or read, in f32.
pub(crate) fn store(config: &DecoderConfig, times: u64) -> Work {
    Work::bytes(WorkKind::Store, num_parameters(config) * F32_BYTES * times)
}

fn work(kind: WorkKind, config: &DecoderConfig, amount: f64) -> Work {
    Work {
        kind,
        parameters: num_parameters(config),
        amount,
    }
}

/// Weights of a model that is packed for forward passes in bf16 alone; an embedding is also kept in f32.
fn packed_bytes(config: &DecoderConfig) -> u64 {
    let bytes = |spec: &ParameterSpec| {
        let of_number = match spec.kind() {
            ParameterKind::Linear | ParameterKind::Head => 2,
            ParameterKind::Embedding if config.tie_word_embeddings => F32_BYTES + 2,
            _ => F32_BYTES,
        };
        spec.num_elements() as u64 * of_number
    };
    parameter_specs(config).iter().map(bytes).sum()
}

/// Operations of all layers at a position: a product and a sum for each weight, and attention.
fn trunk(config: &DecoderConfig, text: Text) -> f64 {
    let specs = parameter_specs(config);
    let linear = specs
        .iter()
        .filter(|spec| spec.kind() == ParameterKind::Linear);
    let weights: usize = linear.map(ParameterSpec::num_elements).sum();
    2.0 * weights as f64 + attention(config, text)
}

/// Operations of attention at a position, in all layers: scores and their mix, over the whole row.
fn attention(config: &DecoderConfig, text: Text) -> f64 {
    let width = config.num_attention_heads * config.head_dim;
    4.0 * (text.sequence_length * width * config.num_hidden_layers) as f64
}

/// Operations of the output matrix at a position.
fn head(config: &DecoderConfig) -> f64 {
    2.0 * (config.vocab_size * config.hidden_size) as f64
}

/// Number of values per position that a layer keeps for its backward pass: inputs and outputs of the two norms;
/// queries, keys, values and their mix; gate, up and their product.
pub(crate) fn layer_floats(config: &DecoderConfig) -> usize {
    let heads = config.num_attention_heads + config.num_key_value_heads;
    4 * config.hidden_size + 2 * heads * config.head_dim + 3 * config.intermediate_size
}
