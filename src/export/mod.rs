//! Exports: folders that engines load, read back and compared before they are published.

pub mod compressed_tensors;
pub mod containers;
mod error;
pub mod gguf;
pub mod huggingface;
mod loading;
mod model_card;
mod plan;
mod provenance;
mod safetensors;
mod shards;
pub mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use half::{bf16, f16};
use serde_json::{Map, Value};

pub use error::ExportError;
pub use model_card::{CardFacts, Engine, model_card};
pub(crate) use plan::{EXPORT, check};
pub use plan::{ExportDtype, ExportFormat, ExportPlan, GgufPlan, GgufType};
pub use provenance::{Ancestor, License, MadeBy, Provenance, TextFacts};
pub use shards::Files;

use self::containers::{Container, refusal_by};
use self::verify::{Budget, Expectation, Verification, predictions, verify};
use crate::allocator;
use crate::data::{AS_IT_IS, Rebuilt, TokenRows, Tokenizer};
use crate::files;
use crate::kernels::grid::Quantized;
use crate::model::{DecoderConfig, OnGrid, ParameterSpec, Scheme, WeightId};
use crate::progress;
use crate::student::Student;
use crate::tensors;

/// What goes into a folder beside the weights, and what it is compared on.
pub struct ExportContext<'a> {
    /// Name of the recipe, or of what a command converts.
    pub name: &'a str,
    /// What it is made of.
    pub provenance: &'a Provenance,
    /// Folder whose tokenizer files are copied byte for byte; without it the tokenizer is written.
    pub tokenizer_dir: Option<&'a Path>,
    /// Sampling defaults: a `generation_config.json` that is carried over.
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
        .map(|&format| export_format(plan, format, student, context, &dir.join(folder(format))))
        .collect()
}

/// Name of a format, in recipes and as a folder.
pub fn folder(format: ExportFormat) -> &'static str {
    match format {
        ExportFormat::HuggingFace => "huggingface",
        ExportFormat::CompressedTensors => "compressed-tensors",
        ExportFormat::Gguf => "gguf",
        ExportFormat::Gptq => "gptq",
        ExportFormat::Awq => "awq",
        ExportFormat::Mlx => "mlx",
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
    allocator::give_freed_pages_back(); // of what came before
    let student = &student.unrolled(); // no format has shared layers
    let config = &student.decoder.config;
    if let Some(refusal) = refusal_by(format, &student.schemes, plan.dtype, config) {
        return Err(refusal.into());
    }
    // The model that runs is let go of before its folder is read: beside the student there is one at a time.
    let predictions = predictions(&student.effective(), context.rows);
    let storage = Storage::of(plan, format, student);
    let stored = |spec: &ParameterSpec, free| {
        let weight = student.effective_weight(spec, free);
        storage.decoded(spec, weight, student)
    };
    let written = {
        let files = Files {
            dir,
            max_shard_bytes: plan.max_shard_size,
        };
        write_model(&storage, student, context, files)?
    };
    let rebuilt = if format == ExportFormat::Gguf {
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

    let budget = if storage.is_exact(student) {
        Budget::LogitDifference(plan.max_logit_difference)
    } else {
        Budget::Kl(plan.max_rounding_kl)
    };
    let expected = Expectation {
        format: folder(format),
        weights: &student.decoder,
        stored: &stored,
        predictions: &predictions,
        budget,
    };
    allocator::give_freed_pages_back(); // of what was written, before the model is there twice
    let verification = verify(&written, context.rows, &expected)?;
    let card = model_card(&CardFacts {
        is_rebuilt: rebuilt.is_some(),
        ..card_facts(&storage, config, context, &written, &verification)
    });
    files::write_atomically(&dir.join("README.md"), |out| out.write_all(card.as_bytes()))?;
    Ok(verification)
}

/// Writes what stands beside the weights of a folder. Returns a tokenizer that transformers builds anew whatever is
/// written, after telling of it.
fn write_beside(
    dir: &Path,
    config: &DecoderConfig,
    context: &ExportContext<'_>,
) -> Result<Option<Rebuilt>, ExportError> {
    match context.tokenizer_dir {
        Some(source) => huggingface::write_tokenizer(dir, config, source)?,
        None => context.tokenizer.save(dir)?,
    }
    huggingface::write_generation(dir, config, context.generation)?;
    let rebuilt = huggingface::keep_as_it_is(dir, config)?;
    if let Some(rebuilt) = &rebuilt {
        progress::say(&format!(
            "note: {}; no `tokenizer_class` changes that for this family: load it with `{AS_IT_IS}`",
            rebuilt.note()
        ));
    }
    Ok(rebuilt)
}

/// How weights are stored.
enum Storage {
    /// All in one dtype.
    Plain(ExportDtype),
    /// Weights that have a scheme as codes, the rest in a dtype; in compressed-tensors if no other container is named.
    Packed(Option<Container>, BTreeSet<Scheme>, ExportDtype),
    /// In blocks of ggml; on the student's grids, where the blocks hold these.
    Gguf(gguf::Storage),
}

impl Storage {
    fn of(plan: &ExportPlan, format: ExportFormat, student: &Student) -> Self {
        let container = Container::of(format);
        let schemes = || student.schemes.values().copied().collect();
        match format {
            _ if container.is_some() => Self::Packed(container, schemes(), plan.dtype),
            ExportFormat::CompressedTensors if !student.schemes.is_empty() => {
                Self::Packed(None, schemes(), plan.dtype)
            }
            ExportFormat::Gguf => {
                Self::Gguf(gguf::Storage::of(plan, |kind| student.only_grid(kind)))
            }
            _ => Self::Plain(plan.dtype),
        }
    }

    /// Whether codes and scales of a weight are stored as they are.
    fn holds(&self, spec: &ParameterSpec, student: &Student) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Packed(..) => student.grid_of(spec).is_some(),
            Self::Gguf(storage) => {
                let grid = student.only_grid(spec.kind());
                grid.is_some_and(|grid| storage.holds(spec.kind(), grid))
            }
        }
    }

    /// Whether every weight that runs is stored as it is.
    fn is_exact(&self, student: &Student) -> bool {
        let mut parameters = student.decoder.parameters().into_iter();
        parameters.all(|(spec, free)| {
            let runs = student.effective_weight(&spec, free);
            let stored = self.decoded(&spec, runs.clone(), student);
            tensors::are_equal(&stored, &runs)
        })
    }

    /// A weight as the folder holds it.
    fn decoded(&self, spec: &ParameterSpec, weight: Tensor<2>, student: &Student) -> Tensor<2> {
        let rounded = |round: &dyn Fn(Vec<f32>) -> Vec<f32>| {
            let data = TensorData::new(round(tensors::to_vec(&weight)), spec.shape);
            Tensor::from_data(data, &weight.device())
        };
        let bf16 = |values: Vec<f32>| {
            values
                .into_iter()
                .map(|x| bf16::from_f32(x).to_f32())
                .collect()
        };
        let f16 = |values: Vec<f32>| {
            values
                .into_iter()
                .map(|x| f16::from_f32(x).to_f32())
                .collect()
        };
        match self {
            _ if self.holds(spec, student) => weight,
            Self::Plain(ExportDtype::F32) | Self::Packed(.., ExportDtype::F32) => weight,
            Self::Plain(ExportDtype::Bf16) | Self::Packed(.., ExportDtype::Bf16) => rounded(&bf16),
            Self::Plain(ExportDtype::F16) | Self::Packed(.., ExportDtype::F16) => rounded(&f16),
            Self::Gguf(storage) => {
                let config = &student.decoder.config;
                rounded(&|values| gguf::stored(spec, values, *storage, config))
            }
        }
    }
}

