//! Keys of the pass that shrinks.

use std::ops::Bound::Excluded;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, json};

use crate::diag::Diagnostic;
use crate::recipe::{
    Fields, Keys, Kind, MAX_SIZE, Row, Word, distinct, keys, or, put, rule, unused, words,
};

keys! {
    pub struct ShrinkPlan in SHRINK = "shrink", "Remove the least useful layers, channels, heads or dimensions. The smaller model equals one that has them at zero. Write either \
        `parameters` or sizes." {
        /// Size of the smaller student.
        #[serde(flatten)]
        target: ShrinkTarget = group(TARGET);
        layers_by: LayersBy = or("influence", Kind::Word(LayersBy::WORDS), "layers to remove: those that turn their inputs least, or those that cost least on the calibration text, which takes as many runs over it as \
            there are layers, for each one removed") unless |plan| !plan.target.takes_layers();
        contiguous: bool = or("false", Kind::Switch, "remove layers in a row, scored as one") unless |plan| !plan.target.takes_layers();
        calibration_tokens: usize = or("32k", Kind::Tokens(1), "training positions on which parts are scored");
    }
}

/// Size of the smaller student.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ShrinkTarget {
    /// At most a share of the parameters.
    Parameters {
        /// The share.
        parameters: f64,
        /// Sizes that shrink, all in one proportion; distinct.
        along: Vec<Side>,
    },
    /// Sizes given one by one; `None` keeps one as it is, and at least one is given.
    Sizes(ShrinkSizes),
}

/// Sizes of a student; the names are those of `config.json`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names are those of config.json")]
pub struct ShrinkSizes {
    pub num_hidden_layers: Option<usize>,
    pub hidden_size: Option<usize>,
    pub intermediate_size: Option<usize>,
    pub num_key_value_heads: Option<usize>,
}

words! {
    /// A size of a student that can be reduced.
    #[expect(missing_docs, reason = "the names are those of config.json")]
    pub enum Side {
        NumHiddenLayers = "num_hidden_layers",
        HiddenSize = "hidden_size",
        IntermediateSize = "intermediate_size",
        NumKeyValueHeads = "num_key_value_heads",
    }
}

words! {
    /// Score of a layer.
    pub enum LayersBy {
        /// Amount by which it turns the residual stream (Men et al. 2024).
        Influence = "influence",
        /// The loss on the calibration text without it, one layer after the other.
        Loss = "loss",
    }
}

impl ShrinkTarget {
    /// True if the student loses whole layers.
    pub fn takes_layers(&self) -> bool {
        match self {
            Self::Parameters { along, .. } => along.contains(&Side::NumHiddenLayers),
            Self::Sizes(sizes) => sizes.num_hidden_layers.is_some(),
        }
    }
}

const fn size(name: &'static str, about: &'static str) -> Row {
    rule(name, "unchanged", Kind::Integer(1, MAX_SIZE), about)
}

static TARGET: &[Row] = &[
    rule(
        "parameters",
        "as the sizes give",
        Kind::Number(Excluded(0.0), Excluded(1.0)),
        "share of the parameters to keep, embedding included: a fraction, not a percentage; at most so many are kept, and at most 1 % of the student less if channels may go",
    ),
    or(
        "along",
        "[hidden_size, intermediate_size]",
        Kind::List(&Kind::Word(Side::WORDS), 1, Side::WORDS.len()),
        "sizes that shrink to reach `parameters`, about in one proportion; channels fill what the steps of the others leave; widths stay multiples of 32, narrow ones of a smaller power of two",
    ),
    size("num_hidden_layers", "layers to keep"),
    size(
        "hidden_size",
        "dimensions of the residual stream to keep: those with the largest activations",
    ),
    size(
        "intermediate_size",
        "feed-forward channels to keep, in each layer those with the largest activations",
    ),
    size(
        "num_key_value_heads",
        "key and value heads to keep, with their query heads, in each layer those with the largest activations",
    ),
];

impl Keys for ShrinkTarget {
    fn read_keys(fields: Fields<'_>) -> Option<Self> {
        Some(match fields.get("parameters") {
            Some(parameters) => Self::Parameters {
                parameters,
                along: fields.get("along")?,
            },
            None => Self::Sizes(ShrinkSizes {
                num_hidden_layers: fields.get("num_hidden_layers"),
                hidden_size: fields.get("hidden_size"),
                intermediate_size: fields.get("intermediate_size"),
                num_key_value_heads: fields.get("num_key_value_heads"),
            }),
        })
    }

    fn write_keys(&self, _: &Path, keys: &mut Map<String, serde_json::Value>) {
        if let serde_json::Value::Object(target) = json!(self) {
            target
                .into_iter()
                .for_each(|(name, value)| put(keys, &name, value));
        }
    }
}

/// Reports every contradiction within the pass.
pub(super) fn contradictions(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    distinct::<Side>(fields, "along", faults);
    let sizes: Vec<_> = Side::WORDS
        .iter()
        .map(|size| size.word)
        .filter(|size| fields.is_written(size))
        .collect();
    let by_share = fields.is_written("parameters");
    match (by_share, sizes.first()) {
        (true, Some(size)) => faults.push(
            Diagnostic::new(
                "recipe/two-targets",
                format!("`parameters` and `{size}` both set the size"),
            )
            .primary(fields.span("parameters"), "finds the sizes itself")
            .secondary(fields.span(size), "is one of them")
            .help("delete one of them; `along` names the sizes that may become smaller"),
        ),
        (false, None) if !fields.has_unknown() => faults.push(
            Diagnostic::new("recipe/missing-key", "`shrink` sets no size")
                .primary(fields.span("parameters"), "removes parts")
                .help("add `parameters: 0.5`, or a size such as `num_hidden_layers: 24`"),
        ),
        (false, Some(size)) => {
            let label = "the sizes to shrink are given";
            unused(fields, "along", size, label, faults);
        }
        _ => {}
    }
    let along = fields.get::<Vec<String>>("along").unwrap_or_default();
    let may_take_layers = fields.is_written("num_hidden_layers")
        || by_share && along.iter().any(|size| size == "num_hidden_layers");
    if !may_take_layers {
        for name in ["layers_by", "contiguous"] {
            unused(fields, name, "along", "no layers are removed", faults);
        }
    }
}
