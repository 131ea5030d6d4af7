//! A student made of parts of its teacher: layers, dimensions of the residual stream, channels, heads.

use std::collections::BTreeMap;
use std::convert::Infallible;

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::importance::Importance;
use super::{FromTeacherPlan, LayersPlan, Student};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::model::{
    Axis, Decoder, DecoderConfig, ParameterSpec, Part, QkNorm, RopeScaling, WeightId,
    parameter_specs,
};

/// The parts of a teacher that a student keeps, zero-based and ascending.
///
/// The student computes what the teacher would with all other parts at zero: the weights of a removed layer, the rows
/// of `gate_proj` and `up_proj` of a channel, the columns of `o_proj` of a head, and all writes to a dimension of the
/// residual stream. Layers, channels and heads need only the cut. Dimensions also change the divisor of a norm: the
/// mean of `hidden_size` squares. The student has fewer of them, and all removed ones are 0. With a share `s` of the
/// dimensions kept, its norms have `eps / s` and gains of `1 / √s` times the teacher's, which makes the two equal:
///
/// ```text
/// x / √(s · mean(x²) + eps) · gain  =  x / √(mean(x²) + eps / s) · gain / √s
/// ```
///
/// A norm of all queries or keys together changes in the same way if heads are removed: with a share `h` of them kept,
/// its gains are `1 / √h` times the teacher's. All norms share one `eps`, which is `eps / s`, but here it has to act as
/// `eps / h`. So the projections in front of this norm have `√(h / s)` times their weights.
///
/// Gemma also multiplies the embedding by √`hidden_size`: the student's embedding has `1 / √s` times the teacher's
/// weights, and if the output matrix is tied to it, the gain of the last norm does not change. (Norms of single queries
/// and keys share the one `eps` and differ by its tiny change: at most a ten-thousandth of the number it is added to.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSelection {
    /// Layers, in the student's order, which need not ascend.
    pub layers: Vec<usize>,
    /// Dimensions of the residual stream; `None` keeps all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<Vec<usize>>,
    /// Feed-forward channels of each kept layer; `None` keeps all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<Vec<usize>>>,
    /// Key and value heads of each kept layer, with the query heads that share them; `None` keeps all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<Vec<usize>>>,
}

/// A part that a plan asks for and the teacher does not have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum NoSuchPart {
    #[error("layer {layer} does not exist: the teacher has {there}")]
    Layer { layer: usize, there: usize },
    #[error("`{key}` is {asked}, but the teacher has {there}")]
    Size {
        key: &'static str,
        asked: usize,
        there: usize,
    },
    #[error(
        "{hidden_size} dimensions over {heads} query heads do not give the head size {head_dim}: in this family transformers derives the number of `longrope` factors from that quotient"
    )]
    Width {
        key: &'static str,
        hidden_size: usize,
        heads: usize,
        head_dim: usize,
    },
}

impl NoSuchPart {
    /// Key that asks for the part, in a plan of parts of a teacher.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Layer { .. } => "layers",
            Self::Size { key, .. } | Self::Width { key, .. } => key,
        }
    }

    /// Label under the key.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Layer { .. } => "past the last layer",
            Self::Size { .. } => "more than there are",
            Self::Width { .. } => "would not load in transformers",
        }
    }

    /// Help: the words to write in its place.
    pub fn help(&self) -> String {
        match self {
            Self::Layer { there, .. } => format!("layers count from 0 to {}", there - 1),
            Self::Size { there, .. } => format!("write at most {there}"),
            Self::Width { head_dim, .. } => {
                format!("keep {head_dim} dimensions for each query head")
            }
        }
    }
}

