//! Keys of the pass that quantises.

use std::ops::Bound::Included;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, json};

use crate::model::Part;
use crate::recipe::{
    Block, Fields, Keys, Kind, MAX_SIZE, MAX_STEPS, Read, Row, SHARE_ABOVE_0, Spelling, Value,
    Word, also, keys, or, put, required, rule, words,
};
use crate::student::MAX_LAYERS;
use crate::train::{FIT, FitPlan, STEPS, STEPS_ELSEWHERE};

/// Plan of a quantising pass.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QuantizePlan {
    /// Method: round to nearest, calibrate on a text, or train with the rounding in the loop.
    pub method: QuantizeMethod,
    /// Scheme of all projections that no override names.
    #[serde(flatten)]
    pub scheme: SchemePlan,
    /// Schemes of single projections; the last one that names a projection applies.
    pub overrides: Vec<OverridePlan>,
    /// Scheme of the embedding, which is also the output layer if the two are tied; `None` leaves it unquantised.
    pub embedding: Option<SchemePlan>,
    /// Scheme of an untied output layer; `None` leaves it unquantised.
    pub output: Option<SchemePlan>,
    /// Measurement before weights reach the grid, if there is one.
    pub sensitivity: Option<SensitivityPlan>,
    /// True if the scales of grids around 0 are trained with the weights.
    pub learn_scales: bool,
}

/// Cost of rounding each part of the student, and the choice that follows from it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SensitivityPlan {
    /// Positions of training text to measure on, in whole rows.
    pub tokens: usize,
    /// Budget under which widths are chosen; without one the width of the pass applies.
    pub budget: Option<BudgetPlan>,
}

keys! {
    pub struct BudgetPlan in BUDGET = "bits", "Widths that cost least according to `sensitivity`: one for `q_proj`, `k_proj` and `v_proj` of a layer, one for `o_proj`, one for `gate_proj` and `up_proj`, \
        one for `down_proj`. Exported as `compressed-tensors` or `huggingface`. Projections with an override have the width given there and are not counted." {
        budget: f64 = required(Kind::Number(Included(2.0), Included(8.0)), "most bits of a weight's code on average; scales are extra, and as many at every width");
        /// Ascending.
        widths: Vec<u32> = or("[2, 3, 4, 8]", Kind::List(&WIDTH, 1, 4), "widths to choose from; vLLM loads 4 and 8") from ascending_widths;
    }
}

fn ascending_widths(bits: Fields<'_>) -> Option<Vec<u32>> {
    let mut widths: Vec<u32> = bits.get("widths")?;
    widths.sort_unstable();
    Some(widths)
}

static SENSITIVITY: Block = Block {
    name: "sensitivity",
    about: "Cost of rounding each part of a layer, and each whole layer, at 2, 3, 4 and 8 bits: the KL from the student before the pass, written as a table and a picture to the \
            folder of the pass and to the report. It takes the time of some ten runs of the student over these positions for each of its layers.",
    rows: &[or(
        "tokens",
        "2048",
        Kind::Tokens(1),
        "positions of training text to measure on, in whole rows",
    )],
};

/// Positions that a budget measures on if `sensitivity` is not written; the same as its own default.
const SENSITIVITY_TOKENS: usize = 2048;

/// Method that puts weights on their grids.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QuantizeMethod {
    /// Rounding, with neither text nor training.
    RoundToNearest,
    /// Calibration on a text, without training ("post-training quantisation").
    #[serde(rename = "ptq")]
    Calibrated(CalibratedPlan),
    /// Quantisation-aware training, straight-through estimator.
    Qat(Box<FitPlan>),
}

/// Settings of calibration, where weights reach their grids according to their inputs on a text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CalibratedPlan {
    /// True if columns of weights that see large inputs are scaled up first, and the inputs down (AWQ).
    pub awq: bool,
    /// True if scales may clip the largest weights of a group.
    pub clip: bool,
    /// Compensation of rounding errors; `None` rounds each weight to the nearest.
    pub gptq: Option<GptqPlan>,
    /// Training positions that are read, in whole rows.
    pub calibration_tokens: usize,
}

