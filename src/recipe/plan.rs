//! The plan: what will run. Every default is filled in, every path absolute, every value checked.
//!
//! A stage receives its own block and sees no other. Blocks serialise to JSON: an artifact's key is a
//! hash over that JSON, so a field belongs here only if changing it may change what a stage writes.
//! What must not change a key (device, log and save intervals) is marked `#[serde(skip)]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::loss_plan::{LossWeights, TailPlan};
use super::prune_plan::{GradualPlan, PrunePlan, ShrinkPlan};
use super::quantize_plan::{QuantizeMethod, QuantizePlan};
use super::schedule_plan::{EarlyStopPlan, HandOn, RateSchedule, TemperaturePlan, is_true};
use super::student_plan::{AdapterPlan, StudentPlan};
use super::word::words;

/// A whole recipe, checked and completed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Name of the recipe; run folders are named after it.
    pub name: String,
    /// Every random choice is a pure function of this number, a purpose and a step.
    pub seed: u64,
    /// The recipe file this plan was read from.
    #[serde(skip)]
    pub recipe_path: PathBuf,
    /// Folder that receives run folders and caches.
    #[serde(skip)]
    pub output: PathBuf,
    /// Device name as given (`flex`, `wgpu`, `vulkan`, `tch`, `cuda`), if the recipe names one.
    #[serde(skip)]
    pub device: String,
    /// Text and tokenizer.
    pub data: DataPlan,
    /// The model that is imitated; absent when every distill pass uses cross-entropy alone.
    pub teacher: Option<TeacherPlan>,
    /// What is captured of the teacher; present exactly if `teacher` is.
    pub cache: Option<CachePlan>,
    /// The model that is trained.
    pub student: StudentPlan,
    /// The schedule, in order.
    pub passes: Vec<PassPlan>,
    /// What is written at the end.
    pub export: ExportPlan,
}

/// Text and tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DataPlan {
    /// Files or folders of `.txt` and `.jsonl` to train on.
    #[serde(skip)]
    pub train: Vec<PathBuf>,
    /// Files or folders to measure on.
    #[serde(skip)]
    pub validation: Vec<PathBuf>,
    /// Positions per row.
    pub sequence_length: usize,
    /// Upper limit of training positions: what the cache captures, if there is one. `None` uses all text.
    pub train_tokens: Option<u64>,
    /// Upper limit of validation positions measured; `None` measures all of them.
    pub validation_tokens: Option<u64>,
    /// Where the tokenizer comes from.
    pub tokenizer: TokenizerPlan,
}

/// Where the tokenizer comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerPlan {
    /// The teacher's own, from its `tokenizer.json` or `.gguf` file.
    Teacher,
    /// A `tokenizer.json` or `.gguf` file.
    File(#[serde(skip)] PathBuf),
    /// A byte-level BPE trained on the training text.
    Train {
        /// Number of tokens, special tokens included.
        vocab_size: usize,
    },
}

/// The model that is imitated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TeacherPlan {
    /// Hugging Face folder.
    #[serde(skip)]
    pub checkpoint: PathBuf,
    /// Rows in one forward pass of the capture; the shape of a product may move its last bits.
    pub batch_size: usize,
}

/// What is captured of the teacher.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CachePlan {
    /// Token ids kept per position.
    pub support: SupportPlan,
    /// Temperatures at which the cached distribution is exact; ascending, distinct.
    pub temperatures: Vec<f64>,
    /// Rows per shard: what a killed capture loses at most.
    pub rows_per_shard: usize,
}

/// Which token ids the cache holds at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupportPlan {
    /// The teacher's likeliest, this many.
    TopK(usize),
    /// Ids drawn from the teacher (Anshumann et al. 2025, arXiv 2503.16870).
    Samples {
        /// Draws at each position.
        num_draws: usize,
        /// How they are drawn.
        sampling: Sampling,
    },
}

words! {
    /// How ids are drawn from the teacher; both are unbiased.
    pub enum Sampling {
        /// One random offset and equal steps through the distribution: no count is a whole draw off its expectation.
        Systematic = "systematic",
        /// Every draw for itself.
        Independent = "independent",
    }
}

/// One pass: takes a student and returns a student.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PassPlan {
    /// Train against the cache and the text.
    Distill(Box<FitPlan>),
    /// Zero the least useful weights.
    Prune(PrunePlan),
    /// Take the least useful parts out.
    Shrink(ShrinkPlan),
    /// Put the weights on a quantised grid.
    Quantize(QuantizePlan),
}

impl Plan {
    /// Whether a pass is taught by the cache of the training text.
    pub fn reads_cache(&self) -> bool {
        let fits = self.passes.iter().filter_map(PassPlan::fit);
        self.cache.is_some() && fits.into_iter().any(|fit| fit.losses.is_soft())
    }
}

impl PassPlan {
    /// How it trains, if it does.
    pub fn fit(&self) -> Option<&FitPlan> {
        match self {
            Self::Distill(fit) => Some(fit),
            Self::Quantize(plan) => match &plan.method {
                QuantizeMethod::Qat(fit) => Some(fit),
                QuantizeMethod::RoundToNearest | QuantizeMethod::Calibrated(_) => None,
            },
            Self::Prune(_) | Self::Shrink(_) => None,
        }
    }
}

