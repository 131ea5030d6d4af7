//! The recipe's passes: each goes from the artifact before it to its own.

use std::io;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::{Run, RunError, log_changed, log_done};
use crate::calibration::Calibration;
use crate::cost::{self, Text};
use crate::export::{ExportError, write_tokenizer};
use crate::files::{UnfinishedDir, write_atomically};
use crate::formats::WriteError;
use crate::formats::huggingface::write_generation;
use crate::kernels::Arithmetic;
use crate::loss::Term;
use crate::model::Decoder;
use crate::opened::{StoredModel, copied_tokenizer};
use crate::passes::{self, PassError, PassPlan, PassReport, QuantizeReport};
use crate::rates::{self, WorkKind};
use crate::report::{PassRow, Picture, QuantizationCost, Recovery, Removal, sensitivity_svg};
use crate::stages::{Artifact, Model, MoreSteps, Stage, more_steps};
use crate::student::{
    self, FromTeacherPlan, Importance, LayersPlan, PartSelection, Student, StudentSource,
    with_new_tokens,
};
use crate::train::FitPlan;
use crate::train::evaluate::{Evaluation, Reference, evaluate};
use crate::train::fit::PassContext;
use crate::{progress, random};

/// Result in the artifact of a pass.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Measured {
    evaluation: Evaluation,
    size_bytes: u64,
    sparsity: f64,
    /// Loss of the student before the pass, if no earlier pass has measured it and this one changes it without training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss_before_nats: Option<f64>,
}

