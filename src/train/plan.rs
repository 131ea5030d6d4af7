//! Recipe keys of training: the loss, the optimizer, and their schedules.

use std::ops::Bound::{Excluded, Included};
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, json};

use crate::diag::Diagnostic;
use crate::kernels::Arithmetic;
use crate::loss::{LOSSES, LossWeights, OVER, Term};
use crate::progress::thousands;
use crate::pruning::GradualPlan;
use crate::recipe::{
    ABOVE_0, Block, FROM_0, Fields, Item, Keys, Kind, MAX_SIZE, MAX_STEPS, Row, SHARE_ABOVE_0,
    Shape, Spelling, TEMPERATURE, Value, Word, also, keys, or, over, put, required, rule, words,
};
use crate::student::AdapterPlan;
use crate::support::Tail;

/// Number of steps of a pass.
pub(crate) const STEPS: Kind = Kind::Integer(1, MAX_STEPS);
/// Names of the number of steps in other programs.
pub(crate) const STEPS_ELSEWHERE: &[&str] = &[
    "epochs",
    "num_epochs",
    "num_train_epochs",
    "max_steps",
    "num_steps",
    "iterations",
    "iters",
    "updates",
];
const SHARE: Kind = Kind::Number(Included(0.0), Included(1.0));
const DECAY_RATE: Kind = Kind::Number(Included(0.0), Excluded(1.0));

