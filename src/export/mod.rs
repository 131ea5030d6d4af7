//! Exports: folders that engines load, read back and compared before they are published.

mod error;
mod model_card;
mod plan;
mod provenance;
mod storage;
pub mod verify;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

pub use self::error::ExportError;
pub use self::model_card::{CardFacts, model_card};
pub use self::plan::ExportPlan;
pub(crate) use self::plan::{EXPORT, check};
pub use self::provenance::{Ancestor, MadeBy, Provenance, TextFacts};
use self::storage::Storage;
use self::verify::{Expectation, Verification, kl, predictions, verify};
use crate::allocator;
use crate::cost::{self, Text};
use crate::data::{Rebuilt, TokenRows, Tokenizer, UNCHANGED_CLASS};
use crate::files;
use crate::formats::{Files, Format, WriteError, gguf, huggingface};
use crate::model::{DecoderConfig, ParameterKind, ParameterSpec};
use crate::progress;
use crate::rates::{self, WorkKind};
use crate::student::Student;
use crate::train::Predictions;

/// Contents of a folder beside the weights, and rows that it is compared on.
pub struct ExportContext<'a> {
    /// Name of the recipe, or of the converted checkpoint.
    pub name: &'a str,
    /// Origin of the model.
    pub provenance: &'a Provenance,
    /// Folder whose tokenizer files are copied byte for byte; without it the tokenizer is written.
    pub tokenizer_dir: Option<&'a Path>,
    /// Sampling defaults: the keys of a `generation_config.json` that is copied.
    pub generation: &'a Map<String, Value>,
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Validation rows.
    pub rows: &'a TokenRows,
    /// Table of measurements for the model card: column titles and one row per pass.
    pub table: (Vec<String>, Vec<Vec<String>>),
}

/// Writes and verifies one folder per format inside `dir`.
///
/// `dir` is not yet published: an error leaves nothing under a final name.
pub fn export(
    plan: &ExportPlan,
    student: &Student,
    context: &ExportContext<'_>,
    dir: &Path,
) -> Result<Vec<Verification>, ExportError> {
    plan.formats
        .iter()
        .map(|&format| export_format(plan, format, student, context, &dir.join(format.word())))
        .collect()
}

/// Notes how long the folder took to write, and how long both models took on the rows that were compared.
fn note_pace(
    config: &DecoderConfig,
    context: &ExportContext<'_>,
    verification: &Verification,
    [written_in, all_in]: [Duration; 2],
) {
    let compared = Text {
        tokens: verification.positions,
        sequence_length: context.rows.sequence_length(),
    };
    let compared = cost::run(WorkKind::Evaluate, config, compared.times(2));
    rates::note(compared, all_in.saturating_sub(written_in));
    rates::note(cost::store(config, 1), written_in);
}

