//! Source of a conversion: a checkpoint, or the result of a pass of a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use burn::tensor::Device;
use serde_json::{Map, Value};

use super::ConvertError;
use crate::checkpoint::{Checkpoint, StoredWeight, described, generation_of, second_rounding};
use crate::data::{Rebuilt, Tokenizer, tokenizer_dir, tokenizer_path};
use crate::files::{hash_file, with_path};
use crate::gguf::{GgufFile, is_gguf};
use crate::hashes::{Hashes, Identity};
use crate::model::{DecoderConfig, ParameterKind, parameter_specs};
use crate::progress;
use crate::stages::{Changed, StagesError, model_hash};
use crate::student::{STUDENT_FILE, Student};
use crate::teacher::load_decoder;

/// Source of a conversion.
pub(super) enum Source {
    /// A model folder or a `.gguf` file.
    Checkpoint(Box<Checkpoint>),
    /// Folder of a finished pass of a run.
    Pass {
        dir: PathBuf,
        /// Identity of its weights when the command began.
        opened: Identity,
    },
}

/// A tokenizer, and the files it was read from.
pub(super) struct SourceTokenizer {
    pub(super) tokenizer: Tokenizer,
    /// Folder whose files an export copies; none for a GGUF file or a file without a model folder.
    pub(super) dir: Option<PathBuf>,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, ConvertError> {
        if path.join(STUDENT_FILE).exists() {
            return Ok(Self::Pass {
                dir: path.to_path_buf(),
                opened: student_file(path)?,
            });
        }
        Ok(Self::Checkpoint(Box::new(Checkpoint::open(path)?)))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.path(),
            Self::Pass { dir, .. } => dir,
        }
    }

    /// Name of the folder or file, which the result is named after.
    pub(super) fn name(&self) -> String {
        let path = self.path();
        let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let name = if is_gguf(&path) {
            path.file_stem()
        } else {
            path.file_name()
        };
        let name = name.unwrap_or_default().to_string_lossy().into_owned();
        if name.is_empty() {
            "model".to_owned()
        } else {
            name
        }
    }

    /// GGUF file, if the source is one.
    pub(super) fn gguf(&self) -> Option<&GgufFile> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.gguf(),
            Self::Pass { .. } => None,
        }
    }

    /// Bytes of its weights on disk.
    pub(super) fn num_bytes(&self) -> io::Result<u64> {
        match self {
            Self::Checkpoint(checkpoint) => Ok(checkpoint.num_bytes()),
            Self::Pass { dir, .. } => {
                let path = dir.join(STUDENT_FILE);
                let found = fs::metadata(&path).map_err(|error| with_path(error, &path))?;
                Ok(found.len())
            }
        }
    }

    /// BLAKE3 (hex) of all that the model computes with; an error if the source has changed since it was opened.
    pub(super) fn hash(&self) -> Result<String, ConvertError> {
        let hash = match self {
            Self::Checkpoint(checkpoint) => {
                model_hash(checkpoint, &Hashes::of_this_process(0.0)).map_err(StagesError::from)?
            }
            Self::Pass { dir, .. } => hash_file(&dir.join(STUDENT_FILE))?,
        };
        self.check_unchanged()?;
        Ok(hash)
    }

    /// Refuses weights that have changed since the source was opened.
    fn check_unchanged(&self) -> Result<(), ConvertError> {
        let is_same = match self {
            Self::Checkpoint(checkpoint) => checkpoint.is_as_opened().map_err(StagesError::from)?,
            Self::Pass { dir, opened } => student_file(dir)? == *opened,
        };
        if is_same {
            return Ok(());
        }
        let path = self.path().to_path_buf();
        Err(StagesError::Changed(Changed::Model { path }).into())
    }

    /// The student as it is: on its grids, if it has any.
    pub(super) fn student(&self, device: &Device) -> Result<Student, ConvertError> {
        let student = self.loaded(device)?;
        let Self::Checkpoint(checkpoint) = self else {
            return Ok(student);
        };
        let mut schemes = checkpoint.schemes();
        schemes.extend(checkpoint.block_schemes());
        let mut scalings = BTreeMap::new();
        for spec in parameter_specs(&student.decoder.config) {
            if schemes.contains_key(&spec.id)
                && let StoredWeight::OnGrid(weight) = checkpoint.weight(&spec)?
            {
                scalings.insert(spec.id, weight.scaling);
            }
        }
        Ok(student.on_loaded_grids(&schemes, scalings))
    }

    /// True if weights are on grids, whether or not the grids can be recovered.
    pub(super) fn is_quantized(&self) -> bool {
        match self {
            Self::Checkpoint(checkpoint) => !checkpoint.schemes().is_empty(),
            Self::Pass { .. } => false, // its student decides
        }
    }

    /// True if the inputs of projections are rounded, as far as the checkpoint records it.
    pub(super) fn rounds_inputs(&self) -> bool {
        match self {
            Self::Checkpoint(checkpoint) => {
                let schemes = checkpoint.schemes();
                schemes.values().any(|scheme| scheme.input.is_some())
            }
            Self::Pass { .. } => false,
        }
    }

    /// Grids that its weights are on, described; `student` is the one that was loaded.
    pub(super) fn grids(&self, student: &Student) -> Option<String> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.grids(),
            Self::Pass { .. } => described(&student.schemes),
        }
    }

    /// The student off its grids, which are noted: it is about to be rounded again.
    pub(super) fn free_student(&self, device: &Device) -> Result<Student, ConvertError> {
        let student = self.loaded(device)?;
        if let Some(grids) = self.grids(&student) {
            progress::log_notes(&[second_rounding(&grids)]);
        }
        if student.schemes.is_empty() {
            return Ok(student);
        }
        let masks = student.unrolled().masks; // pruned weights stay pruned
        Ok(Student {
            masks,
            ..Student::new(student.effective())
        })
    }

    fn loaded(&self, device: &Device) -> Result<Student, ConvertError> {
        progress::log(&format!("checkpoint: reading {}", self.name()));
        let student = match self {
            Self::Checkpoint(checkpoint) => {
                progress::log_notes(&checkpoint.notes());
                Student::new(load_decoder(checkpoint, device)?)
            }
            Self::Pass { dir, .. } => Student::load(dir, device)?,
        };
        self.check_unchanged()?;
        Ok(student)
    }

    /// Sampling defaults: from the checkpoint's own files; for a pass, from the files beside the given tokenizer.
    pub(super) fn generation(
        &self,
        given: Option<&Path>,
    ) -> Result<Map<String, Value>, ConvertError> {
        match (self, given) {
            (Self::Checkpoint(checkpoint), _) => Ok(checkpoint.generation().clone()),
            (Self::Pass { .. }, Some(path)) => Ok(generation_of(path)?),
            (Self::Pass { .. }, None) => Ok(Map::new()),
        }
    }

    /// The source's own tokenizer, or the given one; every id has a row.
    pub(super) fn tokenizer(
        &self,
        given: Option<&Path>,
        config: &DecoderConfig,
    ) -> Result<SourceTokenizer, ConvertError> {
        let path = given.unwrap_or(self.path());
        if path.is_dir() && !tokenizer_path(path).exists() {
            let dir = path.to_path_buf();
            return Err(ConvertError::NoTokenizer { dir });
        }
        let is_file = path.is_file() && !is_gguf(path);
        let tokenizer = if is_file {
            Tokenizer::open(path)?
        } else {
            Tokenizer::of_model(path)?
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

/// Identity of the weights of a pass.
fn student_file(dir: &Path) -> io::Result<Identity> {
    let path = dir.join(STUDENT_FILE);
    let metadata = fs::metadata(&path).map_err(|error| with_path(error, &path))?;
    Ok(Identity::of(&metadata))
}

/// True if any projection is on a grid.
pub(super) fn is_quantized(student: &Student) -> bool {
    let specs = parameter_specs(&student.decoder.config);
    let mut linear = specs
        .iter()
        .filter(|spec| spec.kind() == ParameterKind::Linear);
    linear.any(|spec| student.grid_of(spec).is_some())
}