impl Run<'_> {
    /// Adds the teacher's own figures, as a bound for those of the student.
    pub(super) fn measure_teacher(&mut self) -> Result<(), RunError> {
        let (Some(model), Some(stage)) = (&self.stages.inputs.teacher, &self.stages.teacher) else {
            return Ok(());
        };
        if let Some(artifact) = stage.artifact::<Measured>()? {
            self.rows
                .push(row("teacher", &artifact.result, artifact.secs));
            return Ok(());
        }
        if let Some(twin) = stage.twin(&self.plan.output, self.hashes)
            && let Some(artifact) = Artifact::<Measured>::read(&twin)?
        {
            let partial = UnfinishedDir::create(&stage.dir)?;
            stage.note(partial.path())?;
            let Artifact { secs, result, .. } = artifact;
            stage.seal(partial.path(), secs, result.clone(), self.hashes)?;
            partial.publish()?;
            self.rows.push(row("teacher", &result, secs));
            return Ok(());
        }
        self.check_stop(stage)?;
        let since = Instant::now();
        let teacher = self.teacher(model, Arithmetic::F32)?;
        log_changed(stage);
        let partial = UnfinishedDir::create(&stage.dir)?;
        stage.note(partial.path())?;
        let measured = Measured {
            evaluation: self.evaluate(&teacher, "teacher")?,
            size_bytes: Student::new(teacher).size_bytes(),
            sparsity: 0.0,
            loss_before_nats: None,
        };
        let secs = since.elapsed().as_secs_f64();
        stage.seal(partial.path(), secs, measured.clone(), self.hashes)?;
        partial.publish()?;
        self.rows.push(row("teacher", &measured, secs));
        Ok(())
    }

    /// Runs the passes that are not done and adds a row for each.
    ///
    /// A student is loaded only if something still needs it: a run whose passes are all done reads no weights.
    pub(super) fn passes(&mut self) -> Result<Option<Student>, RunError> {
        let mut student = None;
        let mut before = None;
        for (pass_idx, (pass, stage)) in
            self.plan.passes.iter().zip(&self.stages.passes).enumerate()
        {
            if let Some(artifact) = stage.artifact::<Measured>()? {
                log_done(stage);
                passes::discard(&stage.dir)?;
                self.rows
                    .push(row(&stage.name, &artifact.result, artifact.secs));
                student = None;
            } else {
                let input = match student.take() {
                    Some(student) => student,
                    None => self.student_after(before)?,
                };
                let seed = random::derive(self.plan.seed, &format!("pass {pass_idx}"));
                student = Some(self.pass(pass, stage, input, seed)?);
            }
            before = Some(stage);
        }
        Ok(student)
    }

    fn pass(
        &mut self,
        pass: &PassPlan,
        stage: &Stage,
        student: Student,
        seed: u64,
    ) -> Result<Student, RunError> {
        self.check_stop(stage)?;
        log_changed(stage);
        let more = more_steps(stage, pass);
        if let Some(more) = &more {
            progress::log(&format!("{}: {more}", stage.name));
        }
        let since = Instant::now();
        let partial = UnfinishedDir::resume(&stage.dir)?;
        partial.remove_parts()?;
        stage.note(partial.path())?;
        let teacher = self.teacher_along(pass)?;
        let context = PassContext {
            label: &stage.name,
            dir: partial.path(),
            key: &stage.key,
            origin: stage.origin.as_deref(),
            begin: match &more {
                Some(MoreSteps::After { state, .. }) => Some(state),
                _ => None,
            },
            seed,
            rows: &self.data.train,
            cache: self.caches.and_then(|caches| caches.train.as_ref()),
            teacher: teacher.as_ref(),
            validation: &self.data.validation,
            validation_cache: self.caches.map(|caches| &caches.validation),
            stop: self.context.stop,
            wall_time: self.context.wall_time,
        };
        let is_first = self.stages.passes.first() == Some(stage);
        let loss_before_nats = if is_first && pass.fit().is_none() {
            let label = format!("{}, before", stage.name);
            Some(self.measure(&student, &label)?.evaluation.loss_nats)
        } else {
            None
        };
        let student = passes::apply(pass, student, &context)?;
        let measured = Measured {
            loss_before_nats,
            ..self.measure(&student, &stage.name)?
        };
        student.save(partial.path())?;
        self.write_tokenizer(&student, partial.path())?;
        draw_sensitivity(pass.pass().report(partial.path())?, partial.path())?;
        let secs = since.elapsed().as_secs_f64();
        stage.seal(partial.path(), secs, measured.clone(), self.hashes)?;
        // The state is deleted last: a process killed before the folder has its name resumes from it.
        let dir = partial.publish()?;
        passes::discard(&dir)?;
        self.rows.push(row(&stage.name, &measured, secs));
        Ok(student)
    }

    /// Writes what a model needs beside its weights, so that the folder of a pass can be read like a checkpoint.
    fn write_tokenizer(&self, student: &Student, dir: &Path) -> Result<(), RunError> {
        let (plan, inputs) = (self.plan, &self.stages.inputs);
        let config = student.effective_config();
        let copied = copied_tokenizer(plan, inputs.kept.as_ref());
        let write = || -> Result<(), WriteError> {
            write_tokenizer(dir, &config, copied.as_deref(), &self.data.tokenizer)?;
            let generation = inputs.generation(plan);
            let generation = generation.map_or_else(Map::new, |model| model.generation().clone());
            write_generation(dir, &config, &generation)
        };
        write().map_err(ExportError::from)?;
        Ok(inputs.check_copied_files(plan)?)
    }

    /// The teacher, if a pass runs it alongside.
    fn teacher_along(&self, pass: &PassPlan) -> Result<Option<Decoder>, RunError> {
        let compares = |fit: &FitPlan| fit.losses.uses(Term::HiddenMse);
        let model = self.stages.inputs.teacher.as_ref();
        let model = model.filter(|_| pass.fit().is_some_and(compares));
        let model = model.zip(self.plan.teacher.as_ref());
        model
            .map(|(model, plan)| self.teacher(model, plan.precision))
            .transpose()
    }

    /// The teacher as it is captured: the inputs of its projections are rounded if its checkpoint says so, and rows of no token
    /// are left out.
    fn teacher(&self, model: &Model, arithmetic: Arithmetic) -> Result<Decoder, RunError> {
        let num_tokens = self.data.tokenizer.vocab_size();
        let device = self.context.device;
        model.read(|model| Ok(model.teacher(num_tokens, arithmetic, device)?))
    }

    /// Reads from the folders of passes what they removed and what quantising cost.
    pub(super) fn pass_reports(&self) -> Result<(Vec<Removal>, Vec<QuantizationCost>), RunError> {
        let rows = self.pass_rows();
        let (mut removals, mut quantizations) = (Vec::new(), Vec::new());
        let passes = self.plan.passes.iter().zip(&self.stages.passes);
        for (idx, ((pass, stage), row)) in passes.zip(&rows).enumerate() {
            let report = pass.pass().report(&stage.dir)?;
            let loss_before_nats = loss_before(&rows, idx, stage);
            let next = self.plan.passes.get(idx + 1).zip(rows.get(idx + 1));
            let trained = next.filter(|(pass, _)| pass.fit().is_some());
            removals.extend(report.removed.map(|removed| Removal {
                pass: stage.name.clone(),
                loss_before_nats,
                loss_after_nats: row.loss_nats,
                recovery: trained.map(|(_, row)| Recovery {
                    pass: row.pass.clone(),
                    loss_nats: row.loss_nats,
                }),
                removed,
            }));
            quantizations.extend(report.quantized.map(|quantized| {
                let rounding = quantized.rounding;
                let before = rounding.map(|rounding| rounding.loss_before_nats);
                let rounded = rounding.map(|rounding| rounding.loss_rounded_nats);
                QuantizationCost {
                    pass: stage.name.clone(),
                    loss_before_nats: before.or(loss_before_nats),
                    loss_rounded_nats: rounded.or(quantized.only_rounds.then_some(row.loss_nats)),
                    loss_after_nats: row.loss_nats,
                    sensitivity: picture(quantized, &stage.dir),
                }
            }));
        }
        Ok((removals, quantizations))
    }

    /// Figures of the passes, without those of the teacher.
    fn pass_rows(&self) -> Vec<&PassRow> {
        let rows = self.rows.iter();
        rows.filter(|row| row.pass != "teacher").collect()
    }

    fn measure(&self, student: &Student, label: &str) -> Result<Measured, RunError> {
        Ok(Measured {
            evaluation: self.evaluate(&student.effective(), label)?,
            size_bytes: student.size_bytes(),
            sparsity: student.sparsity(),
            loss_before_nats: None,
        })
    }

    /// Measures a model on the validation text, against the cache if there is one.
    fn evaluate(&self, decoder: &Decoder, label: &str) -> Result<Evaluation, RunError> {
        let reference = self.caches.map_or(Reference::None, |caches| {
            Reference::Cache(&caches.validation)
        });
        let progress_label = format!("{label}, validation");
        let rows = &self.data.validation;
        let since = Instant::now();
        let evaluation = evaluate(decoder, rows, reference, &progress_label)?;
        let work = cost::run(WorkKind::Evaluate, &decoder.config, Text::of(rows));
        rates::note(work, since.elapsed());
        if !evaluation.loss_nats.is_finite() {
            let (stage, loss) = (label.to_owned(), evaluation.loss_nats);
            return Err(RunError::NotFinite { stage, loss });
        }
        Ok(evaluation)
    }

    /// Student that a finished pass wrote, or the one that the first pass starts from.
    pub(super) fn student_after(&self, stage: Option<&Stage>) -> Result<Student, RunError> {
        match stage {
            Some(stage) => Ok(Student::load(&stage.dir, self.context.device)?),
            None => self.init_student(),
        }
    }

    /// A student that stops at every token it learns to end with: the token that separates its texts and, if it was made of
    /// sizes alone, the end tokens of the teacher whose tokenizer it has.
    pub(super) fn with_ends(&self, mut student: Student) -> Student {
        let mut ends = vec![self.data.end_of_text];
        if let StudentSource::Architecture(_) = self.plan.student.source
            && let Some(teacher) = self.stages.inputs.generation(self.plan)
        {
            ends.extend(&teacher.config().eos_token_ids);
        }
        let known = &mut student.decoder.config.eos_token_ids;
        for end in ends {
            if !known.contains(&end) {
                known.push(end);
            }
        }
        student
    }

    fn init_student(&self) -> Result<Student, RunError> {
        let mut student = self.with_ends(self.new_student()?);
        let tokenizer = &self.data.tokenizer;
        let config = student.decoder.config.clone();
        student.decoder.config = self.plan.student.changes.config(config, tokenizer);
        Ok(student)
    }

    fn new_student(&self) -> Result<Student, RunError> {
        let (plan, data, device) = (self.plan, self.data, self.context.device);
        let inputs = &self.stages.inputs;
        match &plan.student.source {
            StudentSource::Architecture(sizes) => {
                let config = student::architecture(
                    sizes,
                    data.tokenizer.vocab_size(),
                    data.train.sequence_length(),
                    Some(data.end_of_text),
                );
                Ok(Student::fresh(
                    &config,
                    sizes.layer_repeats,
                    plan.seed,
                    device,
                ))
            }
            StudentSource::FromTeacher(parts) => {
                let teacher = inputs.teacher.as_ref();
                let teacher = teacher.expect("a checked recipe with `from_teacher` has a teacher");
                teacher.read(|teacher| self.part_of(teacher, parts))
            }
            StudentSource::Checkpoint(_) => {
                let model = inputs.student(plan);
                let model = model.expect("the inputs of such a plan hold it");
                let student: Result<_, RunError> =
                    model.read(|model| Ok(model.free_student(device)?.unrolled()));
                let mut student = student?;
                let num_new = data.tokenizer.num_new();
                let num_tokens = data.tokenizer.vocab_size() - num_new;
                student.decoder = with_new_tokens(student.decoder, num_tokens, num_new);
                Ok(student)
            }
        }
    }
}

