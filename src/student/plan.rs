//! Recipe keys of the student, and of its adapters.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, json};

use crate::data::{Tokenizer, TokenizerChange};
use crate::diag::Diagnostic;
use crate::files;
use crate::kernels::{Arithmetic, PRECISION};
use crate::model::{DecoderConfig, Part};
use crate::progress::thousands;
use crate::recipe::{
    ABOVE_0, Fields, Item, Keys, Kind, MAX_SIZE, PathKind, Read, Row, SHARE_ABOVE_0, Value, Word,
    ascending, choice, distinct, division, keys, rule,
};
use crate::teacher::CHECKPOINT;

pub(crate) const MAX_LAYERS: u64 = DecoderConfig::MAX_LAYERS as u64;

choice! {
    pub enum StudentSource of StudentWord in STUDENT = "student", "Source of the student's first weights." {
        Architecture(ArchitecturePlan) = "architecture", Kind::Block(&ARCHITECTURE), "fresh weights of these sizes";
        FromTeacher(FromTeacherPlan) = "from_teacher", Kind::Block(&FROM_TEACHER), "layers of the teacher, whole or narrower, with its embedding and head";
        Checkpoint(#[serde(skip)] PathBuf) = "checkpoint" also ["model", "path", "model_name_or_path", "pretrained"], CHECKPOINT, "an existing Hugging Face folder, `.gguf` file, or folder of a pass or of a run, or a model of the hub; off its grid, pruned weights of a pass stay pruned";
        ..PRODUCTS;
        ..CHANGES;
    }
}

keys! {
    /// How a student is computed.
    #[derive(Copy)]
    pub struct ProductsPlan in PRODUCTS {
        precision: Arithmetic = or("f32", PRECISION, "arithmetic of the products of its training: `f32`, or operands rounded to `bf16` and sums in f32, by this machine's fastest instruction; the other two words name one, so that another machine gives the same bits; it is measured and written in f32") also ["dtype", "torch_dtype"];
    }
}

keys! {
    /// Changes of a model before it learns: to tokens it did not know, a chat template, and more positions.
    #[derive(Default)]
    pub struct ChangesPlan in CHANGES {
        add_tokens: Vec<String> = or("[]", Kind::List(&Kind::Text, 0, MAX_ADDED), "special tokens that the tokenizer gets unless it has them, and for each new one a row of embedding and head: the mean of the rows of the other tokens") also ["special_tokens", "additional_special_tokens", "extra_special_tokens", "tokens"];
        eos_token: Option<String> = rule("the tokenizer's", Kind::Text, "token that ends a turn: generation stops at it, beside the tokens at which it stopped before") also ["eos", "end_token", "end_of_turn"];
        #[serde(skip)]
        chat_template: Option<PathBuf> = rule("the tokenizer's", Kind::Path(PathKind::File), "file of a Jinja template for conversations, which replaces all others") also ["chat_template_path", "template"];
        max_position_embeddings: Option<usize> = rule("the model's", Kind::Integer(2, MAX_SIZE), "longest text that the exported model states to know; no weight depends on it") also ["n_positions", "model_max_length"];
    }
}

/// Most tokens that are added to a tokenizer.
const MAX_ADDED: usize = 1024;

/// The model to train: the source of its first weights, and changes before it learns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudentPlan {
    /// Source of its first weights.
    pub source: StudentSource,
    /// Arithmetic of its training.
    #[serde(flatten)]
    pub products: ProductsPlan,
    /// Changes before it learns.
    pub changes: ChangesPlan,
}

impl Value for StudentPlan {
    fn read(item: &Item, holder: Fields<'_>) -> Option<Self> {
        Some(Self {
            source: Value::read(item, holder)?,
            products: ProductsPlan::read_keys(holder.inside(item)?)?,
            changes: ChangesPlan::read_keys(holder.inside(item)?)?,
        })
    }

    fn write(&self, folder: &Path) -> serde_json::Value {
        let mut keys = self.source.write(folder);
        if let serde_json::Value::Object(keys) = &mut keys {
            self.products.write_keys(folder, keys);
            if !self.changes.is_empty() {
                self.changes.write_keys(folder, keys);
            }
        }
        keys
    }
}

