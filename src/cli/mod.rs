//! The command line: arguments, dispatch, exit codes. No logic of its own.

mod cache;
mod commands;
mod convert;
mod data;
mod evaluate;
mod failure;
mod fetch;
mod generate;
mod new;
mod packaging;
mod runs;

use std::io::Write;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub use failure::Failure;

use crate::cache::CachePart;
use crate::kernels::Arithmetic;
use crate::shell::quoted;
use crate::{device, files, progress};

/// Version, commit of the source if it is known, and the Cargo features of this binary.
pub const VERSION: &str = packaging::VERSION;

/// Turns a large language model into a small one: capture, distil, prune, quantise, export, verify.
#[derive(Debug, Parser)]
#[command(name = "alambic", version = VERSION, propagate_version = true, after_help = "\
Examples:
  alambic new my-student --teacher path/to/teacher --data path/to/text
  alambic plan my-student.yaml
  alambic run my-student.yaml

`alambic COMMAND --help` shows the options and examples of a command.")]
pub struct Cli {
    /// Hide progress and notes
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Print one JSON object on stdout instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Also append progress, notes and errors to this file, each line with its time in UTC
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented recipe that fits a teacher, a text and this machine
    #[command(after_help = new::EXAMPLES)]
    New(new::NewArgs),
    /// Run a recipe: skip finished stages, resume interrupted ones
    #[command(after_help = "\
Examples:
  alambic run recipes/quickstart.yaml
  alambic run recipes/quickstart.yaml --set distill.steps=800 --set seed=2
  alambic run recipes/quickstart.yaml --quiet --json --log run.log")]
    Run(RunArgs),
    /// Show the stages of a recipe, which of them are done, and what the others will cost; write nothing
    #[command(after_help = "\
Examples:
  alambic plan recipes/quickstart.yaml
  alambic plan recipes/quickstart.yaml --set cache.tokens=1M")]
    Plan(RecipeArgs),
    /// Show finished runs side by side: figures, sizes, and the keys in which their recipes differ
    #[command(after_help = runs::COMPARE_EXAMPLES)]
    Compare(runs::CompareArgs),
    /// List what runs have left that no recipe needs: results of changed recipes, unfinished stages, old training states
    #[command(after_help = runs::CLEAN_EXAMPLES)]
    Clean(runs::CleanArgs),
    /// Build, measure or check a cache of a teacher's predictions
    #[command(
        subcommand,
        after_help = "\
Examples:
  alambic cache build recipes/quickstart.yaml
  alambic cache stat checkpoints/cache-0a1b2c3d"
    )]
    Cache(CacheCommand),
    /// Show what a recipe's text and conversations become
    #[command(
        subcommand,
        after_help = "\
Examples:
  alambic data show recipes/quickstart.yaml --rows 1
  alambic data render my-model datasets/chat/validation.jsonl"
    )]
    Data(data::DataCommand),
    /// Fetch a model or data from the Hugging Face hub, and print where it is
    #[command(after_help = fetch::EXAMPLES)]
    Fetch(fetch::FetchArgs),
    /// Convert any checkpoint to another format, and verify the result
    #[command(after_help = convert::EXPORT_EXAMPLES)]
    Export(convert::ExportArgs),
    /// Quantise any checkpoint without a recipe, and verify the result
    #[command(after_help = convert::QUANTIZE_EXAMPLES)]
    Quantize(convert::QuantizeArgs),
    /// Measure a checkpoint on a text: loss, perplexity, bits per byte, KL to a teacher
    #[command(after_help = "\
Examples:
  alambic evaluate checkpoints/austen-teacher --text datasets/austen/validation
  alambic evaluate checkpoints/quickstart --text datasets/austen/validation
  alambic evaluate my-student --text held-out.txt --teacher Qwen/Qwen3-0.6B --losses losses.jsonl")]
    Evaluate(EvaluateArgs),
    /// Continue a prompt
    #[command(after_help = "\
