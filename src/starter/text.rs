//! Text of a recipe to start from.

use std::fmt::Write as _;
use std::thread::available_parallelism;

use super::SCHEMA_FILE;
use crate::progress::{bytes_text, thousands};
use crate::rates::Secs;

/// Positions of a training step.
const TOKENS_PER_STEP: u64 = 4096;

/// Runs over the captured text in the first training pass.
const EPOCHS: u64 = 3;

/// Sizes of batches, from which memory follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fit {
    micro_batch: u64,
    gradient_checkpointing: bool,
    teacher_batch: u64,
}

impl Fit {
    /// The fastest.
    pub(super) const LARGEST: Self = Self::of(4, false, 8);
    /// The one that needs least memory.
    pub(super) const SMALLEST: Self = Self::of(1, true, 1);
    /// All that are tried, in this order.
    pub(super) const ALL: [Self; 5] = [
        Self::LARGEST,
        Self::of(2, false, 4),
        Self::of(1, false, 2),
        Self::of(4, true, 2),
        Self::SMALLEST,
    ];

    const fn of(micro_batch: u64, gradient_checkpointing: bool, teacher_batch: u64) -> Self {
        Self {
            micro_batch,
            gradient_checkpointing,
            teacher_batch,
        }
    }
}

/// Facts that do not depend on time and memory.
#[derive(Debug, Clone)]
pub(super) struct Plain {
    pub(super) name: String,
    /// Path of the recipe as the user typed it.
    pub(super) file: String,
    /// Paths as the recipe writes them.
    pub(super) teacher: String,
    pub(super) teacher_parameters: u64,
    pub(super) train: Vec<String>,
    pub(super) validation: Vec<String>,
    /// A power of two.
    pub(super) sequence_length: usize,
    /// Share of the teacher's parameters; `None` keeps them all.
    pub(super) share: Option<f64>,
    pub(super) hidden_size: usize,
    /// Folder for caches and run folders.
    pub(super) output: String,
    /// True if the last pass quantises.
    pub(super) quantize: bool,
}

/// A recipe that may become the one to write.
#[derive(Debug, Clone)]
pub(super) struct RecipeDraft {
    plain: Plain,
    fit: Fit,
    /// Training positions to capture; `None` takes all.
    tokens: Option<u64>,
    /// One scale per row of a weight instead of one for 32 weights.
    scales_per_row: bool,
}

impl RecipeDraft {
    pub(super) fn new(plain: Plain, fit: Fit, tokens: Option<u64>) -> Self {
        Self {
            plain,
            fit,
            tokens,
            scales_per_row: false,
        }
    }

    pub(super) fn with_scales_per_row(&self) -> Self {
        Self {
            scales_per_row: true,
            ..self.clone()
        }
    }

    /// The whole file: what it does and costs, then the recipe.
    pub(super) fn text(&self, time: Secs, memory_bytes: u64, machine_bytes: Option<u64>) -> String {
        let Plain { file, share, .. } = &self.plain;
        let then = if self.plain.quantize {
            " and then quantised to 4 bits"
        } else {
            ""
        };
        let work = match share {
            Some(share) => format!(
                "A student with {} % of the teacher's {} parameters, distilled{then}.",
                (100.0 * share).round(),
                thousands(self.plain.teacher_parameters)
            ),
            None => format!(
                "The teacher itself, {} parameters, quantised to 4 bits with training (QAT).",
                thousands(self.plain.teacher_parameters)
            ),
        };
        let cores = available_parallelism().map_or(2, usize::from);
        let machine = machine_bytes.map_or_else(String::new, |bytes| {
            format!(" This machine has {} and {cores} cores.", bytes_text(bytes))
        });
        format!(
            "# yaml-language-server: $schema={SCHEMA_FILE}\n\
             #\n\
             # {work}\n\
             #\n\
             #   alambic plan {file}    stages, memory and time; writes nothing\n\
             #   alambic run {file}     the whole chain; the same command resumes it\n\
             #\n\
             # Estimate: {time}{of}, {memory} of memory at the peak.{machine}\n\
             # For a better student: more text in `data.train` and more `cache.tokens`, then more `steps`.\n\
             \n{recipe}",
            of = if time.is_known() {
                " on this machine if it is idle"
            } else {
                " (no speed of this machine is known before its first run)"
            },
            memory = bytes_text(memory_bytes),
            recipe = self.recipe(),
        )
    }