/// Checks that the teacher has the parts of a plan, and that transformers loads the result.
pub fn check_parts(plan: &FromTeacherPlan, teacher: &DecoderConfig) -> Result<(), NoSuchPart> {
    let num_layers = teacher.num_hidden_layers;
    let mut sizes = vec![
        ("hidden_size", plan.hidden_size, teacher.hidden_size),
        (
            "intermediate_size",
            plan.intermediate_size,
            teacher.intermediate_size,
        ),
        (
            "num_key_value_heads",
            plan.num_key_value_heads,
            teacher.num_key_value_heads,
        ),
    ];
    match &plan.layers {
        Some(LayersPlan::Layers(layers)) => {
            if let Some(&layer) = layers.iter().find(|&&layer| layer >= num_layers) {
                let there = num_layers;
                return Err(NoSuchPart::Layer { layer, there });
            }
        }
        Some(LayersPlan::HighestInfluence(count)) => {
            sizes.push(("highest_influence", Some(*count), num_layers));
        }
        None | Some(LayersPlan::Every(_)) => {}
    }
    for (key, asked, there) in sizes {
        if let Some(asked) = asked.filter(|&asked| asked > there) {
            return Err(NoSuchPart::Size { key, asked, there });
        }
    }
    check_width(plan, teacher)
}

fn check_width(plan: &FromTeacherPlan, teacher: &DecoderConfig) -> Result<(), NoSuchPart> {
    let has_factors = matches!(teacher.rope.scaling, RopeScaling::LongRope { .. });
    if !has_factors || !teacher.family().counts_factors_by_width {
        return Ok(());
    }
    let DecoderConfig {
        hidden_size,
        num_attention_heads: heads,
        head_dim,
        ..
    } = part_of_teacher(plan, teacher);
    if hidden_size / heads == head_dim {
        return Ok(());
    }
    let key = match plan.hidden_size {
        Some(_) => "hidden_size",
        None => "num_key_value_heads",
    };
    Err(NoSuchPart::Width {
        key,
        hidden_size,
        heads,
        head_dim,
    })
}

/// The architecture of a student that keeps a part of its teacher.
///
/// Exact except for [`layer_types`](DecoderConfig::layer_types) if the layers are chosen by measurement.
pub fn part_of_teacher(plan: &FromTeacherPlan, teacher: &DecoderConfig) -> DecoderConfig {
    PartSelection::choose(plan, teacher, &Importance::unmeasured(teacher)).config(teacher)
}

/// Architecture with some layers of a teacher and other widths; `groups` are key and value heads with their queries.
pub fn with_sizes(
    teacher: &DecoderConfig,
    layers: &[usize],
    hidden_size: usize,
    channels: usize,
    groups: usize,
) -> DecoderConfig {
    let queries_per_group = teacher.num_attention_heads / teacher.num_key_value_heads;
    DecoderConfig {
        hidden_size,
        intermediate_size: channels,
        num_attention_heads: groups * queries_per_group,
        num_key_value_heads: groups,
        ..teacher.with_layers(layers)
    }
}

impl PartSelection {
    /// Selects these layers, whole.
    pub fn layers(layers: &[usize]) -> Self {
        Self {
            layers: layers.to_vec(),
            hidden: None,
            channels: None,
            groups: None,
        }
    }

    /// Selects the parts of each kind with the highest scores, the earlier of equals first.
    pub fn choose(plan: &FromTeacherPlan, teacher: &DecoderConfig, scores: &Importance) -> Self {
        let num_layers = teacher.num_hidden_layers;
        let layers = match &plan.layers {
            None => (0..num_layers).collect(),
            Some(LayersPlan::Layers(layers)) => layers.clone(),
            Some(LayersPlan::Every(stride)) => (0..num_layers).step_by(*stride).collect(),
            Some(LayersPlan::HighestInfluence(count)) => highest(&scores.influence, *count),
        };
        let in_each_layer = |count: Option<usize>, scores: &[Vec<f64>]| {
            let of_layer = |count| layers.iter().map(move |&idx| highest(&scores[idx], count));
            count.map(|count| of_layer(count).collect())
        };
        let hidden = plan.hidden_size.map(|count| highest(&scores.hidden, count));
        Self {
            hidden,
            channels: in_each_layer(plan.intermediate_size, &scores.channels),
            groups: in_each_layer(plan.num_key_value_heads, &scores.groups),
            layers,
        }
    }

