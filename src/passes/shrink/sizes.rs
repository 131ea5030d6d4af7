//! Sizes of a student after parts of it are removed.

use std::cmp::Ordering;

use thiserror::Error;

use super::{ShrinkSizes, ShrinkTarget, Side};
use crate::model::{DecoderConfig, num_parameters};
use crate::student::{
    FromTeacherPlan, LayersPlan, NoSuchPart, check_parts, part_of_teacher, with_sizes,
};

/// Steps in which a proportion is searched for: finer than any size in use can follow.
const PROPORTIONS: usize = 4096;

/// Largest power of two that a width stays a multiple of, so that groups of grids and machine vectors divide it.
const MAX_UNIT: usize = 32;

/// Share of a student's parameters that a target may be missed by before that is noted.
pub(super) const NEAR: f64 = 0.01;

/// Difference between the shares that are kept of two sides, up to which they count as in one proportion.
const UNEVEN: f64 = 0.1;

/// Most candidates that are compared with what a family can have: this takes longer than counting.
const MOST_CHECKED: usize = 16;

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

/// Sizes that may leave a share of a student's parameters.
struct Candidate {
    sizes: ShrinkSizes,
    /// Parameters that are missing to the target, as a share of the student's.
    gap: f64,
    /// Difference between the share that is kept of the side that fills, and of the others.
    unevenness: f64,
    /// Steps of the side that fills; finer ones are tried where coarse ones miss the target.
    unit: usize,
}

impl Candidate {
    fn is_near(&self) -> bool {
        self.gap <= NEAR
    }

    fn is_even(&self) -> bool {
        self.unevenness <= UNEVEN
    }

    /// Orders what is near and in proportion first, with the widest steps; then what is near; then the rest by its gap.
    fn preferred(&self, other: &Self) -> Ordering {
        let class = |one: &Self| match (one.is_near(), one.is_even()) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        };
        let by_class = class(self).cmp(&class(other));
        by_class.then_with(|| match class(self) {
            0 => {
                let by_unit = other.unit.cmp(&self.unit);
                by_unit.then(self.unevenness.total_cmp(&other.unevenness))
            }
            1 => self.unevenness.total_cmp(&other.unevenness),
            _ => self.gap.total_cmp(&other.gap),
        })
    }
}

/// Sizes, all about in one proportion to those of the student, that leave at most a share of its parameters and little less.
///
/// All sides but one follow the proportion in their steps; that one, channels if they are among the sides, fills what these
/// leave.
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
    let smallest = left(proportion(1, along, config), config);
    if smallest > asked {
        return Err(ShrinkError::Parameters {
            asked,
            smallest,
            there,
        });
    }
    let filling = [
        Side::IntermediateSize,
        Side::HiddenSize,
        Side::NumKeyValueHeads,
        Side::NumHiddenLayers,
    ];
    let filling = filling.into_iter().find(|side| along.contains(side));
    let filling = filling.expect("`along` has a side");
    let others: Vec<Side> = along
        .iter()
        .copied()
        .filter(|&side| side != filling)
        .collect();
    let nums = (1..=PROPORTIONS).rev();
    let mut path: Vec<ShrinkSizes> = nums.map(|num| proportion(num, &others, config)).collect();
    path.dedup();
    let fill = |sizes: &ShrinkSizes| filled(*sizes, filling, asked, config);
    let mut candidates: Vec<Candidate> = path.iter().flat_map(fill).collect();
    if !candidates
        .iter()
        .any(|found| found.is_near() && found.is_even())
    {
        // Few layers or heads: in one proportion they all jump at once.
        let beside = path
            .iter()
            .flat_map(|sizes| one_step_more(*sizes, &others, config));
        let beside: Vec<ShrinkSizes> = beside.collect();
        candidates.extend(beside.iter().flat_map(fill));
    }
    candidates.sort_by(Candidate::preferred);
    let is_possible = |found: &&Candidate| check_parts(&parts(found.sizes), config).is_ok();
    let wanted = candidates
        .iter()
        .take_while(|found| found.is_near() && found.is_even());
    let found = wanted
        .take(MOST_CHECKED)
        .find(is_possible)
        .or(candidates.first());
    Ok(found.map_or(proportion(1, along, config), |found| found.sizes))
}

