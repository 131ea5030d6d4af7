//! Checks before any work: faults that file headers show are reported here.

mod away;
mod chat;
mod schemes;
mod student;

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};

use crate::cache::SupportPlan;
use crate::checkpoint::CheckpointError;
use crate::cost::Text;
use crate::data::{
    DataError, Document, Split, TokenizerError, TokenizerPlan, TrainTokenizer, look_at,
};
use crate::device::HOST;
use crate::diag::Diagnostic;
use crate::estimate::{StageEstimate, size_of};
use crate::files::UnfinishedDir;
use crate::gguf::is_gguf;
use crate::kernels::Arithmetic;
use crate::model::DecoderConfig;
use crate::opened::{Opened, OpenedModel};
use crate::passes::{PassFault, PassInputs, configs_of_passes};
use crate::plan::{Plan, fault_at};
use crate::progress::{bytes_text, thousands};
use crate::recipe::RecipeFaults;
use crate::stages::Stage;
use crate::vocabulary::{Vocabulary, VocabularyError};

pub use self::away::{BRING_TEACHER, BRING_TEXT, check_away};

/// Checks a plan against the headers of the files it names; opens and writes nothing.
///
/// Returns notes that are no faults but worth a line before the run.
///
/// # Errors
///
/// Every fault found, with its line in the recipe.
pub fn check(
    plan: &Plan,
    opened: &Opened,
    overrides: &[String],
) -> Result<Vec<String>, RecipeFaults> {
    let preflight = Preflight { plan, overrides };
    let mut notes = Vec::new();
    let teacher = plan.teacher.as_ref().zip(opened.teacher.as_ref());
    let teacher = teacher
        .map(|(teacher, outcome)| {
            let (key, path) = ("teacher.checkpoint", &teacher.checkpoint);
            preflight.model(key, path, outcome, &mut notes)
        })
        .transpose();
    let mut conversations = Vec::new();
    let [train, validation] = [Split::Train, Split::Validation].map(|split| match &opened.kept {
        Some(_) if opened.away.text => Ok(()), // the rows made of it are there, or it is told later
        _ => {
            let found = preflight.text(split, &mut notes)?;
            conversations.extend(found.map(|found| (split, found)));
            Ok(())
        }
    });
    let checks = [preflight.output(), preflight.precision(), train, validation];
    let mut faults: Vec<RecipeFaults> = checks.into_iter().filter_map(Result::err).collect();
    match teacher {
        Err(fault) => faults.push(fault),
        Ok(teacher) => {
            let config = teacher.map(OpenedModel::config);
            notes.extend(preflight.positions(config));
            notes.extend(preflight.plain_products());
            let vocabulary = preflight.vocabulary(opened, teacher, &mut notes);
            let num_tokens = vocabulary.as_ref().ok().copied().flatten();
            let num_rows = config.map(|config| config.vocab_size);
            let changed = chat::changed_tokenizer(opened, teacher);
            let changed = changed.as_ref();
            let checks = [
                vocabulary.map(drop),
                preflight.support(num_tokens.or(num_rows)),
                preflight.student(opened, teacher, changed, &mut notes),
                preflight.renders(opened, changed, &conversations),
            ];
            faults.extend(checks.into_iter().filter_map(Result::err));
        }
    }
    match faults.into_iter().reduce(RecipeFaults::and) {
        None => Ok(notes),
        Some(faults) => Err(faults),
    }
}

/// Checks the passes of a plan against the architecture of the student that enters the first.
///
/// # Errors
///
/// The first fault found.
pub fn check_passes(
    plan: &Plan,
    overrides: &[String],
    student: &DecoderConfig,
) -> Result<(), RecipeFaults> {
    let preflight = Preflight { plan, overrides };
    let configs = preflight.passes(student, None)?;
    preflight.formats(&configs)
}

