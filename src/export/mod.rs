//! Exports: folders that engines load, read back and compared before they are published.

pub mod compressed_tensors;
mod error;
pub mod huggingface;
mod model_card;
mod safetensors;
pub mod verify;

use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use half::bf16;

pub use error::ExportError;
pub use model_card::{CardFacts, model_card};

use self::compressed_tensors::{PackScheme, QuantizedWeight};
use self::verify::{Budget, Expectation, Verification, verify};
use crate::data::{TokenRows, Tokenizer};
use crate::files;
use crate::model::grid::{Grid, Quantized};
use crate::model::{Decoder, ParameterSpec};
use crate::recipe::{ExportDtype, ExportFormat, ExportPlan};
use crate::student::Student;
use crate::tensors;

/// What goes into a folder beside the weights, and what it is compared on.
pub struct ExportContext<'a> {
    /// Name of the recipe.
    pub name: &'a str,
    /// Name of the teacher, if there was one.
    pub teacher: Option<String>,
    /// Folder whose tokenizer files are copied byte for byte; without it the tokenizer is written.
    pub tokenizer_dir: Option<&'a Path>,
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Validation rows.
    pub rows: &'a TokenRows,
    /// The resolved recipe.
    pub recipe: &'a str,
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
        .map(|&format| export_format(plan, format, student, context, &dir.join(folder(format))))
        .collect()
}

/// Name of a format, in recipes and as a folder.
pub fn folder(format: ExportFormat) -> &'static str {
    match format {
        ExportFormat::HuggingFace => "huggingface",
        ExportFormat::CompressedTensors => "compressed-tensors",
    }
}

fn export_format(
    plan: &ExportPlan,
    format: ExportFormat,
    student: &Student,
    context: &ExportContext<'_>,
    dir: &Path,
) -> Result<Verification, ExportError> {
    std::fs::create_dir_all(dir).map_err(|error| files::with_path(error, dir))?;
    let student = &student.unrolled(); // no format has shared layers
    let effective = student.effective();
    let grid = student
        .grid
        .filter(|_| format == ExportFormat::CompressedTensors);
    let stored = stored(&effective, student, grid, plan.dtype);
    write_model(plan, student, &effective, grid, dir)?;
    match context.tokenizer_dir {
        Some(source) => huggingface::write_tokenizer(dir, &effective.config, source)?,
        None => context.tokenizer.save(dir)?,
    }
    files::write_atomically(&dir.join("recipe.yaml"), |out| {
        out.write_all(context.recipe.as_bytes())
    })?;

    let exact = plan.dtype == ExportDtype::F32 || grid.is_some();
    let budget = if exact {
        Budget::LogitDifference(plan.max_logit_difference)
    } else {
        Budget::Kl(plan.max_rounding_kl)
    };
    let expected = Expectation {
        format: folder(format),
        stored: &stored,
        student: &effective,
        budget,
    };
    let verification = verify(dir, context.rows, &expected)?;
    let card = model_card(&card_facts(plan, grid, &effective, context, &verification));
    files::write_atomically(&dir.join("README.md"), |out| out.write_all(card.as_bytes()))?;
    Ok(verification)
}

/// The model as the folder holds it.
fn stored(
    effective: &Decoder,
    student: &Student,
    grid: Option<Grid>,
    dtype: ExportDtype,
) -> Decoder {
    effective.map(|spec, weight| {
        let on_grid = grid.is_some() && student.grid_of(spec).is_some();
        if dtype == ExportDtype::F32 || on_grid {
            return weight;
        }
        let rounded: Vec<f32> = tensors::to_vec(&weight)
            .into_iter()
            .map(|value| bf16::from_f32(value).to_f32())
            .collect();
        Tensor::from_data(TensorData::new(rounded, spec.shape), &weight.device())
    })
}

fn write_model(
    plan: &ExportPlan,
    student: &Student,
    effective: &Decoder,
    grid: Option<Grid>,
    dir: &Path,
) -> Result<(), ExportError> {
    let weights: std::collections::BTreeMap<String, Tensor<2>> = effective
        .parameters()
        .into_iter()
        .map(|(spec, weight)| (spec.name, weight))
        .collect();
    let weight = |spec: &ParameterSpec| tensors::to_vec(&weights[&spec.name]);
    let Some(grid) = grid else {
        return huggingface::write_model(dir, &effective.config, plan.dtype, weight);
    };
    let free: std::collections::BTreeMap<String, Tensor<2>> = student
        .decoder
        .parameters()
        .into_iter()
        .map(|(spec, weight)| (spec.name, weight))
        .collect();
    let scheme = PackScheme {
        bits: grid.bits,
        group_size: grid.group_size,
    };
    // The free weights go through the same function that training used, so the codes are those trained against.
    let quantized =
        |spec: &ParameterSpec| host(&grid.quantize(student.masked(spec, free[&spec.name].clone())));
    compressed_tensors::write_model(
        dir,
        &effective.config,
        scheme,
        plan.dtype,
        weight,
        quantized,
    )
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "codes are whole numbers from -128 to 127"
)]
fn host(quantized: &Quantized) -> QuantizedWeight {
    let read = |tensor: &Tensor<3>| {
        tensor
            .try_to_vec_as::<f32>()
            .expect("codes and scales are f32")
    };
    QuantizedWeight {
        codes: read(&quantized.codes)
            .into_iter()
            .map(|code| code as i8)
            .collect(),
        scales: read(&quantized.scales),
    }
}

fn card_facts(
    plan: &ExportPlan,
    grid: Option<Grid>,
    effective: &Decoder,
    context: &ExportContext<'_>,
    verification: &Verification,
) -> CardFacts {
    let plain = match plan.dtype {
        ExportDtype::Bf16 => "bfloat16",
        ExportDtype::F32 => "float32",
    };
    let storage = match grid {
        None => plain.to_owned(),
        Some(Grid {
            bits,
            group_size: None,
        }) => format!("int{bits}, one scale per row, {plain} elsewhere"),
        Some(Grid {
            bits,
            group_size: Some(size),
        }) => format!("int{bits}, groups of {size}, {plain} elsewhere"),
    };
    let (columns, rows) = context.table.clone();
    CardFacts {
        name: context.name.to_owned(),
        teacher: context.teacher.clone(),
        config: effective.config.clone(),
        storage,
        weights_bytes: verification.size_bytes,
        columns,
        rows,
        verification: Some(verification.clone()),
        is_compressed: grid.is_some(),
    }
}