    /// The recipe with its comments.
    pub(super) fn recipe(&self) -> String {
        let Plain {
            name,
            teacher,
            train,
            validation,
            sequence_length,
            output,
            ..
        } = &self.plain;
        let formats = if self.plain.quantize {
            "[compressed-tensors] # for vLLM and transformers; or gguf (llama.cpp), mlx, gptq, awq"
        } else {
            "[huggingface]        # for vLLM and transformers; or gguf (llama.cpp)"
        };
        let (train, validation) = (train.join(", "), validation.join(", "));
        let batch_size = self.fit.teacher_batch;
        let tokens = self.tokens.map_or_else(String::new, |tokens| {
            format!("  tokens: {:<20} # upper limit; later runs and other recipes reuse what is captured\n", count_text(tokens))
        });
        format!(
            "name: {name}\n\
             seed: 0\n\
             output: {output:<22} # folder for caches and run folders; all paths start at the folder of this file\n\
             \n\
             data:\n\
             \x20 train: [{train}]\n\
             \x20 validation: [{validation}] # never trained on\n\
             \x20 sequence_length: {sequence_length:<11} # positions per row\n\
             \x20 validation_tokens: 16k       # measured after each pass\n\
             \n\
             teacher:\n\
             \x20 checkpoint: {teacher}\n\
             \x20 batch_size: {batch_size:<16} # rows at a time: memory against speed\n\
             \n\
             cache:                         # the teacher reads the text once, and its predictions are kept\n\
             {tokens}\
             \x20 support: {{ top_k: 32 }}       # the likeliest tokens at each position; or {{ samples: 50 }}: smaller, for fresh students\n\
             \n\
             student:\n\
             \x20 checkpoint: {teacher} # starts as the teacher\n\
             \n\
             passes:\n\
             {passes}\
             \n\
             export:\n\
             \x20 formats: {formats}\n",
            passes = self.passes(),
        )
    }

    fn passes(&self) -> String {
        let Fit {
            micro_batch,
            gradient_checkpointing,
            ..
        } = self.fit;
        let tokens = self.tokens.unwrap_or(TOKENS_PER_STEP);
        let steps = (EPOCHS * tokens).div_ceil(TOKENS_PER_STEP).max(20);
        // Rates that recover a pruned model without forgetting: the larger the model, the smaller.
        let (rate, qat_rate) = match self.plain.hidden_size {
            ..=512 => ("1e-3", "2e-4"),
            513..=1536 => ("3e-4", "5e-5"),
            _ => ("1e-4", "2e-5"),
        };
        let memory = format!(
            "      micro_batch: {micro_batch:<11} # rows at a time: memory against speed, never the result\n{}",
            if gradient_checkpointing {
                "      gradient_checkpointing: true # a third more arithmetic for much less memory\n"
            } else {
                ""
            }
        );
        let mut text = String::new();
        if let Some(share) = self.plain.share {
            let _ = write!(
                text,
                "\x20 - shrink:                    # keeps the parts of the teacher that matter most on the text\n\
                 \x20     parameters: {share:<12} # share of the parameters that is left\n\
                 \x20     # along: [intermediate_size, num_key_value_heads] # other cuts; docs/prune.md compares them\n\
                 \x20 - distill:\n\
                 \x20     steps: {steps:<17} # {EPOCHS} times over the captured text\n\
                 \x20     tokens_per_step: {TOKENS_PER_STEP}\n\
                 {memory}\
                 \x20     learning_rate: {rate:<9} # the first thing to tune: try a third and three times as much\n\
                 \x20     losses: {{ forward_kl: 0.9, cross_entropy: 0.1 }}\n\
                 \x20     evaluate_every: {}\n",
                (steps / 10).max(1),
            );
        }
        if !self.plain.quantize {
            return text;
        }
        let group_size = if self.scales_per_row { "channel" } else { "32" };
        let group = format!("      group_size: {group_size:<12} # weights that share a scale\n");
        let qat_steps = match self.plain.share {
            Some(_) => (steps / 4).max(10),
            None => (steps / EPOCHS).max(20), // once over the captured text
        };
        let _ = write!(
            text,
            "\x20 - quantize:                 # first see what `alambic quantize --method gptq` costs; train only if that is too much\n\
             \x20     method: qat              # trains with the rounding; or gptq: without the keys from `steps` to `losses`\n\
             \x20     bits: 4\n\
             {group}\
             \x20     steps: {qat_steps}\n\
             \x20     tokens_per_step: {TOKENS_PER_STEP}\n\
             {memory}\
             \x20     learning_rate: {qat_rate}\n\
             \x20     losses: {{ forward_kl: 1.0 }}\n",
        );
        text
    }
}

/// A count as a recipe writes it, rounded down: `600k`, `1.5M`.
fn count_text(count: u64) -> String {
    match count {
        10_000_000.. => format!("{}M", count / 1_000_000),
        1_000_000.. => format!("{}.{}M", count / 1_000_000, count / 100_000 % 10),
        1_000.. => format!("{}k", count / 1_000),
        _ => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::count_text;

    #[test]
    fn counts_are_written_as_recipes_write_them() {
        let counts = [512, 1_999, 50_000, 1_550_000, 1_000_000, 50_000_000].map(count_text);
        assert_eq!(counts, ["512", "1k", "50k", "1.5M", "1.0M", "50M"]);
    }
}
