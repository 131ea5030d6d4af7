//! Rotary settings of `config.json`, in the style of transformers 4 and of 5.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::fields::{field, flag, positive, required_positive, size, within};
use super::{ConfigError, Family, Rope};
use crate::model::RopeScaling;

/// Bases of rotary positions. Models have 1e4 to 1e8; below 1, waves would grow shorter from pair to pair.
const BASES: RangeInclusive<f64> = 1.0..=1e15;

/// Settings that transformers 4 wrote for one kind of layer.
struct OldStyle {
    keys: &'static str,
    theta: Option<f64>,
    scaling: Option<RopeScaling>,
    /// Rotary dimensions of a head.
    dims: Option<usize>,
    /// True if the scaling replaces all newer settings, the base included.
    replaces: bool,
    default_theta: f64,
}

/// Rotary settings of full layers and, if they have their own, of sliding ones.
///
/// A file with both styles must state the same settings twice, as transformers 5 reads them: there an older scaling
/// replaces all newer settings. The result is the one of transformers 5 (checked: `tests/golden/rope_settings.json`).
pub(super) fn ropes(
    json: &Value,
    family: &Family,
    head_dim: usize,
    max_position_embeddings: usize,
) -> Result<(Rope, Option<Rope>), ConfigError> {
    let key = "rope_parameters";
    let new = field(json, key);
    if let Some(new) = new.filter(|new| !new.is_object()) {
        return Err(ConfigError::unexpected(key, "a table", Some(new)));
    }
    let context = size(json, CONTEXT, 1 << 30)?;
    let model = RopeFacts {
        family,
        head_dim,
        max_position_embeddings,
        context: context
            .or(family.defaults.original_max_position_embeddings)
            .filter(|_| !family.has_local_rope),
    };
    let dims = model.rotary_dims(json)?;
    let of = |layer_type| new.and_then(|new| field(new, layer_type));
    let by_layer_type = [of("full_attention"), of("sliding_attention")];
    let is_by_layer_type = by_layer_type.iter().any(Option::is_some);
    let (own, scaling) = old_scaling(json, dims, model)?;
    let old = OldStyle {
        keys: "rope_theta`, `rope_scaling",
        theta: own.theta.or(within(json, "rope_theta", BASES)?),
        dims: own.dims,
        scaling,
        replaces: true,
        default_theta: family.defaults.rope_theta,
    };
    if !family.has_local_rope {
        if is_by_layer_type {
            return Err(ConfigError::unexpected(key, "the same for all layers", new));
        }
        return Ok((merge(new, &old, model)?, None));
    }
    if new.is_some() && !is_by_layer_type {
        let expected = "a table of `full_attention` and `sliding_attention`";
        return Err(ConfigError::unexpected(key, expected, new));
    }
    let [full, local] = by_layer_type;
    let old = OldStyle {
        scaling: old.scaling.filter(|_| full.is_some() || !is_unread(json)),
        replaces: false,
        ..old
    };
    let old_local = OldStyle {
        keys: "rope_local_base_freq",
        theta: within(json, "rope_local_base_freq", BASES)?,
        scaling: None,
        dims: None,
        replaces: false,
        default_theta: 10_000.0,
    };
    let local = merge(local, &old_local, model)?;
    Ok((merge(full, &old, model)?, Some(local)))
}

/// Note on a scaling that is not read.
pub(super) fn note(json: &Value, family: &Family) -> Option<String> {
    let full = field(json, "rope_parameters").and_then(|new| field(new, "full_attention"));
    (family.has_local_rope && full.is_none() && is_unread(json)).then(|| {
        "`rope_scaling` of a Gemma 3 names its kind by `type`, which transformers 5 does not read there: positions are \
         not scaled, as in transformers; write `rope_type` instead of `type` in `config.json` to scale them"
            .to_owned()
    })
}

/// True if the older scaling names its kind only by `type`, the key of transformers before 4.43. Gemma 3's class merges
/// it into settings whose `rope_type` is `default`, and reads that key first.
fn is_unread(json: &Value) -> bool {
    let scaling = field(json, "rope_scaling");
    let kind = |key| scaling.and_then(|scaling| field(scaling, key));
    kind("rope_type").is_none() && kind("type").is_some_and(|kind| kind != "default")
}

const CONTEXT: &str = "original_max_position_embeddings";

/// Facts of a model that its rotary settings depend on.
#[derive(Clone, Copy)]
struct RopeFacts<'a> {
    family: &'a Family,
    head_dim: usize,
    max_position_embeddings: usize,
    /// Positions of the trained context, if known from outside the scaling table.
    context: Option<usize>,
}

