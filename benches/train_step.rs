//! Tokens a second, processor time and peak memory of training steps: forward, loss, backward, clipping and AdamW.
//!
//! ```sh
//! cargo bench --bench train_step -- small          # hidden 256, 6 layers, vocabulary 8,192, cross-entropy
//! cargo bench --bench train_step -- large          # hidden 576, 12 layers, vocabulary 49,152, KL on the likeliest 64
//! cargo bench --bench train_step -- medium         # hidden 384, 6 layers, vocabulary 49,152, KL on the likeliest 64
//! cargo bench --bench train_step -- loss           # the large model's loss alone: what it needs beside its inputs
//! cargo bench --bench train_step -- gradient       # the large model's gradient of one micro-batch: what it needs beside the weights
//! ```
//!
//! `--steps N` (5), `--micro-batch N` (4), `--sequence-length N` (256), `--document-length N` (rows of documents of so many
//! tokens, else of one), `--bf16` and `--checkpointing` after the name; a step has 2,048 positions. One JSON object goes to stdout.
//! `scripts/bench_train.py` compares with PyTorch.

#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

mod common;

use std::error::Error;
use std::fs;
use std::time::Instant;

use alambic::allocator::{self, MiMalloc};
use alambic::data::Sequence;
use alambic::device::{self, ReadBack};
use alambic::kernels::{Arithmetic, Weight};
use alambic::loss::chunked::head_gradients;
use alambic::loss::{LossSpec, LossWeights, RowTarget, Term, Terms};
use alambic::model::Head;
use alambic::random::Stream;
use alambic::recipe::Scheduled;
use alambic::student::{ArchitecturePlan, Student, architecture};
use alambic::support::{Support, Tail, TopK};
use alambic::train::gradient::{ActivationMemory, MicroBatch, step_gradient_with};
use alambic::train::optim::{AdamW, clip, global_norm};
use alambic::train::{FitPlan, HandOn, RateSchedule, TemperaturePlan};
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::json;

use crate::common::{Options, cpu_secs, median, single, status_mib, whole};

/// Norm that gradients are clipped to.
const MAX_GRAD_NORM: f64 = 1.0;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Positions in a step.
const POSITIONS: usize = 2048;

/// Ids that the teacher's opinion of a position holds.
const TOP_K: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    allocator::keep_freed_pages();
    let options = Options::of_this_process();
    let number = |name: &str, default| options.number(name, default);
    let sequence_length = number("--sequence-length", 256)?;
    let document_length = number("--document-length", sequence_length)?.max(1);
    let settings = Settings {
        steps: number("--steps", 5)?,
        micro_batch: number("--micro-batch", 4)?,
        sequence_length,
        document_starts: (0..sequence_length)
            .step_by(document_length)
            .map(u32::try_from)
            .collect::<Result<_, _>>()?,
        arithmetic: options.arithmetic(),
        activations: if options.has("--checkpointing") {
            ActivationMemory::Recomputed
        } else {
            ActivationMemory::Kept
        },
    };
    let device = device::open("flex")?;
    let figures = match options.name() {
        Some("small") => train(&SMALL, &settings, &device)?,
        Some("medium") => train(&MEDIUM, &settings, &device)?,
        Some("large") => train(&LARGE, &settings, &device)?,
        Some("loss") => loss(&device)?,
        Some("gradient") => gradient(&settings, &device)?,
        _ => return Err("name one of `small`, `medium`, `large`, `loss` and `gradient`".into()),
    };
    println!("{figures}");
    Ok(())
}

struct Settings {
    steps: usize,
    micro_batch: usize,
    sequence_length: usize,
    document_starts: Vec<u32>,
    arithmetic: Arithmetic,
    activations: ActivationMemory,
}

impl Settings {
    /// Rows of token ids.
    fn rows<'a>(&'a self, ids: &'a [u32]) -> Vec<Sequence<'a>> {
        let rows = ids.chunks_exact(self.sequence_length);
        rows.map(|row| Sequence::packed(row, &self.document_starts))
            .collect()
    }
}

/// A student and what it learns from.
struct Model {
    architecture: ArchitecturePlan,
    vocab_size: usize,
    has_teacher: bool,
}

const SMALL: Model = Model {
    architecture: ArchitecturePlan {
        num_hidden_layers: 6,
        hidden_size: 256,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        intermediate_size: 688,
        head_dim: 64,
        rope_theta: 1e4,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        sliding_window: None,
        layer_repeats: 1,
    },
    vocab_size: 8192,
    has_teacher: false,
};

const MEDIUM: Model = Model {
    architecture: ArchitecturePlan {
        hidden_size: 384,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        intermediate_size: 1024,
        ..SMALL.architecture
    },
    vocab_size: 49_152,
    has_teacher: true,
};

