//! Storage of the weights of one export, from its format, its plan and the student's grids.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use burn::tensor::{Tensor, TensorData};

use super::verify::Budget;
use super::{ExportContext, ExportPlan};
use crate::formats::gguf::{self, BlockTypes, GgufPlan};
use crate::formats::{Codes, ExportDtype, Files, Format, WriteError, Writer, write_folder};
use crate::gguf::WrittenType;
use crate::model::{OnGrid, ParameterKind, ParameterSpec, Scheme, Schemes, WeightId};
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
    /// All weights in blocks of ggml; on the student's grids if the blocks can hold them. The remarks tell which matrices are in
    /// other blocks than their kind.
    Blocks(BlockTypes, Vec<String>),
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
                let remarks = types.fallen(&student.decoder.config);
                (format, WeightStorage::Blocks(types, remarks))
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
            WeightStorage::Blocks(types, _) => {
                let grid = student.only_grid(spec.kind());
                grid.is_some_and(|grid| types.holds(spec.kind(), grid))
            }
        }
    }

    /// Kinds of weights that are rounded on the way: some that run are not stored as they are.
    pub(super) fn rounded(&self, student: &Student) -> Vec<ParameterKind> {
        let mut kinds = Vec::new();
        for (spec, free) in student.decoder.parameters() {
            if kinds.contains(&spec.kind()) {
                continue;
            }
            let runs = student.effective_weight(&spec, free);
            let stored = self.decoded(&spec, runs.clone(), student);
            if !tensors::are_equal(&stored, &runs) {
                kinds.push(spec.kind());
            }
        }
        kinds
    }

    /// Types that these kinds of weights are rounded to, each with the key that decides it.
    fn roundings(
        &self,
        plan: GgufPlan,
        rounded: &[ParameterKind],
    ) -> Vec<(WrittenType, &'static str)> {
        let WeightStorage::Blocks(types, _) = &self.stored else {
            return vec![(self.dtype.into(), "export.dtype")];
        };
        let of_kind = rounded.iter().filter_map(|&kind| {
            let stored = types.of_kind(kind);
            let (asked, key) = match kind {
                ParameterKind::Linear => (plan.linear, "export.gguf_type"),
                ParameterKind::Embedding | ParameterKind::Head => {
                    (plan.embedding, "export.gguf_embedding_type")
                }
                ParameterKind::Norm | ParameterKind::Bias | ParameterKind::Scale => return None,
            };
            let decides = asked.is_some() || stored.bits() < 16;
            Some((stored, if decides { key } else { "export.dtype" }))
        });
        of_kind.collect()
    }

    /// Limit on the difference that rounding these kinds of weights makes, and advice on what to write for a smaller one.
    pub(super) fn budget(&self, plan: &ExportPlan, rounded: &[ParameterKind]) -> (Budget, String) {
        if rounded.is_empty() {
            let help = "`export.max_logit_difference` is the limit".to_owned();
            return (Budget::LogitDifference(plan.max_logit_difference), help);
        }
        let mut roundings = self.roundings(plan.gguf, rounded);
        let bits = |rounding: &(WrittenType, &str)| rounding.0.bits();
        let fewest = roundings.iter().map(bits).min().unwrap_or(32);
        roundings.retain(|rounding| bits(rounding) == fewest);
        roundings.dedup();
        let finer = roundings
            .into_iter()
            .filter_map(|(kind, key)| Some(format!("`{key}: {}`", kind.finer()?.word())));
        let finer: Vec<String> = finer.collect();
        let help = if finer.is_empty() {
            "raise the limit, `export.max_rounding_kl`".to_owned()
        } else {
            let finer = finer.join(" and ");
            format!("write {finer} to round less, or raise the limit, `export.max_rounding_kl`")
        };
        (Budget::Kl(plan.rounding_limit(fewest)), help)
    }

    /// True if embedding or output matrix are rounded to blocks that no key asks for.
    pub(super) fn rounds_embedding_unasked(
        &self,
        plan: GgufPlan,
        rounded: &[ParameterKind],
    ) -> bool {
        let roundings = self.roundings(plan, rounded);
        let mut blocks = roundings.iter().filter(|(kind, _)| kind.bits() < 16);
        plan.embedding.is_none() && blocks.any(|(_, key)| *key == "export.gguf_embedding_type")
    }

    /// A weight as the folder holds it.
    pub(super) fn decoded(
        &self,
        spec: &ParameterSpec,
        weight: Tensor<2>,
        student: &Student,
    ) -> Tensor<2> {
        let in_dtype = !matches!(self.stored, WeightStorage::Blocks(..));
        if self.holds(spec, student) || in_dtype && self.dtype == ExportDtype::F32 {
            return weight;
        }
        let values = tensors::to_vec(&weight);
        let stored = match &self.stored {
            WeightStorage::Blocks(types, _) => {
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
            WeightStorage::Blocks(types, _) => {
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
            WeightStorage::Blocks(types, remarks) => {
                write!(f, "{}, embedding ", types.linear.name())?;
                if types.embedding == types.output {
                    f.write_str("and ")?;
                } else {
                    write!(f, "{}, ", types.embedding.name())?;
                }
                write!(f, "output {}, vectors F32", types.output.name())?;
                remarks
                    .iter()
                    .try_for_each(|remark| write!(f, "; {remark}"))
            }
        }
    }
}
