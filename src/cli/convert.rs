//! The commands for checkpoints that no recipe made: `export` and `quantize`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use clap::builder::{PossibleValuesParser, RangedU64ValueParser};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::Failure;
use super::commands::{Output, shown};
use crate::convert::{self, ConvertContext, Converted, Request};
use crate::device;
use crate::progress::bytes_text;
use crate::recipe::{self, ExportPlan, words};

/// What messages call the recipe that is made of arguments.
const ARGUMENTS: &str = "the arguments";

/// Arguments that both commands have.
#[derive(Debug, Args)]
pub(super) struct ConvertArgs {
    /// Folder of the result; by default in the working folder, named after the checkpoint
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Storage of weights that are not on a grid
    #[arg(long, value_parser = PossibleValuesParser::new(words(&["export", "dtype"])))]
    dtype: Option<String>,
    /// Text or jsonl file, or a folder of them; by default a passage of prose that is part of the program
    #[arg(long, value_name = "PATH")]
    text: Vec<PathBuf>,
    /// Positions per row of text
    #[arg(long, default_value_t = 256, value_parser = RangedU64ValueParser::<usize>::new().range(2..=1_048_576))]
    sequence_length: usize,
    /// Tokenizer of another model folder, `tokenizer.json` or `.gguf` file, instead of the checkpoint's
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// Another key of a recipe's `export`, such as `max_rounding_kl=0.1`
    #[arg(long, value_name = "KEY=VALUE")]
    export: Vec<String>,
    /// Device: flex, wgpu, vulkan, tch or cuda
    #[arg(long, default_value = "flex")]
    device: String,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Model folder, `.gguf` file, or the folder of a pass
    checkpoint: PathBuf,
    /// Format to write
    #[arg(long, value_parser = PossibleValuesParser::new(words(&["export", "formats"])))]
    format: String,
    #[command(flatten)]
    convert: ConvertArgs,
}

pub(super) fn export(args: &ExportArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let plan = export_plan(&args.format, &args.convert)?;
    let command = format!(
        "alambic export {} --format {}",
        name(&args.checkpoint),
        args.format
    );
    let request = request(&args.checkpoint, &args.format, &args.convert, command)?;
    let converted = with_context(&args.convert, |context| {
        convert::export(&request, &plan, context)
    })?;
    output.print(&told(&converted), &converted)
}

fn export_plan(format: &str, args: &ConvertArgs) -> Result<ExportPlan, Failure> {
    let mut text = format!("formats: [{format}]\n");
    if let Some(dtype) = &args.dtype {
        let _ = writeln!(text, "dtype: {dtype}");
    }
    Ok(recipe::export_plan(&text, &args.export, ARGUMENTS)?)
}

fn request<'a>(
    checkpoint: &'a Path,
    suffix: &str,
    args: &'a ConvertArgs,
    mut command: String,
) -> Result<Request<'a>, Failure> {
    if let Some(dtype) = &args.dtype {
        let _ = write!(command, " --dtype {dtype}");
    }
    for text in &args.text {
        let _ = write!(command, " --text {}", name(text));
    }
    for key in &args.export {
        let _ = write!(command, " --export {}", quoted(key));
    }
    Ok(Request {
        checkpoint,
        tokenizer: args.tokenizer.as_deref(),
        text: &args.text,
        sequence_length: args.sequence_length,
        out: match &args.out {
            Some(out) => out.clone(),
            None => convert::default_out(checkpoint, suffix)?,
        },
        command,
    })
}

/// The name of a file or folder for a card, which does not tell where its maker keeps it.
fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    quoted(&name.to_string_lossy())
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-=".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn with_context<T>(
    args: &ConvertArgs,
    work: impl FnOnce(&ConvertContext<'_>) -> Result<T, convert::ConvertError>,
) -> Result<T, Failure> {
    let device = device::open(&args.device)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    let context = ConvertContext {
        device: &device,
        stop: &stop,
    };
    Ok(work(&context)?)
}

fn told(converted: &Converted) -> String {
    let export = &converted.export;
    format!(
        "{}: {}, {}, read back: {export}",
        shown(&converted.out),
        export.format,
        bytes_text(export.size_bytes),
    )
}