/// Compensation: weights correct the rounding errors of those before them (GPTQ).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GptqPlan {
    /// True if columns are rounded by the size of their inputs, largest first, and not in their own order.
    pub act_order: bool,
    /// Added to the mean square of every input, as a share of their mean.
    pub damping: f64,
}

impl CalibratedPlan {
    /// Word of the method in recipes.
    fn word(&self) -> QuantizeWord {
        match (self.awq, self.gptq) {
            (false, None) => QuantizeWord::RoundToNearest,
            (false, Some(_)) => QuantizeWord::Gptq,
            (true, None) => QuantizeWord::Awq,
            (true, Some(_)) => QuantizeWord::AwqGptq,
        }
    }
}

/// Scheme of a quantised weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SchemePlan {
    /// Bits of a weight: 2, 3, 4 or 8; unused under a budget.
    pub bits: u32,
    /// Weights that share a scale, along the input; `None` is one scale per output row.
    pub group_size: Option<usize>,
    /// Kind of number.
    #[serde(rename = "type")]
    pub number: NumberType,
    /// True if 0 is the middle of the grid.
    pub symmetric: bool,
    /// Treatment of the projection's inputs.
    pub activations: Activations,
}

words! {
    /// Kind of number that a code is.
    #[derive(Default)]
    pub enum NumberType {
        /// Whole numbers.
        #[default]
        Int = "int" also ["int4", "int8", "int3", "w4a16", "w8a16", "uint4", "integer"],
        /// Floats of 8 bits (E4M3).
        Fp8 = "fp8" also ["float8", "e4m3", "f8"],
        /// −1, 0 and 1.
        Ternary = "ternary" also ["1.58", "bitnet", "b1.58"],
        /// Two bits without a 0.
        Stretched = "stretched",
    }
}

words! {
    /// Treatment of a projection's inputs.
    #[derive(Default)]
    pub enum Activations {
        /// They stay as they are.
        #[default]
        None = "none" also ["off", "false", "bf16", "fp16"],
        /// They are rounded to 8 bits while the model runs, each position with its own scale.
        PerToken = "per_token" also ["dynamic", "int8", "token"],
    }
}

keys! {
    pub struct OverridePlan in OVERRIDE = "override", "Projections with a scheme of their own; a key that is left out has its default, not the value of the pass. Engines join `q_proj`, `k_proj` and `v_proj`, \
        and `gate_proj` and `up_proj`, so these share one scheme within a layer." {
        modules: Vec<Part> = or("[q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]", Kind::List(&Kind::Word(Part::WORDS), 1, Part::WORDS.len()), "projections of a layer");
        layers: Option<Vec<usize>> = rule("all layers", Kind::List(&Kind::Integer(0, MAX_LAYERS - 1), 1, 1024), "layers, counted from 0");
        key keep = or("false", Kind::Switch, "leave them unquantised; allows no further key") write |plan| if plan.scheme.is_none() { json!(true) } else { json!(null) };
        /// Scheme of the projections; `None` leaves them unquantised.
        scheme: Option<SchemePlan> = group(PROJECTION) from unless_kept write write_unless_kept;
    }
}

impl OverridePlan {
    /// True if it names this module of this layer.
    pub fn names(&self, layer: usize, module: Part) -> bool {
        let is_layer = |layers: &Vec<usize>| layers.contains(&layer);
        self.layers.as_ref().is_none_or(is_layer) && self.modules.contains(&module)
    }
}

words! {
    /// Words for the methods of quantisation; see [`QuantizeMethod`].
    pub(super) enum QuantizeWord {
        RoundToNearest = "round-to-nearest" also ["rtn", "round", "nearest", "naive", "minmax", "absmax"],
        Gptq = "gptq",
        Awq = "awq",
        AwqGptq = "awq-gptq" also ["gptq-awq", "awq+gptq"],
        Qat = "qat" also ["ste", "lsq", "fake-quant"],
    }
}

