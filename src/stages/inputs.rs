//! Inputs of a run from outside, as used in the keys of its stages.

use super::parts::model_hash;
use super::{Changed, StagesError};
use crate::checkpoint::CheckpointError;
use crate::data::{self, Prepared, Tokenizer, TokenizerChange, TokenizerPlan};
use crate::hashes::Hashes;
use crate::kept::{Away, Kept};
use crate::opened::{FileHashes, Opened, OpenedModel, StoredModel, copied_files, student_of};
use crate::plan::Plan;
use crate::student::StudentSource;
use crate::vocabulary::{Vocabulary, VocabularyError};

/// A model, opened and hashed once: later reads give what was hashed.
#[derive(Debug)]
pub struct Model {
    stored: StoredModel,
    hash: String,
}

impl Model {
    /// Hashes a model.
    pub fn of(stored: StoredModel, hashes: &Hashes) -> Result<Self, CheckpointError> {
        let hash = model_hash(&stored, hashes)?;
        Ok(Self { stored, hash })
    }

    /// A model without weights, whose hash is known.
    fn kept(stored: StoredModel, hash: &str) -> Self {
        let hash = hash.to_owned();
        Self { stored, hash }
    }

    /// Headers of the model; weights are read with [`Model::read`].
    pub fn stored(&self) -> &StoredModel {
        &self.stored
    }

    /// BLAKE3 (hex); see [`model_hash`].
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Reads weights, then checks that they are the ones that were hashed.
    ///
    /// A file that was replaced is still open here and is read as it was. A file that was written to in place is hashed again.
    pub fn read<T, E: From<StagesError>>(
        &self,
        read: impl FnOnce(&StoredModel) -> Result<T, E>,
    ) -> Result<T, E> {
        if !self.stored.has_weights() {
            let path = self.stored.path().to_path_buf();
            return Err(StagesError::NoWeights { path }.into());
        }
        let value = read(&self.stored)?;
        let is_same =
            || -> Result<bool, CheckpointError> {
                let unremembered = Hashes::of_this_process(0.0);
                Ok(self.stored.is_as_opened()?
                    || model_hash(&self.stored, &unremembered)? == self.hash)
            };
        if !is_same().map_err(StagesError::from)? {
            let path = self.stored.path().to_path_buf();
            return Err(StagesError::Changed(Changed::Model { path }).into());
        }
        Ok(value)
    }
}

/// All inputs that a run reads from outside: models, texts and tokenizer.
#[derive(Debug)]
pub struct Inputs {
    /// The teacher.
    pub teacher: Option<Model>,
    /// Checkpoint that the first pass starts from, unless it is the teacher's.
    own_student: Option<Model>,
    /// The tokenizer, unless it is trained on the text.
    pub tokenizer: Option<Tokenizer>,
    /// Changes of the tokenizer; unless it is trained on the text, it is changed already.
    pub change: TokenizerChange,
    /// Inputs that are not on this machine.
    pub away: Away,
    /// What is kept of them.
    pub kept: Option<Kept>,
    /// BLAKE3 of the training text and of the validation text.
    pub texts: [String; 2],
    /// Files of the tokenizer that an export copies.
    pub(super) copied_files: FileHashes,
}

impl Inputs {
    /// Hashes the opened inputs; writes nothing.
    pub(super) fn of(plan: &Plan, opened: Opened, hashes: &Hashes) -> Result<Self, StagesError> {
        let teacher = opened.teacher.transpose()?;
        let own_student = opened.own_student.transpose()?;
        let parts = |model: OpenedModel| (model.model, model.vocabulary);
        let (teacher, vocabulary) = teacher.map(parts).unzip();
        let tokenizer = match plan.data.tokenizer {
            TokenizerPlan::Teacher => vocabulary,
            TokenizerPlan::File(_) | TokenizerPlan::Train(_) => opened.tokenizer,
        };
        let tokenizer = tokenizer.transpose()?.map(Vocabulary::into_tokenizer);
        let change = opened.change?;
        let changed = |tokenizer: Tokenizer| tokenizer.changed(&change);
        let tokenizer = tokenizer.map(changed).transpose();
        let tokenizer = tokenizer.map_err(VocabularyError::from)?;
        let hashed = |stored| Model::of(stored, hashes);
        let (away, kept) = (opened.away, opened.kept);
        let teacher = match (teacher, &kept) {
            (Some(teacher), Some(kept)) if away.teacher => {
                Some(Model::kept(teacher, &kept.teacher.hash))
            }
            (teacher, _) => teacher.map(hashed).transpose()?,
        };
        let texts = match &kept {
            Some(kept) if away.text => kept.texts.clone(),
            _ => [
                data::content_hash(&plan.data.train, hashes)?,
                data::content_hash(&plan.data.validation, hashes)?,
            ],
        };
        Ok(Self {
            teacher,
            own_student: own_student
                .map(|student| hashed(student.model))
                .transpose()?,
            tokenizer,
            change,
            away,
            kept,
            texts,
            copied_files: opened.copied_files?,
        })
    }

    /// Checkpoint that the first pass starts from, if there is one.
    pub fn student(&self, plan: &Plan) -> Option<&Model> {
        student_of(plan, self.teacher.as_ref(), self.own_student.as_ref())
    }

    /// Token between documents that the teacher names, if its tokenizer names none.
    pub fn end_of_text(&self) -> Option<u32> {
        let tokenizer = self.tokenizer.as_ref();
        let names_none = tokenizer.is_some_and(|tokenizer| tokenizer.end_of_text().is_none());
        let teacher = self.teacher.as_ref().filter(|_| names_none)?;
        teacher.stored().config().eos_token_ids.first().copied()
    }

    /// Tokens at which the teacher and the student stop, ascending.
    pub fn ends(&self, plan: &Plan) -> Vec<u32> {
        let models = self.teacher.iter().chain(self.student(plan));
        let ends = models.flat_map(|model| &model.stored().config().eos_token_ids);
        let mut ends: Vec<u32> = ends.copied().collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    /// Model whose `generation_config.json` an export copies: the one that the student is made of, or else the teacher whose
    /// tokenizer it has.
    pub fn generation(&self, plan: &Plan) -> Option<&StoredModel> {
        let teacher = self.teacher.as_ref();
        let model = match &plan.student.source {
            StudentSource::Checkpoint(_) => self.student(plan),
            StudentSource::FromTeacher(_) => teacher,
            StudentSource::Architecture(_) => {
                teacher.filter(|_| plan.data.tokenizer == TokenizerPlan::Teacher)
            }
        };
        model.map(Model::stored)
    }

    /// Checks that the rows were made of the text that was hashed, and that an export can still copy the files that their
    /// tokenizer was read from.
    pub fn check_data(&self, plan: &Plan, prepared: &Prepared) -> Result<(), StagesError> {
        let [train, validation] = &self.texts;
        let changed = if prepared.train_hash != *train {
            Changed::Text { split: "training" }
        } else if prepared.validation_hash != *validation {
            let split = "validation";
            Changed::Text { split }
        } else {
            return self.check_copied_files(plan);
        };
        Err(StagesError::Changed(changed))
    }

    /// Checks that the tokenizer's files have not changed since it was read; also called after they were copied.
    pub fn check_copied_files(&self, plan: &Plan) -> Result<(), StagesError> {
        if copied_files(plan, self.kept.as_ref())? == self.copied_files {
            Ok(())
        } else {
            Err(StagesError::Changed(Changed::Tokenizer))
        }
    }
}
