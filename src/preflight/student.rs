//! What headers show of a student.

use std::path::Path;

use super::Preflight;
use crate::data::tokenizer_path;
use crate::diag::Diagnostic;
use crate::model::{DecoderConfig, parameter_specs};
use crate::passes;
use crate::passes::PassPlan;
use crate::recipe::RecipeFaults;
use crate::student::StudentPlan;
use crate::student::{
    NoSuchPart, architecture, check_parts, is_target, layer_pairs, part_of_teacher,
};

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
        let configs = self.shrunk(&config)?;
        self.schemes(&configs)?;
        notes.extend(self.plain_blocks(&configs));
        self.patterns(&configs)?;
        self.ranks(&configs)?;
        match teacher {
            Some(teacher) => self.compared_layers(&configs, teacher),
            None => Ok(()),
        }
    }

    /// Both models have the layers whose hidden states a pass compares.
    fn compared_layers(
        &self,
        students: &[DecoderConfig],
        teacher: &DecoderConfig,
    ) -> Result<(), RecipeFaults> {
        for (pass_idx, pass) in self.plan.passes.iter().enumerate() {
            let Some(fit) = pass.fit() else {
                continue;
            };
            let depths = [&students[pass_idx], teacher].map(|config| config.num_hidden_layers);
            if let Err(error) = layer_pairs(&fit.losses, depths[0], depths[1]) {
                let last = depths.map(|depth| depth - 1);
                let help = format!(
                    "write `[student, teacher]` with layers from 0 to {} and from 0 to {}",
                    last[0], last[1]
                );
                let name = passes::name(pass);
                let fault = Diagnostic::new("losses/layers", error.to_string()).help(help);
                let key = format!("passes.{pass_idx}.{name}.losses.hidden_mse.layers");
                return Err(self.fault(&key, "past the last layer", fault));
            }
        }
        Ok(())
    }

    /// The student without repeats of layers.
    pub(super) fn own_layers(&self, config: &DecoderConfig) -> DecoderConfig {
        let repeats = match &self.plan.student {
            StudentPlan::Architecture(sizes) => sizes.layer_repeats,
            _ => 1,
        };
        let layers: Vec<usize> = (0..config.num_hidden_layers).step_by(repeats).collect();
        config.with_layers(&layers)
    }

    /// An adapter is at most as wide as what it is added to.
    fn ranks(&self, configs: &[DecoderConfig]) -> Result<(), RecipeFaults> {
        for (pass_idx, pass) in self.plan.passes.iter().enumerate() {
            let PassPlan::Distill(fit) = pass else {
                continue;
            };
            let Some(adapter) = &fit.adapter else {
                continue;
            };
            let specs = parameter_specs(&configs[pass_idx]).into_iter();
            let widths = specs
                .filter(|spec| is_target(adapter, spec))
                .map(|spec| (spec.shape[0].min(spec.shape[1]), spec.name));
            if let Some((width, name)) = widths.min().filter(|(width, _)| adapter.rank > *width) {
                let fact = format!("`rank` is {}, but `{name}` has rank {width}", adapter.rank);
                let fault = Diagnostic::new("distill/rank", fact)
                    .help(format!("write at most {width}; 4 to 64 is common"));
                let key = format!("passes.{pass_idx}.distill.adapter.rank");
                return Err(self.fault(&key, "more than the weight's own", fault));
            }
        }
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