const LARGE: Model = Model {
    architecture: ArchitecturePlan {
        num_hidden_layers: 12,
        hidden_size: 576,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        intermediate_size: 1536,
        ..SMALL.architecture
    },
    vocab_size: 49_152,
    has_teacher: true,
};

/// Steps on random tokens; the first does not count.
fn train(
    model: &Model,
    settings: &Settings,
    device: &Device,
) -> Result<serde_json::Value, Box<dyn Error>> {
    let seq = settings.sequence_length;
    let config = architecture(&model.architecture, model.vocab_size, seq, None);
    let mut student = Student::fresh(&config, 1, 17, device);
    student.decoder = student.decoder.with_arithmetic(settings.arithmetic);
    let mut optimizer = AdamW::new(&student.trained());
    let (plan, spec) = plan_and_spec(model, settings);
    let read_back = ReadBack::of(device);
    let text = Text::random(model.vocab_size);
    let targets = text.targets(model.has_teacher);

    let mut secs = Vec::new();
    let mut losses = Vec::new();
    let mut cpu_before = cpu_secs()?;
    for step in 0..=settings.steps {
        if step == 1 {
            cpu_before = cpu_secs()?;
        }
        let since = Instant::now();
        let rows = settings.rows(&text.ids);
        let micro_batches: Vec<MicroBatch<'_>> = rows
            .chunks(settings.micro_batch)
            .zip(targets.chunks(settings.micro_batch * seq))
            .map(|(rows, targets)| MicroBatch {
                inputs: rows.to_vec(),
                targets: targets.to_vec(),
            })
            .collect();
        let step = step_gradient_with(
            &student.effective(),
            &micro_batches,
            &spec,
            None,
            settings.activations,
            read_back,
        );
        let norm = global_norm(&step.gradients);
        let gradients = clip(step.gradients, &norm, MAX_GRAD_NORM, read_back);
        let mut updated = optimizer
            .step(student.trained(), gradients, plan.learning_rate, &plan)
            .into_iter();
        student.decoder = student
            .decoder
            .map(|_, _| updated.next().expect("one update for each parameter"));
        losses.push(step.sums.read().means().total);
        secs.push(since.elapsed().as_secs_f64());
    }
    let cpu = (cpu_secs()? - cpu_before) / settings.steps as f64;
    Ok(json!({
        "arithmetic": settings.arithmetic.to_string(),
        "tokens_per_sec": POSITIONS as f64 / median(&secs[1..]),
        "cpu_secs_per_step": cpu,
        "peak_mib": status_mib("VmHWM:")?,
        "step_secs": secs,
        "losses": losses,
    }))
}

/// The loss and its gradients alone, with the most memory it took beyond its inputs.
fn loss(device: &Device) -> Result<serde_json::Value, Box<dyn Error>> {
    let (vocab, hidden_size) = (LARGE.vocab_size, LARGE.architecture.hidden_size);
    let settings = Settings {
        steps: 1,
        micro_batch: 4,
        sequence_length: 256,
        document_starts: vec![0],
        arithmetic: Arithmetic::F32,
        activations: ActivationMemory::Kept,
    };
    let (_, spec) = plan_and_spec(&LARGE, &settings);
    let text = Text::random(vocab);
    let targets = text.targets(true);
    let mut stream = Stream::new(17, "bench loss");
    let mut matrix = |rows: usize, scale: f64| {
        let values: Vec<f32> = (0..rows * hidden_size)
            .map(|_| single(scale * stream.normal()))
            .collect();
        Tensor::<2>::from_data(TensorData::new(values, [rows, hidden_size]), device)
    };
    let hidden = matrix(POSITIONS, 1.0);
    let head = Head {
        weight: Weight::new(matrix(vocab, 0.02), Arithmetic::F32),
        soft_cap: None,
    };

    #[expect(clippy::disallowed_methods, reason = "no file: the peak starts anew")]
    fs::write("/proc/self/clear_refs", "5")?;
    let before = status_mib("VmRSS:")?;
    let cpu_before = cpu_secs()?;
    let since = Instant::now();
    let gradients = head_gradients(&hidden, &head, &targets, &spec, ReadBack::of(device));
    Ok(json!({
        "secs": since.elapsed().as_secs_f64(),
        "cpu_secs": cpu_secs()? - cpu_before,
        "inputs_mib": before,
        "added_mib": status_mib("VmHWM:")? - before,
        "loss": gradients.sums.read().means().total,
    }))
}