keys! {
    /// One training run.
    pub struct FitPlan in FIT {
        /// Optimizer updates.
        steps: usize = around();
        /// Positions per update; a multiple of the sequence length.
        tokens_per_step: usize = or("4096", Kind::Tokens(1), "positions per update; a multiple of `data.sequence_length`") also ["batch", "batch_size", "global_batch_size", "train_batch_size", "total_batch_size"];
        micro_batch: usize = or("4", Kind::Integer(1, MAX_SIZE), "rows per forward and backward pass; trades memory for speed and never changes the gradient") also ["micro_batch_size", "per_device_train_batch_size", "mbs"];
        #[serde(skip)]
        gradient_checkpointing: bool = or("false", Kind::Switch, "keep only the input of each layer and run the layer again in the backward pass: a third more arithmetic, a fraction of the memory, the same gradient") also ["activation_checkpointing", "grad_checkpointing"];
        learning_rate: f64 = or("1e-3", SHARE_ABOVE_0, "peak learning rate") also ["lr", "max_lr", "peak_lr", "learningrate"];
        final_learning_rate_frac: f64 = or("0.1", SHARE, "learning rate at the last step, as a share of the peak") also ["min_lr", "final_lr", "min_learning_rate", "final_learning_rate"] unless |fit| fit.schedule == RateSchedule::Constant;
        warmup_steps: usize = rule("`steps / 20`, at least 1", Kind::Integer(0, MAX_STEPS), "steps of linear warm-up; at most `steps`") also ["warmup", "num_warmup_steps", "warmup_ratio"] else warmup_steps;
        /// Schedule of the learning rate after warm-up.
        schedule: RateSchedule = group(RATE);
        weight_decay: f64 = or("0.01", FROM_0, "decay of the optimizer (AdamW), on matrices only") also ["wd"];
        decay_embeddings: bool = or("true", Kind::Switch, "whether `weight_decay` acts on the embedding, which may also be the output layer");
        betas: [f64; 2] = or("[0.9, 0.999]", Kind::List(&DECAY_RATE, 2, 2), "decay rates of the optimizer's two moments") also ["adam_betas", "beta1", "beta2", "adam_beta1", "adam_beta2"];
        epsilon: f64 = or("1e-8", SHARE_ABOVE_0, "term added to the root of the second moment") also ["eps", "adam_epsilon"];
        max_grad_norm: Option<f64> = or("1.0", Kind::Or(&ABOVE_0, Spelling { word: "none", also: &["off", "false", "no"] }), "global norm above which gradients are scaled down; `none` never scales them") also ["clip_grad_norm", "grad_clip", "gradient_clipping", "max_norm"];
        temperature: TemperaturePlan = or("1.0", Kind::Moving(&TEMPERATURE, &TEMPERATURE_WALK), "temperature of the soft loss terms; one of `cache.temperatures`") also ["temp", "t", "kd_temperature"];
        losses: LossWeights = rule("`{ forward_kl: 1.0 }` with a teacher, else `{ cross_entropy: 1.0 }`", Kind::Block(&LOSSES), "weights of the loss terms") also ["loss", "loss_weights", "objective"] else losses;
        // Samples have no tail and refuse the key.
        tail: Tail = or("bucket", Kind::Word(Tail::WORDS), "treatment of the teacher's mass outside `top_k`: one bucket, or spread over the support (biased; for comparison)") unless |fit| fit.tail == Tail::Bucket;
        ema: Option<f64> = rule("no average", Kind::Number(Excluded(0.0), Excluded(1.0)), "decay of a moving average of the weights (after `n` steps at most `(1 + n) / (10 + n)`); the average is measured and handed on");
        evaluate_every: Option<usize> = rule("never", Kind::Integer(1, MAX_STEPS), "steps between measurements on the validation text, logged as `validation/loss`; the last step is measured, too") also ["eval_every", "eval_steps", "eval_interval"];
        early_stop: Option<EarlyStopPlan> = rule("the pass runs to its last step", Kind::Block(&EARLY_STOP), "condition to end before the last step; needs `evaluate_every`") also ["early_stopping"];
        hand_on: HandOn = rule("`best` with `early_stop`, else `last`", Kind::Word(HandOn::WORDS), "weights to hand on: the last, or those with the lowest validation loss") else hand_on;
        /// Matrices that are trained in place of the weights; `None` trains all weights.
        adapter: Option<AdapterPlan> = around();
        /// Pruning during the pass.
        prune: Option<GradualPlan> = around();
        /// Steps before the grids come into force.
        start_step: usize = around() unless |fit| fit.start_step == 0;
        /// Arithmetic of its products, as the student says.
        #[serde(skip_serializing_if = "is_f32")]
        precision: Arithmetic = beside(Arithmetic::F32);
        #[serde(skip)]
        save_every: usize = or("50", Kind::Integer(1, MAX_STEPS), "steps between training states on disk") also ["save_steps", "checkpoint_every", "save_interval"];
        #[serde(skip)]
        keep_states: usize = or("2", Kind::Integer(1, 1000), "training states kept while the pass runs; if the newest is damaged, the one before it is used");
        #[serde(skip)]
        log_every: usize = or("10", Kind::Integer(1, MAX_STEPS), "steps between log lines");
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_f32(precision: &Arithmetic) -> bool {
    *precision == Arithmetic::F32
}

fn warmup_steps(fields: Fields<'_>) -> Option<usize> {
    fields.get("steps").map(|steps: usize| (steps / 20).max(1))
}

/// By default the student learns from its teacher, if it has one.
#[expect(clippy::unnecessary_wraps, reason = "some defaults may be missing")]
fn losses(fields: Fields<'_>) -> Option<LossWeights> {
    let has_teacher = fields.root().is_written("teacher");
    Some(LossWeights::only(if has_teacher {
        Term::ForwardKl
    } else {
        Term::CrossEntropy
    }))
}

#[expect(clippy::unnecessary_wraps, reason = "some defaults may be missing")]
fn hand_on(fields: Fields<'_>) -> Option<HandOn> {
    Some(if fields.is_written("early_stop") {
        HandOn::Best
    } else {
        HandOn::Last
    })
}

keys! {
    #[derive(Copy)]
    pub struct EarlyStopPlan in EARLY_STOP = "early_stop", "Condition to end a pass before its last step." {
        patience: usize = required(Kind::Integer(1, MAX_STEPS), "measurements in a row without a lower validation loss, after which the pass ends");
        min_delta: f64 = or("0.0", FROM_0, "nats by which the loss must fall to count as lower");
    }
}

/// Schedule of the learning rate from its peak, which a linear warm-up reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RateSchedule {
    /// Stays at the peak.
    Constant,
    /// Falls in a straight line to the final rate.
    Linear,
    /// Falls by half a cosine to the final rate.
    #[default]
    Cosine,
    /// Stays at the peak, and falls to the final rate in the last steps (Hu et al. 2024, arXiv 2404.06395).
    WarmupStableDecay {
        /// Number of the last steps.
        decay_steps: usize,
        /// Shape of the fall.
        decay_shape: Shape,
    },
}

words! {
    /// Words for the schedules of the learning rate; see [`RateSchedule`].
    enum ScheduleWord {
        Constant = "constant",
        Linear = "linear",
        Cosine = "cosine",
        WarmupStableDecay = "warmup_stable_decay" also ["wsd", "trapezoidal"],
    }
}

static RATE: &[Row] = &[
    also(
        or(
            "schedule",
            "cosine",
            Kind::Word(ScheduleWord::WORDS),
            "learning rate after warm-up",
        ),
        &[
            "lr_scheduler",
            "lr_scheduler_type",
            "scheduler",
            "lr_schedule",
        ],
    ),
    rule(
        "decay_steps",
        "`steps / 10`, at least 1",
        Kind::Integer(1, MAX_STEPS),
        "number of last steps in which `schedule: warmup_stable_decay` falls to the final rate",
    ),
    or(
        "decay_shape",
        "1-sqrt",
        Kind::Word(Shape::WORDS),
        "shape of the fall in these steps",
    ),
];

impl Keys for RateSchedule {
    fn read_keys(fields: Fields<'_>) -> Option<Self> {
        Some(match fields.get("schedule")? {
            ScheduleWord::Constant => Self::Constant,
            ScheduleWord::Linear => Self::Linear,
            ScheduleWord::Cosine => Self::Cosine,
            ScheduleWord::WarmupStableDecay => Self::WarmupStableDecay {
                decay_steps: match fields.get("decay_steps") {
                    Some(steps) => steps,
                    None => tenth(fields.get("steps")?),
                },
                decay_shape: fields.get("decay_shape")?,
            },
        })
    }

    fn write_keys(&self, _: &Path, keys: &mut Map<String, serde_json::Value>) {
        let word = match self {
            Self::Constant => ScheduleWord::Constant,
            Self::Linear => ScheduleWord::Linear,
            Self::Cosine => ScheduleWord::Cosine,
            Self::WarmupStableDecay {
                decay_steps,
                decay_shape,
            } => {
                put(keys, "decay_steps", json!(decay_steps));
                put(keys, "decay_shape", json!(decay_shape));
                ScheduleWord::WarmupStableDecay
            }
        };
        put(keys, "schedule", json!(word));
    }
}

/// Default steps in which a stable learning rate falls: a tenth, as in MiniCPM (Hu et al. 2024, arXiv 2404.06395).
fn tenth(steps: usize) -> usize {
    (steps / 10).max(1)
}

/// The temperature of the soft loss terms.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum TemperaturePlan {
    /// The same temperature at every step; one that the cache declares.
    Constant(f64),
    /// A walk through temperatures that the cache declares.
    Walk(TemperatureWalk),
}