impl RopeFacts<'_> {
    /// Rotary dimensions, if a table states them; all of them in families whose class reads no such number.
    fn rotary_dims(self, table: &Value) -> Result<Option<usize>, ConfigError> {
        let key = "partial_rotary_factor";
        let Some(value) = field(table, key) else {
            return Ok(None);
        };
        let head_dim = self.head_dim;
        let factor = value.as_f64();
        if !self.family.turns_partly {
            return match factor {
                Some(1.0) => Ok(None),
                _ => Err(ConfigError::unexpected(key, "1", Some(value))),
            };
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rounded down, as transformers does"
        )]
        let dims = factor.map(|factor| (factor * head_dim as f64) as usize);
        let is_held = |dims: &usize| (2..=head_dim).contains(dims) && dims.is_multiple_of(2);
        let expected =
            || format!("a share of the {head_dim} dimensions of a head that gives an even number");
        let refused = || ConfigError::unexpected(key, expected(), Some(value));
        dims.filter(is_held).map(Some).ok_or_else(refused)
    }

    /// Rotary dimensions as in [`Rope::rotary_dims`]: `None` for all of a head.
    fn part(self, dims: Option<usize>) -> Option<usize> {
        dims.filter(|&dims| dims != self.head_dim)
    }

    /// Positions of the trained context: the number outside the scaling table counts, as in transformers, and the table
    /// must not state another. Without either, it is the whole context, likewise.
    fn context(self, table: &Value) -> Result<usize, ConfigError> {
        let own = size(table, CONTEXT, 1 << 30)?;
        match (self.context, own) {
            (Some(beside), Some(own)) if beside != own => {
                let expected = format!("{beside}, the value outside the scaling table");
                let found = field(table, CONTEXT);
                Err(ConfigError::unexpected(CONTEXT, expected, found))
            }
            (beside, own) => Ok(beside.or(own).unwrap_or(self.max_position_embeddings)),
        }
    }

    /// Scaling that a table describes, for `dims` rotary dimensions.
    fn scaling(self, table: &Value, dims: Option<usize>) -> Result<RopeScaling, ConfigError> {
        if !table.is_object() {
            let expected = "a table or `null`";
            return Err(ConfigError::unexpected(
                "rope_scaling",
                expected,
                Some(table),
            ));
        }
        let rope_type = field(table, "rope_type").or(field(table, "type")); // `type` before transformers 4.43
        match rope_type.map_or(Some("default"), Value::as_str) {
            Some("default") => Ok(RopeScaling::Default),
            Some("linear") => Ok(RopeScaling::Linear {
                factor: required_positive(table, "factor")?,
            }),
            Some("llama3") => self.llama3(table),
            Some("yarn") => self.yarn(table),
            Some("longrope" | "su") => self.longrope(table, dims.unwrap_or(self.head_dim)), // `su` in the first Phi-3
            _ => Err(ConfigError::unexpected(
                "rope_type",
                "`default`, `linear`, `llama3`, `longrope` or `yarn`",
                rope_type,
            )),
        }
    }

    fn llama3(self, table: &Value) -> Result<RopeScaling, ConfigError> {
        let (low, high) = ("low_freq_factor", "high_freq_factor");
        let (low_freq_factor, high_freq_factor) = (
            required_positive(table, low)?,
            required_positive(table, high)?,
        );
        if high_freq_factor <= low_freq_factor {
            // The waves between the two are stretched by their place there.
            let expected = format!("above `{low}`, {low_freq_factor}");
            return Err(ConfigError::unexpected(high, expected, field(table, high)));
        }
        Ok(RopeScaling::Llama3 {
            factor: required_positive(table, "factor")?,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: self.context(table)?,
        })
    }

    /// `YaRN`; a missing attention factor follows from the other settings.
    fn yarn(self, table: &Value) -> Result<RopeScaling, ConfigError> {
        let factor = required_positive(table, "factor")?;
        let growth = |mscale| RopeScaling::yarn_growth(factor, mscale);
        let (mscale, mscale_all_dim) = (number(table, "mscale")?, number(table, "mscale_all_dim")?);
        let derived = match (mscale, mscale_all_dim) {
            (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => {
                growth(mscale) / growth(all)
            }
            _ => growth(1.0),
        };
        let (fast, slow) = ("beta_fast", "beta_slow");
        let beta_fast = positive(table, fast)?.unwrap_or(32.0);
        let beta_slow = positive(table, slow)?.unwrap_or(1.0);
        if beta_fast < beta_slow {
            let expected = format!("at least `{slow}`, {beta_slow}");
            return Err(ConfigError::unexpected(fast, expected, field(table, fast)));
        }
        Ok(RopeScaling::Yarn {
            factor,
            attention_factor: positive(table, "attention_factor")?.unwrap_or(derived),
            beta_fast,
            beta_slow,
            original_max_position_embeddings: self.context(table)?,
            truncate: flag(table, "truncate")?.unwrap_or(true),
        })
    }

    /// `LongRoPE`; a missing attention factor follows from the stretch of the context.
    fn longrope(self, table: &Value, dims: usize) -> Result<RopeScaling, ConfigError> {
        let context = self.context(table)?;
        let stretch = self.max_position_embeddings as f64 / context as f64;
        let factor = positive(table, "factor")?.unwrap_or(stretch);
        let derived = RopeScaling::longrope_growth(factor, context as u64);
        if !derived.is_finite() {
            let found = Value::from(context);
            return Err(ConfigError::unexpected(CONTEXT, "above 1", Some(&found)));
        }
        Ok(RopeScaling::LongRope {
            short_factor: factors(table, "short_factor", dims / 2)?,
            long_factor: factors(table, "long_factor", dims / 2)?,
            attention_factor: positive(table, "attention_factor")?.unwrap_or(derived),
            original_max_position_embeddings: context,
        })
    }
}