impl QuantizeWord {
    /// True if later columns correct the error of a column.
    pub(crate) fn is_gptq(self) -> bool {
        match self {
            Self::Gptq | Self::AwqGptq => true,
            Self::RoundToNearest | Self::Awq | Self::Qat => false,
        }
    }

    /// True if inputs are scaled against the weights first.
    pub(crate) fn is_awq(self) -> bool {
        match self {
            Self::Awq | Self::AwqGptq => true,
            Self::RoundToNearest | Self::Gptq | Self::Qat => false,
        }
    }
}

const METHOD: &str = "`round-to-nearest`: round each weight; `gptq`: round column by column and correct the remaining columns; `awq`: scale up columns that see large inputs, and the inputs down, then round; `awq-gptq`: both; `qat`: train with the rounding in the loop. The middle three go layer by layer, each on the outputs of the quantised layers before it";

pub(crate) static QUANTIZE: Block = Block {
    name: "quantize",
    about: "Put the weights on a quantised grid. Training keys are for `method: qat` only.",
    rows: &[
        required("method", Kind::Word(QuantizeWord::WORDS), METHOD),
        TYPE,
        also(
            rule(
                "bits",
                WIDTH_RULE,
                Kind::Moving(&WIDTH, &BUDGET),
                "bits of a weight, or the average under which widths are chosen",
            ),
            &["wbits", "w_bit", "nbits", "num_bits", "q_bits"],
        ),
        GROUP_SIZE,
        SYMMETRIC,
        ACTIVATIONS,
        or(
            "act_order",
            "true",
            Kind::Switch,
            "`gptq` begins with the columns of the largest inputs; groups stay in place, so files need no order of columns",
        ),
        or(
            "damping",
            "0.01",
            SHARE_ABOVE_0,
            "added by `gptq` to the mean square of every input, as a share of their mean: more damping means less compensation",
        ),
        or(
            "clip",
            "false",
            Kind::Switch,
            "a scale may clip the largest weights of its group where that costs the outputs less; for every method but `qat`",
        ),
        or(
            "calibration_tokens",
            "32k",
            Kind::Tokens(1),
            "training positions on which `gptq`, `awq` and `clip` measure the inputs of projections",
        ),
        rule(
            "sensitivity",
            "measured if `bits` has a `budget`",
            Kind::Block(&SENSITIVITY),
            "measurement before weights reach their grid",
        ),
        or(
            "overrides",
            "[]",
            Kind::List(&Kind::Block(&OVERRIDE), 0, 1024),
            "projections with a scheme of their own; the last override that names one applies",
        ),
        rule(
            "embedding",
            "not quantised",
            Kind::Block(&EMBEDDING),
            "scheme of the token embedding, which is also the output layer if the two are tied",
        ),
        rule(
            "output",
            "not quantised",
            Kind::Block(&OUTPUT),
            "scheme of an output layer with its own matrix",
        ),
        or(
            "learn_scales",
            "false",
            Kind::Switch,
            "also train the scales of grids around 0; otherwise they follow the largest weight of their group",
        ),
        or(
            "start_step",
            "0",
            Kind::Integer(0, MAX_STEPS),
            "updates before rounding begins: until then the weights are trained unrounded; below `steps`",
        ),
        also(
            rule(
                "steps",
                "required with `method: qat`",
                STEPS,
                "optimizer updates",
            ),
            STEPS_ELSEWHERE,
        ),
        Row::Group(FIT),
    ],
};