    /// The student's architecture.
    pub fn config(&self, teacher: &DecoderConfig) -> DecoderConfig {
        let count = |parts: &Option<Vec<Vec<usize>>>, whole| {
            let first = parts.as_ref().and_then(|parts| parts.first());
            first.map_or(whole, Vec::len)
        };
        DecoderConfig {
            rms_norm_eps: teacher.rms_norm_eps / self.hidden_share(teacher),
            ..with_sizes(
                teacher,
                &self.layers,
                self.hidden.as_ref().map_or(teacher.hidden_size, Vec::len),
                count(&self.channels, teacher.intermediate_size),
                count(&self.groups, teacher.num_key_value_heads),
            )
        }
    }

    /// The student that keeps these parts of a checkpoint; no other layers are read.
    pub fn load(&self, teacher: &Checkpoint, device: &Device) -> Result<Decoder, CheckpointError> {
        self.build(teacher.config(), |spec| {
            let weight = TensorData::new(teacher.values(spec)?, spec.shape);
            Ok(Tensor::from_data(weight, device))
        })
    }

    /// The student that keeps these parts of a decoder.
    ///
    /// # Panics
    ///
    /// If a part does not exist: the recipe is checked against the teacher before.
    pub fn cut(&self, teacher: &Decoder) -> Decoder {
        let weights: BTreeMap<WeightId, Tensor<2>> = teacher
            .parameters()
            .into_iter()
            .map(|(spec, weight)| (spec.id, weight))
            .collect();
        let student = self.build(&teacher.config, |spec| {
            Ok::<_, Infallible>(weights[&spec.id].clone())
        });
        match student {
            Ok(student) => student,
            Err(never) => match never {},
        }
    }

    /// The student that keeps these parts of another, and the masks on them.
    ///
    /// # Panics
    ///
    /// If a part does not exist, if layers share weights, or if the student has an adapter or a grid: passes remove
    /// parts before they add one.
    pub fn cut_student(&self, student: &Student) -> Student {
        let is_plain = student.layer_repeats == 1 && student.adapter.is_none();
        assert!(
            is_plain && student.schemes.is_empty(),
            "weights and masks alone"
        );
        let mut small = Student::new(self.cut(&student.decoder));
        if !student.masks.is_empty() {
            let parameters = student.decoder.parameters().into_iter();
            let masks: BTreeMap<WeightId, Tensor<2>> = parameters
                .map(|(ParameterSpec { id, .. }, weight)| {
                    let mask = student.masks.get(&id).cloned();
                    (id, mask.unwrap_or_else(|| weight.ones_like()))
                })
                .collect();
            let specs = parameter_specs(&small.decoder.config).into_iter();
            small.masks = specs
                .filter(|spec| spec.id.input().is_some())
                .map(|spec| {
                    let whole = masks[&self.source(spec.id)].clone();
                    let mask = self.select(spec.id, whole, &student.decoder.config);
                    (spec.id, mask)
                })
                .collect();
        }
        small
    }

    /// Asks `weight` for the teacher's weights, one at a time, and keeps the student's part of each.
    fn build<E>(
        &self,
        teacher: &DecoderConfig,
        mut weight: impl FnMut(&ParameterSpec) -> Result<Tensor<2>, E>,
    ) -> Result<Decoder, E> {
        let specs = parameter_specs(teacher).into_iter();
        let whole: BTreeMap<WeightId, ParameterSpec> = specs.map(|spec| (spec.id, spec)).collect();
        Decoder::from_parameters(self.config(teacher), |spec| {
            let weight = weight(&whole[&self.source(spec.id)])?;
            let kept = self.select(spec.id, weight, teacher);
            Ok(self.rescale(spec, kept, teacher))
        })
    }

    /// Name of the teacher's weight of which a weight of the student is a part.
    fn source(&self, id: WeightId) -> WeightId {
        id.in_layer(|place| self.layers[place])
    }

    /// The student's part of a weight, or of a mask on it.
    fn select(&self, id: WeightId, whole: Tensor<2>, teacher: &DecoderConfig) -> Tensor<2> {
        let mut kept = whole;
        for (dim, axis) in teacher.family().axes(id.part).into_iter().enumerate() {
            if let Some(idxs) = self.places(axis, id.layer, teacher) {
                kept = select(kept, dim, &idxs);
            }
        }
        kept
    }

