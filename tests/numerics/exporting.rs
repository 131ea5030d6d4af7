//! Exports of tiny models.

use std::path::Path;

use alambic::data::{TokenRows, Tokenizer};
use alambic::export::verify::Verification;
use alambic::export::{ExportContext, ExportError, ExportPlan, Provenance, export};
use alambic::formats::gguf::GgufPlan;
use alambic::formats::{ExportDtype, Format};
use alambic::student::Student;

use crate::golden;

/// A plan of one format, whose logits may differ by 1e-5.
pub(crate) fn plan(format: Format, dtype: ExportDtype) -> ExportPlan {
    ExportPlan {
        formats: vec![format],
        dtype,
        max_shard_size: ExportPlan::MAX_SHARD_SIZE,
        max_logit_difference: 1e-5,
        gguf: GgufPlan::default(),
        max_rounding_kl: Some(1.0),
    }
}

/// Writes a student in the one format of a plan, with a tokenizer of 320 tokens, and compares it on rows.
pub(crate) fn exported(
    plan: &ExportPlan,
    student: &Student,
    rows: &TokenRows,
    dir: &Path,
) -> Result<Verification, ExportError> {
    let tokenizer_dir = golden::path("hf-llama");
    let tokenizer = Tokenizer::open(&tokenizer_dir.join("tokenizer.json")).unwrap();
    let context = ExportContext {
        name: "tiny",
        provenance: &Provenance::default(),
        tokenizer_dir: Some(&tokenizer_dir),
        generation: &serde_json::Map::new(),
        tokenizer: &tokenizer,
        rows,
        table: (Vec::new(), Vec::new()),
    };
    let verified = export(plan, student, &context, dir)?;
    Ok(verified.into_iter().next().unwrap())
}
