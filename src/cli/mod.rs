//! The command line: arguments, dispatch, exit codes. No logic of its own.

mod cache;
mod commands;
mod convert;
mod evaluate;
mod failure;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use failure::Failure;

use crate::cache::CachePart;
use crate::progress;

/// Turns a large language model into a small one: capture, distil, prune, quantise, export, verify.
#[derive(Debug, Parser)]
#[command(name = "alambic", version, propagate_version = true)]
pub struct Cli {
    /// Hide progress
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Print one JSON object on stdout instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a recipe; what is done is skipped, what was interrupted is resumed
    Run(RunArgs),
    /// Show what a recipe would do, what is done, and what the rest will cost; writes nothing
    Plan(RecipeArgs),
    /// Build, measure or check a cache of a teacher's predictions
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Write a checkpoint that no recipe made in another format, verified
    Export(convert::ExportArgs),
    /// Put a checkpoint that no recipe made on a grid, and write it, verified
    Quantize(convert::QuantizeArgs),
    /// Measure a checkpoint on a text
    Evaluate(EvaluateArgs),
    /// Continue a prompt
    Generate(GenerateArgs),
    /// Show what a checkpoint, cache or run says of itself
    Inspect {
        /// Folder, or `.gguf` file
        path: PathBuf,
        /// Compare the vocabularies of two checkpoints or `tokenizer.json` files instead
        #[arg(long, value_name = "OTHER")]
        against: Option<PathBuf>,
    },
    /// Print the JSON Schema of recipes
    Schema,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Capture what a recipe's passes need, and stop there
    Build {
        #[command(flatten)]
        run: RunArgs,
        /// Capture one of several parts, such as 1/4, into a folder of its own; `merge` joins them
        #[arg(long, value_name = "I/N", value_parser = part)]
        shard: Option<CachePart>,
    },
    /// Join the parts that `build --shard` left into one cache
    Merge {
        /// Folders of all parts
        #[arg(required = true)]
        parts: Vec<PathBuf>,
        /// Folder of the cache
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
    },
    /// Measure what kinds of support would cost and keep, on a few rows of the text
    Bench {
        #[command(flatten)]
        recipe: RecipeArgs,
        /// Rows to measure on
        #[arg(long, default_value_t = 4)]
        rows: usize,
    },
    /// Show what a cache holds: bytes by column, mass on the support, entropy
    Stat {
        /// Folder with `manifest.json`, or the folder above it
        dir: PathBuf,
    },
    /// Check every checksum, token hash and value of a cache, and some rows against the teacher
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// Folder with `manifest.json`, or the folder above it
    dir: PathBuf,
    /// Model folder of the teacher: compute some rows anew and compare
    #[arg(long)]
    teacher: Option<PathBuf>,
    /// Rows to compute anew in each cache
    #[arg(long, default_value_t = 8, requires = "teacher")]
    rows: usize,
    /// Device of the teacher: flex, wgpu, vulkan, tch or cuda
    #[arg(long, default_value = "flex", requires = "teacher")]
    device: String,
}

#[derive(Debug, Args)]
struct RecipeArgs {
    /// YAML file
    recipe: PathBuf,
    /// Override a value, such as `distill.steps=200` or `passes.0.distill.steps=200`
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Device, instead of the recipe's: flex, wgpu, vulkan, tch or cuda
    #[arg(long)]
    device: Option<String>,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    #[command(flatten)]
    trust: Trust,
}

/// What a run takes at its word.
#[derive(Debug, Clone, Copy, Default, Args)]
struct Trust {
    /// Run even what is estimated to need more memory than this machine has
    #[arg(long)]
    over_memory: bool,
    /// Read all inputs and results again to see whether they are what they were, instead of trusting length, times and inode
    #[arg(long)]
    verify: bool,
}

#[derive(Debug, Args)]
struct EvaluateArgs {
    /// Model folder in Hugging Face layout, or `.gguf` file
    checkpoint: PathBuf,
    /// Text or jsonl file, or a folder of them
    #[arg(long, required = true)]
    text: Vec<PathBuf>,
    /// Positions per row; each row starts without context
    #[arg(long, default_value_t = 256, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1_048_576))]
    sequence_length: usize,
    /// Model folder or `.gguf` file to compare with: exact KL and agreement
    #[arg(long)]
    teacher: Option<PathBuf>,
    /// Write each row's tokens and the loss of each but the first to this file, a JSON object a line
    #[arg(long, value_name = "FILE")]
    losses: Option<PathBuf>,
    /// Device: flex, wgpu, vulkan, tch or cuda
    #[arg(long, default_value = "flex")]
    device: String,
}

#[derive(Debug, Args)]
struct GenerateArgs {
    /// Model folder in Hugging Face layout, or `.gguf` file
    checkpoint: PathBuf,
    /// Text to continue
    #[arg(long)]
    prompt: String,
    /// Most tokens to add
    #[arg(long, default_value_t = 100)]
    max_tokens: usize,
    /// 0 takes the likeliest token each time
    #[arg(long, default_value_t = 0.8, value_parser = between::<0, 100>)]
    temperature: f64,
    /// Draw among the likeliest tokens that hold this mass
    #[arg(long, default_value_t = 0.95, value_parser = between::<0, 1>)]
    top_p: f64,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Device: flex, wgpu, vulkan, tch or cuda
    #[arg(long, default_value = "flex")]
    device: String,
}

/// A part such as `1/4`.
fn part(text: &str) -> Result<CachePart, String> {
    let fault = || "write the part and how many there are, such as 1/4".to_owned();
    let (part, of) = text.split_once('/').ok_or_else(fault)?;
    let (part, of) = (
        part.parse().map_err(|_| fault())?,
        of.parse().map_err(|_| fault())?,
    );
    if (1..=of).contains(&part) {
        Ok(CachePart { part, of })
    } else {
        Err(format!("parts of {of} count from 1 to {of}"))
    }
}

/// A number from `LOW` to `HIGH`.
fn between<const LOW: u32, const HIGH: u32>(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (f64::from(LOW)..=f64::from(HIGH)).contains(&number) {
        Ok(number)
    } else {
        Err(format!("must be in {LOW} ..= {HIGH}"))
    }
}

/// Runs a command; data goes to `out`, everything else to stderr.
pub fn execute(cli: &Cli, out: &mut dyn Write) -> Result<(), Failure> {
    progress::set_quiet(cli.quiet);
    let mut output = commands::Output {
        out,
        json: cli.json,
    };
    match &cli.command {
        Command::Run(args) => commands::run(args, &mut output),
        Command::Plan(args) => commands::plan(args, &mut output),
        Command::Cache(command) => cache::execute(command, &mut output),
        Command::Export(args) => convert::export(args, &mut output),
        Command::Quantize(args) => convert::quantize(args, &mut output),
        Command::Evaluate(args) => evaluate::evaluate(args, &mut output),
        Command::Generate(args) => commands::generate(args, &mut output),
        Command::Inspect { path, against } => {
            commands::inspect(path, against.as_deref(), &mut output)
        }
        Command::Schema => commands::schema(&mut output),
    }
}
