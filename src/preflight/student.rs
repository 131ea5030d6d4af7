//! What headers show of a student.

use std::path::Path;

use super::Preflight;
use crate::data::tokenizer_path;
use crate::diag::Diagnostic;
use crate::model::DecoderConfig;
use crate::recipe::RecipeFaults;
use crate::student::StudentPlan;
use crate::student::{NoSuchPart, architecture, check_parts, part_of_teacher};

impl Preflight<'_> {
    /// The student's layers exist, its vocabulary is the teacher's, and its rows fall into whole groups.
    pub(super) fn student(
        &self,
        teacher: Option<&DecoderConfig>,
        notes: &mut Vec<String>,
    ) -> Result<(), RecipeFaults> {
        let config = match (&self.plan.student, teacher) {
            (StudentPlan::Checkpoint(dir), _) => {
                let config = self.checkpoint("student.checkpoint", dir, notes)?;
                match teacher {
                    Some(_) => self.same_vocabulary(dir, &config, notes)?,
                    None => self.vocabulary_alone(&config)?,
                }
                config
            }
            (StudentPlan::FromTeacher(parts), Some(teacher)) => {
                check_parts(parts, teacher).map_err(|error| self.no_such_part(&error))?;
                part_of_teacher(parts, teacher)
            }
            // Sizes in the recipe were checked with it; the number of tokens does not matter here.
            (StudentPlan::Architecture(sizes), _) => {
                architecture(sizes, 1, self.plan.data.sequence_length, None)
            }
            (StudentPlan::FromTeacher { .. }, None) => return Ok(()),
        };
        let configs = self.passes(&config, teacher)?;
        self.formats(&configs)?;
        notes.extend(self.plain_blocks(&configs));
        Ok(())
    }

    fn no_such_part(&self, error: &NoSuchPart) -> RecipeFaults {
        let (key, label, help) = match error {
            NoSuchPart::Layer { there, .. } => {
                let help = format!("layers count from 0 to {}", there - 1);
                ("layers", "past the last layer", help)
            }
            NoSuchPart::Size { key, there, .. } => {
                let help = format!("write at most {there}");
                (*key, "more than there are", help)
            }
            NoSuchPart::Width { key, head_dim, .. } => {
                let help = format!("keep {head_dim} dimensions for each query head");
                (*key, "would not load in transformers", help)
            }
        };
        let id = if key == "layers" {
            "student/layers"
        } else {
            "student/width"
        };
        let fault = Diagnostic::new(id, error.to_string()).help(help);
        self.fault(&format!("student.from_teacher.{key}"), label, fault)
    }

    /// Every id means to a given student what it means to the teacher. Without a `tokenizer.json` of its own it must
    /// have as many rows as the teacher.
    fn same_vocabulary(
        &self,
        student: &Path,
        config: &DecoderConfig,
        notes: &mut Vec<String>,
    ) -> Result<(), RecipeFaults> {
        let Some(teacher) = &self.plan.teacher else {
            return Ok(());
        };
        let key = "student.checkpoint";
        let theirs = self.of_model("teacher.checkpoint", &teacher.checkpoint)?;
        if !tokenizer_path(student).exists() {
            return self.ids_fit(key, theirs.num_tokens(), "student", config);
        }
        let ours = self.of_model(key, student)?;
        if let Some(rebuilt) = ours.rebuilt(config.architecture.model_type()) {
            notes.push(format!("of the student, {}", rebuilt.note()));
        }
        let found = ours.compare(&theirs);
        if let Some(fact) = found.disagreement("student", "teacher") {
            let fault = Diagnostic::new("student/vocabulary", fact)
                .help("teacher and student must share one tokenizer");
            return Err(self.fault(key, "another vocabulary", fault));
        }
        if !found.same_end_of_text {
            notes.push(format!(
                "the student ends a text with {}, the teacher with {}",
                found.a.ends(),
                found.b.ends()
            ));
        }
        Ok(())
    }
}
