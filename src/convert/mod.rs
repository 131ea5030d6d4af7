//! Conversion of checkpoints that no recipe made: they are put on a grid, or written in another format.
//!
//! The stages are those of a run (a pass, the export with its verification and card), without caches and without a run's
//! folder: unfinished output is in a folder beside the result, under a partial name.

mod error;
mod parts;
mod quantize;
mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use serde::Serialize;
use serde_json::{Map, Value};

pub use self::error::ConvertError;
pub use self::quantize::{Arguments, QuantizedCheckpoint, SECTIONS, quantize};
use self::source::{Source, SourceTokenizer, is_quantized};
use crate::checkpoint::second_rounding;
use crate::data::{DataError, SourcePlan, TokenRows, read_rows, rows_of_text};
use crate::export::verify::Verification;
use crate::export::{self, ExportContext, ExportPlan, MadeBy, Provenance, TextFacts};
use crate::files::{UnfinishedDir, with_path};
use crate::formats::{Format, gguf};
use crate::kept::place_name;
use crate::model::DecoderConfig;
use crate::progress;
use crate::run::lock;
use crate::student::Student;

/// Text that exports are compared on by default: the opening of *Persuasion* (Jane Austen, 1818; public domain).
const PASSAGE: &str = include_str!("passage.txt");

/// Arguments of a command.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Model folder, `.gguf` file, or folder of a pass.
    pub checkpoint: &'a Path,
    /// Model folder, `tokenizer.json` or `.gguf` file of another tokenizer than the checkpoint's.
    pub tokenizer: Option<&'a Path>,
    /// Texts to compare, measure and calibrate on; if there is none, a passage that is part of the program is used.
    pub text: &'a [PathBuf],
    /// Positions per row of text.
    pub sequence_length: usize,
    /// Folder of the result.
    pub out: PathBuf,
    /// Command line of this conversion, for the card.
    pub command: String,
}

/// Device and stop signal of a conversion.
pub struct ConvertContext<'a> {
    /// Device that holds the tensors.
    pub device: &'a Device,
    /// Flag set by the first signal.
    pub stop: &'a AtomicBool,
}

/// Result of a conversion.
#[derive(Debug, Clone, Serialize)]
pub struct Converted {
    /// Folder of the result.
    pub out: PathBuf,
    /// Comparison of the export with the model in memory.
    pub export: Verification,
    /// Bytes of the weights before.
    pub size_before_bytes: u64,
    /// Cost of putting the weights on a grid, if they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantized: Option<QuantizedCheckpoint>,
}

/// Default folder of a result: in the working folder, named after the checkpoint.
pub fn default_out(checkpoint: &Path, suffix: &str) -> Result<PathBuf, ConvertError> {
    let name = Source::open(checkpoint)?.name();
    Ok(PathBuf::from(format!("{name}-{suffix}")))
}

/// Writes a checkpoint in the one format of a plan, verified, with its card.
pub fn export(
    request: &Request<'_>,
    plan: &ExportPlan,
    context: &ConvertContext<'_>,
) -> Result<Converted, ConvertError> {
    check_texts(request)?;
    let source = Source::open(request.checkpoint)?;
    check_out(&request.out)?;
    let student = source.student(context.device)?;
    check_grid(plan, &student, &source)?;
    let student = with_inputs_of_format(plan, student, &source);
    check_container(plan, &student, &source)?;
    let model = ModelFiles::of(&source, &student.effective().config, request)?;
    let partial = UnfinishedDir::resume(&request.out)?;
    let _lock = lock(partial.path())?;
    partial.remove_parts()?;
    let written = model.write(plan, &student, context, partial.path());
    publish(written, partial, false)
}

/// Refuses a format of codes for weights that are on no grid.
fn check_grid(plan: &ExportPlan, student: &Student, source: &Source) -> Result<(), ConvertError> {
    let mut formats = plan.formats.iter();
    match formats.find(|format| !format.holds_plain_weights()) {
        Some(&format) if !is_quantized(student) => Err(ConvertError::NotQuantized {
            format: format.word(),
            checkpoint: source.path().to_path_buf(),
            was_quantized: source.is_quantized(),
        }),
        _ => Ok(()),
    }
}