/// Sizes of which some sides, at least one and not all, are one step larger.
fn one_step_more(sizes: ShrinkSizes, sides: &[Side], config: &DecoderConfig) -> Vec<ShrinkSizes> {
    let chosen = 1..(1_usize << sides.len()).saturating_sub(1);
    let more = chosen.map(|chosen| {
        let mut more = sizes;
        for (idx, side) in sides.iter().enumerate() {
            let (whole, step) = side.steps(config);
            if chosen >> idx & 1 == 1 {
                let size = side.of(&mut more);
                *size = size.map(|size| (size + step).min(whole));
            }
        }
        more
    });
    more.collect()
}

/// Parameters that sizes leave.
fn left(sizes: ShrinkSizes, config: &DecoderConfig) -> u64 {
    let layers: Vec<usize> =
        (0..sizes.num_hidden_layers.unwrap_or(config.num_hidden_layers)).collect();
    num_parameters(&with_sizes(
        config,
        &layers,
        sizes.hidden_size.unwrap_or(config.hidden_size),
        sizes.intermediate_size.unwrap_or(config.intermediate_size),
        sizes
            .num_key_value_heads
            .unwrap_or(config.num_key_value_heads),
    ))
}

/// Largest size of a side, in steps of each unit, with which at most `asked` parameters are left; none if the smallest is
/// too large.
fn filled(sizes: ShrinkSizes, side: Side, asked: u64, config: &DecoderConfig) -> Vec<Candidate> {
    let (whole, widest) = side.steps(config);
    let with = |size: usize| {
        let mut sizes = sizes;
        *side.of(&mut sizes) = Some(size);
        sizes
    };
    // Every side enters the number of parameters linearly.
    let one = left(with(1), config);
    let Some(room) = asked.checked_sub(one) else {
        return Vec::new();
    };
    let most = match left(with(2), config) - one {
        0 => whole,
        per_step => usize::try_from(room / per_step).map_or(whole, |more| (1 + more).min(whole)),
    };
    let finest = if side == Side::IntermediateSize {
        1
    } else {
        widest
    };
    let units = std::iter::successors(Some(widest), |unit| Some(unit / 2));
    let units = units.take_while(|&unit| unit >= finest);
    let there = num_parameters(config) as f64;
    let candidates = units.filter_map(|unit| {
        let size = most / unit * unit;
        (size > 0).then(|| Candidate {
            sizes: with(size),
            gap: (asked - left(with(size), config)) as f64 / there,
            unevenness: kept(sizes, config)
                .map_or(0.0, |kept| (size as f64 / whole as f64 - kept).abs()),
            unit,
        })
    });
    candidates.collect()
}

