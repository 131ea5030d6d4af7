//! Source of a conversion: a checkpoint, or the result of a pass of a run.

use std::io;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::{Map, Value};

use super::ConvertError;
use crate::checkpoint::{CheckpointError, generation_of, second_rounding};
use crate::data::{Rebuilt, Tokenizer, tokenizer_dir, tokenizer_path};
use crate::export::Ancestor;
use crate::gguf::{GgufFile, is_gguf};
use crate::hashes::Hashes;
use crate::model::{DecoderConfig, ParameterKind, parameter_specs};
use crate::opened::{ModelPath, StoredModel};
use crate::progress;
use crate::stages::{Changed, StagesError, model_hash};
use crate::student::Student;

/// Source of a conversion.
pub(super) struct Source(StoredModel);

/// A tokenizer, and the files it was read from.
pub(super) struct SourceTokenizer {
    pub(super) tokenizer: Tokenizer,
    /// Folder whose files an export copies; none for a GGUF file or a file without a model folder.
    pub(super) dir: Option<PathBuf>,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, ConvertError> {
        Ok(Self(StoredModel::open(path)?))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Name of the model, which the result is named after.
    pub(super) fn name(&self) -> String {
        self.0.name()
    }

    /// The source as an ancestor of the result.
    pub(super) fn ancestor(&self) -> Ancestor {
        let found = Ancestor::of(self.path(), self.gguf());
        Ancestor {
            name: match found.commit {
                Some(_) => found.name,
                None => self.name(),
            },
            ..found
        }
    }

    /// GGUF file, if the source is one.
    pub(super) fn gguf(&self) -> Option<&GgufFile> {
        self.0.gguf()
    }

    /// Bytes of its weights on disk.
    pub(super) fn num_bytes(&self) -> io::Result<u64> {
        self.0.num_bytes()
    }

    /// BLAKE3 (hex) of all that the model computes with; an error if the source has changed since it was opened.
    pub(super) fn hash(&self) -> Result<String, ConvertError> {
        let hash = model_hash(&self.0, &Hashes::of_this_process(0.0)).map_err(StagesError::from)?;
        self.check_unchanged()?;
        Ok(hash)
    }

    /// Refuses weights that have changed since the source was opened.
    fn check_unchanged(&self) -> Result<(), ConvertError> {
        if self.0.is_as_opened().map_err(StagesError::from)? {
            return Ok(());
        }
        let path = self.path().to_path_buf();
        Err(StagesError::Changed(Changed::Model { path }).into())
    }

    /// The student as it is: on its grids, if it has any.
    pub(super) fn student(&self, device: &Device) -> Result<Student, ConvertError> {
        self.read(|model| model.student(device))
    }

    /// Grids that its weights are on, described.
    pub(super) fn grids(&self) -> Option<String> {
        self.0.grids()
    }

    /// The student off its grids, which are noted: it is about to be rounded again. Pruned weights stay pruned.
    pub(super) fn free_student(&self, device: &Device) -> Result<Student, ConvertError> {
        let student = self.read(|model| model.free_student(device))?;
        if let Some(grids) = self.grids() {
            progress::log_notes(&[second_rounding(&grids)]);
        }
        Ok(student)
    }

    fn read(
        &self,
        read: impl FnOnce(&StoredModel) -> Result<Student, CheckpointError>,
    ) -> Result<Student, ConvertError> {
        progress::log(&format!("checkpoint: reading {}", self.name()));
        progress::log_notes(&self.0.notes());
        let student = read(&self.0)?;
        self.check_unchanged()?;
        Ok(student)
    }

    /// True if weights are on grids, whether or not the grids can be recovered.
    pub(super) fn is_quantized(&self) -> bool {
        !self.0.schemes().is_empty()
    }

    /// True if the inputs of projections are rounded, as far as the headers record it.
    pub(super) fn rounds_inputs(&self) -> bool {
        let schemes = self.0.schemes();
        schemes.values().any(|scheme| scheme.input.is_some())
    }

    /// Sampling defaults: the source's own; for a pass, from the files beside the given tokenizer.
    pub(super) fn generation(
        &self,
        given: Option<&Path>,
    ) -> Result<Map<String, Value>, ConvertError> {
        match given.filter(|_| self.0.checkpoint().is_none()) {
            Some(path) => Ok(generation_of(path)?),
            None => Ok(self.0.generation().clone()),
        }
    }

    /// The source's own tokenizer, or the given one; every id has a row.
    pub(super) fn tokenizer(
        &self,
        given: Option<&Path>,
        config: &DecoderConfig,
    ) -> Result<SourceTokenizer, ConvertError> {
        let given = given.map(ModelPath::of).transpose()?;
        let given = given.as_ref().map(|given| given.path.as_path());
        let path = given.unwrap_or(self.path());
        if path.is_dir() && !tokenizer_path(path).exists() {
            let dir = path.to_path_buf();
            return Err(ConvertError::NoTokenizer { dir });
        }
        let is_file = path.is_file() && !is_gguf(path);
        let tokenizer = match given {
            None => self.0.tokenizer()?,
            Some(_) if is_file => Tokenizer::open(path)?,
            Some(_) => Tokenizer::of_model(path)?,
        };
        if tokenizer.vocab_size() > config.vocab_size {
            return Err(ConvertError::Vocabulary {
                num_tokens: tokenizer.vocab_size(),
                num_rows: config.vocab_size,
            });
        }
        let model_type = config.architecture.model_type();
        let dir = tokenizer_dir(path);
        if let Some(rebuilt) = Rebuilt::of_folder(path, model_type, &tokenizer) {
            progress::log_notes(&[rebuilt.note()]);
        }
        Ok(SourceTokenizer { tokenizer, dir })
    }
}

/// True if any projection is on a grid.
pub(super) fn is_quantized(student: &Student) -> bool {
    let specs = parameter_specs(&student.decoder.config);
    let mut linear = specs
        .iter()
        .filter(|spec| spec.kind() == ParameterKind::Linear);
    linear.any(|spec| student.grid_of(spec).is_some())
}
