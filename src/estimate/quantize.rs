//! What a pass that quantises will cost before it rounds or trains.

use super::{F32_BYTES, LOSS_BYTES, OPERATIONS_PER_SEC, StageEstimate, add_moments, run_secs};
use crate::model::{DecoderConfig, num_parameters};
use crate::passes::{CalibratedPlan, Part, QuantizeMethod, QuantizePlan, SensitivityPlan, WIDTHS};

pub(super) fn add(estimate: &mut StageEstimate, plan: &QuantizePlan, config: &DecoderConfig) {
    if let Some(sensitivity) = &plan.sensitivity {
        add_sensitivity(estimate, sensitivity, config);
    }
    if let QuantizeMethod::Calibrated(plan) = &plan.method {
        add_calibration(estimate, plan, config);
    }
}

/// What is measured before weights reach their grid: a run for each part, and all of them, of each layer at each width, from
/// that layer on, so through half of them and the output matrix. Held are the residual stream, the logits of some rows, and
/// for each width a layer.
fn add_sensitivity(
    estimate: &mut StageEstimate,
    sensitivity: &SensitivityPlan,
    config: &DecoderConfig,
) {
    let runs = (config.num_hidden_layers * WIDTHS.len() * (Part::CHOSEN.len() + 1)) as u64;
    let tokens = sensitivity.tokens as u64;
    let head = (config.vocab_size * config.hidden_size) as u64;
    let layers = num_parameters(&config.with_layers(&[])).abs_diff(num_parameters(config));
    let operations = 2.0 * (layers as f64 / 2.0 + head as f64) * (runs * tokens) as f64;
    estimate.tokens += runs * tokens;
    estimate.secs += operations / OPERATIONS_PER_SEC;
    let copies = layers / config.num_hidden_layers as u64 * WIDTHS.len() as u64;
    let stream = 2 * tokens * config.hidden_size as u64;
    estimate.memory_bytes += (copies + stream) * F32_BYTES + 2 * LOSS_BYTES;
}

/// What is measured before weights are rounded: as of SparseGPT, but that the free weights are let go of. On disk are, for a
/// time, the finished layers, too.
fn add_calibration(estimate: &mut StageEstimate, plan: &CalibratedPlan, config: &DecoderConfig) {
    let tokens = plan.calibration_tokens as u64;
    let runs = if plan.awq { 5 } else { 3 };
    estimate.tokens += runs * tokens;
    estimate.secs += runs as f64 * run_secs(config, tokens);
    estimate.disk_bytes += num_parameters(config) * F32_BYTES;
    add_moments(estimate, config, tokens);
}