/// Refuses what a container or its blocks cannot hold, before anything is written.
fn check_container(
    plan: &ExportPlan,
    student: &Student,
    source: &Source,
) -> Result<(), ConvertError> {
    let config = &student.decoder.config;
    for &format in &plan.formats {
        if let Some(refusal) = format.refusal(&student.schemes, plan.dtype, config) {
            return Err(ConvertError::NotHeld { fact: refusal.fact });
        }
        if format == Format::Gguf {
            let again = source.grids().filter(|grids| {
                gguf::rounds_source(grids, plan.gguf, plan.dtype, &student.schemes, config)
            });
            let notes: Vec<String> = again.iter().map(|grids| second_rounding(grids)).collect();
            progress::log_notes(&notes);
            let notes = gguf::notes(plan.gguf, plan.dtype, &student.schemes, config);
            progress::log_notes(&notes);
        }
    }
    Ok(())
}

/// Removes rounding of activations if the format cannot record it, as formats of plain weights and of blocks.
fn with_inputs_of_format(plan: &ExportPlan, mut student: Student, source: &Source) -> Student {
    let mut formats = plan.formats.iter();
    let plain = formats.find(|format| format.holds_plain_weights());
    let schemes = || student.schemes.values();
    let rounds = source.rounds_inputs() || schemes().any(|scheme| scheme.input.is_some());
    if let (Some(&format), true) = (plain, rounds) {
        let format = format.word();
        progress::log(&format!(
            "note: `{format}` cannot record rounded activations: the result does not round them"
        ));
        for scheme in student.schemes.values_mut() {
            scheme.input = None;
        }
    }
    student
}