/// Refuses a run whose estimated artifacts do not fit on the disk that `output` is on.
///
/// # Errors
///
/// A fault at `output`. If the system does not report its free space, nothing is refused.
pub fn check_disk(
    plan: &Plan,
    estimates: &[StageEstimate],
    overrides: &[String],
) -> Result<(), RecipeFaults> {
    let needed: u64 = estimates
        .iter()
        .filter(|estimate| !estimate.done)
        .map(|estimate| {
            let Stage { dir, .. } = &estimate.stage;
            let there =
                UnfinishedDir::at(dir).map_or(0, |partial| size_of(&partial)) + size_of(dir);
            estimate.cost.disk_bytes.saturating_sub(there)
        })
        .sum();
    let Ok(disk) = statvfs(nearest_folder(&plan.output)) else {
        return Ok(());
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if needed <= free {
        return Ok(());
    }
    let fact = format!(
        "the run needs about {}, but the disk has {} free",
        bytes_text(needed),
        bytes_text(free)
    );
    let fault =
        Diagnostic::new("run/disk", fact).help("free some space, or name a folder on another disk");
    Err(Preflight { plan, overrides }.fault("output", "on this disk", fault))
}

/// The path, or its nearest existing parent, in which it is about to be made.
fn nearest_folder(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(path)
}

struct Preflight<'a> {
    plan: &'a Plan,
    overrides: &'a [String],
}