/// The gradient of one micro-batch, with the most memory it took beyond the weights.
fn gradient(settings: &Settings, device: &Device) -> Result<serde_json::Value, Box<dyn Error>> {
    let seq = settings.sequence_length;
    let config = architecture(&LARGE.architecture, LARGE.vocab_size, seq, None);
    let student = Student::fresh(&config, 1, 17, device);
    let (_, spec) = plan_and_spec(&LARGE, settings);
    let text = Text::random(LARGE.vocab_size);
    let positions = settings.micro_batch * seq;
    if positions > POSITIONS {
        return Err(format!("a micro-batch has at most {POSITIONS} positions").into());
    }
    let micro_batch = MicroBatch {
        inputs: settings.rows(&text.ids[..positions]),
        targets: text.targets(true)[..positions].to_vec(),
    };

    #[expect(clippy::disallowed_methods, reason = "no file: the peak starts anew")]
    fs::write("/proc/self/clear_refs", "5")?;
    let before = status_mib("VmRSS:")?;
    let step_gradient = step_gradient_with(
        &student.effective(),
        &[micro_batch],
        &spec,
        None,
        settings.activations,
        ReadBack::of(device),
    );
    Ok(json!({
        "weights_mib": before,
        "added_mib": status_mib("VmHWM:")? - before,
        "loss": step_gradient.sums.read().means().total,
    }))
}

fn plan_and_spec(model: &Model, settings: &Settings) -> (FitPlan, LossSpec) {
    let forward_kl = f64::from(u8::from(model.has_teacher));
    let cross_entropy = 1.0 - forward_kl;
    let spec = LossSpec::of(
        Terms::ZERO
            .with(Term::ForwardKl, forward_kl)
            .with(Term::CrossEntropy, cross_entropy),
    );
    let plan = FitPlan {
        steps: settings.steps,
        tokens_per_step: POSITIONS,
        micro_batch: settings.micro_batch,
        gradient_checkpointing: false,
        precision: settings.arithmetic,
        learning_rate: 1e-3,
        final_learning_rate_frac: 1.0,
        warmup_steps: 0,
        schedule: RateSchedule::Constant,
        weight_decay: 0.1,
        decay_embeddings: true,
        betas: [0.9, 0.95],
        epsilon: 1e-8,
        max_grad_norm: Some(MAX_GRAD_NORM),
        temperature: TemperaturePlan::Constant(1.0),
        losses: LossWeights {
            weights: Terms::default()
                .with(Term::ForwardKl, Scheduled::Constant(forward_kl))
                .with(Term::CrossEntropy, Scheduled::Constant(cross_entropy)),
            ..LossWeights::default()
        },
        tail: Tail::Bucket,
        ema: None,
        adapter: None,
        prune: None,
        start_step: 0,
        evaluate_every: None,
        early_stop: None,
        hand_on: HandOn::Last,
        save_every: usize::MAX,
        keep_states: 1,
        log_every: usize::MAX,
    };
    (plan, spec)
}

/// Tokens, and what a teacher might have said of them.
struct Text {
    ids: Vec<u32>,
    labels: Vec<u32>,
    support_ids: Vec<u32>,
    log_probs: Vec<f32>,
}

impl Text {
    fn random(vocab_size: usize) -> Self {
        let mut stream = Stream::new(17, "bench text");
        let mut id = |below: usize| whole(stream.uniform(), below);
        let ids = (0..POSITIONS).map(|_| id(vocab_size)).collect();
        let labels = (0..POSITIONS).map(|_| id(vocab_size)).collect();
        let stride = vocab_size / TOP_K;
        let support_ids = (0..POSITIONS * TOP_K)
            .map(|at| {
                id(stride) + u32::try_from(at % TOP_K * stride).expect("an id of the vocabulary")
            })
            .collect();
        let zipf: f64 = (0..TOP_K).map(|rank| 1.0 / (rank + 1) as f64).sum();
        let log_probs = (0..POSITIONS * TOP_K)
            .map(|at| single((0.9 / zipf / (at % TOP_K + 1) as f64).ln()))
            .collect();
        Self {
            ids,
            labels,
            support_ids,
            log_probs,
        }
    }

    fn targets(&self, has_teacher: bool) -> Vec<Option<RowTarget<'_>>> {
        let opinions = self
            .support_ids
            .chunks(TOP_K)
            .zip(self.log_probs.chunks(TOP_K));
        let pairs = self.labels.iter().zip(opinions);
        pairs
            .map(|(&label, (ids, log_probs))| {
                let support = Support::TopK(TopK {
                    ids,
                    log_probs,
                    lse: &[],
                    position: 0,
                });
                Some(RowTarget {
                    label,
                    support: has_teacher.then_some(support),
                })
            })
            .collect()
    }
}
