//! Models and tokenizer that a recipe names, opened once, so that all parts of a run use the same.

mod model;
mod run_folder;

use std::io;
use std::path::{Path, PathBuf};

pub use self::model::StoredModel;
pub use self::run_folder::{
    ARTIFACT_FILE, Finished, Lineup, ModelPath, RunFolder, STAGE_FILE, StageState,
};
use crate::checkpoint::CheckpointError;
use crate::data::{TokenizerChange, TokenizerPlan, tokenizer_dir};
use crate::files;
use crate::formats::huggingface::{check_tokenizer_file, tokenizer_files};
use crate::kept::{Away, Kept};
use crate::model::DecoderConfig;
use crate::plan::Plan;
use crate::student::StudentSource;
use crate::vocabulary::{Vocabulary, VocabularyError};

/// A model: the headers of its weights, and its tokenizer.
#[derive(Debug)]
pub struct OpenedModel {
    /// Opened model; weights are read from it later, without opening it again.
    pub model: StoredModel,
    /// Vocabulary, or the error of reading it; a model without one can still be a teacher or a student.
    pub vocabulary: Result<Vocabulary, VocabularyError>,
}

impl OpenedModel {
    fn open(path: &Path) -> Result<Self, CheckpointError> {
        Ok(Self::of(StoredModel::open(path)?))
    }

    fn of(model: StoredModel) -> Self {
        let vocabulary = model.vocabulary();
        Self { model, vocabulary }
    }

    /// Architecture.
    pub fn config(&self) -> &DecoderConfig {
        self.model.config()
    }
}

/// Names of files, with the BLAKE3 (hex) of each.
pub type FileHashes = Vec<(String, String)>;

/// Models and tokenizer of a recipe.
///
/// An input that cannot be opened is stored as its error: `preflight` reports it at the line of the recipe.
#[derive(Debug)]
pub struct Opened {
    /// The teacher.
    pub teacher: Option<Result<OpenedModel, CheckpointError>>,
    /// The checkpoint that the student starts from, unless it is the teacher's; see [`student_of`].
    pub own_student: Option<Result<OpenedModel, CheckpointError>>,
    /// The tokenizer that the recipe names by its file.
    pub tokenizer: Option<Result<Vocabulary, VocabularyError>>,
    /// Changes of the tokenizer, with the template's text.
    pub change: io::Result<TokenizerChange>,
    /// Inputs that are not on this machine.
    pub away: Away,
    /// What is kept of them.
    pub kept: Option<Kept>,
    /// Result of [`copied_files`] before any tokenizer was read; if it stays equal, the tokenizer is from these files.
    pub copied_files: io::Result<FileHashes>,
}

impl Opened {
    /// Opens everything; writes nothing.
    pub fn open(plan: &Plan) -> Self {
        let away = Away::of(plan);
        let kept = away.any().then(|| Kept::find(plan)).flatten();
        let copied_files = copied_files(plan, kept.as_ref());
        let teacher = plan.teacher.as_ref().map(|teacher| &teacher.checkpoint);
        let own_student = match &plan.student.source {
            StudentSource::Checkpoint(path) => Some(path).filter(|path| teacher != Some(path)),
            StudentSource::FromTeacher(_) | StudentSource::Architecture(_) => None,
        };
        let tokenizer = match &plan.data.tokenizer {
            TokenizerPlan::File(path) => Some(Vocabulary::of_tokenizer(path)),
            TokenizerPlan::Teacher | TokenizerPlan::Train(_) => None,
        };
        Self {
            teacher: teacher.map(|path| match &kept {
                Some(kept) if away.teacher => {
                    Ok(OpenedModel::of(StoredModel::of(kept.checkpoint())))
                }
                _ => OpenedModel::open(path),
            }),
            own_student: own_student.map(|path| OpenedModel::open(path)),
            tokenizer,
            change: plan.student.changes.tokenizer_change(),
            away,
            kept,
            copied_files,
        }
    }

    /// Checkpoint that the student starts from, if there is one.
    pub fn student(&self, plan: &Plan) -> Option<&Result<OpenedModel, CheckpointError>> {
        student_of(plan, self.teacher.as_ref(), self.own_student.as_ref())
    }
}

/// Chooses the model that a student starts from: its own, or the teacher's, which is not stored twice.
pub fn student_of<M>(plan: &Plan, teacher: Option<M>, own: Option<M>) -> Option<M> {
    match plan.student.source {
        StudentSource::Checkpoint(_) => own.or(teacher),
        StudentSource::FromTeacher(_) | StudentSource::Architecture(_) => None,
    }
}

/// Files of a tokenizer that an export copies, with their current hashes. A file that its readers could not open is
/// refused, before anything runs.
pub fn copied_files(plan: &Plan, kept: Option<&Kept>) -> io::Result<FileHashes> {
    let Some(dir) = copied_tokenizer(plan, kept) else {
        return Ok(Vec::new());
    };
    let files = tokenizer_files(&dir)?.into_iter();
    let hashed = files.map(|(name, path)| {
        check_tokenizer_file(&path)?;
        Ok((name, files::hash_file(&path)?))
    });
    hashed.collect()
}

/// Folder whose tokenizer files an export copies: the teacher's, or the folder of a named `tokenizer.json`; `None` if the
/// tokenizer is trained or changed.
pub fn copied_tokenizer(plan: &Plan, kept: Option<&Kept>) -> Option<PathBuf> {
    if plan.student.changes.of_tokenizer() {
        return None;
    }
    match &plan.data.tokenizer {
        TokenizerPlan::Teacher => match kept {
            Some(kept) if Away::of(plan).teacher => kept.tokenizer_dir(),
            _ => {
                let teacher = ModelPath::of(&plan.teacher.as_ref()?.checkpoint).ok()?;
                tokenizer_dir(&teacher.path)
            }
        },
        TokenizerPlan::File(path) => tokenizer_dir(path),
        TokenizerPlan::Train { .. } => None,
    }
}