/// Refuses keys that `--set` of a command must not name: they would change nothing, or an option sets them.
///
/// `options` are the keys of the recipe that options of the command set, by their whole names, with their values.
pub fn check_overrides(
    overrides: &[String],
    sections: &[&str],
    options: &[(String, &str)],
) -> Result<(), ConvertError> {
    for assignment in overrides {
        let (key, value) = assignment.split_once('=').unwrap_or((assignment, ""));
        let is_of = |section: &&str| {
            let rest = key.strip_prefix(*section);
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        if !sections.iter().any(is_of) || key.starts_with("export.formats") {
            let key = key.to_owned();
            return Err(ConvertError::NoSuchKey { key });
        }
        let name = key.strip_prefix("passes.0.").unwrap_or(key);
        let holds = |one: &str, other: &str| {
            let rest = one.strip_prefix(other);
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        let clash = options.iter().find(|(option, given)| {
            option == name && *given != value || holds(option, name) || holds(name, option)
        });
        if let Some((option, given)) = clash {
            return Err(ConvertError::SetTwice {
                assignment: assignment.clone(),
                option: option_of(option, given),
            });
        }
    }
    Ok(())
}

/// Option of a command that sets a key, as it was written.
fn option_of(key: &str, value: &str) -> String {
    let name = key.rsplit('.').next().unwrap_or(key);
    if name == "symmetric" {
        "--asymmetric".to_owned()
    } else {
        format!("--{} {value}", name.replace('_', "-"))
    }
}

/// Refuses a text that is not there, before weights are read.
fn check_texts(request: &Request<'_>) -> Result<(), ConvertError> {
    let mut texts = request.text.iter();
    match texts.find_map(|text| Some((text, fs::metadata(text).err()?))) {
        Some((text, source)) => Err(ConvertError::NoText {
            path: text.clone(),
            source,
        }),
        None => Ok(()),
    }
}

fn check_out(out: &Path) -> Result<(), ConvertError> {
    if out.exists() {
        let out = out.to_path_buf();
        return Err(ConvertError::Exists { out });
    }
    Ok(())
}

/// Model and files that an export writes beside its weights.
struct ModelFiles<'a> {
    request: &'a Request<'a>,
    name: String,
    tokenizer: SourceTokenizer,
    generation: Map<String, Value>,
    rows: TokenRows,
    provenance: Provenance,
    size_before_bytes: u64,
    /// Table for the card.
    table: (Vec<String>, Vec<Vec<String>>),
}

/// A complete folder that does not have its final name yet.
struct Written {
    dir: PathBuf,
    export: Verification,
    size_before_bytes: u64,
    quantized: Option<QuantizedCheckpoint>,
}

impl<'a> ModelFiles<'a> {
    fn of(
        source: &Source,
        config: &DecoderConfig,
        request: &'a Request<'a>,
    ) -> Result<Self, ConvertError> {
        let tokenizer = source.tokenizer(request.tokenizer, config)?;
        let end_of_text = tokenizer.tokenizer.end_of_text();
        let end_of_text = end_of_text
            .or(config.eos_token_ids.first().copied())
            .ok_or(DataError::NoEndOfText)?;
        let length = request.sequence_length;
        let rows = if request.text.is_empty() {
            rows_of_text(PASSAGE, &tokenizer.tokenizer, length, end_of_text)?
        } else {
            let sources = SourcePlan::of_paths(request.text);
            let (eos, ends) = (Some(end_of_text), &config.eos_token_ids);
            read_rows(&sources, &tokenizer.tokenizer, length, eos, ends)?
        };
        Ok(Self {
            name: source.name(),
            tokenizer,
            generation: source.generation(request.tokenizer)?,
            rows,
            provenance: Provenance {
                base: Some(source.ancestor()),
                teacher: None,
                texts: Vec::new(),
                made_by: MadeBy::Command(request.command.clone()),
            },
            size_before_bytes: source.num_bytes()?,
            table: (Vec::new(), Vec::new()),
            request,
        })
    }

    /// Records a purpose of the texts other than comparing the export.
    fn reads(&mut self, purpose: &'static str, num_tokens: u64) {
        self.provenance.texts.push(TextFacts {
            purpose,
            names: self
                .request
                .text
                .iter()
                .map(|path| place_name(path))
                .collect(),
            num_tokens,
        });
    }

    /// Writes and verifies the folder inside `dir`; returns its path.
    fn write(
        &self,
        plan: &ExportPlan,
        student: &Student,
        context: &ConvertContext<'_>,
        dir: &Path,
    ) -> Result<Written, ConvertError> {
        stop_if_asked(context)?;
        let export_context = ExportContext {
            name: &self.name,
            provenance: &self.provenance,
            tokenizer_dir: self.tokenizer.dir.as_deref(),
            generation: &self.generation,
            tokenizer: &self.tokenizer.tokenizer,
            rows: &self.rows,
            table: self.table.clone(),
        };
        let format = plan.formats.first().copied();
        let format = format.expect("a command writes one format").word();
        let written = dir.join(format);
        if written.exists() {
            // A killed process has left this folder; its files might not belong to this result.
            fs::remove_dir_all(&written).map_err(|error| with_path(error, &written))?;
        }
        progress::log(&format!("export: writing and comparing {format}"));
        let verifications = export::export(plan, student, &export_context, dir)?;
        stop_if_asked(context)?;
        let export = verifications.into_iter().next();
        Ok(Written {
            dir: written,
            export: export.expect("a command writes one format"),
            size_before_bytes: self.size_before_bytes,
            quantized: None,
        })
    }
}

fn stop_if_asked(context: &ConvertContext<'_>) -> Result<(), ConvertError> {
    if context.stop.load(Ordering::Relaxed) {
        return Err(ConvertError::Stopped);
    }
    Ok(())
}

/// Gives the result its final name. A failure leaves nothing behind, except work that the same command can resume.
fn publish(
    written: Result<Written, ConvertError>,
    partial: UnfinishedDir,
    is_worth_keeping: bool,
) -> Result<Converted, ConvertError> {
    let kept = partial.path().to_path_buf();
    let outcome = written.and_then(|written| {
        Ok(Converted {
            out: partial.publish_only(&written.dir)?,
            export: written.export,
            size_before_bytes: written.size_before_bytes,
            quantized: written.quantized,
        })
    });
    match &outcome {
        Ok(_) | Err(ConvertError::StoppedHalfWay) => {}
        Err(_) if is_worth_keeping => progress::log(&format!(
            "note: finished work is kept in `{}`: the same command, also with other `--set export...`, goes on from there; \
             delete it if you do not want to",
            kept.display()
        )),
        Err(_) => {
            let _ = partial.discard(); // the first error is the one to report
        }
    }
    outcome
}