/// Walk from one declared temperature to another through all those between, with equal numbers of steps at each.
///
/// A cache is exact only at the temperatures that it declares, so a temperature cannot change continuously.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TemperatureWalk {
    /// First temperature.
    pub from: f64,
    /// Last temperature, kept to the end of the pass.
    pub to: f64,
    /// Number of steps; at least two, at most those of the pass.
    pub over: usize,
    /// Declared temperatures from the first to the last; the cache has them in its key.
    #[serde(skip)]
    pub stops: Vec<f64>,
}

static TEMPERATURE_WALK: Block = Block {
    name: "temperature",
    about: "A temperature that moves through those of `cache.temperatures` between two of them, with equal numbers of steps at each: a cache is exact at no other.",
    rows: &[
        required("from", TEMPERATURE, "temperature at the first step"),
        required("to", TEMPERATURE, "temperature at the end and after it"),
        OVER,
    ],
};

impl Value for TemperaturePlan {
    fn read(item: &Item, holder: Fields<'_>) -> Option<Self> {
        let Some(walk) = holder.inside(item) else {
            return f64::read(item, holder).map(Self::Constant);
        };
        let (from, to): (f64, f64) = (walk.get("from")?, walk.get("to")?);
        let mut stops: Vec<f64> = walk.root().block("cache")?.get("temperatures")?;
        stops.retain(|&declared| declared >= from.min(to) && declared <= from.max(to));
        stops.sort_by(f64::total_cmp);
        if from > to {
            stops.reverse();
        }
        Some(Self::Walk(TemperatureWalk {
            from,
            to,
            over: over(walk)?,
            stops,
        }))
    }

    fn write(&self, _: &Path) -> serde_json::Value {
        json!(self)
    }
}

words! {
    /// Weights that a pass hands on.
    #[derive(Default)]
    pub enum HandOn {
        /// Weights after the last step.
        #[default]
        Last = "last",
        /// Weights with the lowest validation loss of all that were measured.
        Best = "best",
    }
}

/// Reports every contradiction among the keys of training.
pub(crate) fn check(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    rate(fields, faults);
    if let Some(steps) = fields.get::<usize>("steps") {
        warmup_and_decay(fields, steps, faults);
        for (name, ramp) in ramps(fields) {
            length(fields, name, ramp, steps, faults);
        }
    }
    measurements(fields, faults);
}

/// Numbers that change during a pass, in a block and in its inner blocks.
fn ramps(fields: Fields<'_>) -> Vec<(&'static str, Fields<'_>)> {
    let mut found = Vec::new();
    for entry in fields.entries() {
        if let Some(inner) = fields.inside(&entry.item) {
            if inner.knows("over") {
                found.push((entry.key.name, inner));
            } else {
                let named = ramps(inner).into_iter().map(|(name, ramp)| match name {
                    "weight" => (entry.key.name, ramp), // of a loss term
                    name => (name, ramp),
                });
                found.extend(named);
            }
        }
    }
    found
}

