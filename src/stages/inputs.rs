//! Inputs of a run from outside, as the keys of its stages know them.

use std::path::Path;

use super::parts::{model_hash, tokenizer_hashes};
use super::{Changed, StagesError};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::data::{self, Prepared, Tokenizer, TokenizerPlan};
use crate::hashes::Hashes;
use crate::plan::Plan;
use crate::student::StudentPlan;

/// A model, opened and hashed once: whatever is read of it later is what was hashed.
#[derive(Debug)]
pub struct Model {
    checkpoint: Checkpoint,
    hash: String,
}

impl Model {
    /// Opens and hashes a checkpoint.
    pub fn open(path: &Path, hashes: &Hashes) -> Result<Self, CheckpointError> {
        let checkpoint = Checkpoint::open(path)?;
        let hash = model_hash(&checkpoint, hashes)?;
        Ok(Self { checkpoint, hash })
    }

    /// The checkpoint's headers; weights are read with [`Model::read`].
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// BLAKE3 (hex); see [`model_hash`].
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Reads weights, and then makes sure that they are those which were hashed.
    ///
    /// A file that was replaced is still open here and read as it was. One that was written to in its place is hashed again.
    pub fn read<T, E: From<StagesError>>(
        &self,
        read: impl FnOnce(&Checkpoint) -> Result<T, E>,
    ) -> Result<T, E> {
        let value = read(&self.checkpoint)?;
        let is_same = || -> Result<bool, CheckpointError> {
            let unremembered = Hashes::of_this_process(0.0);
            Ok(self.checkpoint.is_as_opened()?
                || model_hash(&self.checkpoint, &unremembered)? == self.hash)
        };
        if !is_same().map_err(StagesError::from)? {
            let path = self.checkpoint.path().to_path_buf();
            return Err(StagesError::Changed(Changed::Model { path }).into());
        }
        Ok(value)
    }
}

/// All that a run reads from outside: models, texts and tokenizer.
#[derive(Debug)]
pub struct Inputs {
    /// The teacher.
    pub teacher: Option<Model>,
    /// The student that the first pass starts from, where it is a checkpoint of its own.
    pub student: Option<Model>,
    /// The tokenizer, unless it is trained on the text.
    pub(super) tokenizer: Option<Tokenizer>,
    /// BLAKE3 of the training and of the validation text.
    pub(super) texts: [String; 2],
    /// Files of the tokenizer that an export copies, with their hashes.
    pub(super) tokenizer_files: Vec<(String, String)>,
}

impl Inputs {
    /// Opens and hashes all; writes nothing.
    pub(super) fn open(plan: &Plan, hashes: &Hashes) -> Result<Self, StagesError> {
        let teacher = plan.teacher.as_ref();
        let tokenizer = match (&plan.data.tokenizer, teacher) {
            (TokenizerPlan::Teacher, Some(teacher)) => {
                Some(Tokenizer::of_model(&teacher.checkpoint)?)
            }
            (TokenizerPlan::File(path), _) => Some(Tokenizer::open(path)?),
            (TokenizerPlan::Train { .. } | TokenizerPlan::Teacher, _) => None,
        };
        let teacher = teacher.map(|teacher| Model::open(&teacher.checkpoint, hashes));
        let student = match &plan.student {
            StudentPlan::Checkpoint(path) => Some(Model::open(path, hashes)?),
            StudentPlan::FromTeacher(_) | StudentPlan::Architecture(_) => None,
        };
        Ok(Self {
            teacher: teacher.transpose()?,
            student,
            tokenizer,
            texts: [
                data::content_hash(&plan.data.train, hashes)?,
                data::content_hash(&plan.data.validation, hashes)?,
            ],
            tokenizer_files: tokenizer_hashes(plan)?,
        })
    }

    /// The model whose `generation_config.json` an export carries over: the one that the student is made of, or else the
    /// teacher whose tokenizer it has.
    pub fn generation(&self, plan: &Plan) -> Option<&Checkpoint> {
        let teacher = self.teacher.as_ref();
        let model = match &plan.student {
            StudentPlan::Checkpoint(_) => self.student.as_ref(),
            StudentPlan::FromTeacher(_) => teacher,
            StudentPlan::Architecture(_) => {
                teacher.filter(|_| plan.data.tokenizer == TokenizerPlan::Teacher)
            }
        };
        model.map(Model::checkpoint)
    }

    /// Checks that the rows were made of the text and by the tokenizer that were hashed.
    pub fn check_data(&self, prepared: &Prepared) -> Result<(), StagesError> {
        let [train, validation] = &self.texts;
        let changed = if prepared.train_hash != *train {
            Some(Changed::Text { split: "training" })
        } else if prepared.validation_hash != *validation {
            let split = "validation";
            Some(Changed::Text { split })
        } else {
            let facts = |tokenizer: &Tokenizer| (tokenizer.hash(), tokenizer.beginning_of_text());
            let wanted = self.tokenizer.as_ref().map(facts);
            wanted
                .filter(|wanted| *wanted != facts(&prepared.tokenizer))
                .map(|_| Changed::Tokenizer)
        };
        changed.map_or(Ok(()), |changed| Err(StagesError::Changed(changed)))
    }

    /// Checks that the tokenizer's files are still those that were hashed: called after they were copied.
    pub fn check_tokenizer_files(&self, plan: &Plan) -> Result<(), StagesError> {
        if tokenizer_hashes(plan)? == self.tokenizer_files {
            Ok(())
        } else {
            Err(StagesError::Changed(Changed::Tokenizer))
        }
    }
}