impl Run<'_> {
    /// Student that a plan makes of the teacher. Only the kept part is read, unless the teacher must run to select it.
    fn part_of(&self, teacher: &StoredModel, parts: &FromTeacherPlan) -> Result<Student, RunError> {
        let device = self.context.device;
        let config = teacher.config();
        let Some(num_tokens) = parts.calibration_tokens else {
            let kept = PartSelection::choose(parts, config, &Importance::unmeasured(config));
            return Ok(Student::new(match teacher.checkpoint() {
                Some(teacher) => kept.load(teacher, device)?,
                None => kept.cut(&teacher.decoder(device)?),
            }));
        };
        let decoder = teacher.decoder(device)?;
        let calibration = Calibration {
            rows: &self.data.train,
            num_tokens,
            label: "student",
            is_silent: false,
            stop: self.context.stop,
        };
        let importance = Importance::measure(&decoder, &calibration).map_err(PassError::from)?;
        let kept = PartSelection::choose(parts, config, &importance);
        if let Some(LayersPlan::HighestInfluence(_)) = parts.layers {
            let shown = |&layer: &usize| format!("{layer} ({:.3})", importance.influence[layer]);
            let layers: Vec<String> = kept.layers.iter().map(shown).collect();
            let layers = layers.join(", ");
            progress::log(&format!("student: layers of highest influence: {layers}"));
        }
        Ok(Student::new(kept.cut(&decoder)))
    }
}