#[expect(
    clippy::too_many_lines,
    reason = "one folder, step by step: written, read back, compared, described"
)]
fn export_format(
    plan: &ExportPlan,
    format: Format,
    student: &Student,
    context: &ExportContext<'_>,
    dir: &Path,
) -> Result<Verification, ExportError> {
    std::fs::create_dir_all(dir).map_err(|error| files::with_path(error, dir))?;
    allocator::give_freed_pages_back(); // freed by earlier stages
    let student = &student.unrolled(); // no format has shared layers
    let config = &student.decoder.config;
    if let Some(refusal) = format.refusal(&student.schemes, plan.dtype, config) {
        return Err(refusal.into());
    }
    // The running model is dropped before its folder is read: only one exists at a time beside the student.
    let since = Instant::now();
    let predictions = predictions(&student.effective(), context.rows);
    let predicted = since.elapsed();
    let storage = Storage::of(plan, format, student);
    let rounded = storage.rounded(student);
    let embedding_kl_nats = storage
        .rounds_embedding_unasked(plan.gguf, &rounded)
        .then(|| embedding_kl(&storage, student, &predictions, context.rows));
    let stored = |spec: &ParameterSpec, free| {
        let weight = student.effective_weight(spec, free);
        storage.decoded(spec, weight, student)
    };
    let written = {
        let files = Files {
            dir,
            max_shard_bytes: plan.max_shard_size,
        };
        storage.write(student, context, files)?
    };
    let rebuilt = if format == Format::Gguf {
        gguf::check_tokenizer(&written, context.tokenizer, context.rows)?;
        None
    } else {
        write_beside(dir, config, context)?
    };
    if let MadeBy::Recipe(recipe) = &context.provenance.made_by {
        files::write_atomically(&dir.join("recipe.yaml"), |out| {
            out.write_all(recipe.as_bytes())
        })?;
    }

    let (budget, help) = storage.budget(plan, &rounded);
    let expected = Expectation {
        format: format.word(),
        weights: &student.decoder,
        stored: &stored,
        predictions: &predictions,
        budget,
        help,
        embedding_kl_nats,
    };
    allocator::give_freed_pages_back(); // freed by the writer, before a second copy of the model is loaded
    let written_in = since.elapsed().saturating_sub(predicted);
    let verification = verify(&written, context.rows, &expected)?;
    note_pace(
        config,
        context,
        &verification,
        [written_in, since.elapsed()],
    );
    let card = model_card(&CardFacts {
        is_rebuilt: rebuilt.is_some(),
        // vLLM refuses codes of 2 and 3 bits; docs/engines.md.
        loads_in_vllm: format == Format::HuggingFace
            || student
                .schemes
                .values()
                .all(|scheme| matches!(scheme.weight.levels.bits(), 4 | 8)),
        ..card_facts(&storage, config, context, &written, &verification)
    });
    files::write_atomically(&dir.join("README.md"), |out| out.write_all(card.as_bytes()))?;
    Ok(verification)
}

/// KL in nats of storing embedding and output matrix as they will be, and every other weight as it is.
fn embedding_kl(
    storage: &Storage,
    student: &Student,
    predictions: &Predictions,
    rows: &TokenRows,
) -> f64 {
    let rounded = student.effective().map(|spec, weight| match spec.kind() {
        ParameterKind::Embedding | ParameterKind::Head => storage.decoded(spec, weight, student),
        _ => weight,
    });
    kl(predictions, &rounded, rows)
}

/// Writes the files beside the weights of a folder. Returns a tokenizer that transformers rebuilds regardless of these files,
/// after logging a note about it.
fn write_beside(
    dir: &Path,
    config: &DecoderConfig,
    context: &ExportContext<'_>,
) -> Result<Option<Rebuilt>, WriteError> {
    let note = write_tokenizer(dir, config, context.tokenizer_dir, context.tokenizer)?;
    progress::log_notes(&Vec::from_iter(note));
    huggingface::write_generation(dir, config, context.generation)?;
    let rebuilt = huggingface::keep_tokenizer_class(dir, config)?;
    if let Some(rebuilt) = &rebuilt {
        progress::log(&format!(
            "note: {}; no `tokenizer_class` changes that for this family: load it with `{UNCHANGED_CLASS}`",
            rebuilt.note()
        ));
    }
    Ok(rebuilt)
}

/// Writes the files of a tokenizer: copies of those in a folder, or its own. Returns a note on what was left out.
pub fn write_tokenizer(
    dir: &Path,
    config: &DecoderConfig,
    copied: Option<&Path>,
    tokenizer: &Tokenizer,
) -> Result<Option<String>, WriteError> {
    match copied {
        Some(source) => huggingface::write_tokenizer(dir, config, source),
        None => Ok(tokenizer.save(dir).map(|()| None)?),
    }
}

fn card_facts(
    storage: &Storage,
    config: &DecoderConfig,
    context: &ExportContext<'_>,
    written: &Path,
    verification: &Verification,
) -> CardFacts {
    let (columns, rows) = context.table.clone();
    CardFacts {
        name: context.name.to_owned(),
        provenance: context.provenance.clone(),
        config: config.clone(),
        storage: storage.to_string(),
        weights_bytes: verification.size_bytes,
        columns,
        rows,
        verification: Some(verification.clone()),
        is_rebuilt: false,
        loads_in_vllm: true,
        format: storage.format(),
        file: written
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    }
}