    /// Indices kept along an axis, in the student's layer `place`; `None` means all.
    fn places(
        &self,
        axis: Axis,
        place: Option<usize>,
        teacher: &DecoderConfig,
    ) -> Option<Vec<usize>> {
        let of_layer = |parts: &Option<Vec<Vec<usize>>>| Some(parts.as_ref()?[place?].clone());
        let spread = |width: usize| {
            let groups = of_layer(&self.groups)?.into_iter();
            Some(
                groups
                    .flat_map(|idx| idx * width..(idx + 1) * width)
                    .collect(),
            )
        };
        let queries_per_group = teacher.num_attention_heads / teacher.num_key_value_heads;
        match axis {
            Axis::One | Axis::Tokens | Axis::Head => None,
            Axis::Hidden => self.hidden.clone(),
            Axis::Channels => of_layer(&self.channels),
            Axis::Queries => spread(queries_per_group * teacher.head_dim),
            Axis::Keys => spread(teacher.head_dim),
        }
    }

    /// Compensates for the change of the mean in norms; see [`PartSelection`].
    fn rescale(
        &self,
        spec: &ParameterSpec,
        weight: Tensor<2>,
        teacher: &DecoderConfig,
    ) -> Tensor<2> {
        let (hidden, heads) = (self.hidden_share(teacher), self.heads_share(teacher));
        let family = teacher.family();
        let offset = family.gain_offset;
        let gain = |share: f64| {
            let rise = share.sqrt().recip();
            let gain = weight.clone().add_scalar(offset).mul_scalar(rise);
            gain.sub_scalar(offset)
        };
        let norms_heads = family.qk_norm == QkNorm::Whole;
        match spec.id.part {
            Part::Embedding if self.hidden.is_some() && family.scales_embedding => {
                weight.mul_scalar(hidden.sqrt().recip())
            }
            Part::FinalNorm if family.scales_embedding && teacher.tie_word_embeddings => weight,
            Part::QueryNorm | Part::KeyNorm if self.groups.is_some() && norms_heads => gain(heads),
            Part::Query | Part::Key | Part::QueryBias | Part::KeyBias if norms_heads => {
                weight.mul_scalar((heads / hidden).sqrt())
            }
            part if self.hidden.is_some() && family.axes(part) == [Axis::One, Axis::Hidden] => {
                gain(hidden)
            }
            _ => weight,
        }
    }

    /// Share of the residual stream's dimensions that are kept.
    fn hidden_share(&self, teacher: &DecoderConfig) -> f64 {
        let kept = self.hidden.as_ref().map_or(teacher.hidden_size, Vec::len);
        kept as f64 / teacher.hidden_size as f64
    }

    /// Share of the heads that are kept, the same in every layer.
    fn heads_share(&self, teacher: &DecoderConfig) -> f64 {
        let kept = self.groups.as_ref().and_then(|groups| groups.first());
        let kept = kept.map_or(teacher.num_key_value_heads, Vec::len);
        kept as f64 / teacher.num_key_value_heads as f64
    }
}

/// Indices of the highest scores, ascending; the earlier of equals first.
fn highest(scores: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.truncate(count);
    order.sort_unstable();
    order
}

fn select(weight: Tensor<2>, dim: usize, idxs: &[usize]) -> Tensor<2> {
    let device = weight.device();
    let idxs: Vec<i32> = idxs
        .iter()
        .map(|&idx| i32::try_from(idx).expect("no side of a weight has 2^31 places"))
        .collect();
    let count = idxs.len();
    let idxs: Tensor<1, Int> = Tensor::from_data(TensorData::new(idxs, [count]), &device);
    weight.select(dim, idxs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_scores_stay_in_their_order_and_the_earlier_of_equals_wins() {
        assert_eq!(highest(&[1.0, 5.0, 3.0, 5.0], 2), [1, 3]);
        assert_eq!(highest(&[2.0, 2.0, 2.0], 2), [0, 1]);
        assert_eq!(highest(&[1.0, 2.0], 2), [0, 1]);
    }
}