impl StudentPlan {
    /// Number of times that each of its own layers runs.
    pub fn layer_repeats(&self) -> usize {
        match &self.source {
            StudentSource::Architecture(sizes) => sizes.layer_repeats,
            StudentSource::FromTeacher(_) | StudentSource::Checkpoint(_) => 1,
        }
    }
}

impl ChangesPlan {
    /// True if nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// True if the tokenizer is changed.
    pub fn of_tokenizer(&self) -> bool {
        !self.add_tokens.is_empty() || self.eos_token.is_some() || self.chat_template.is_some()
    }

    /// Changes of the tokenizer, whose template is read.
    pub fn tokenizer_change(&self) -> io::Result<TokenizerChange> {
        let read = |path: &PathBuf| {
            files::read_to_string(path).map_err(|error| files::with_path(error, path))
        };
        Ok(TokenizerChange {
            add_tokens: self.add_tokens.clone(),
            eos_token: self.eos_token.clone(),
            chat_template: self.chat_template.as_ref().map(read).transpose()?,
        })
    }

    /// Architecture of a changed model whose changed tokenizer has so many tokens.
    #[must_use]
    pub fn config(&self, mut config: DecoderConfig, tokenizer: &Tokenizer) -> DecoderConfig {
        if !self.add_tokens.is_empty() {
            config.vocab_size = config.vocab_size.max(tokenizer.vocab_size());
        }
        if let Some(positions) = self.max_position_embeddings {
            config.max_position_embeddings = positions;
        }
        if let Some(end) = self.eos_token.as_ref().and_then(|end| tokenizer.id(end)) {
            config.eos_token_ids.retain(|&id| id != end);
            config.eos_token_ids.insert(0, end);
        }
        config
    }
}

keys! {
    pub struct ArchitecturePlan in ARCHITECTURE = "architecture", "Sizes of a fresh student; the names are those of `config.json`." {
        num_hidden_layers: usize = required(Kind::Integer(1, MAX_LAYERS), "decoder blocks");
        hidden_size: usize = required(Kind::Integer(1, MAX_SIZE), "width of the residual stream");
        num_attention_heads: usize = required(Kind::Integer(1, MAX_SIZE), "query heads");
        num_key_value_heads: usize = rule("`num_attention_heads`", Kind::Integer(1, MAX_SIZE), "key and value heads; divides the query heads") else num_attention_heads;
        intermediate_size: usize = required(Kind::Integer(1, MAX_SIZE), "width of the feed-forward layer");
        head_dim: usize = rule("`hidden_size / num_attention_heads`", Kind::Integer(2, MAX_SIZE), "width of a head; even") else head_dim;
        rope_theta: f64 = or("10000", ABOVE_0, "base of the rotary wavelengths");
        rms_norm_eps: f64 = or("1e-5", SHARE_ABOVE_0, "term added to the mean square");
        tie_word_embeddings: bool = or("true", Kind::Switch, "whether the embedding is also the output layer");
        sliding_window: Option<usize> = rule("none: each position sees all before it", Kind::Integer(1, MAX_SIZE), "positions that a layer sees, including its own; makes the student a Mistral");
        layer_repeats: usize = or("1", Kind::Integer(1, MAX_LAYERS), "layers in a row that share one set of weights; divides `num_hidden_layers`; exports contain all layers");
    }
}

fn num_attention_heads(sizes: Fields<'_>) -> Option<usize> {
    sizes.get("num_attention_heads")
}

fn head_dim(sizes: Fields<'_>) -> Option<usize> {
    let hidden_size: usize = sizes.get("hidden_size")?;
    hidden_size.checked_div(num_attention_heads(sizes)?)
}

keys! {
    /// At least one field is set.
    #[derive(Default)]
    pub struct FromTeacherPlan in FROM_TEACHER = "from_teacher", "A part of the teacher's own weights, selected by at least one of these keys." {
        /// Layers; `None` keeps all.
        #[serde(flatten)]
        layers: Option<LayersPlan> = group(LAYERS) from layers write write_layers;
        hidden_size: Option<usize> = rule("the teacher's", Kind::Integer(1, MAX_SIZE), "keeps this many dimensions of the residual stream: those with the largest activations");
        intermediate_size: Option<usize> = rule("the teacher's", Kind::Integer(1, MAX_SIZE), "keeps this many feed-forward channels, in each layer those with the largest activations");
        num_key_value_heads: Option<usize> = rule("the teacher's", Kind::Integer(1, MAX_SIZE), "keeps this many key and value heads with their query heads, in each layer those with the largest activations");
        /// `None` if no choice depends on a measurement.
        calibration_tokens: Option<usize> = or("32k", Kind::Tokens(1), "training positions over which influence and activations are measured") from calibration_tokens;
    }
}