/// One positive number for each pair of dimensions, in f32 as in transformers.
fn factors(table: &Value, key: &'static str, pairs: usize) -> Result<Vec<f32>, ConfigError> {
    let list = field(table, key).ok_or(ConfigError::Missing { key })?;
    #[expect(clippy::cast_possible_truncation, reason = "transformers takes f32")]
    let number = |value: &Value| value.as_f64().map(|number| number as f32);
    let numbers = list
        .as_array()
        .and_then(|list| list.iter().map(number).collect());
    let is_whole = |list: &Vec<f32>| {
        let mut numbers = list.iter();
        list.len() == pairs && numbers.all(|number| (1e-6..=1e6).contains(number))
    };
    numbers.filter(is_whole).ok_or_else(|| {
        let expected =
            format!("a list of {pairs} positive numbers, one for each pair of rotary dimensions");
        ConfigError::unexpected(key, expected, Some(list))
    })
}

/// Settings that may be inside a scaling table or outside of it; the base is the table's.
struct Own {
    theta: Option<f64>,
    dims: Option<usize>,
}

/// The older scaling, and the other settings in its table; an empty table counts as `null`.
fn old_scaling(
    json: &Value,
    dims: Option<usize>,
    model: RopeFacts<'_>,
) -> Result<(Own, Option<RopeScaling>), ConfigError> {
    let is_empty = |table: &Value| table.as_object().is_some_and(serde_json::Map::is_empty);
    match field(json, "rope_scaling").filter(|scaling| !is_empty(scaling)) {
        None => Ok((Own { theta: None, dims }, None)),
        Some(scaling) => {
            let own = Own {
                dims: model.rotary_dims(scaling)?.or(dims),
                theta: within(scaling, "rope_theta", BASES)?,
            };
            let scaling = model.scaling(scaling, own.dims)?;
            Ok((own, Some(scaling)))
        }
    }
}

fn merge(new: Option<&Value>, old: &OldStyle, model: RopeFacts<'_>) -> Result<Rope, ConfigError> {
    let scaling = old.scaling.clone();
    let Some(parameters) = new else {
        return Ok(Rope {
            theta: old.theta.unwrap_or(old.default_theta),
            scaling: scaling.unwrap_or(RopeScaling::Default),
            rotary_dims: model.part(old.dims),
        });
    };
    let theta = within(parameters, "rope_theta", BASES)?;
    let dims = model.rotary_dims(parameters)?.or(old.dims);
    let new = Rope {
        theta: theta.or(old.theta).unwrap_or(old.default_theta),
        rotary_dims: model.part(dims),
        scaling: model.scaling(parameters, dims)?,
    };
    let replaces = old.replaces && scaling.is_some();
    let default_theta = if replaces {
        old.default_theta
    } else {
        new.theta
    };
    let older = Rope {
        theta: old.theta.unwrap_or(default_theta),
        scaling: scaling.unwrap_or_else(|| new.scaling.clone()),
        rotary_dims: match old.dims {
            None if !replaces => new.rotary_dims,
            dims => model.part(dims),
        },
    };
    if new == older {
        Ok(new)
    } else {
        Err(ConfigError::RopeDisagrees {
            old_keys: old.keys,
            new: format!("{new:?}"),
            old: format!("{older:?}"),
        })
    }
}

fn number(json: &Value, key: &'static str) -> Result<Option<f64>, ConfigError> {
    let Some(value) = field(json, key) else {
        return Ok(None);
    };
    let number = value.as_f64().filter(|number| (0.0..=1e6).contains(number));
    let expected = "a number from 0 to 1e6";
    number
        .map(Some)
        .ok_or_else(|| ConfigError::unexpected(key, expected, Some(value)))
}
