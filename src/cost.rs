//! Costs of running a model: the basis of every estimate.

use serde::Serialize;

use crate::model::{DecoderConfig, num_parameters};

/// Arithmetic speed of one core in a training step of a small model, in operations per second: 5,000 tokens
/// a second of a 5.5 M parameter model on two cores of a 2024 server, six operations per parameter and token.
pub(crate) const OPERATIONS_PER_SEC: f64 = 80e9;

/// Bytes of an f32.
pub(crate) const F32_BYTES: u64 = 4;

/// Logits of a chunk of positions, with room for the largest rows and for packed matrices.
pub(crate) const LOSS_BYTES: u64 = 48 << 20;

/// Text, tokenizer and code: the memory of the process beside models.
pub(crate) const PROCESS_BYTES: u64 = 64 << 20;

/// Estimated cost of a stage.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StageCost {
    /// Tokens that pass through a model.
    pub tokens: u64,
    /// Peak memory.
    pub memory_bytes: u64,
    /// Size of its output on disk.
    pub disk_bytes: u64,
    /// Seconds on two cores, good to a factor of about two.
    pub secs: f64,
}

impl StageCost {
    /// Cost of running a number of tokens forward through a model, `positions` at a time.
    pub(crate) fn of_run(config: &DecoderConfig, tokens: u64, positions: u64) -> Self {
        Self {
            tokens,
            memory_bytes: tokens
                .min(positions)
                .saturating_mul(layer_floats(config) as u64 * F32_BYTES)
                .saturating_add(num_parameters(config) * F32_BYTES + LOSS_BYTES + PROCESS_BYTES),
            disk_bytes: 1 << 12,
            secs: run_secs(config, tokens),
        }
    }

    /// Adds a number of runs over a text.
    pub(crate) fn add_runs(&mut self, config: &DecoderConfig, runs: u64, tokens: u64) {
        self.tokens += runs * tokens;
        self.secs += runs as f64 * run_secs(config, tokens);
    }

    /// Adds the residual stream of a text, and the second moments of the widest input with their factor.
    pub(crate) fn add_moments(&mut self, config: &DecoderConfig, tokens: u64) {
        let widest = config.intermediate_size.max(config.hidden_size) as u64;
        let held = tokens * config.hidden_size as u64 * F32_BYTES + 6 * widest * widest * F32_BYTES;
        self.secs += run_secs(config, tokens) * widest as f64 / config.hidden_size as f64;
        self.memory_bytes += held;
    }
}

/// Seconds for running a number of tokens forward through a model.
pub(crate) fn run_secs(config: &DecoderConfig, tokens: u64) -> f64 {
    2.0 * num_parameters(config) as f64 * tokens as f64 / OPERATIONS_PER_SEC
}

/// Number of values per position that a layer keeps for its backward pass: inputs and outputs of the two norms;
/// queries, keys, values and their mix; gate, up and their product.
pub(crate) fn layer_floats(config: &DecoderConfig) -> usize {
    let heads = config.num_attention_heads + config.num_key_value_heads;
    4 * config.hidden_size + 2 * heads * config.head_dim + 3 * config.intermediate_size
}