/// Layers of the teacher that a student keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayersPlan {
    /// These layers, zero-based, ascending.
    Layers(Vec<usize>),
    /// Every n-th layer, including the first.
    Every(usize),
    /// This many layers, with the highest block influence.
    HighestInfluence(usize),
}

const ALL_LAYERS: &str = "all layers, unless `layers`, `every` or `highest_influence` is written";

static LAYERS: &[Row] = &[
    rule(
        "layers",
        ALL_LAYERS,
        Kind::List(&Kind::Integer(0, MAX_LAYERS - 1), 1, 1024),
        "keeps these zero-based layers, ascending",
    ),
    rule(
        "every",
        ALL_LAYERS,
        Kind::Integer(1, MAX_LAYERS),
        "keeps every n-th layer, including the first",
    ),
    rule(
        "highest_influence",
        ALL_LAYERS,
        Kind::Integer(1, MAX_LAYERS),
        "keeps this many layers: those that turn their input the furthest",
    ),
];

#[expect(clippy::unnecessary_wraps, reason = "some defaults may be missing")]
fn layers(fields: Fields<'_>) -> Read<Option<LayersPlan>> {
    let listed = fields.get("layers").map(LayersPlan::Layers);
    let every = || fields.get("every").map(LayersPlan::Every);
    let influence = || {
        fields
            .get("highest_influence")
            .map(LayersPlan::HighestInfluence)
    };
    Some(listed.or_else(every).or_else(influence))
}

fn write_layers(layers: Option<&LayersPlan>, _: &Path, keys: &mut Map<String, serde_json::Value>) {
    if let serde_json::Value::Object(layers) = json!(layers) {
        keys.extend(layers);
    }
}

/// True if a key of `from_teacher` needs a run of the teacher.
fn chooses_by_importance(from_teacher: Fields<'_>) -> bool {
    let choices = [
        "highest_influence",
        "hidden_size",
        "intermediate_size",
        "num_key_value_heads",
    ];
    choices.iter().any(|name| from_teacher.is_written(name))
}

fn calibration_tokens(from_teacher: Fields<'_>) -> Read<Option<usize>> {
    let tokens = from_teacher.get("calibration_tokens")?;
    Some(chooses_by_importance(from_teacher).then_some(tokens))
}

keys! {
    pub struct AdapterPlan in ADAPTER = "adapter", "Low-rank matrices added to some weights (LoRA). If the student has no masks, they are also saved in the folder of the pass, as `adapter/`, for `peft`." {
        rank: usize = required(Kind::Integer(1, MAX_SIZE), "width of the matrices; at most that of the weights they are added to");
        alpha: f64 = rule("`rank`", ABOVE_0, "scale of the added product, which is multiplied by `alpha / rank`") else alpha;
        targets: Vec<Part> = or("[q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]", Kind::List(&Kind::Word(Part::WORDS), 1, Part::WORDS.len()), "modules of every layer to whose weight a product is added");
    }
}

fn alpha(adapter: Fields<'_>) -> Option<f64> {
    adapter.get::<usize>("rank").map(|rank| rank as f64)
}

/// Reports every contradiction within the student's keys.
pub(crate) fn check(student: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    distinct::<String>(student, "add_tokens", faults);
    let Some((word, item)) = student.variant() else {
        return;
    };
    let Some(fields) = student.inside(item) else {
        return;
    };
    match word {
        StudentWord::Architecture => {
            heads(fields, faults);
            repeats(fields, faults);
        }
        StudentWord::FromTeacher => {
            ascending(fields, "layers", "recipe/unordered-layers", faults);
            from_teacher(fields, faults);
        }
        StudentWord::Checkpoint => {}
    }
}

/// Reports every contradiction within the keys of an adapter.
pub(crate) fn check_adapter(adapter: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    distinct::<Part>(adapter, "targets", faults);
}

