//! Importance of each part of a teacher, measured on text.

use std::collections::{BTreeMap, VecDeque};

use burn::tensor::Tensor;

use crate::calibration::{Calibration, Interrupted};
use crate::model::{Decoder, DecoderConfig, Site};

/// Scores of a teacher's parts; only their order has a meaning.
///
/// **Block influence** of a layer is how far it turns the residual stream (Men et al. 2024, ShortGPT,
/// <https://arxiv.org/abs/2403.03853>, equation 1): 1 minus the mean cosine, over positions, of its input and its
/// output.
///
/// **Activity** of a feature is the mean of its size over the positions of a row, squared, summed over rows, then the
/// root (Muralidharan et al. 2024, Minitron, <https://arxiv.org/abs/2407.14679>, section 2.2). For a dimension of the
/// residual stream, it is summed over the outputs of all norms in front of attention, feed-forward layer and output
/// matrix. For a channel, it is that of the input of `down_proj`. For a key and value head, it is the Euclidean norm
/// of the activities of what its query heads pass to `o_proj`.
#[derive(Debug, Clone, PartialEq)]
pub struct Importance {
    /// Block influence, by layer; from 0 (passes its input on unchanged) to 2.
    pub influence: Vec<f64>,
    /// Activity of the dimensions of the residual stream.
    pub hidden: Vec<f64>,
    /// Activity of feed-forward channels, by layer.
    pub channels: Vec<Vec<f64>>,
    /// Activity of key and value heads, by layer.
    pub groups: Vec<Vec<f64>>,
}

impl Importance {
    /// Equal scores for all parts, without a measurement.
    pub fn unmeasured(config: &DecoderConfig) -> Self {
        let by_layer = |size| vec![vec![0.0; size]; config.num_hidden_layers];
        Self {
            influence: vec![0.0; config.num_hidden_layers],
            hidden: vec![0.0; config.hidden_size],
            channels: by_layer(config.intermediate_size),
            groups: by_layer(config.num_key_value_heads),
        }
    }

    /// Measures the scores of a decoder's parts.
    pub fn measure(decoder: &Decoder, calibration: &Calibration<'_>) -> Result<Self, Interrupted> {
        let config = &decoder.config;
        let mut squares: BTreeMap<(usize, Site), Vec<f64>> = BTreeMap::new();
        let mut cosines = vec![0.0; config.num_hidden_layers];
        let mut num_positions = 0;
        let mut before: Option<Tensor<3>> = None;
        let mut observer = |layer: usize, site: Site, x: &Tensor<3>| {
            if site != Site::Residual {
                add_squares(squares.entry((layer, site)).or_default(), x);
                return;
            }
            if layer == 0 {
                let [batch, seq, _] = x.dims();
                num_positions += batch * seq;
            } else if let Some(entered) = before.take() {
                cosines[layer - 1] += sum_of_cosines(entered, x.clone());
            }
            before = Some(x.clone());
        };
        calibration.run(decoder, &mut observer)?;
        let activity = |layer: usize, site: Site| -> Vec<f64> {
            squares[&(layer, site)]
                .iter()
                .map(|sum| sum.sqrt())
                .collect()
        };
        let layers = 0..config.num_hidden_layers;
        let mut hidden = activity(config.num_hidden_layers, Site::HeadInput);
        for layer in layers.clone() {
            for site in [Site::AttentionInput, Site::MlpInput] {
                let one = activity(layer, site);
                hidden
                    .iter_mut()
                    .zip(one)
                    .for_each(|(sum, one)| *sum += one);
            }
        }
        let group_width = config.head_dim * config.num_attention_heads / config.num_key_value_heads;
        let groups = |layer: usize| -> Vec<f64> {
            let heads = squares[&(layer, Site::AttentionOutput)].chunks(group_width);
            heads.map(|sums| sums.iter().sum::<f64>().sqrt()).collect()
        };
        Ok(Self {
            influence: cosines
                .iter()
                .map(|sum| 1.0 - sum / num_positions as f64)
                .collect(),
            hidden,
            channels: layers
                .clone()
                .map(|layer| activity(layer, Site::MlpHidden))
                .collect(),
            groups: layers.map(groups).collect(),
        })
    }
}

/// Influence of each run of `length` layers in a row, taken as one layer (Gromov et al. 2024,
/// <https://arxiv.org/abs/2403.17887>, who take the angle): 1 minus the mean cosine of the input of the first and the
/// output of the last.
///
/// # Panics
///
/// If the decoder has fewer layers.
pub fn run_influence(
    decoder: &Decoder,
    length: usize,
    calibration: &Calibration<'_>,
) -> Result<Vec<f64>, Interrupted> {
    let num_layers = decoder.config.num_hidden_layers;
    assert!(length <= num_layers, "{length} of {num_layers} layers");
    let mut cosines = vec![0.0; num_layers - length + 1];
    let mut num_positions = 0;
    let mut before: VecDeque<Tensor<3>> = VecDeque::new(); // inputs of the last `length` layers
    let mut observer = |layer: usize, site: Site, x: &Tensor<3>| {
        if site != Site::Residual {
            return;
        }
        if layer == 0 {
            before.clear();
            let [batch, seq, _] = x.dims();
            num_positions += batch * seq;
        }
        before.push_back(x.clone());
        if before.len() > length
            && let Some(entered) = before.pop_front()
        {
            cosines[layer - length] += sum_of_cosines(entered, x.clone());
        }
    };
    calibration.run(decoder, &mut observer)?;
    Ok(cosines
        .iter()
        .map(|sum| 1.0 - sum / num_positions as f64)
        .collect())
}

/// Adds the squared mean size of every feature in every row.
fn add_squares(totals: &mut Vec<f64>, x: &Tensor<3>) {
    let means = x.clone().abs().mean_dim(1); // [B, 1, F]
    let squares = means.square().sum_dims_squeeze::<1, usize>(&[0, 1]); // [F]
    let squares = squares
        .try_into_vec_as::<f32>()
        .expect("activations are f32");
    totals.resize(squares.len(), 0.0);
    totals
        .iter_mut()
        .zip(squares)
        .for_each(|(total, square)| *total += f64::from(square));
}

/// Sum over positions of the cosine of two vectors; the cosine with a zero vector is 0.
fn sum_of_cosines(a: Tensor<3>, b: Tensor<3>) -> f64 {
    let norm = |x: &Tensor<3>| x.clone().square().sum_dim(2).sqrt(); // [B, T, 1]
    let norms = (norm(&a) * norm(&b)).clamp_min(f32::MIN_POSITIVE);
    let cosines = (a * b).sum_dim(2) / norms;
    f64::from(cosines.sum().into_scalar::<f32>())
}
