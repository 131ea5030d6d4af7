//! AWQ: columns of weights that see large inputs are scaled up, and their inputs down by as much.

use burn::tensor::{Tensor, TensorData};
use half::bf16;

use super::QuantizeError;
use crate::calibration::{LayerSweep, output_square};
use crate::kernels::grid::Grid;
use crate::model::{DecoderConfig, ParameterSpec, Part, Schemes, Site, WeightId};
use crate::tensors;

/// Number of powers of the mean input that are tried, 0 to 0.95, as in the paper.
const NUM_POWERS: u8 = 20;

/// Source of the inputs at a place of a layer, whose outputs can be scaled down.
enum Feed {
    /// The gain of the norm in front of it.
    Norm(WeightId),
    /// A projection each of whose rows produces one input.
    Rows(WeightId),
}

/// Scales the inputs of each place in the layer that the sweep has reached, so that the weights behind it lose less by
/// rounding to the nearest (Lin et al. 2023, AWQ, <https://arxiv.org/abs/2306.00978>, equations 4 and 5):
///
/// ```text
/// s = mean|x|^α / √(max · min)        α = argmin Σ ‖(Q(W · s) / s − W) x‖²
/// ```
///
/// The layer computes the same as before: the inverse of s goes into the norm in front, into the rows of `up_proj` for
/// `down_proj`, and, if each query has its own values, into the rows of `v_proj` for `o_proj`. A norm is stored in bf16; s is
/// computed from the stored norm, so that the two cancel. Inputs that are always 0 have s = 1. With α = 0 nothing changes.
///
/// A place is left alone if a projection at it, or its source, has no scheme.
pub(super) fn scale_layer(
    sweep: &mut LayerSweep<'_>,
    schemes: &Schemes,
) -> Result<(), QuantizeError> {
    let Some(layer) = sweep.layer() else {
        return Ok(());
    };
    let config = sweep.decoder().config.clone();
    for site in Site::OF_LAYER {
        let Some(source) = Feed::of(layer, site, &config, schemes) else {
            continue;
        };
        let Some(readers) = readers(sweep, layer, site, schemes) else {
            continue;
        };
        let (hessian, means) = sweep.moments(site)?;
        hessian
            .check_finite()
            .map_err(|source| QuantizeError::Inputs {
                layer,
                site,
                source,
            })?;
        let gain = source.gain(sweep, &config);
        let kept = |scales: Vec<f32>| match &gain {
            Some(gain) => gain.kept(&scales),
            None => scales,
        };
        let inputs = hessian.matrix(&sweep.decoder().device());
        let scales = best_scales(&readers, &inputs, &means, kept);
        let columns = scales.len();
        sweep.replace(|spec, weight| {
            let tensor = |values: Vec<f32>, shape: [usize; 2]| {
                Tensor::<2>::from_data(TensorData::new(values, shape), &weight.device())
            };
            if spec.id.input() == Some((layer, site)) {
                return weight.clone() * tensor(scales.clone(), [1, columns]);
            }
            match (&source, &gain) {
                (Feed::Norm(norm), Some(gain)) if *norm == spec.id => {
                    tensor(gain.stored(&scales), spec.shape)
                }
                (Feed::Rows(rows), _) if *rows == spec.id => {
                    weight.clone() / tensor(scales.clone(), [columns, 1])
                }
                _ => weight,
            }
        });
    }
    Ok(())
}

impl Feed {
    fn of(layer: usize, site: Site, config: &DecoderConfig, schemes: &Schemes) -> Option<Self> {
        let family = config.family();
        let norm = |part| {
            let norm = Self::Norm(WeightId::of_layer(layer, part));
            family.has(part).then_some(norm)
        };
        let rows = |part| {
            let rows = WeightId::of_layer(layer, part);
            schemes.contains_key(&rows).then_some(Self::Rows(rows))
        };
        match site {
            Site::AttentionInput => norm(Part::AttentionNorm),
            Site::MlpInput => norm(Part::MlpNorm),
            Site::MlpHidden => rows(Part::Up),
            // A bias, in bf16, would not shrink by exactly as much.
            Site::AttentionOutput
                if config.num_key_value_heads == config.num_attention_heads && !family.qkv_bias =>
            {
                rows(Part::Value)
            }
            Site::AttentionOutput | Site::Residual | Site::HeadInput => None,
        }
    }