/// The sizes of a fresh student, if the recipe has them.
pub(crate) fn fresh_sizes(recipe: Fields<'_>) -> Option<Fields<'_>> {
    let student = recipe.block("student")?;
    match student.variant()? {
        (StudentWord::Architecture, item) => student.inside(item),
        _ => None,
    }
}

fn from_teacher(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    let choices = ["layers", "every", "highest_influence"];
    let mut written = choices.iter().filter(|name| fields.is_written(name));
    let first = written.next();
    if let Some(first) = first {
        for other in written {
            let message = format!("`{first}` and `{other}` both choose the layers");
            faults.push(
                Diagnostic::new("recipe/two-choices", message)
                    .primary(fields.span(other), "one of them")
                    .secondary(fields.span(first), "the other")
                    .help("delete one of the two"),
            );
        }
    }
    if chooses_by_importance(fields) || fields.has_unknown() {
        return;
    }
    if fields.is_written("calibration_tokens") {
        let message = "`calibration_tokens` has no effect here";
        let label = "no choice depends on a measurement";
        faults.push(
            Diagnostic::new("recipe/unused-key", message)
                .primary(fields.span("calibration_tokens"), label)
                .help("delete it, or write `highest_influence` or a width"),
        );
    } else if first.is_none() {
        let message = "`from_teacher` chooses nothing";
        faults.push(
            Diagnostic::new("recipe/nothing-chosen", message)
                .primary(fields.holder(), "the student would be the teacher")
                .help("write `every: 2`, or `student: { checkpoint: ... }` for the whole teacher"),
        );
    }
}

fn repeats(sizes: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    let (Some(layers), Some(repeats)) = (
        sizes.get::<u64>("num_hidden_layers"),
        sizes.get::<u64>("layer_repeats"),
    ) else {
        return;
    };
    if layers % repeats != 0 {
        let message = "`layer_repeats` does not divide `num_hidden_layers`";
        faults.push(
            Diagnostic::new("recipe/uneven-repeats", message)
                .primary(sizes.span("layer_repeats"), division(layers, repeats))
                .secondary(sizes.span("num_hidden_layers"), "all layers that run")
                .help(format!(
                    "write `num_hidden_layers: {}`",
                    layers.next_multiple_of(repeats)
                )),
        );
    }
}

fn heads(sizes: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    let num_heads = sizes.get::<u64>("num_attention_heads");
    if let (Some(num_heads), Some(num_shared)) = (num_heads, sizes.get("num_key_value_heads"))
        && num_heads % num_shared != 0
    {
        let message = "`num_key_value_heads` does not divide `num_attention_heads`";
        faults.push(
            Diagnostic::new("recipe/uneven-heads", message)
                .primary(
                    sizes.span("num_key_value_heads"),
                    division(num_heads, num_shared),
                )
                .secondary(sizes.span("num_attention_heads"), "query heads"),
        );
    }
    if sizes.is_written("head_dim") {
        if let Some(head_dim) = sizes.get::<u64>("head_dim").filter(|size| size % 2 != 0) {
            faults.push(odd_head_dim(sizes, "head_dim", head_dim));
        }
        return;
    }
    if let (Some(hidden), Some(num_heads)) = (sizes.get::<u64>("hidden_size"), num_heads) {
        if hidden % num_heads != 0 {
            let message = "`num_attention_heads` does not divide `hidden_size`";
            faults.push(
                Diagnostic::new("recipe/uneven-heads", message)
                    .primary(
                        sizes.span("num_attention_heads"),
                        division(hidden, num_heads),
                    )
                    .secondary(sizes.span("hidden_size"), "width of all heads together")
                    .help("change one of them, or give `head_dim`"),
            );
        } else if hidden / num_heads % 2 != 0 {
            faults.push(odd_head_dim(
                sizes,
                "num_attention_heads",
                hidden / num_heads,
            ));
        }
    }
}

fn odd_head_dim(sizes: Fields<'_>, name: &str, head_dim: u64) -> Diagnostic {
    let message = format!(
        "the width of a head must be even, but is {}",
        thousands(head_dim)
    );
    Diagnostic::new("recipe/odd-head-dim", message)
        .primary(sizes.span(name), "rotary positions turn pairs of numbers")
}