/// Writes the weights and what describes them; the path by which they are read again.
fn write_model(
    storage: &Storage,
    student: &Student,
    context: &ExportContext<'_>,
    files: Files<'_>,
) -> Result<PathBuf, ExportError> {
    let parameters = student.decoder.parameters().into_iter();
    let free: BTreeMap<WeightId, Tensor<2>> =
        parameters.map(|(spec, weight)| (spec.id, weight)).collect();
    let weight = |spec: &ParameterSpec| {
        tensors::to_vec(&student.effective_weight(spec, free[&spec.id].clone()))
    };
    let quantized = |scheme: Scheme, spec: &ParameterSpec| {
        let free = &free[&spec.id];
        if let Some(loaded) = student.loaded_on_grid(spec, scheme, free) {
            return loaded;
        }
        // Free weights go through the same function that training used, so the codes are those trained against.
        host(&student.quantize(spec, scheme, student.masked(spec.id, free.clone())))
    };
    let config = &student.decoder.config;
    match storage {
        Storage::Plain(dtype) => huggingface::write_model(files, config, *dtype, weight)?,
        Storage::Packed(container, _, dtype) => {
            let schemes = &student.schemes;
            let quantized = |spec: &ParameterSpec, scheme: Scheme| quantized(scheme, spec);
            match *container {
                None => compressed_tensors::write_model(
                    files, config, schemes, *dtype, weight, quantized,
                )?,
                Some(container) => {
                    let held = (container, schemes);
                    containers::write_model(files, config, held, *dtype, weight, quantized)?;
                }
            }
        }
        Storage::Gguf(blocks) => {
            let model = gguf::Model {
                name: context.name,
                config,
                storage: *blocks,
                tokenizer: context.tokenizer,
                template_dir: context.tokenizer_dir,
                generation: context.generation,
                license: context.provenance.license(),
            };
            let codes = |spec: &ParameterSpec| {
                let scheme = student.scheme_of(spec);
                let held = scheme.filter(|_| storage.holds(spec, student));
                held.map(|scheme| quantized(scheme, spec))
            };
            return gguf::write_model(files.dir, &model, weight, codes);
        }
    }
    Ok(files.dir.to_path_buf())
}

fn host(quantized: &Quantized) -> OnGrid {
    let read = |tensor: &Tensor<3>| {
        tensor
            .try_to_vec_as::<f32>()
            .expect("codes and scales are f32")
    };
    OnGrid::new(
        read(&quantized.codes),
        read(&quantized.scaling.scales),
        quantized.scaling.zeros.as_ref().map(read),
    )
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
        engine: match storage {
            Storage::Plain(_) => Engine::Transformers,
            Storage::Packed(None, ..) => Engine::CompressedTensors,
            Storage::Packed(Some(container), ..) => Engine::Of(*container),
            Storage::Gguf(..) => Engine::LlamaCpp {
                file: written
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
            },
        },
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |dtype: &ExportDtype| match dtype {
            ExportDtype::Bf16 => "bfloat16",
            ExportDtype::F16 => "float16",
            ExportDtype::F32 => "float32",
        };
        match self {
            Self::Plain(dtype) => f.write_str(name(dtype)),
            Self::Packed(_, schemes, dtype) => {
                for scheme in schemes {
                    write!(f, "{scheme}, ")?;
                }
                write!(f, "{} elsewhere", name(dtype))
            }
            Self::Gguf(storage) => {
                write!(f, "{}, embedding ", storage.linear.name())?;
                if storage.embedding == storage.output {
                    f.write_str("and ")?;
                } else {
                    write!(f, "{}, ", storage.embedding.name())?;
                }
                write!(f, "output {}, vectors F32", storage.output.name())
            }
        }
    }
}