const TYPE: Row = or(
    "type",
    "int",
    Kind::Word(NumberType::WORDS),
    "whole numbers; 8-bit floats (E4M3); -1, 0 and 1; two bits without a 0, the middles of four equal parts",
);
const WIDTH: Kind = Kind::IntegerOf(&[2, 3, 4, 8]);
const WIDTH_RULE: &str = "4, or the width of another `type`";
const BITS: Row = rule("bits", WIDTH_RULE, WIDTH, "bits of a weight");
const GROUP_SIZE: Row = also(
    GROUP_SIZE_ROW,
    &["groupsize", "q_group_size", "block_size", "gs"],
);
const GROUP_SIZE_ROW: Row = rule(
    "group_size",
    "32 below 8 bits, `channel` with 8",
    Kind::Or(
        &Kind::Integer(8, MAX_SIZE),
        Spelling {
            word: "channel",
            also: &["-1", "none", "row", "per_channel", "channelwise"],
        },
    ),
    "weights along the input that share a scale; `channel`: one scale per output row",
);
const SYMMETRIC: Row = also(
    or(
        "symmetric",
        "true",
        Kind::Switch,
        "0 is the middle of the grid; otherwise each group has its own zero",
    ),
    &["sym", "zero_point", "asymmetric"],
);
const ACTIVATIONS: Row = or(
    "activations",
    "none",
    Kind::Word(Activations::WORDS),
    "inputs of a projection: left as they are, or rounded to 8 bits of the same `type` while the model runs, each position with its own scale",
);

static PROJECTION: &[Row] = &[TYPE, BITS, GROUP_SIZE, SYMMETRIC, ACTIVATIONS];

static EMBEDDING: Block = Block {
    name: "embedding",
    about: "Scheme of the token embedding, and with it of the output layer of a tied model; a key that is left out has its default, not the value that projections have. \
            Rounded to nearest, or with `method: qat` trained like every weight. `mlx` can store it, and `gguf` with 4 or 8 bits in groups of 32; other formats of codes cannot.",
    rows: &[TYPE, BITS, GROUP_SIZE, SYMMETRIC],
};

static OUTPUT: Block = Block {
    name: "output",
    about: "Scheme of an output layer with its own matrix; see `embedding`. `compressed-tensors` and `mlx` can store it, and `gguf` with 4 or 8 bits in groups of 32.",
    rows: &[TYPE, BITS, GROUP_SIZE, SYMMETRIC],
};

impl Keys for SchemePlan {
    fn read_keys(fields: Fields<'_>) -> Option<Self> {
        Some(Self {
            bits: bits(fields)?,
            group_size: group_size(fields)?,
            number: fields.get("type")?,
            symmetric: fields.get("symmetric")?,
            activations: fields.get_or_default("activations")?,
        })
    }

    fn write_keys(&self, folder: &Path, keys: &mut Map<String, serde_json::Value>) {
        put(keys, "type", json!(self.number));
        if self.number == NumberType::Int {
            put(keys, "bits", json!(self.bits)); // beside another kind of number it has no effect and is refused
            put(keys, "symmetric", json!(self.symmetric));
        }
        let group_size = self.group_size.map_or(json!("channel"), |size| json!(size));
        put(keys, "group_size", group_size);
        if self.activations != Activations::None {
            put(keys, "activations", self.activations.write(folder)); // a matrix beside the projections has no such key
        }
    }
}

fn unless_kept(fields: Fields<'_>) -> Read<Option<SchemePlan>> {
    if fields.get("keep")? {
        return Some(None);
    }
    SchemePlan::read_keys(fields).map(Some)
}

fn write_unless_kept(
    scheme: Option<&SchemePlan>,
    folder: &Path,
    keys: &mut Map<String, serde_json::Value>,
) {
    if let Some(scheme) = scheme {
        Keys::write_keys(scheme, folder, keys);
    }
}

/// Bits of a weight; unused under a budget.
fn bits(fields: Fields<'_>) -> Option<u32> {
    if fields.is_written("bits") && fields.block("bits").is_none() {
        return fields.get("bits");
    }
    Some(match fields.get("type")? {
        NumberType::Fp8 => 8,
        NumberType::Ternary | NumberType::Stretched => 2,
        NumberType::Int => 4,
    })
}