    /// Gain of a norm.
    fn gain(&self, sweep: &LayerSweep<'_>, config: &DecoderConfig) -> Option<Gain> {
        let Self::Norm(wanted) = self else {
            return None;
        };
        let mut parameters = sweep.decoder().parameters().into_iter();
        let (_, weight) = parameters.find(|(spec, _)| spec.id == *wanted)?;
        #[expect(clippy::cast_possible_truncation, reason = "0 or 1")]
        let offset = config.family().gain_offset as f32;
        Some(Gain {
            weight: tensors::to_vec(&weight),
            offset,
        })
    }
}

/// Gain of a norm: the stored weight plus an offset.
struct Gain {
    weight: Vec<f32>,
    offset: f32,
}

impl Gain {
    /// Stored weights if the gain is divided by these scales; a gain that would vanish stays as it is.
    fn stored(&self, scales: &[f32]) -> Vec<f32> {
        let pairs = self.weight.iter().zip(scales);
        let stored = pairs.map(|(&weight, scale)| {
            let divided = (weight + self.offset) / scale;
            let stored = bf16::from_f32(divided - self.offset).to_f32();
            let is_kept = divided.is_normal() && (stored + self.offset).is_normal();
            if is_kept { stored } else { weight }
        });
        stored.collect()
    }

    /// Scales that remain when the gain is in bf16.
    fn kept(&self, scales: &[f32]) -> Vec<f32> {
        let pairs = self.weight.iter().zip(self.stored(scales));
        let kept = pairs.map(|(weight, stored)| {
            let (before, after) = (weight + self.offset, stored + self.offset);
            if before.is_normal() && after.is_normal() {
                before / after
            } else {
                1.0
            }
        });
        kept.collect()
    }
}

/// Weights that read their inputs at a place, with their grids; `None` if one of them has no grid.
fn readers(
    sweep: &LayerSweep<'_>,
    layer: usize,
    site: Site,
    schemes: &Schemes,
) -> Option<Vec<(Grid, Tensor<2>)>> {
    let is_here = |spec: &ParameterSpec| spec.id.input() == Some((layer, site));
    let parameters = sweep.decoder().parameters().into_iter();
    let readers = parameters.filter(|(spec, _)| is_here(spec));
    readers
        .map(|(spec, weight)| Some((schemes.get(&spec.id)?.weight, weight)))
        .collect()
}

/// Scales of the inputs that cost the outputs of some weights least; `kept` maps scales to the ones that remain in use.
///
/// # Shapes
///
/// `inputs` is the mean of x xᵀ, `[C, C]`.
fn best_scales(
    readers: &[(Grid, Tensor<2>)],
    inputs: &Tensor<2>,
    means: &[f64],
    kept: impl Fn(Vec<f32>) -> Vec<f32>,
) -> Vec<f32> {
    let mut best = vec![1.0; means.len()];
    let mut least = f64::INFINITY;
    for power in 0..NUM_POWERS {
        let scales = kept(scales_of(means, f64::from(power) / f64::from(NUM_POWERS)));
        let lost = lost(readers, inputs, &scales);
        if lost < least {
            (best, least) = (scales, lost);
        }
    }
    best
}

/// A power of the mean inputs, scaled so that the largest and the smallest are equally far from 1.
#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
fn scales_of(means: &[f64], power: f64) -> Vec<f32> {
    let used = || means.iter().filter(|mean| **mean > 0.0);
    let powers = || used().map(|mean| mean.powf(power));
    let (most, least) = (
        powers().fold(0.0, f64::max),
        powers().fold(f64::INFINITY, f64::min),
    );
    let middle = (most * least).sqrt();
    let scale = |&mean: &f64| {
        if mean > 0.0 {
            (mean.powf(power) / middle) as f32
        } else {
            1.0
        }
    };
    means.iter().map(scale).collect()
}

/// Squared error of the outputs if the inputs are scaled like this.
fn lost(readers: &[(Grid, Tensor<2>)], inputs: &Tensor<2>, scales: &[f32]) -> f64 {
    let of_one = |(grid, weight): &(Grid, Tensor<2>)| {
        let data = TensorData::new(scales.to_vec(), [1, scales.len()]);
        let scales = Tensor::<2>::from_data(data, &weight.device());
        let rounded = grid.fake_quantize(weight.clone() * scales.clone()) / scales;
        output_square(&(rounded - weight.clone()), inputs.clone())
    };
    readers.iter().map(of_one).sum()
}

#[cfg(test)]
mod tests;
