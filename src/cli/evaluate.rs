//! The command that measures a model on a text.

use std::path::Path;

use burn::tensor::Device;
use serde_json::json;

use super::commands::{Output, fetched_texts, open_model, open_tokenizer};
use super::failure::OVERFLOW;
use super::{EvaluateArgs, Failure};
use crate::data::{Rebuilt, SourcePlan, TokenRows, read_rows};
use crate::device::{self, HOST};
use crate::files;
use crate::inspect as facts;
use crate::kernels::{Arithmetic, Passes};
use crate::model::Decoder;
use crate::opened::StoredModel;
use crate::progress;
use crate::train::evaluate::{Reference, TextEvaluation, evaluate_each};

pub(super) fn evaluate(args: &EvaluateArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let device = device::open(&args.device)?;
    let model = open_model(&args.checkpoint)?;
    let rows = rows_of(args, &model)?;
    if let Some(path) = &args.losses {
        files::check_place(path)?;
    }
    let teacher = args.teacher.as_deref();
    let teacher = teacher.map(|dir| teacher_of(dir, &model, &device));
    let teacher = teacher.transpose()?;
    let precision = Arithmetic::of_word(&args.precision).unwrap_or_default();
    if precision != Arithmetic::F32 && args.device != HOST {
        let fact = format!("`{precision}` products are computed on the CPU only");
        return Err(Failure::input("device/precision", &fact));
    }
    let decoder = model.decoder(&device)?.with_arithmetic(precision);
    let decoder = decoder.packed(Passes::Forward);
    let reference = match &teacher {
        Some(teacher) => Reference::Teacher(teacher),
        None => Reference::None,
    };
    let mut losses = Vec::new();
    let found = evaluate_each(&decoder, &rows, reference, "evaluate", |row| {
        losses.push(row);
    })?;
    check_numbers(&found, args)?;
    if let Some(path) = &args.losses {
        write_losses(path, &rows, &losses)?;
    }
    let mut found = serde_json::to_value(found).map_err(std::io::Error::other)?;
    if precision != Arithmetic::F32 {
        found["precision"] = json!(precision);
    }
    output.print(&facts::text(&found), &found)
}

fn rows_of(args: &EvaluateArgs, model: &StoredModel) -> Result<TokenRows, Failure> {
    let config = model.config();
    let tokenizer = open_tokenizer(model)?;
    let model_type = config.architecture.model_type();
    if let Some(rebuilt) = Rebuilt::of_folder(model.path(), model_type, &tokenizer) {
        progress::log_notes(&[rebuilt.note()]);
    }
    let end_of_text = tokenizer
        .end_of_text()
        .or(config.eos_token_ids.first().copied());
    let (sources, ends) = (
        SourcePlan::of_paths(&fetched_texts(&args.text)?),
        &config.eos_token_ids,
    );
    read_rows(
        &sources,
        &tokenizer,
        args.sequence_length,
        end_of_text,
        ends,
    )
    .map_err(|error| Failure::input("data", &error))
}

/// The model to compare with, whose tokens mean the same.
fn teacher_of(dir: &Path, model: &StoredModel, device: &Device) -> Result<Decoder, Failure> {
    let teacher = open_model(dir)?;
    let failed = |error| Failure::input("evaluate/vocabulary", &error);
    let ours = model.vocabulary().map_err(failed)?;
    let theirs = teacher.vocabulary().map_err(failed)?;
    if let Some(fact) = ours.compare(&theirs).disagreement("checkpoint", "teacher") {
        return Err(Failure::input("evaluate/vocabulary", &fact));
    }
    Ok(teacher.teacher(theirs.num_tokens(), Arithmetic::F32, device)?)
}

/// A measure that is no number is a failure, told with the model that gave it.
fn check_numbers(found: &TextEvaluation, args: &EvaluateArgs) -> Result<(), Failure> {
    let found = &found.with_separators; // of all positions
    let failed = |what: &str, value: f64, model: &Path| {
        let fact = format!(
            "the {what} of `{}` on this text is {value}",
            model.display()
        );
        let failure = Failure::run("evaluate/not-finite", &fact);
        Err(failure.help(Some(OVERFLOW.to_owned())))
    };
    if !found.loss_nats.is_finite() {
        return failed("loss", found.loss_nats, &args.checkpoint);
    }
    match (found.kl_nats, &args.teacher) {
        (Some(kl), Some(teacher)) if !kl.is_finite() => failed("KL from the logits", kl, teacher),
        _ => Ok(()),
    }
}

/// A row a line: its tokens, the spans of positions that count, the losses of these positions, and which of the losses are
/// of separators.
fn write_losses(path: &Path, rows: &TokenRows, losses: &[Vec<f64>]) -> std::io::Result<()> {
    files::write_atomically(path, |out| {
        for (row_idx, losses) in losses.iter().enumerate() {
            let tokens = &rows.row(row_idx)[..=rows.length(row_idx)];
            let mask = rows.mask(row_idx);
            let counted: Vec<[u32; 2]> = mask
                .spans()
                .iter()
                .map(|span| [span.start, span.end])
                .collect();
            let places = mask.positions().enumerate();
            let separators: Vec<usize> = places
                .filter(|&(_, position)| rows.is_separator(row_idx, position))
                .map(|(place, _)| place)
                .collect();
            let line = json!({
                "tokens": tokens, "counted": counted, "loss_nats": losses, "separators": separators,
            });
            writeln!(out, "{line}")?;
        }
        Ok(())
    })
}
