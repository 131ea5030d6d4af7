//! Reasons why a chat template gives no text.

use std::error::Error as _;

use minijinja::{Error, ErrorKind};
use thiserror::Error;

/// A chat template that cannot be read, or a conversation that it does not render.
///
/// Lines count from 1 in the template's own source, `code` is that line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// Source that is no template.
    #[error("line {line} of the chat template (`{code}`) cannot be read: {reason}")]
    Unreadable {
        /// Line of the template.
        line: usize,
        /// Source of that line.
        code: String,
        /// Fault, in the words of the template engine.
        reason: String,
    },
    /// Source longer than any template in use.
    #[error("the chat template has {bytes} bytes, and at most {limit} are read")]
    TooLong {
        /// Length of the source.
        bytes: usize,
        /// Longest source that is read.
        limit: usize,
    },
    /// A conversation that the template itself refuses with `raise_exception`.
    #[error("the chat template refuses the conversation: {message} (line {line})")]
    Refused {
        /// Line of the template.
        line: usize,
        /// Message as the template gives it.
        message: String,
    },
    /// An operation that fails on this conversation.
    #[error("line {line} of the chat template (`{code}`) fails: {reason}")]
    Failed {
        /// Line of the template.
        line: usize,
        /// Source of that line.
        code: String,
        /// Fault, in the words of the template engine.
        reason: String,
    },
    /// A template that loops, or a text that grows, without end.
    #[error(
        "the chat template takes more steps than any conversation needs, and is given up in line {line} (`{code}`)"
    )]
    Endless {
        /// Line of the template.
        line: usize,
        /// Source of that line.
        code: String,
    },
    /// A conversation whose source does not say where its prompt ends.
    #[error(
        "no message is said to be the prompt, so a completion has no beginning; `learn: assistant` needs none"
    )]
    NoPrompt,
    /// An assistant message whose beginning cannot be told from what the generation prompt supplies.
    #[error(
        "the beginning of message {message} is not known: the chat template has no generation prompt before it"
    )]
    NoOpening {
        /// Index of the message.
        message: usize,
    },
    /// A message that is not to be learnt, in a text in which its place cannot be told.
    #[error(
        "the place of message {message} in the text is not known: the chat template renders earlier messages otherwise when later ones follow"
    )]
    Unplaced {
        /// Index of the message.
        message: usize,
    },
}

/// Message of `raise_exception`, carried through the engine.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Raised(pub String);

impl Raised {
    /// Turns the message into an error of the engine.
    pub(super) fn into_error(self) -> Error {
        Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(self)
    }
}

impl TemplateError {
    /// Error of reading a template.
    pub(super) fn unreadable(error: &Error, source: &str) -> Self {
        let (line, code) = place(error, source);
        Self::Unreadable {
            line,
            code,
            reason: reason(error),
        }
    }

    /// Error of rendering a conversation.
    pub(super) fn failed(error: &Error, source: &str) -> Self {
        let (line, code) = place(error, source);
        if error.kind() == ErrorKind::OutOfFuel {
            return Self::Endless { line, code };
        }
        let mut inner: Option<&(dyn std::error::Error + 'static)> = error.source();
        while let Some(cause) = inner {
            if let Some(Raised(message)) = cause.downcast_ref() {
                return Self::Refused {
                    line,
                    message: message.clone(),
                };
            }
            inner = cause.source();
        }
        Self::Failed {
            line,
            code,
            reason: reason(error),
        }
    }
}

/// Line of an error, and its source without the space around it.
fn place(error: &Error, source: &str) -> (usize, String) {
    const LONGEST: usize = 80;
    let line = error.line().unwrap_or(1);
    let code = source.lines().nth(line - 1).unwrap_or_default().trim();
    let code = match code.char_indices().nth(LONGEST) {
        None => code.to_owned(),
        Some((end, _)) => format!("{}...", &code[..end]),
    };
    (line, code)
}

fn reason(error: &Error) -> String {
    let mut reason = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    let mut inner = error.source();
    while let Some(cause) = inner {
        let cause_text = match cause.downcast_ref::<Error>() {
            Some(error) => error
                .detail()
                .map_or_else(|| error.kind().to_string(), str::to_owned),
            None => cause.to_string(),
        };
        reason = format!("{reason}: {cause_text}");
        inner = cause.source();
    }
    reason
}
