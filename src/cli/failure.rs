//! Errors to messages and exit codes.

use std::fmt::Write as _;
use std::io;

use anstyle::{AnsiColor, Style};

use crate::cache::CacheError;
use crate::checkpoint::CheckpointError;
use crate::convert::ConvertError;
use crate::data::DataError;
use crate::device::DeviceError;
use crate::export::ExportError;
use crate::formats::WriteError;
use crate::passes::{PassError, QuantizeError};
use crate::preflight::{BRING_TEACHER, BRING_TEXT};
use crate::recipe::RecipeFaults;
use crate::run::RunError;
use crate::stages::StagesError;
use crate::teacher::CaptureError;
use crate::train::tensorboard::EventError;
use crate::train::{FitError, MetricsError};

/// Why a model whose weights are finite, as all are that were loaded, says nothing.
pub(super) const OVERFLOW: &str = "weights are checked when they are loaded, and are finite: what the model computes with \
                                   them grows beyond f32; look for weights that are far too large, and get or train \
                                   another checkpoint";

/// The same before a pass has updated anything.
const UNTRAINED: &str = "no weight was updated yet, so it is not the learning rate: what the student computes, or a teacher \
                         that runs beside it, grows beyond f32 though its weights are finite; measure both with \
                         `alambic evaluate`, and start from a sound one";

/// A message for stderr and the exit code: 1 the run failed, 2 the input is wrong, 130 a signal stopped it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whole text, with the escape codes of colours; [`anstream`] takes them out where they are not wanted.
    pub message: String,
    /// Exit code.
    pub code: u8,
}

/// Colours of messages without a recipe's line; those of the others are the same, by `annotate-snippets`.
const ERROR: Style = AnsiColor::BrightRed.on_default().bold();
const HELP: Style = AnsiColor::BrightCyan.on_default().bold();

impl Failure {
    /// The input is wrong.
    pub fn input(id: &str, error: &dyn std::fmt::Display) -> Self {
        Self::new(id, error, 2)
    }

    /// The run failed.
    pub fn run(id: &str, error: &dyn std::fmt::Display) -> Self {
        Self::new(id, error, 1)
    }

    fn new(id: &str, error: &dyn std::fmt::Display, code: u8) -> Self {
        Self {
            message: format!("{ERROR}error[{id}]{ERROR:#}: {error}"),
            code,
        }
    }

    pub(super) fn interrupted(error: &dyn std::fmt::Display) -> Self {
        Self {
            message: format!("{error}"),
            code: 130,
        }
    }

    pub(super) fn help(mut self, help: Option<String>) -> Self {
        if let Some(help) = help {
            let _ = write!(self.message, "\n  = {HELP}help{HELP:#}: {help}");
        }
        self
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        Self::input("checkpoint", &error).help(error.help())
    }
}

impl From<RecipeFaults> for Failure {
    fn from(faults: RecipeFaults) -> Self {
        Self {
            message: faults.render(true),
            code: 2,
        }
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Threads { .. } => Self::input("device/threads", &error).help(error.help()),
            error => Self::input("device", &error),
        }
    }
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Self {
        let help = error.help();
        match error {
            CacheError::Io(error) => error.into(),
            error => Self::input("cache", &error).help(help),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let help = match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => {
                Some("make room and run the same command: what is complete is kept")
            }
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotADirectory => Some("name another folder"),
            _ => None,
        };
        Self::run("io", &error).help(help.map(str::to_owned))
    }
}

/// Advice on an input that changed.
const WAIT_FOR_WRITERS: &str =
    "wait until nothing writes to it, and run again: nothing that was made of it is kept";

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        let help = match &error {
            DataError::Source { split, source } => source.help(&format!("data.{split}")),
            DataError::Tokenizer(error) => error.help(),
            _ => None,
        };
        match error {
            DataError::Io(error) => error.into(),
            error @ DataError::Stopped { .. } => Self::interrupted(&error),
            error @ DataError::TextChanged { .. } => {
                Self::input("run/input-changed", &error).help(Some(WAIT_FOR_WRITERS.to_owned()))
            }
            error => Self::input("data", &error).help(help),
        }
    }
}

impl From<ConvertError> for Failure {
    fn from(error: ConvertError) -> Self {
        let help = error.help();
        match error {
            ConvertError::Stage(RunError::Locked { .. }) => Self::input("run/locked", &error).help(
                Some("wait until it has ended, or name another `--out`".to_owned()),
            ),
            ConvertError::Stage(
                RunError::Io(error) | RunError::Export(ExportError::Write(WriteError::Io(error))),
            ) => Self::run("io", &error).help(room(&error)),
            ConvertError::Stage(error) => Self::from(error).help(help),
            ConvertError::Stopped => Self::interrupted(&error),
            ConvertError::Input(error) => error.into(),
            error @ ConvertError::NoText { .. } => Self::input("data", &error).help(help),
            error => Self::input("convert", &error).help(help),
        }
    }
}

