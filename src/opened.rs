//! Models and tokenizer that a recipe names, opened once: whatever looks at one during a run is given the same.

use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::data::{TokenizerPlan, tokenizer_dir};
use crate::files;
use crate::formats::huggingface::tokenizer_files;
use crate::model::DecoderConfig;
use crate::plan::Plan;
use crate::student::StudentPlan;
use crate::vocabulary::{Vocabulary, VocabularyError};

/// A model: the headers of its weights, and its tokenizer.
#[derive(Debug)]
pub struct OpenedModel {
    /// Weights are read of it later, and not opened again.
    pub checkpoint: Checkpoint,
    /// A model may have none and still teach, or be a student.
    pub vocabulary: Result<Vocabulary, VocabularyError>,
}

impl OpenedModel {
    fn open(path: &Path) -> Result<Self, CheckpointError> {
        let checkpoint = Checkpoint::open(path)?;
        let vocabulary = Vocabulary::of_checkpoint(&checkpoint);
        Ok(Self {
            checkpoint,
            vocabulary,
        })
    }

    /// Architecture.
    pub fn config(&self) -> &DecoderConfig {
        self.checkpoint.config()
    }
}

/// Names of files and BLAKE3 (hex) of each.
pub type FileHashes = Vec<(String, String)>;

/// The models and the tokenizer of a recipe.
///
/// One that cannot be opened is kept as its error, for whoever needs it: `preflight` points it at the line of the recipe.
#[derive(Debug)]
pub struct Opened {
    /// The teacher.
    pub teacher: Option<Result<OpenedModel, CheckpointError>>,
    /// The checkpoint that the student starts from, unless it is the teacher's; see [`student_of`].
    pub own_student: Option<Result<OpenedModel, CheckpointError>>,
    /// The tokenizer that is named by its file.
    pub tokenizer: Option<Result<Vocabulary, VocabularyError>>,
    /// The [`copied_files`] before any tokenizer was read: if they still are, it was read from these.
    pub copied_files: io::Result<FileHashes>,
}

impl Opened {
    /// Opens all; writes nothing.
    pub fn open(plan: &Plan) -> Self {
        let copied_files = copied_files(plan);
        let teacher = plan.teacher.as_ref().map(|teacher| &teacher.checkpoint);
        let own_student = match &plan.student {
            StudentPlan::Checkpoint(path) => Some(path).filter(|path| teacher != Some(path)),
            StudentPlan::FromTeacher(_) | StudentPlan::Architecture(_) => None,
        };
        let tokenizer = match &plan.data.tokenizer {
            TokenizerPlan::File(path) => Some(Vocabulary::of_tokenizer(path)),
            TokenizerPlan::Teacher | TokenizerPlan::Train(_) => None,
        };
        Self {
            teacher: teacher.map(|path| OpenedModel::open(path)),
            own_student: own_student.map(|path| OpenedModel::open(path)),
            tokenizer,
            copied_files,
        }
    }

    /// The checkpoint that the student starts from, if there is one.
    pub fn student(&self, plan: &Plan) -> Option<&Result<OpenedModel, CheckpointError>> {
        student_of(plan, self.teacher.as_ref(), self.own_student.as_ref())
    }
}

/// The model that a student starts from, of the teacher's and of its own: one that is its own teacher is not there twice.
pub fn student_of<M>(plan: &Plan, teacher: Option<M>, own: Option<M>) -> Option<M> {
    match plan.student {
        StudentPlan::Checkpoint(_) => own.or(teacher),
        StudentPlan::FromTeacher(_) | StudentPlan::Architecture(_) => None,
    }
}

/// The files of a tokenizer that an export copies, as they are now.
pub fn copied_files(plan: &Plan) -> io::Result<FileHashes> {
    let Some(dir) = carried_tokenizer(plan) else {
        return Ok(Vec::new());
    };
    let files = tokenizer_files(&dir)?.into_iter();
    let hashed = files.map(|(name, path)| Ok((name, files::hash_file(&path)?)));
    hashed.collect()
}

/// The folder whose tokenizer files an export copies: the teacher's, or that of a `tokenizer.json` that is named.
pub fn carried_tokenizer(plan: &Plan) -> Option<PathBuf> {
    match &plan.data.tokenizer {
        TokenizerPlan::Teacher => tokenizer_dir(&plan.teacher.as_ref()?.checkpoint),
        TokenizerPlan::File(path) => tokenizer_dir(path),
        TokenizerPlan::Train { .. } => None,
    }
}