/// Weights that share a scale; `Some(None)` is one scale per row. The default is 32 below 8 bits, the group that
/// compressed-tensors, GGUF, GPTQ and AWQ share, and rows with 8 bits, where groups gain little.
pub(crate) fn group_size(fields: Fields<'_>) -> Read<Option<usize>> {
    if fields.is_written("group_size") {
        return fields.get("group_size");
    }
    Some((bits(fields)? < 8).then_some(32))
}

impl Keys for QuantizePlan {
    fn read_keys(fields: Fields<'_>) -> Option<Self> {
        Some(Self {
            method: method(fields)?,
            scheme: SchemePlan::read_keys(fields)?,
            overrides: fields.get("overrides")?,
            embedding: fields.get("embedding")?,
            output: fields.get("output")?,
            sensitivity: sensitivity(fields)?,
            learn_scales: fields.get("learn_scales")?,
        })
    }

    fn write_keys(&self, folder: &Path, keys: &mut Map<String, serde_json::Value>) {
        let word = match &self.method {
            QuantizeMethod::RoundToNearest => QuantizeWord::RoundToNearest,
            QuantizeMethod::Calibrated(plan) => plan.word(),
            QuantizeMethod::Qat(_) => QuantizeWord::Qat,
        };
        put(keys, "method", json!(word));
        Keys::write_keys(&self.scheme, folder, keys);
        match &self.method {
            QuantizeMethod::RoundToNearest => {}
            QuantizeMethod::Calibrated(plan) => {
                if let Some(gptq) = plan.gptq {
                    put(keys, "act_order", json!(gptq.act_order));
                    put(keys, "damping", json!(gptq.damping));
                }
                put(keys, "clip", json!(plan.clip));
                put(keys, "calibration_tokens", json!(plan.calibration_tokens));
            }
            QuantizeMethod::Qat(fit) => {
                Keys::write_keys(&**fit, folder, keys);
                put(keys, "start_step", json!(fit.start_step));
                put(keys, "learn_scales", json!(self.learn_scales));
            }
        }
        if !self.overrides.is_empty() {
            put(keys, "overrides", self.overrides.write(folder));
        }
        put(keys, "embedding", self.embedding.write(folder));
        put(keys, "output", self.output.write(folder));
        if let Some(sensitivity) = &self.sensitivity {
            let tokens = sensitivity.tokens;
            put(keys, "sensitivity", json!({ "tokens": tokens }));
            if let Some(budget) = &sensitivity.budget {
                put(keys, "bits", budget.write(folder));
            }
        }
    }
}

fn method(fields: Fields<'_>) -> Option<QuantizeMethod> {
    let word: QuantizeWord = fields.get("method")?;
    if word == QuantizeWord::Qat {
        return Some(QuantizeMethod::Qat(Box::new(FitPlan::read_keys(fields)?)));
    }
    let clip = fields.get("clip")?;
    let gptq = if word.is_gptq() {
        Some(GptqPlan {
            act_order: fields.get("act_order")?,
            damping: fields.get("damping")?,
        })
    } else if word.is_awq() || clip {
        None
    } else {
        return Some(QuantizeMethod::RoundToNearest);
    };
    Some(QuantizeMethod::Calibrated(CalibratedPlan {
        awq: word.is_awq(),
        clip,
        gptq,
        calibration_tokens: fields.get("calibration_tokens")?,
    }))
}

/// Measurement that comes first, if the recipe asks for it or a budget needs it.
fn sensitivity(fields: Fields<'_>) -> Read<Option<SensitivityPlan>> {
    let (written, bits) = (fields.block("sensitivity"), fields.block("bits"));
    if written.is_none() && bits.is_none() {
        return Some(None);
    }
    Some(Some(SensitivityPlan {
        tokens: match written {
            Some(written) => written.get("tokens")?,
            None => SENSITIVITY_TOKENS,
        },
        budget: match bits {
            Some(bits) => Some(BudgetPlan::read_keys(bits)?),
            None => None,
        },
    }))
}