/// Help for a folder of a command that cannot be written.
fn room(error: &io::Error) -> Option<String> {
    let help = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "make room, or name a folder on another disk with `--out`; nothing is left under the name of the result"
        }
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory => "name another folder with `--out`",
        _ => return None,
    };
    Some(help.to_owned())
}

impl From<StagesError> for Failure {
    fn from(error: StagesError) -> Self {
        match error {
            StagesError::Changed(_) => {
                Self::input("run/input-changed", &error).help(Some(WAIT_FOR_WRITERS.to_owned()))
            }
            StagesError::NoWeights { .. } => {
                Self::input("run/teacher-away", &error).help(Some(BRING_TEACHER.to_owned()))
            }
            StagesError::NoText { .. } => {
                Self::input("run/text-away", &error).help(Some(BRING_TEXT.to_owned()))
            }
            error => Self::input("run/input", &error),
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Recipe(faults) => faults.into(),
            RunError::Locked { .. } => Self::input("run/locked", &error)
                .help(Some("wait until it has ended, or change `name`".to_owned())),
            RunError::Stages(error) => error.into(),
            RunError::Data(error) => error.into(),
            RunError::Checkpoint(error) => error.into(),
            RunError::Cache(error)
            | RunError::Capture(CaptureError::Cache(error))
            | RunError::Pass(PassError::Fit(FitError::Cache(error))) => error.into(),
            RunError::Capture(error @ CaptureError::NotFinite { .. }) => {
                Self::run("cache/not-finite", &error).help(Some(OVERFLOW.to_owned()))
            }
            RunError::Capture(error @ CaptureError::Interrupted { .. }) => {
                Self::interrupted(&error)
            }
            error @ RunError::NotFinite { .. } => {
                Self::run("run/not-finite", &error).help(Some(OVERFLOW.to_owned()))
            }
            RunError::Student(error) => Self::input("student", &error).help(error.help()),
            RunError::Pass(
                error @ (PassError::Interrupted { .. }
                | PassError::Fit(FitError::Interrupted { .. })),
            ) => Self::interrupted(&error),
            RunError::Pass(error @ PassError::Fit(FitError::NotFinite { num_updates, .. })) => {
                let help = match num_updates {
                    0 => UNTRAINED,
                    _ => "run again with a smaller `learning_rate`, or a larger `warmup_steps`",
                };
                Self::run("train/not-finite", &error).help(Some(help.to_owned()))
            }
            RunError::Pass(PassError::Fit(FitError::Save { label, source })) => {
                let failure = Self::from(source);
                Self {
                    message: format!(
                        "{}\n  caused by: saving the state of pass {label}",
                        failure.message
                    ),
                    ..failure
                }
            }
            RunError::Io(error)
            | RunError::Export(ExportError::Write(WriteError::Io(error)))
            | RunError::Pass(PassError::Fit(FitError::Metrics(
                MetricsError::Io(error) | MetricsError::Events(EventError::Io(error)),
            ))) => error.into(),
            RunError::Pass(PassError::Fit(FitError::State(error))) => {
                Self::input("train/state", &error).help(error.help())
            }
            RunError::Pass(error @ PassError::Prune(_)) => {
                Self::input("prune/inputs", &error).help(Some(
                    "its activations are not finite, or too far apart in size: see whether the student is sound \
                     before this pass, then try a larger `damping`"
                        .to_owned(),
                ))
            }
            RunError::Pass(PassError::Quantize(error)) => error.into(),
            RunError::Pass(error) => Self::run("train", &error),
            RunError::Export(error) => Self::run("export", &error),
        }
    }
}

impl From<QuantizeError> for Failure {
    fn from(error: QuantizeError) -> Self {
        let (id, help) = match error {
            QuantizeError::Interrupted(_) => return Self::interrupted(&error),
            QuantizeError::Io(error) => return error.into(),
            QuantizeError::Inputs { .. } => (
                "quantize/inputs",
                "its activations are not finite, or too far apart in size: see whether the student is sound before \
                 this pass, then try a larger `damping`",
            ),
            QuantizeError::NotFinite { .. } => (
                "quantize/not-finite",
                "the student is damaged: take another checkpoint, or run the passes before with a smaller \
                 `learning_rate`",
            ),
            QuantizeError::NoRows { .. } => (
                "quantize/no-rows",
                "write a smaller `sequence_length`, or name more text in `data.train`",
            ),
        };
        Self::input(id, &error).help(Some(help.to_owned()))
    }
}
