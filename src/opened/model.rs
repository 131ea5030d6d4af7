//! A model on disk under any path that names one: a model folder, a `.gguf` file, the folder of a pass, an export or a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use burn::tensor::Device;
use serde_json::{Map, Value};

use super::run_folder::ModelPath;
use crate::checkpoint::{Checkpoint, CheckpointError, StoredWeight, described, generation_of};
use crate::data::{Tokenizer, TokenizerError};
use crate::files::with_path;
use crate::gguf::GgufFile;
use crate::hashes::Identity;
use crate::hub;
use crate::kernels::{Arithmetic, Passes};
use crate::model::{Decoder, DecoderConfig, Schemes, parameter_specs};
use crate::student::{STUDENT_FILE, Student, StudentHeader};
use crate::teacher::{load_decoder, load_teacher};
use crate::vocabulary::{Vocabulary, VocabularyError};

/// A model whose headers have been read; weights are read from it later, without opening it again.
#[derive(Debug)]
pub struct StoredModel {
    weights: Weights,
    /// Name of the run that it belongs to, if the run was named.
    name: Option<String>,
    /// Which folder of the run was taken.
    note: Option<String>,
}

/// Where the weights of a model are.
#[derive(Debug)]
enum Weights {
    /// A model folder or a `.gguf` file.
    Checkpoint(Box<Checkpoint>),
    /// The folder of a finished pass.
    Pass(Box<PassFolder>),
}

/// The folder of a finished pass: its student, and the tokenizer beside it.
#[derive(Debug)]
struct PassFolder {
    dir: PathBuf,
    header: StudentHeader,
    generation: Map<String, Value>,
    /// Identity of its file when the header was read.
    opened: Identity,
}