/// Reports keys that the chosen schedule ignores.
fn rate(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    let Some(schedule) = fields.get::<ScheduleWord>("schedule") else {
        return;
    };
    let mut unused = |name: &str, label: &str, help: String| {
        if fields.is_written(name) {
            let message = format!("`{name}` has no effect: the schedule is `{schedule}`");
            faults.push(
                Diagnostic::new("recipe/unused-key", message)
                    .primary(fields.span(name), label)
                    .secondary(fields.span("schedule"), "")
                    .help(help),
            );
        }
    };
    if schedule != ScheduleWord::WarmupStableDecay {
        for name in ["decay_steps", "decay_shape"] {
            let help = format!("delete `{name}`, or write `schedule: warmup_stable_decay`");
            unused(
                name,
                "only for the last steps of `warmup_stable_decay`",
                help,
            );
        }
    }
    if schedule == ScheduleWord::Constant {
        let name = "final_learning_rate_frac";
        unused(name, "the rate never falls", format!("delete `{name}`"));
    }
}

fn warmup_and_decay(fields: Fields<'_>, steps: usize, faults: &mut Vec<Diagnostic>) {
    let warmup: usize = fields.get("warmup_steps").unwrap_or(0);
    if warmup > steps {
        let message = format!(
            "`warmup_steps` is {}, but the pass has {} steps",
            thousands(warmup as u64),
            thousands(steps as u64)
        );
        faults.push(
            Diagnostic::new("recipe/long-warmup", message)
                .primary(fields.span("warmup_steps"), "")
                .secondary(fields.span("steps"), ""),
        );
        return;
    }
    let schedule = fields.get("schedule");
    let decay = fields.get("decay_steps").unwrap_or(tenth(steps));
    if schedule == Some(ScheduleWord::WarmupStableDecay) && warmup + decay > steps {
        let message = format!(
            "warm-up and decay take {} steps, but the pass has {}",
            thousands((warmup + decay) as u64),
            thousands(steps as u64)
        );
        faults.push(
            Diagnostic::new("recipe/long-decay", message)
                .primary(
                    fields.span("decay_steps"),
                    format!("{} steps of decay", thousands(decay as u64)),
                )
                .secondary(
                    fields.span("warmup_steps"),
                    format!("{} of warm-up", thousands(warmup as u64)),
                )
                .help(format!(
                    "write `decay_steps: {}` or less",
                    (steps - warmup).max(1)
                )),
        );
    }
}

/// Reports a change longer than the pass: it would end at another value than the recipe says.
fn length(
    fields: Fields<'_>,
    name: &str,
    ramp: Fields<'_>,
    steps: usize,
    faults: &mut Vec<Diagnostic>,
) {
    let Some(over) = over(ramp).map(|over| over.max(2)) else {
        return;
    };
    if over <= steps {
        return;
    }
    let message = format!(
        "`{name}` moves over {} steps, but the pass has {}",
        thousands(over as u64),
        thousands(steps as u64)
    );
    let help = if steps < 2 {
        format!("write a number for `{name}`: a single step leaves no room for a change")
    } else {
        "write fewer, or a share such as `over: 0.5`".to_owned()
    };
    faults.push(
        Diagnostic::new("recipe/long-schedule", message)
            .primary(ramp.span("over"), "it would not reach `to`")
            .secondary(fields.span("steps"), "")
            .help(help),
    );
}

/// Reports keys that depend on the validation loss if it is not measured during the pass.
fn measurements(fields: Fields<'_>, faults: &mut Vec<Diagnostic>) {
    if fields.is_written("evaluate_every") {
        return;
    }
    let wants_best = fields.get("hand_on") == Some(HandOn::Best);
    let (name, label) = match (fields.is_written("early_stop"), wants_best) {
        (true, _) => ("early_stop", "waits for a lower validation loss"),
        (false, true) => ("hand_on", "the weights with the lowest validation loss"),
        (false, false) => return,
    };
    let every = fields
        .get::<u64>("steps")
        .map_or(100, |steps| (steps / 10).max(1));
    let message = format!("`{name}` needs `evaluate_every`: nothing is measured during the pass");
    faults.push(
        Diagnostic::new("recipe/never-measured", message)
            .primary(fields.span(name), label)
            .help(format!("add, for example, `evaluate_every: {every}`")),
    );
}
