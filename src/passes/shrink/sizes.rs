//! Sizes of a student after parts of it are removed.

use thiserror::Error;

use super::{ShrinkSizes, ShrinkTarget, Side};
use crate::model::{DecoderConfig, num_parameters};
use crate::student::{FromTeacherPlan, LayersPlan, NoSuchPart, check_parts, part_of_teacher};

/// Steps in which a proportion is searched for: finer than any size in use can follow.
const PROPORTIONS: usize = 4096;

/// Largest power of two that a width stays a multiple of, so that groups of grids and machine vectors divide it.
const MAX_UNIT: usize = 32;

/// Error of a student that cannot be made so small.
#[derive(Debug, Clone, PartialEq, Error)]
pub(super) enum ShrinkError {
    #[error("{}", fact(key, error))]
    Part {
        key: &'static str,
        error: NoSuchPart,
    },
    #[error("nothing is removed: the student has these sizes already")]
    Nothing,
    #[error("no sizes leave {asked} of {there} parameters: the smallest leave {smallest}")]
    Parameters {
        asked: u64,
        smallest: u64,
        there: u64,
    },
}

impl ShrinkError {
    /// Key of the recipe that asks for too much.
    pub(super) fn key(&self) -> Option<&'static str> {
        match self {
            Self::Part { key, .. } => Some(key),
            Self::Nothing => None,
            Self::Parameters { .. } => Some("parameters"),
        }
    }
}

/// Kept parts of a student of this architecture; which layers are removed, if any, is left open.
pub(super) fn shrunk_parts(
    target: &ShrinkTarget,
    config: &DecoderConfig,
) -> Result<FromTeacherPlan, ShrinkError> {
    let sizes = match target {
        ShrinkTarget::Sizes(sizes) => *sizes,
        ShrinkTarget::Parameters { parameters, along } => {
            in_proportion(*parameters, along, config)?
        }
    };
    let parts = parts(sizes);
    check_parts(&parts, config).map_err(|error| {
        let key = match (error.key(), target) {
            ("highest_influence", _) => "num_hidden_layers",
            (_, ShrinkTarget::Parameters { .. }) => "parameters",
            (key, ShrinkTarget::Sizes(_)) => key,
        };
        ShrinkError::Part { key, error }
    })?;
    let left = part_of_teacher(&parts, config);
    if num_parameters(&left) == num_parameters(config) {
        return Err(ShrinkError::Nothing);
    }
    Ok(parts)
}

/// Message about a part that a plan asks for and the student does not have.
fn fact(key: &str, error: &NoSuchPart) -> String {
    match error {
        NoSuchPart::Size { asked, there, .. } => {
            format!("`{key}` is {asked}, but the student has {there}")
        }
        NoSuchPart::Width { .. } | NoSuchPart::Layer { .. } => error.to_string(),
    }
}

fn parts(sizes: ShrinkSizes) -> FromTeacherPlan {
    FromTeacherPlan {
        layers: sizes.num_hidden_layers.map(LayersPlan::HighestInfluence),
        hidden_size: sizes.hidden_size,
        intermediate_size: sizes.intermediate_size,
        num_key_value_heads: sizes.num_key_value_heads,
        calibration_tokens: None,
    }
}

/// Largest sizes, all in one proportion to those of the student, that leave at most a share of its parameters.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count"
)]
fn in_proportion(
    share: f64,
    along: &[Side],
    config: &DecoderConfig,
) -> Result<ShrinkSizes, ShrinkError> {
    let there = num_parameters(config);
    let asked = (there as f64 * share) as u64;
    let left = |sizes| num_parameters(&part_of_teacher(&parts(sizes), config));
    let mut sizes = proportion(1, along, config);
    if left(sizes) > asked {
        let smallest = left(sizes);
        return Err(ShrinkError::Parameters {
            asked,
            smallest,
            there,
        });
    }
    let (mut fits, mut too_large) = (1, PROPORTIONS);
    while too_large - fits > 1 {
        let middle = usize::midpoint(fits, too_large);
        let larger = proportion(middle, along, config);
        if left(larger) <= asked {
            (fits, sizes) = (middle, larger);
        } else {
            too_large = middle;
        }
    }
    Ok(sizes)
}

