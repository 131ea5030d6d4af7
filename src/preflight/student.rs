//! Checks of a student, by headers.

use super::Preflight;
use super::chat::ChangedTokenizer;
use crate::data::tokenizer_path;
use crate::diag::Diagnostic;
use crate::opened::{Opened, OpenedModel};
use crate::recipe::RecipeFaults;
use crate::student::{NoSuchPart, StudentSource, check_parts};

impl Preflight<'_> {
    /// Checks that the student's layers exist, that its vocabulary is the teacher's, and that groups divide its rows.
    pub(super) fn student(
        &self,
        opened: &Opened,
        teacher: Option<&OpenedModel>,
        changed: Option<&ChangedTokenizer<'_>>,
        notes: &mut Vec<String>,
    ) -> Result<(), RecipeFaults> {
        let given = match (&self.plan.student.source, opened.student(self.plan)) {
            (StudentSource::Checkpoint(path), Some(given)) => {
                Some(self.model("student.checkpoint", path, given, notes)?)
            }
            _ => None,
        };
        match (given, teacher) {
            (Some(given), Some(teacher)) => self.same_vocabulary(given, teacher, notes)?,
            (Some(given), None) => self.vocabulary_alone(opened, given.config())?,
            (None, _) => {}
        }
        let tokenizer = self.changes(opened, teacher.is_some(), changed)?;
        let source = match &self.plan.student.source {
            StudentSource::FromTeacher(_) => teacher,
            StudentSource::Checkpoint(_) | StudentSource::Architecture(_) => given,
        };
        let teacher = teacher.map(OpenedModel::config);
        if let (StudentSource::FromTeacher(parts), Some(teacher)) =
            (&self.plan.student.source, teacher)
        {
            check_parts(parts, teacher).map_err(|error| self.no_such_part(&error))?;
        }
        let was_pruned = given.is_some_and(|given| {
            let header = given.model.student_header();
            header.is_some_and(|header| header.num_masked > 0)
        });
        let given = given.map(OpenedModel::config);
        let length = self.plan.data.sequence_length;
        // Sizes in the recipe were checked with the recipe; the number of tokens does not matter here.
        let config = self.plan.student.source.config(teacher, given, 1, length);
        let config = match tokenizer {
            Some(tokenizer) => self.plan.student.changes.config(config, tokenizer),
            None => config,
        };
        let configs = self.passes(&config, teacher)?;
        self.formats(&configs)?;
        if was_pruned {
            self.keeps_zeros(&configs)?;
        }
        for (pass, configs) in self.plan.passes.iter().zip(configs.windows(2)) {
            notes.extend(pass.pass().notes(&self.inputs(&configs[0], &configs[1])));
        }
        notes.extend(self.stored(&configs, source));
        Ok(())
    }

    fn no_such_part(&self, error: &NoSuchPart) -> RecipeFaults {
        let key = error.key();
        let id = if key == "layers" {
            "student/layers"
        } else {
            "student/width"
        };
        let fault = Diagnostic::new(id, error.to_string()).help(error.help());
        self.fault(&format!("student.from_teacher.{key}"), error.label(), fault)
    }

    /// Refuses a student to which an id means something else than to the teacher. Without a `tokenizer.json` of its own it must
    /// have as many rows as the teacher.
    fn same_vocabulary(
        &self,
        student: &OpenedModel,
        teacher: &OpenedModel,
        notes: &mut Vec<String>,
    ) -> Result<(), RecipeFaults> {
        let (key, config) = ("student.checkpoint", student.config());
        let theirs = self.vocabulary_at("teacher.checkpoint", &teacher.vocabulary)?;
        if !tokenizer_path(student.model.path()).exists() {
            return self.ids_fit(key, theirs.num_tokens(), "student", config);
        }
        let ours = self.vocabulary_at(key, &student.vocabulary)?;
        if let Some(rebuilt) = ours.rebuilt(config.architecture.model_type()) {
            notes.push(format!("of the student, {}", rebuilt.note()));
        }
        let found = ours.compare(theirs);
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