impl Preflight<'_> {
    fn fault(&self, key: &str, label: &str, fault: Diagnostic) -> RecipeFaults {
        fault_at(self.plan, self.overrides, key, label, fault)
    }

    /// Checks the passes. Returns the architecture of the student before each, and that of the last.
    fn passes(
        &self,
        student: &DecoderConfig,
        teacher: Option<&DecoderConfig>,
    ) -> Result<Vec<DecoderConfig>, RecipeFaults> {
        let passes = &self.plan.passes;
        let at = |(idx, found): (usize, PassFault)| {
            let mut key = format!("passes.{idx}.{}", passes[idx].name());
            if !found.key.is_empty() {
                key = format!("{key}.{}", found.key);
            }
            self.fault(&key, &found.label, *found.fault)
        };
        let configs = configs_of_passes(passes, student).map_err(at)?;
        for (idx, (pass, configs)) in passes.iter().zip(configs.windows(2)).enumerate() {
            let inputs = PassInputs {
                teacher,
                ..self.inputs(&configs[0], &configs[1])
            };
            let checked = pass.pass().check(&inputs);
            checked.map_err(|found| at((idx, found)))?;
        }
        Ok(configs)
    }

    fn inputs<'b>(&self, student: &'b DecoderConfig, left: &'b DecoderConfig) -> PassInputs<'b> {
        PassInputs {
            student,
            left,
            layer_repeats: self.plan.student.layer_repeats(),
            teacher: None,
            validation: Text {
                tokens: 0, // costs nothing here
                sequence_length: self.plan.data.sequence_length,
            },
            done: 0,
        }
    }

    /// Refuses an output folder that cannot be written to; if it does not exist, its nearest existing parent decides.
    fn output(&self) -> Result<(), RecipeFaults> {
        let dir = &self.plan.output;
        // The path `.` exists only in a folder.
        let place = nearest_folder(dir).join(".");
        let attempt = access(place, Access::WRITE_OK | Access::EXEC_OK);
        attempt.map_err(|errno| {
            let error = io::Error::from(errno);
            let fact = format!("`{}` cannot be written to: {error}", dir.display());
            let fault =
                Diagnostic::new("run/read-only", fact).help("name another folder in `output`");
            self.fault("output", "runs and caches are written here", fault)
        })
    }

    /// Refuses a text whose files begin with what the data stage would refuse. Notes files that it would pass over. Returns the first
    /// conversation.
    fn text(
        &self,
        split: Split,
        notes: &mut Vec<String>,
    ) -> Result<Option<Document>, RecipeFaults> {
        let sources = match split {
            Split::Train => &self.plan.data.train,
            Split::Validation => &self.plan.data.validation,
        };
        let looked = look_at(sources, self.plan.data.on_bad_row).map_err(|source| {
            let key = format!("data.{split}");
            let help = source.help(&key).unwrap_or_default();
            let error = DataError::Source { split, source };
            let fault = Diagnostic::new("data", error.to_string()).help(help);
            self.fault(&key, "these texts", fault)
        })?;
        let told = looked.passed_over.iter().map(ToString::to_string);
        for note in told.chain(looked.notes) {
            if !notes.contains(&note) {
                notes.push(note); // both texts may be of one folder
            }
        }
        Ok(looked.conversation)
    }

    fn model<'b>(
        &self,
        key: &str,
        path: &Path,
        outcome: &'b Result<OpenedModel, CheckpointError>,
        notes: &mut Vec<String>,
    ) -> Result<&'b OpenedModel, RecipeFaults> {
        let run_dir = self.plan.output.join(&self.plan.name);
        let is_own = |run_dir: PathBuf| path.canonicalize().is_ok_and(|path| path == run_dir);
        if run_dir.canonicalize().is_ok_and(is_own) {
            let fact = format!("`{}` is the folder of this very run", path.display());
            let fault = Diagnostic::new("checkpoint/own-run", fact)
                .help("name the folder of one of its passes or exports, or change `name`");
            return Err(self.fault(key, "what the run makes would be what it is made of", fault));
        }
        let model = outcome.as_ref().map_err(|error| {
            let (label, help) = if is_gguf(path) {
                (
                    "this file",
                    "name a complete GGUF file of a known family and tensor types",
                )
            } else {
                (
                    "this folder",
                    "name a model folder in Hugging Face layout whose files are complete",
                )
            };
            let help = match error {
                CheckpointError::UnfinishedRun { .. } | CheckpointError::UnfinishedStage { .. } => {
                    error.help().unwrap_or_else(|| help.to_owned())
                }
                _ => help.to_owned(),
            };
            let fault = Diagnostic::new("checkpoint/unreadable", error.to_string()).help(help);
            self.fault(key, label, fault)
        })?;
        for note in model.model.notes() {
            if !notes.contains(&note) {
                notes.push(note); // a student may be its own teacher
            }
        }
        Ok(model)
    }

    /// Refuses a tokenizer whose ids mean something else to the teacher, if there is one. Returns the number of tokens.
    fn vocabulary(
        &self,
        opened: &Opened,
        teacher: Option<&OpenedModel>,
        notes: &mut Vec<String>,
    ) -> Result<Option<usize>, RecipeFaults> {
        let Some(teacher) = teacher else {
            return Ok(None);
        };
        let (config, theirs) = (teacher.config(), &teacher.vocabulary);
        let model_type = config.architecture.model_type();
        if let Some(rebuilt) = theirs
            .as_ref()
            .ok()
            .and_then(|theirs| theirs.rebuilt(model_type))
        {
            notes.push(format!("of the teacher, {}", rebuilt.note()));
        }
        let num_tokens = if let Some(ours) = &opened.tokenizer {
            let key = "data.tokenizer.file";
            let ours = self.vocabulary_at(key, ours)?;
            self.ids_fit(key, ours.num_tokens(), "teacher", config)?;
            match theirs {
                Ok(theirs) => {
                    let found = ours.compare(theirs);
                    if let Some(fact) = found.disagreement("tokenizer", "teacher") {
                        let fault = Diagnostic::new("data/other-tokenizer", fact)
                            .help("use the teacher's own tokenizer");
                        return Err(self.fault(key, "another vocabulary", fault));
                    }
                }
                // The teacher's tokens are unknown, so the tokenizer that the user named is trusted.
                Err(error) => {
                    notes.push(format!("the teacher's tokens were not compared: {error}"));
                }
            }
            ours.num_tokens()
        } else {
            let theirs = self.vocabulary_at("teacher.checkpoint", theirs)?;
            if theirs.num_without_row() > 0 {
                notes.push(format!(
                    "the teacher has no row for {} added tokens of its tokenizer: their text is tokenized letter by letter",
                    thousands(theirs.num_without_row() as u64)
                ));
            }
            theirs.num_tokens()
        };
        if config.vocab_size > num_tokens {
            notes.push(format!(
                "the teacher has {} rows for {} tokens; the other rows are unused and left out of the cache",
                thousands(config.vocab_size as u64),
                thousands(num_tokens as u64)
            ));
        }
        Ok(Some(num_tokens))
    }

    fn vocabulary_at<'b>(
        &self,
        key: &str,
        outcome: &'b Result<Vocabulary, VocabularyError>,
    ) -> Result<&'b Vocabulary, RecipeFaults> {
        outcome.as_ref().map_err(|error| {
            let (id, help, label) = match error {
                VocabularyError::TooFewRows { .. } => (
                    "data/vocabulary",
                    "use the `tokenizer.json` that belongs to the model",
                    "ids beyond its embedding",
                ),
                VocabularyError::Tokenizer(TokenizerError::Gguf(_)) => (
                    "data/tokenizer",
                    "write `tokenizer: { file: ... }` under `data`, with the `tokenizer.json` of this model",
                    "its tokenizer",
                ),
                _ => (
                    "data/tokenizer",
                    "provide a `tokenizer.json` there that the tokenizers library can read",
                    "its tokenizer",
                ),
            };
            let fault = Diagnostic::new(id, error.to_string()).help(help);
            self.fault(key, label, fault)
        })
    }

    /// Refuses a tokenizer with ids that have no row in the embedding of a given student that learns without a teacher.
    fn vocabulary_alone(
        &self,
        opened: &Opened,
        student: &DecoderConfig,
    ) -> Result<(), RecipeFaults> {
        let (key, size) = match (&opened.tokenizer, &self.plan.data.tokenizer) {
            (Some(tokenizer), _) => {
                let key = "data.tokenizer.file";
                (key, self.vocabulary_at(key, tokenizer)?.num_tokens())
            }
            (None, TokenizerPlan::Train(TrainTokenizer { vocab_size })) => {
                ("data.tokenizer.train.vocab_size", *vocab_size)
            }
            // A recipe with the teacher's tokenizer is already refused, and a file's tokenizer is already open.
            (None, TokenizerPlan::Teacher | TokenizerPlan::File(_)) => return Ok(()),
        };
        self.ids_fit(key, size, "student", student)
    }

    fn ids_fit(
        &self,
        key: &str,
        size: usize,
        whose: &str,
        config: &DecoderConfig,
    ) -> Result<(), RecipeFaults> {
        if size <= config.vocab_size {
            return Ok(());
        }
        let fact = format!(
            "the tokenizer has {} tokens, but the {whose} knows {}",
            thousands(size as u64),
            thousands(config.vocab_size as u64)
        );
        let help = format!("use the {whose}'s own tokenizer");
        let fault = Diagnostic::new("data/vocabulary", fact).help(help);
        let label = format!("ids beyond the {whose}'s embedding");
        Err(self.fault(key, &label, fault))
    }

    /// Refuses bf16 on a device that has no kernel for it.
    fn precision(&self) -> Result<(), RecipeFaults> {
        if self.plan.device == HOST {
            return Ok(());
        }
        let is_bf16 = |(_, arithmetic): &(&str, Arithmetic)| *arithmetic != Arithmetic::F32;
        let Some((key, arithmetic)) = self.plan.precisions().find(is_bf16) else {
            return Ok(());
        };
        let fact = format!("`{arithmetic}` products are computed on the CPU only");
        let help = "write `precision: f32`, or compute on the CPU with `--device flex`";
        let fault = Diagnostic::new("device/precision", fact).help(help);
        Err(self.fault(key, "not on this device", fault))
    }

    /// Note for sums whose instruction this machine lacks.
    fn plain_products(&self) -> Option<String> {
        let is_plain = |(_, arithmetic): &(&str, Arithmetic)| match arithmetic {
            Arithmetic::F32 => false,
            Arithmetic::Bf16(sums) => !sums.has_instruction(),
        };
        let (key, arithmetic) = self.plan.precisions().find(is_plain)?;
        Some(format!(
            "this machine has no instruction for `{key}: {arithmetic}`; the same bits are computed in plain code, more slowly than in f32"
        ))
    }

    /// Note for rows that are longer than the texts that the teacher was made for.
    fn positions(&self, teacher: Option<&DecoderConfig>) -> Option<String> {
        let known = teacher?.max_position_embeddings;
        let asked = self.plan.data.sequence_length;
        (asked > known).then(|| {
            format!(
                "rows have {} positions, but the teacher was made for {}: its predictions for later ones are unreliable",
                thousands(asked as u64),
                thousands(known as u64)
            )
        })
    }

    /// Refuses more tokens than the teacher has; rows that no token uses do not count.
    fn support(&self, num_tokens: Option<usize>) -> Result<(), RecipeFaults> {
        let (Some(num_tokens), Some(cache)) = (num_tokens, &self.plan.cache) else {
            return Ok(());
        };
        let SupportPlan::TopK(top_k) = cache.support else {
            return Ok(());
        };
        if top_k <= num_tokens {
            return Ok(());
        }
        let fact = format!("`top_k` is {top_k}, but the teacher has {num_tokens} tokens");
        let help = format!("write at most {num_tokens}");
        let fault = Diagnostic::new("cache/top-k", fact).help(help);
        Err(self.fault("cache.support.top_k", "more than there are", fault))
    }
}