/// One training run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FitPlan {
    /// Optimizer updates.
    pub steps: usize,
    /// Positions per update; a multiple of the sequence length.
    pub tokens_per_step: usize,
    /// Rows per forward and backward pass; never changes the gradient but for rounding.
    pub micro_batch: usize,
    /// Whether the backward pass runs each layer again instead of keeping its activations; never changes the gradient.
    #[serde(skip)]
    pub gradient_checkpointing: bool,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Learning rate at the last step, as a share of the peak.
    pub final_learning_rate_frac: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// How the learning rate goes on after them.
    #[serde(skip_serializing_if = "RateSchedule::is_default")]
    pub schedule: RateSchedule,
    /// AdamW decay, on matrices only.
    pub weight_decay: f64,
    /// Whether it acts on the embedding, too.
    #[serde(skip_serializing_if = "is_true")]
    pub decay_embeddings: bool,
    /// AdamW decay rates of the moments.
    pub betas: [f64; 2],
    /// AdamW term added to the root of the second moment.
    pub epsilon: f64,
    /// Global norm above which gradients are scaled down.
    pub max_grad_norm: f64,
    /// Temperature of the soft loss terms.
    pub temperature: TemperaturePlan,
    /// Weights of the loss terms.
    pub losses: LossWeights,
    /// What becomes of the teacher's mass outside a top-k support.
    pub tail: TailPlan,
    /// Decay of the moving average of the weights, which is then what is measured and handed on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Steps between measurements on the validation text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluate_every: Option<usize>,
    /// When to end before the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<EarlyStopPlan>,
    /// Which weights are handed on.
    #[serde(skip_serializing_if = "HandOn::is_default")]
    pub hand_on: HandOn,
    /// What is trained in the place of the weights; `None` trains all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterPlan>,
    /// Weights that go meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prune: Option<GradualPlan>,
    /// Steps before a grid comes into force.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_step: usize,
    /// Steps between training states on disk.
    #[serde(skip)]
    pub save_every: usize,
    /// Training states that are kept on disk while the pass runs, the newest ones.
    #[serde(skip)]
    pub keep_states: usize,
    /// Steps between log lines.
    #[serde(skip)]
    pub log_every: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What is written at the end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExportPlan {
    /// Formats, in order, distinct; may be empty.
    pub formats: Vec<ExportFormat>,
    /// Storage of weights that are not quantised.
    pub dtype: ExportDtype,
    /// Bytes of weights in one safetensors file, at most, unless a single tensor has more.
    #[serde(skip_serializing_if = "is_usual_shard")]
    pub max_shard_size: u64,
    /// How weights are stored in a GGUF file.
    #[serde(flatten)]
    pub gguf: GgufPlan,
    /// Budget of verification where the format holds the student exactly (f32, or integers on its grid): largest
    /// logit difference between the folder and the student in memory.
    pub max_logit_difference: f64,
    /// The budget where weights are rounded to bf16 on the way: KL(student in memory ‖ folder), nats per position.
    pub max_rounding_kl: f64,
}

impl ExportPlan {
    /// Where transformers 5 begins another file.
    pub const MAX_SHARD_SIZE: u64 = 50_000_000_000;
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_usual_shard(max_shard_size: &u64) -> bool {
    *max_shard_size == ExportPlan::MAX_SHARD_SIZE
}

words! {
    /// A format that engines load.
    pub enum ExportFormat {
        /// config.json and model.safetensors with plain weights.
        HuggingFace = "huggingface",
        /// pack-quantized integers with scales.
        CompressedTensors = "compressed-tensors",
        /// One file for llama.cpp and what is built on it.
        Gguf = "gguf",
        /// GPTQ's integers with scales, around 0.
        Gptq = "gptq",
        /// AWQ's integers with scales and zeros.
        Awq = "awq",
        /// MLX's integers with scales and biases.
        Mlx = "mlx",
    }
}

impl ExportFormat {
    /// Tells whether it holds weights that are on no grid.
    pub fn holds_plain_weights(self) -> bool {
        match self {
            Self::HuggingFace | Self::Gguf => true,
            Self::CompressedTensors | Self::Gptq | Self::Awq | Self::Mlx => false,
        }
    }
}

/// How weights are stored in a GGUF file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct GgufPlan {
    /// Projections inside of blocks; `None` is the student's grid, if blocks hold it, or else the export's dtype.
    #[serde(rename = "gguf_type", skip_serializing_if = "Option::is_none")]
    pub linear: Option<GgufType>,
    /// Embedding and output matrix; `None` is the export's dtype.
    #[serde(
        rename = "gguf_embedding_type",
        skip_serializing_if = "Option::is_none"
    )]
    pub embedding: Option<GgufType>,
}

words! {
    /// A type of ggml that weights are written in.
    #[expect(missing_docs, reason = "the names are those of ggml")]
    #[expect(non_camel_case_types, reason = "the names are those of ggml")]
    pub enum GgufType {
        F32 = "f32",
        F16 = "f16",
        Bf16 = "bf16",
        Q8_0 = "q8_0",
        Q4_0 = "q4_0",
        Q4_1 = "q4_1",
        Q4_K = "q4_k",
    }
}

words! {
    /// Storage of weights that are not quantised.
    pub enum ExportDtype {
        /// bfloat16.
        Bf16 = "bf16",
        /// float16.
        F16 = "f16",
        /// float32.
        F32 = "f32",
    }
}

words! {
    /// The passes, as they are written; see [`PassPlan`].
    pub(super) enum PassWord {
        Distill = "distill",
        Prune = "prune",
        Shrink = "shrink",
        Quantize = "quantize",
    }
}

words! {
    /// The kinds of support, as they are written; see [`SupportPlan`].
    pub(super) enum SupportWord {
        TopK = "top_k",
        Samples = "samples",
    }
}

words! {
    /// Where the tokenizer comes from, as it is written; see [`TokenizerPlan`].
    pub(super) enum TokenizerWord {
        Teacher = "teacher",
        File = "file",
        Train = "train",
    }
}