/// File of the picture of each part's cost, in the folder of a pass that measured it.
const PICTURE: &str = "sensitivity.svg";

/// Draws the costs that a pass has measured of its parts, if it did.
fn draw_sensitivity(report: PassReport, dir: &Path) -> io::Result<()> {
    let picture = report.quantized.and_then(|report| picture(report, dir));
    let Some(Picture { costs, choice, .. }) = picture else {
        return Ok(());
    };
    let svg = sensitivity_svg(&costs, choice.as_ref());
    write_atomically(&dir.join(PICTURE), |out| out.write_all(svg.as_bytes()))
}

/// Costs that a pass has measured of its parts, with the picture's path from the report.
fn picture(report: QuantizeReport, dir: &Path) -> Option<Picture> {
    let folder = dir.file_name().unwrap_or_default().to_string_lossy();
    Some(Picture {
        svg: format!("{folder}/{PICTURE}"),
        costs: report.sensitivity.filter(|found| !found.costs.is_empty())?,
        choice: report.choice,
    })
}

/// Loss of the student before a pass: from the pass before, or measured first.
fn loss_before(rows: &[&PassRow], pass_idx: usize, stage: &Stage) -> Option<f64> {
    let before = pass_idx.checked_sub(1).map(|before| rows[before].loss_nats);
    let measured = || {
        let artifact = stage.artifact::<Measured>().ok()??;
        artifact.result.loss_before_nats
    };
    before.or_else(measured)
}

fn row(pass: &str, measured: &Measured, secs: f64) -> PassRow {
    let Measured {
        evaluation,
        size_bytes,
        sparsity,
        loss_before_nats: _, // belongs to another student
    } = *measured;
    PassRow {
        pass: pass.to_owned(),
        loss_nats: evaluation.loss_nats,
        perplexity: evaluation.perplexity,
        bits_per_byte: evaluation.bits_per_byte,
        kl_nats: evaluation.kl_nats,
        top1_agreement: evaluation.top1_agreement,
        ece: evaluation.calibration_error,
        size_bytes,
        sparsity,
        secs,
    }
}