impl StoredModel {
    /// Reads the headers of the model that a path means; see [`ModelPath::of`].
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let ModelPath { path, name, note } = ModelPath::of(path)?;
        let weights = if path.join(STUDENT_FILE).exists() {
            let opened = student_file(&path)?;
            Weights::Pass(Box::new(PassFolder {
                header: StudentHeader::read(&path)?,
                generation: generation_of(&path)?,
                dir: path,
                opened,
            }))
        } else {
            Weights::Checkpoint(Box::new(Checkpoint::open(&path)?))
        };
        Ok(Self {
            weights,
            name,
            note,
        })
    }

    /// The model of a checkpoint.
    pub fn of(checkpoint: Checkpoint) -> Self {
        Self {
            weights: Weights::Checkpoint(Box::new(checkpoint)),
            name: None,
            note: None,
        }
    }

    /// True if its weights can be read; see [`Checkpoint::without_weights`].
    pub fn has_weights(&self) -> bool {
        self.checkpoint().is_none_or(Checkpoint::has_weights)
    }

    /// Name of the run that it belongs to, if the run was named.
    pub fn run_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Name of the model: that of its run, or else of its repository on the hub, its folder or file; `model` if there is none.
    pub fn name(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let path = self.path();
        // A file of the hub's cache is a link to a content, and its folder is named after a commit.
        if let Some((_, id)) = hub::origin(path) {
            let file = self.gguf().and_then(|_| path.file_stem());
            let file = file.map(|file| file.to_string_lossy().into_owned());
            let name = id.id.rsplit('/').next().unwrap_or_default();
            return file.unwrap_or_else(|| name.to_owned());
        }
        let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let name = match self.gguf() {
            Some(_) => path.file_stem(),
            None => path.file_name(),
        };
        let name = name.unwrap_or_default().to_string_lossy().into_owned();
        if name.is_empty() {
            "model".to_owned()
        } else {
            name
        }
    }

    /// The checkpoint; `None` for the folder of a pass.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => Some(checkpoint),
            Weights::Pass(_) => None,
        }
    }

    /// The header of the student of a pass.
    pub fn student_header(&self) -> Option<&StudentHeader> {
        match &self.weights {
            Weights::Checkpoint(_) => None,
            Weights::Pass(pass) => Some(&pass.header),
        }
    }

    /// Folder or file that the weights are read from.
    pub fn path(&self) -> &Path {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => checkpoint.path(),
            Weights::Pass(pass) => &pass.dir,
        }
    }

    /// Architecture of the model that runs.
    pub fn config(&self) -> &DecoderConfig {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => checkpoint.config(),
            Weights::Pass(pass) => &pass.header.config,
        }
    }

    /// GGUF file, if the model is one.
    pub fn gguf(&self) -> Option<&GgufFile> {
        self.checkpoint()?.gguf()
    }

    /// Notes to the user: which folder of a run was taken, and those of [`Checkpoint::notes`].
    pub fn notes(&self) -> Vec<String> {
        let note = self.note.iter().cloned();
        let checkpoint = self.checkpoint();
        note.chain(checkpoint.map_or_else(Vec::new, Checkpoint::notes))
            .collect()
    }

    /// Sampling defaults.
    pub fn generation(&self) -> &Map<String, Value> {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => checkpoint.generation(),
            Weights::Pass(pass) => &pass.generation,
        }
    }

    /// Schemes of weights that the model has by its headers; see [`Checkpoint::schemes`].
    pub fn schemes(&self) -> Schemes {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => checkpoint.schemes(),
            Weights::Pass(pass) => pass.header.schemes.clone(),
        }
    }

    /// Grids that its matrices are on, described; `None` if all are plain.
    pub fn grids(&self) -> Option<String> {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => checkpoint.grids(),
            Weights::Pass(pass) => described(&pass.header.schemes),
        }
    }

    /// Bytes of its weights on disk.
    pub fn num_bytes(&self) -> io::Result<u64> {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => Ok(checkpoint.num_bytes()),
            Weights::Pass(pass) => {
                let path = pass.dir.join(STUDENT_FILE);
                let found = fs::metadata(&path).map_err(|error| with_path(error, &path))?;
                Ok(found.len())
            }
        }
    }

    /// Tokens of the model, or the error of reading them.
    pub fn vocabulary(&self) -> Result<Vocabulary, VocabularyError> {
        Vocabulary::of_model(self.path(), self.tokenizer()?, self.config())
    }

    /// The tokenizer of the model; every added token has a row.
    pub fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        match self.gguf() {
            Some(file) => Tokenizer::of_gguf(file),
            None => Tokenizer::with_rows(self.path(), self.promised_rows()),
        }
    }

    /// Rows of its embedding, as far as its headers promise them.
    pub fn promised_rows(&self) -> Option<u64> {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => checkpoint.promised_rows(),
            Weights::Pass(pass) => Some(pass.header.config.vocab_size as u64),
        }
    }

    /// True if the files have not changed since they were opened.
    pub fn is_as_opened(&self) -> Result<bool, CheckpointError> {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => checkpoint.is_as_opened(),
            Weights::Pass(pass) => Ok(student_file(&pass.dir)? == pass.opened),
        }
    }

    /// File of the student of a pass.
    pub fn student_file(&self) -> Option<PathBuf> {
        match &self.weights {
            Weights::Checkpoint(_) => None,
            Weights::Pass(pass) => Some(pass.dir.join(STUDENT_FILE)),
        }
    }

    /// The model that runs.
    pub fn decoder(&self, device: &Device) -> Result<Decoder, CheckpointError> {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => load_decoder(checkpoint, device),
            Weights::Pass(pass) => Ok(pass.student(device)?.effective()),
        }
    }

    /// The model that runs, without the rows of ids from `num_tokens` on; see [`load_teacher`].
    pub fn teacher(
        &self,
        num_tokens: usize,
        arithmetic: Arithmetic,
        device: &Device,
    ) -> Result<Decoder, CheckpointError> {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => {
                load_teacher(checkpoint, num_tokens, arithmetic, device)
            }
            Weights::Pass(pass) => {
                let decoder = pass.student(device)?.effective().with_tokens(num_tokens);
                Ok(decoder.with_arithmetic(arithmetic).packed(Passes::Forward))
            }
        }
    }

    /// The student as it is: on its grids, if it has any.
    pub fn student(&self, device: &Device) -> Result<Student, CheckpointError> {
        let checkpoint = match &self.weights {
            Weights::Pass(pass) => return pass.student(device),
            Weights::Checkpoint(checkpoint) => checkpoint,
        };
        let student = Student::new(load_decoder(checkpoint, device)?);
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

    /// The student off its grids: what a pass starts from. Weights that a pass has pruned stay pruned.
    pub fn free_student(&self, device: &Device) -> Result<Student, CheckpointError> {
        let student = match &self.weights {
            Weights::Checkpoint(checkpoint) => Student::new(load_decoder(checkpoint, device)?),
            Weights::Pass(pass) => pass.student(device)?,
        };
        if student.schemes.is_empty() {
            return Ok(student);
        }
        let masks = student.unrolled().masks;
        Ok(Student {
            masks,
            ..Student::new(student.effective())
        })
    }

    /// Reads every weight once, and refuses what cannot be loaded.
    pub fn check_weights(&self, device: &Device) -> Result<(), CheckpointError> {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => checkpoint.check_weights(),
            Weights::Pass(pass) => pass.student(device).map(drop),
        }
    }
}

impl PassFolder {
    fn student(&self, device: &Device) -> Result<Student, CheckpointError> {
        Ok(Student::load(&self.dir, device)?)
    }
}

/// Identity of the weights of a pass.
fn student_file(dir: &Path) -> io::Result<Identity> {
    let path = dir.join(STUDENT_FILE);
    let metadata = fs::metadata(&path).map_err(|error| with_path(error, &path))?;
    Ok(Identity::of(&metadata))
}