Examples:
  alambic generate checkpoints/austen-teacher --prompt 'Anne could not' --max-tokens 60 --seed 1
  alambic generate checkpoints/quickstart --prompt 'Anne could not' --echo --stop '.'
  alambic generate checkpoints/austen-teacher --prompt - --top-k 40
  alambic generate model.gguf --prompt 'It is a truth' --temperature 0
  alambic generate HuggingFaceTB/SmolLM2-135M --prompt 'It is a truth'
  alambic generate model.gguf --chat --prompt 'Which month comes after May?' --temperature 0")]
    Generate(GenerateArgs),
    /// Describe a checkpoint, a cache or a run
    #[command(after_help = "\
Examples:
  alambic inspect checkpoints/austen-teacher
  alambic inspect checkpoints/quickstart
  alambic inspect Qwen/Qwen3-0.6B
  alambic inspect student --against teacher")]
    Inspect {
        /// Folder, `.gguf` file, or id of a fetched model
        path: PathBuf,
        /// Compare the vocabularies of two checkpoints or `tokenizer.json` files instead
        #[arg(long, value_name = "OTHER")]
        against: Option<PathBuf>,
    },
    /// Print the JSON Schema of recipes
    #[command(after_help = "\
Examples:
  alambic schema > recipe.schema.json")]
    Schema,
    /// Print the completions of a shell
    #[command(after_help = "\
Examples:
  alambic completions bash > ~/.local/share/bash-completion/completions/alambic
  alambic completions zsh > ~/.zfunc/_alambic
  alambic completions fish > ~/.config/fish/completions/alambic.fish")]
    Completions {
        /// Shell to complete in
        shell: Shell,
    },
    /// Write man pages, one for each command
    #[command(after_help = "\
Examples:
  alambic man ~/.local/share/man/man1")]
    Man {
        /// Folder of the pages; made if it is not there
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Capture the predictions that a recipe needs, and stop there
    #[command(after_help = "\
Examples:
  alambic cache build recipes/quickstart.yaml
  alambic cache build recipes/quickstart.yaml --shard 2/4")]
    Build {
        #[command(flatten)]
        run: RunArgs,
        /// Capture one of several parts, such as 1/4, into its own folder; `merge` joins them
        #[arg(long, value_name = "I/N", value_parser = part)]
        shard: Option<CachePart>,
    },
    /// Join the parts of `build --shard` into one cache
    #[command(after_help = "\
Examples:
  alambic cache merge part-1 part-2 part-3 part-4 --into checkpoints/cache-0a1b2c3d")]
    Merge {
        /// Folders of all parts
        #[arg(required = true)]
        parts: Vec<PathBuf>,
        /// Folder of the cache
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
    },
    /// Compare kinds of support on a few rows of the text: bytes, probability mass, error of the KL
    #[command(after_help = "\
Examples:
  alambic cache bench recipes/quickstart.yaml --rows 8")]
    Bench {
        #[command(flatten)]
        recipe: RecipeArgs,
        /// Rows to measure on
        #[arg(long, default_value_t = 4)]
        rows: usize,
    },
    /// Show what a cache holds: bytes by column, mass on the support, entropy
    #[command(after_help = "\
Examples:
  alambic cache stat checkpoints/cache-0a1b2c3d")]
    Stat {
        /// Folder with `manifest.json`, or the folder above it
        dir: PathBuf,
    },
    /// Check every checksum, token hash and value of a cache, and some rows against the teacher
    #[command(after_help = "\
Examples:
  alambic cache verify checkpoints/cache-0a1b2c3d
  alambic cache verify checkpoints/cache-0a1b2c3d --teacher checkpoints/austen-teacher --rows 16")]
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// Folder with `manifest.json`, or the folder above it
    dir: PathBuf,
    /// Model of the teacher: compute some rows again and compare
    #[arg(long)]
    teacher: Option<PathBuf>,
    /// Rows to compute again in each cache
    #[arg(long, default_value_t = 8, requires = "teacher")]
    rows: usize,
    /// Device of the teacher: flex, wgpu, vulkan, tch or cuda
    #[arg(long, default_value = "flex", requires = "teacher")]
    device: String,
}

#[derive(Debug, Args)]
struct RecipeArgs {
    /// Recipe, a YAML file
    recipe: PathBuf,
    /// Override a value, such as `distill.steps=200` or `passes.0.distill.steps=200`
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Device to use instead of the recipe's: flex, wgpu, vulkan, tch or cuda
    #[arg(long)]
    device: Option<String>,
    /// Arithmetic of products instead of the recipe's, of the teacher's capture and the student's training: f32 or bf16
    #[arg(long, value_parser = PossibleValuesParser::new(Arithmetic::words()))]
    precision: Option<String>,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    #[command(flatten)]
    trust: Trust,
}