/// Mean share of the sides that are given, if any is.
fn kept(sizes: ShrinkSizes, config: &DecoderConfig) -> Option<f64> {
    let mut sizes = sizes;
    let mut shares = Vec::new();
    for side in Side::ALL {
        let (whole, _) = side.steps(config);
        shares.extend(side.of(&mut sizes).map(|size| size as f64 / whole as f64));
    }
    (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
}

impl Side {
    const ALL: [Self; 4] = [
        Self::NumHiddenLayers,
        Self::HiddenSize,
        Self::IntermediateSize,
        Self::NumKeyValueHeads,
    ];

    /// Size of a student along this side, and the steps in which it shrinks.
    fn steps(self, config: &DecoderConfig) -> (usize, usize) {
        let width = |size| (size, unit(size));
        match self {
            Self::NumHiddenLayers => (config.num_hidden_layers, 1),
            Self::HiddenSize => width(config.hidden_size),
            Self::IntermediateSize => width(config.intermediate_size),
            Self::NumKeyValueHeads => (config.num_key_value_heads, 1),
        }
    }

    fn of(self, sizes: &mut ShrinkSizes) -> &mut Option<usize> {
        match self {
            Self::NumHiddenLayers => &mut sizes.num_hidden_layers,
            Self::HiddenSize => &mut sizes.hidden_size,
            Self::IntermediateSize => &mut sizes.intermediate_size,
            Self::NumKeyValueHeads => &mut sizes.num_key_value_heads,
        }
    }
}

/// Some sizes of a student, scaled by `num` / [`PROPORTIONS`]; none is 0.
fn proportion(num: usize, along: &[Side], config: &DecoderConfig) -> ShrinkSizes {
    let mut sizes = ShrinkSizes::default();
    for &side in along {
        let (size, unit) = side.steps(config);
        *side.of(&mut sizes) = Some((size * num / PROPORTIONS / unit * unit).max(unit));
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
            assert!(left <= share && left > share - NEAR, "{share}: {left}");
            let [hidden, channels] = widths.map(|width| width as f64);
            assert!(
                (hidden / 576.0 - channels / 1536.0).abs() < UNEVEN,
                "{widths:?}"
            );
            assert_eq!(sizes.num_hidden_layers, None);
        }
        let (sizes, left) = found(0.8, &[Side::NumHiddenLayers]);
        assert_eq!(sizes.num_hidden_layers, Some(22));
        assert!(left <= 0.8 && left > 0.77);
    }

    /// Architectures of models in use and of the golden ones: hidden size, channels, layers, heads, key and value heads, head
    /// size, rows of the vocabulary, tied.
    fn sized(
        [hidden_size, intermediate_size, num_hidden_layers]: [usize; 3],
        [num_attention_heads, num_key_value_heads, head_dim]: [usize; 3],
        vocab_size: usize,
        tie_word_embeddings: bool,
    ) -> DecoderConfig {
        DecoderConfig {
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size,
            tie_word_embeddings,
            layer_types: vec![LayerType::Full; num_hidden_layers],
            ..config()
        }
    }

    #[test]
    fn targets_are_hit_within_a_hundredth_wherever_channels_may_go() {
        let models = [
            ("SmolLM2-135M", config()),
            (
                "Qwen2.5-0.5B",
                sized([896, 4864, 24], [14, 2, 64], 151_936, true),
            ),
            (
                "Llama-3.2-1B",
                sized([2048, 8192, 16], [32, 8, 64], 128_256, true),
            ),
            (
                "Llama-3-8B",
                sized([4096, 14_336, 32], [32, 8, 128], 128_256, false),
            ),
            (
                "the committed teacher",
                sized([256, 704, 6], [4, 2, 64], 2048, true),
            ),
            (
                "a golden model",
                sized([64, 128, 2], [4, 2, 16], 320, false),
            ),
            ("a golden model", sized([64, 96, 2], [4, 2, 16], 320, true)),
        ];
        let ways: [&[Side]; 4] = [
            &[Side::HiddenSize, Side::IntermediateSize],
            &[Side::NumHiddenLayers, Side::IntermediateSize],
            &[Side::IntermediateSize, Side::NumKeyValueHeads],
            &[
                Side::NumHiddenLayers,
                Side::HiddenSize,
                Side::IntermediateSize,
                Side::NumKeyValueHeads,
            ],
        ];
        let mut num_hit = 0;
        for (name, config) in models {
            let there = num_parameters(&config) as f64;
            for along in ways {
                let mut before = 0;
                for share in [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95] {
                    let smallest = left(proportion(1, along, &config), &config) as f64 / there;
                    let Ok(sizes) = in_proportion(share, along, &config) else {
                        assert!(smallest > share, "{name} {along:?} {share}");
                        continue;
                    };
                    let parameters = left(sizes, &config);
                    let found = parameters as f64 / there;
                    assert!(
                        found <= share && found > share - NEAR,
                        "{name} {along:?}: {share} -> {found}, {sizes:?}"
                    );
                    assert!(parameters > before, "{name} {along:?}: {share}");
                    before = parameters;
                    num_hit += 1;
                }
            }
        }
        assert!(num_hit > 200, "{num_hit}");
    }

    #[test]
    fn sides_without_channels_come_as_near_as_their_steps_allow() {
        for side in [
            Side::NumHiddenLayers,
            Side::HiddenSize,
            Side::NumKeyValueHeads,
        ] {
            for share in [0.8, 0.9, 0.95] {
                let Ok(sizes) = in_proportion(share, &[side], &config()) else {
                    continue;
                };
                let mut more = sizes;
                let (_, step) = side.steps(&config());
                *side.of(&mut more) = side.of(&mut more).map(|size| size + step);
                let there = num_parameters(&config()) as f64;
                let [found, next] =
                    [sizes, more].map(|sizes| left(sizes, &config()) as f64 / there);
                assert!(
                    found <= share && next > share,
                    "{side} {share}: {found} {next}"
                );
            }
        }
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
