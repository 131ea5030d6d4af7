//! The commands for checkpoints that no recipe made: `export` and `quantize`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, RangedU64ValueParser};

use super::Failure;
use super::commands::{Output, fetched, fetched_texts, shown, stop_on_signals};
use crate::convert::{self, ConvertContext, Converted, Request};
use crate::device;
use crate::export::ExportPlan;
use crate::fetched::HubItem;
use crate::kept::place_name;
use crate::plan::{self, words};
use crate::progress::{bytes_text, decimals, percent, thousands};
use crate::shell::quoted;

/// Name in messages of the recipe that is made of arguments.
const ARGUMENTS: &str = "the recipe of these arguments";

/// End of the help of `alambic export`.
pub(super) const EXPORT_EXAMPLES: &str = "\
Examples:
  alambic export checkpoints/austen-teacher --format gguf
  alambic export model.Q8_0.gguf --format compressed-tensors --dtype f16
  alambic export HuggingFaceTB/SmolLM2-135M --format gguf
  alambic export my-model --format huggingface --set export.max_shard_size=5G --out my-model-shards";

/// End of the help of `alambic quantize`.
pub(super) const QUANTIZE_EXAMPLES: &str = "\
Examples:
  alambic quantize checkpoints/austen-teacher --bits 4
  alambic quantize my-model --method gptq --bits 4 --group-size 128 --text my-text.txt
  alambic quantize Qwen/Qwen3-0.6B --bits 4
  alambic quantize my-model --method awq-gptq --text my-text.txt --format gguf";

/// Positions of a row of text, by default.
const SEQUENCE_LENGTH: usize = 256;

/// Arguments that both commands have.
#[derive(Debug, Args)]
pub(super) struct ConvertArgs {
    /// Folder of the result; default: in the working folder, named after the checkpoint
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Storage type of weights that are not quantised
    #[arg(long, value_parser = PossibleValuesParser::new(words(&["export", "dtype"])))]
    dtype: Option<String>,
    /// File of texts or conversations, folder of them, or id of a dataset on the hub; default: a passage of prose inside the program
    #[arg(long, value_name = "PATH")]
    text: Vec<PathBuf>,
    /// Positions per row of text
    #[arg(long, default_value_t = SEQUENCE_LENGTH, value_parser = RangedU64ValueParser::<usize>::new().range(2..=1_048_576))]
    sequence_length: usize,
    /// Model folder, `tokenizer.json`, `.gguf` file or id on the hub with the tokenizer; default: the checkpoint
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// Set another key of a recipe, such as `export.max_rounding_kl=0.1`
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Device: flex, wgpu, vulkan, tch or cuda
    #[arg(long, default_value = "flex")]
    device: String,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Model folder, `.gguf` file, folder of a pass or of a run, or id on the hub
    checkpoint: PathBuf,
    /// Format to write
    #[arg(long, value_parser = PossibleValuesParser::new(words(&["export", "formats"])))]
    format: String,
    #[command(flatten)]
    convert: ConvertArgs,
}

pub(super) fn export(args: &ExportArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let inputs = &Inputs::of(&args.checkpoint, &args.convert)?;
    let formats = format!("[{}]", args.format);
    let options = options("export", &export_keys(&formats, &args.convert));
    convert::check_overrides(&args.convert.set, &["export"], &options)?;
    let plan = export_plan(&args.format, &args.convert)?;
    let command = format!(
        "alambic export {} --format {}",
        name(&inputs.checkpoint),
        args.format
    );
    let request = request(inputs, &args.format, &args.convert, command)?;
    let converted = with_context(&args.convert, |context| {
        convert::export(&request, &plan, context)
    })?;
    output.print(&summary(&converted), &converted)
}

fn export_plan(format: &str, args: &ConvertArgs) -> Result<ExportPlan, Failure> {
    let mut text = "export:\n".to_owned();
    let formats = format!("[{format}]");
    for (key, value) in export_keys(&formats, args) {
        let _ = writeln!(text, "  {key}: {value}");
    }
    Ok(plan::export_plan(&text, &args.set, ARGUMENTS)?)
}

/// Keys of a recipe by their whole names.
fn options<'a>(section: &str, keys: &[(&str, &'a str)]) -> Vec<(String, &'a str)> {
    let keys = keys.iter();
    keys.map(|(key, value)| (format!("{section}.{key}"), *value))
        .collect()
}

fn export_keys<'a>(formats: &'a str, args: &'a ConvertArgs) -> Vec<(&'static str, &'a str)> {
    let mut keys = vec![("formats", formats)];
    keys.extend(args.dtype.as_deref().map(|dtype| ("dtype", dtype)));
    keys
}

#[derive(Debug, Args)]
pub(super) struct QuantizeArgs {
    /// Model folder, `.gguf` file, folder of a pass or of a run, or id on the hub
    checkpoint: PathBuf,
    /// Method; all but `round-to-nearest`, the default, calibrate, and need `--text`
    #[arg(long, value_parser = PossibleValuesParser::new(methods()))]
    method: Option<String>,
    /// Bits of a weight, as `quantize.bits` in a recipe; default: 4
    #[arg(long)]
    bits: Option<String>,
    /// Weights that share a scale, or `channel` for one scale per row; default: 32 below 8 bits
    #[arg(long, value_name = "SIZE")]
    group_size: Option<String>,
    /// Give each group its own zero point
    #[arg(long)]
    asymmetric: bool,
    /// Format to write
    #[arg(long, default_value = "compressed-tensors", value_parser = PossibleValuesParser::new(words(&["export", "formats"])))]
    format: String,
    #[command(flatten)]
    convert: ConvertArgs,
}