/// Checks that a run skips or adds.
#[derive(Debug, Clone, Copy, Default, Args)]
struct Trust {
    /// Run although the estimate needs more memory than this machine has
    #[arg(long)]
    over_memory: bool,
    /// Hash all inputs and results again, instead of trusting size, times and inode
    #[arg(long)]
    verify: bool,
}

#[derive(Debug, Args)]
struct EvaluateArgs {
    /// Model folder, `.gguf` file, folder of a pass or of a run, or id on the hub
    checkpoint: PathBuf,
    /// File of texts or conversations, folder of them, or id of a dataset on the hub
    #[arg(long, required = true)]
    text: Vec<PathBuf>,
    /// Positions per row; each row starts without context
    #[arg(long, default_value_t = 256, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1_048_576))]
    sequence_length: usize,
    /// Model to compare with, named in the same ways: exact KL and agreement
    #[arg(long)]
    teacher: Option<PathBuf>,
    /// Arithmetic of the products of the model that is measured; that of the teacher is f32
    #[arg(long, default_value = "f32", value_parser = PossibleValuesParser::new(Arithmetic::words()))]
    precision: String,
    /// Write the tokens of each row and their losses to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    losses: Option<PathBuf>,
    /// Device: flex, wgpu, vulkan, tch or cuda
    #[arg(long, default_value = "flex")]
    device: String,
}

#[derive(Debug, Args)]
struct GenerateArgs {
    /// Model folder, `.gguf` file, folder of a pass or of a run, or id on the hub
    checkpoint: PathBuf,
    /// Text to continue; `-`, or none, reads it from stdin, without the newline at its end
    #[arg(long)]
    prompt: Option<String>,
    /// Render the prompt as a user's message with the model's chat template, and answer one turn
    #[arg(long)]
    chat: bool,
    /// Message of the system before the prompt
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Print the prompt before the answer
    #[arg(long)]
    echo: bool,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    /// Most tokens to add
    #[arg(long, default_value_t = 100)]
    max_tokens: usize,
    /// Temperature of the draws; 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.8, value_parser = between::<0, 100>)]
    temperature: f64,
    /// Draw from this many of the likeliest tokens; default: all of them
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability
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
    if let Some(path) = &cli.log {
        progress::log_to(path)
            .map_err(|error| Failure::input("cli/log", &files::with_path(error, path)))?;
        let words: Vec<String> = std::env::args_os()
            .map(|word| quoted(&word.to_string_lossy()))
            .collect();
        progress::record(&format!("alambic {VERSION}: {}", words.join(" ")));
    }
    let mut output = commands::Output {
        out,
        json: cli.json,
    };
    let only_prints = matches!(
        cli.command,
        Command::Schema | Command::Completions { .. } | Command::Man { .. }
    );
    if !only_prints {
        device::start_threads()?;
    }
    match &cli.command {
        Command::New(args) => new::new(args, &mut output),
        Command::Run(args) => commands::run(args, &mut output),
        Command::Plan(args) => commands::plan(args, &mut output),
        Command::Compare(args) => runs::compare(args, &mut output),
        Command::Clean(args) => runs::clean(args, &mut output),
        Command::Cache(command) => cache::execute(command, &mut output),
        Command::Data(command) => data::execute(command, &mut output),
        Command::Fetch(args) => fetch::execute(args, &mut output),
        Command::Export(args) => convert::export(args, &mut output),
        Command::Quantize(args) => convert::quantize(args, &mut output),
        Command::Evaluate(args) => evaluate::evaluate(args, &mut output),
        Command::Generate(args) => generate::generate(args, &mut output),
        Command::Inspect { path, against } => {
            commands::inspect(path, against.as_deref(), &mut output)
        }
        Command::Schema => commands::schema(&mut output),
        Command::Completions { shell } => packaging::completions(*shell, &mut output),
        Command::Man { dir } => packaging::man(dir, &mut output),
    }
}