/// Some sizes of a student, scaled by `num` / [`PROPORTIONS`]; none is 0.
fn proportion(num: usize, along: &[Side], config: &DecoderConfig) -> ShrinkSizes {
    let part = |size: usize, unit: usize| Some((size * num / PROPORTIONS / unit * unit).max(unit));
    let mut sizes = ShrinkSizes::default();
    for side in along {
        let (slot, size, unit) = match side {
            Side::NumHiddenLayers => (&mut sizes.num_hidden_layers, config.num_hidden_layers, 1),
            Side::HiddenSize => {
                let size = config.hidden_size;
                (&mut sizes.hidden_size, size, unit(size))
            }
            Side::IntermediateSize => {
                let size = config.intermediate_size;
                (&mut sizes.intermediate_size, size, unit(size))
            }
            Side::NumKeyValueHeads => {
                let size = config.num_key_value_heads;
                (&mut sizes.num_key_value_heads, size, 1)
            }
        };
        *slot = part(size, unit);
    }
    sizes
}

/// Power of two that a width stays a multiple of: at most a quarter of the width.
fn unit(width: usize) -> usize {
    let mut unit = MAX_UNIT;
    while unit > 1 && (!width.is_multiple_of(unit) || 4 * unit > width) {
        unit /= 2;
    }
    unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, LayerType, Rope};

    /// The sizes of SmolLM2-135M.
    fn config() -> DecoderConfig {
        DecoderConfig {
            architecture: Architecture::Llama,
            vocab_size: 49_152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            head_dim: 64,
            rms_norm_eps: 1e-5,
            query_pre_attn_scalar: 64,
            attn_logit_softcapping: None,
            final_logit_softcapping: None,
            sliding_window: None,
            layer_types: vec![LayerType::Full; 30],
            local_rope: None,
            layers_without_rope: vec![],
            rope: Rope::plain(1e5),
            max_position_embeddings: 64,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_ids: vec![],
            pad_token_id: None,
        }
    }

    fn found(parameters: f64, along: &[Side]) -> (ShrinkSizes, f64) {
        let sizes = in_proportion(parameters, along, &config()).unwrap();
        let left = num_parameters(&part_of_teacher(&parts(sizes), &config()));
        (sizes, left as f64 / num_parameters(&config()) as f64)
    }

    #[test]
    fn a_share_of_the_parameters_is_reached_from_below_with_whole_groups_of_weights() {
        let widths = [Side::HiddenSize, Side::IntermediateSize];
        for share in [0.9, 0.5, 0.2] {
            let (sizes, left) = found(share, &widths);
            let widths = [sizes.hidden_size.unwrap(), sizes.intermediate_size.unwrap()];
            assert!(
                widths.iter().all(|width| width.is_multiple_of(32)),
                "{widths:?}"
            );
            assert!(left <= share && left > share - 0.08, "{share}: {left}");
            let [hidden, channels] = widths.map(|width| width as f64);
            assert!(
                (hidden / 576.0 - channels / 1536.0).abs() < 0.06,
                "{widths:?}"
            );
            assert_eq!(sizes.num_hidden_layers, None);
        }
        let (sizes, left) = found(0.8, &[Side::NumHiddenLayers]);
        assert_eq!(sizes.num_hidden_layers, Some(22));
        assert!(left <= 0.8 && left > 0.77);
    }

    #[test]
    fn narrow_widths_are_kept_multiples_of_less() {
        let units = [576, 128, 96, 48, 36, 16, 7, 1].map(unit);
        assert_eq!(units, [32, 32, 16, 8, 4, 4, 1, 1]);
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let sizes = |sizes| shrunk_parts(&ShrinkTarget::Sizes(sizes), &config());
        let same = ShrinkSizes {
            hidden_size: Some(576),
            ..ShrinkSizes::default()
        };
        assert_eq!(sizes(same).unwrap_err(), ShrinkError::Nothing);
        let more = ShrinkSizes {
            num_hidden_layers: Some(31),
            ..ShrinkSizes::default()
        };
        let error = sizes(more).unwrap_err();
        assert_eq!(error.key(), Some("num_hidden_layers"));
        assert_eq!(
            error.to_string(),
            "`num_hidden_layers` is 31, but the student has 30"
        );
        let target = ShrinkTarget::Parameters {
            parameters: 0.01,
            along: vec![Side::NumHiddenLayers],
        };
        let error = shrunk_parts(&target, &config()).unwrap_err();
        assert_eq!(error.key(), Some("parameters"));
    }
}
