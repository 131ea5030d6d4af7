//! Storage of the weights of one export, from its format, its plan and the student's grids.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use burn::tensor::{Tensor, TensorData};

use super::{ExportContext, ExportPlan};
use crate::formats::gguf::{self, BlockTypes};
use crate::formats::{Codes, ExportDtype, Files, Format, WriteError, Writer, write_folder};
use crate::model::{OnGrid, ParameterSpec, Scheme, Schemes, WeightId};
use crate::student::Student;
use crate::tensors;

/// Storage of all weights.
pub(super) struct Storage {
    format: Format,
    stored: WeightStorage,
    /// Dtype of weights that are neither codes nor in blocks.
    dtype: ExportDtype,
}

enum WeightStorage {
    /// All weights in one dtype.
    Plain,
    /// Weights with a scheme as codes, the rest in the dtype.
    Codes(&'static Codes, BTreeSet<Scheme>),
    /// All weights in blocks of ggml; on the student's grids if the blocks can hold them.
    Blocks(BlockTypes),
}

impl Storage {
    /// Storage for a format. A format of codes becomes a plain folder if nothing is on a grid.
    pub(super) fn of(plan: &ExportPlan, format: Format, student: &Student) -> Self {
        let dtype = plan.dtype;
        let (format, stored) = match format.writer() {
            Writer::Codes(_) if student.schemes.is_empty() => {
                (Format::HuggingFace, WeightStorage::Plain)
            }
            Writer::Codes(codes) => {
                let schemes = student.schemes.values().copied().collect();
                (format, WeightStorage::Codes(codes, schemes))
            }
            Writer::Plain => (format, WeightStorage::Plain),
            Writer::Blocks => {
                let types = BlockTypes::of(plan.gguf, dtype, |kind| student.only_grid(kind));
                (format, WeightStorage::Blocks(types))
            }
        };
        Self {
            format,
            stored,
            dtype,
        }
    }

    /// The format of the weights.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// True if codes and scales of a weight are stored as they are.
    fn holds(&self, spec: &ParameterSpec, student: &Student) -> bool {
        match &self.stored {
            WeightStorage::Plain => false,
            WeightStorage::Codes(..) => student.grid_of(spec).is_some(),
            WeightStorage::Blocks(types) => {
                let grid = student.only_grid(spec.kind());
                grid.is_some_and(|grid| types.holds(spec.kind(), grid))
            }
        }
    }

    /// True if every weight that runs is stored as it is.
    pub(super) fn is_exact(&self, student: &Student) -> bool {
        let mut parameters = student.decoder.parameters().into_iter();
        parameters.all(|(spec, free)| {
            let runs = student.effective_weight(&spec, free);
            let stored = self.decoded(&spec, runs.clone(), student);
            tensors::are_equal(&stored, &runs)
        })
    }

    /// A weight as the folder holds it.
    pub(super) fn decoded(
        &self,
        spec: &ParameterSpec,
        weight: Tensor<2>,
        student: &Student,
    ) -> Tensor<2> {
        let in_dtype = !matches!(self.stored, WeightStorage::Blocks(_));
        if self.holds(spec, student) || in_dtype && self.dtype == ExportDtype::F32 {
            return weight;
        }
        let values = tensors::to_vec(&weight);
        let stored = match &self.stored {
            WeightStorage::Blocks(types) => {
                gguf::stored(spec, values, *types, &student.decoder.config)
            }
            WeightStorage::Plain | WeightStorage::Codes(..) => {
                let rounded = values.into_iter().map(|value| self.dtype.rounded(value));
                rounded.collect()
            }
        };
        Tensor::from_data(TensorData::new(stored, spec.shape), &weight.device())
    }

    /// Writes the weights and their description. Returns the path to read them from.
    pub(super) fn write(
        &self,
        student: &Student,
        context: &ExportContext<'_>,
        files: Files<'_>,
    ) -> Result<PathBuf, WriteError> {
        let parameters = student.decoder.parameters().into_iter();
        let free: BTreeMap<WeightId, Tensor<2>> =
            parameters.map(|(spec, weight)| (spec.id, weight)).collect();
        let weight = |spec: &ParameterSpec| {
            tensors::to_vec(&student.effective_weight(spec, free[&spec.id].clone()))
        };
        let quantized = |spec: &ParameterSpec, scheme: Scheme| {
            let free = &free[&spec.id];
            if let Some(loaded) = student.loaded_on_grid(spec, scheme, free) {
                return loaded;
            }
            // Free weights go through the same function as in training, so the codes are the ones that were trained against.
            let weight = student.masked(spec.id, free.clone());
            OnGrid::from(&student.quantize(spec, scheme, weight))
        };
        let config = &student.decoder.config;
        let folder = |codes: Option<(&Codes, &Schemes)>| {
            write_folder(files, config, codes, self.dtype, weight, quantized)
        };
        match &self.stored {
            WeightStorage::Plain => folder(None)?,
            WeightStorage::Codes(codes, _) => folder(Some((codes, &student.schemes)))?,
            WeightStorage::Blocks(types) => {
                let model = gguf::GgufModel {
                    name: context.name,
                    config,
                    types: *types,
                    tokenizer: context.tokenizer,
                    template_dir: context.tokenizer_dir,
                    generation: context.generation,
                    license: context.provenance.license(),
                };
                let codes = |spec: &ParameterSpec| {
                    let scheme = student.scheme_of(spec);
                    let held = scheme.filter(|_| self.holds(spec, student));
                    held.map(|scheme| quantized(spec, scheme))
                };
                return gguf::write_model(files.dir, &model, weight, codes);
            }
        }
        Ok(files.dir.to_path_buf())
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtype = self.dtype.name();
        match &self.stored {
            WeightStorage::Plain => f.write_str(dtype),
            WeightStorage::Codes(_, schemes) => {
                for scheme in schemes {
                    write!(f, "{scheme}, ")?;
                }
                write!(f, "{dtype} elsewhere")
            }
            WeightStorage::Blocks(types) => {
                write!(f, "{}, embedding ", types.linear.name())?;
                if types.embedding == types.output {
                    f.write_str("and ")?;
                } else {
                    write!(f, "{}, ", types.embedding.name())?;
                }
                write!(f, "output {}, vectors F32", types.output.name())
            }
        }
    }
}