/// Method by default: the only one that needs no text.
const METHOD: &str = "round-to-nearest";

/// Methods that train nothing.
fn methods() -> Vec<&'static str> {
    let words = words(&["passes", "quantize", "method"]);
    words.into_iter().filter(|&word| word != "qat").collect()
}

pub(super) fn quantize(args: &QuantizeArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let inputs = &Inputs::of(&args.checkpoint, &args.convert)?;
    let method = args.method.as_deref().unwrap_or(METHOD);
    let mut keys = Vec::new();
    keys.extend(args.method.as_deref().map(|method| ("method", method)));
    keys.extend(args.bits.as_deref().map(|bits| ("bits", bits)));
    keys.extend(args.group_size.as_deref().map(|size| ("group_size", size)));
    let mut command = format!(
        "alambic quantize {} --method {method}",
        name(&inputs.checkpoint),
    );
    if let Some(bits) = &args.bits {
        let _ = write!(command, " --bits {}", quoted(bits));
    }
    if let Some(size) = &args.group_size {
        let _ = write!(command, " --group-size {}", quoted(size));
    }
    if args.asymmetric {
        keys.push(("symmetric", "false"));
        command.push_str(" --asymmetric");
    }
    let _ = write!(command, " --format {}", args.format);
    let formats = format!("[{}]", args.format);
    let export = export_keys(&formats, &args.convert);
    let mut given = options("quantize", &keys);
    given.extend(options("export", &export));
    convert::check_overrides(&args.convert.set, convert::SECTIONS, &given)?;
    if args.method.is_none() {
        keys.push(("method", METHOD));
    }
    let request = request(inputs, method, &args.convert, command)?;
    let converted = with_context(&args.convert, |context| {
        convert::quantize(&request, &keys, &export, &args.convert.set, context)
    })?;
    output.print(&summary(&converted), &converted)
}

/// Paths that the arguments mean.
struct Inputs {
    checkpoint: PathBuf,
    tokenizer: Option<PathBuf>,
    text: Vec<PathBuf>,
}

impl Inputs {
    /// Fetches what is named by an id.
    fn of(checkpoint: &Path, args: &ConvertArgs) -> Result<Self, Failure> {
        let tokenizer = args.tokenizer.as_deref();
        let tokenizer = tokenizer.map(|path| fetched(path, &HubItem::Tokenizer));
        Ok(Self {
            checkpoint: fetched(checkpoint, &HubItem::Model)?,
            tokenizer: tokenizer.transpose()?,
            text: fetched_texts(&args.text)?,
        })
    }
}

fn request<'a>(
    inputs: &'a Inputs,
    suffix: &str,
    args: &ConvertArgs,
    mut command: String,
) -> Result<Request<'a>, Failure> {
    if let Some(dtype) = &args.dtype {
        let _ = write!(command, " --dtype {dtype}");
    }
    for text in &inputs.text {
        let _ = write!(command, " --text {}", name(text));
    }
    if args.sequence_length != SEQUENCE_LENGTH {
        let _ = write!(command, " --sequence-length {}", args.sequence_length);
    }
    if let Some(tokenizer) = &inputs.tokenizer {
        let _ = write!(command, " --tokenizer {}", name(tokenizer));
    }
    for set in &args.set {
        let _ = write!(command, " --set {}", quoted(set));
    }
    Ok(Request {
        checkpoint: &inputs.checkpoint,
        tokenizer: inputs.tokenizer.as_deref(),
        text: &inputs.text,
        sequence_length: args.sequence_length,
        out: match &args.out {
            Some(out) => out.clone(),
            None => convert::default_out(&inputs.checkpoint, suffix)?,
        },
        command,
    })
}

/// The name of a file or folder for a card, which does not tell where its maker keeps it; or its id, with the commit.
fn name(path: &Path) -> String {
    quoted(&match place_name(path) {
        nameless if nameless.is_empty() => path.display().to_string(),
        name => name,
    })
}

fn with_context<T>(
    args: &ConvertArgs,
    work: impl FnOnce(&ConvertContext<'_>) -> Result<T, convert::ConvertError>,
) -> Result<T, Failure> {
    let device = device::open(&args.device)?;
    let stop = stop_on_signals()?;
    let context = ConvertContext {
        device: &device,
        stop: &stop,
    };
    Ok(work(&context)?)
}

fn summary(converted: &Converted) -> String {
    let Converted {
        out,
        export,
        size_before_bytes,
        quantized,
    } = converted;
    let mut text = String::new();
    if let Some(quantized) = quantized {
        let (before, after) = (quantized.loss_before_nats, quantized.loss_after_nats);
        let more = (after - before) / before;
        let sign = if more >= 0.0 { "+" } else { "" };
        let _ = writeln!(
            text,
            "loss on {} tokens: {} -> {} nats ({sign}{} %), KL {} nats, top-1 agreement {} %",
            thousands(quantized.positions),
            decimals(before, 4),
            decimals(after, 4),
            percent(more, 2),
            decimals(quantized.kl_nats, 4),
            percent(quantized.top1_agreement, 1),
        );
    }
    let _ = write!(
        text,
        "{}: {}, {} -> {}, read back: {export}",
        shown(out),
        export.format,
        bytes_text(*size_before_bytes),
        bytes_text(export.size_bytes),
    );
    text
}
