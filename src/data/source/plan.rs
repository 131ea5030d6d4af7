//! Settings of a source: where it is, and how its rows are read.

use std::ops::Bound::{Excluded, Included};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::fault::FaultKind;
use crate::recipe::{Block, Fields, Keys, Kind, PathKind, Read, Row, Word, keys, rule, words};

keys! {
    #[derive(Default)]
    pub struct SourcePlan in SOURCE = "source", "A file or folder of texts or conversations, and how its rows are read. A path alone stands for all of it." {
        #[serde(skip)]
        path: PathBuf = required(Kind::Path(PathKind::FileOrFolder), "a file, or a folder with all that is below it; also a folder of `save_to_disk`, or one that is laid out like a dataset of the hub; or a dataset of the hub, `org/name` or `org/name@revision`");
        format: Option<RowFormat> = rule("found by the names of the columns", Kind::Word(RowFormat::WORDS), "kind of the rows");
        fields: FieldsPlan = rule("each has its own name", Kind::Block(&FIELDS), "names of the columns, where they are others") else own_names unless |plan| plan.fields.0.is_empty();
        split: Option<String> = rule("the only one", Kind::Text, "split of a folder that has several, such as `train`");
        config: Option<String> = rule("the only one", Kind::Text, "configuration of a folder whose `README.md` lists several");
        weight: Option<f64> = rule("sources are read one after another", Kind::Number(Excluded(0.0), Included(1e6)), "share of the text beside that of other sources, where one has a weight; those without have 1. Mixing ends when a source does") also ["weights", "ratio", "proportion", "probability", "sampling_weight"];
    }
}

#[expect(clippy::unnecessary_wraps, reason = "some defaults may be missing")]
fn own_names(_: Fields<'_>) -> Read<FieldsPlan> {
    Some(FieldsPlan::default())
}

/// Names that a source has for fields of its format; the others have their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldsPlan(pub Vec<(RowField, String)>);

impl Keys for FieldsPlan {
    fn read_keys(fields: Fields<'_>) -> Read<Self> {
        let mut named = Vec::new();
        for field in RowField::ALL {
            let name: Option<String> = fields.get(field.name())?;
            named.extend(name.map(|name| (field, name)));
        }
        Some(Self(named))
    }

    fn write_keys(&self, _: &Path, keys: &mut Map<String, Value>) {
        let names = self
            .0
            .iter()
            .map(|(field, name)| (field.name().to_owned(), json!(name)));
        keys.extend(names);
    }
}

impl Serialize for FieldsPlan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(field, name)| (field.name(), name)))
    }
}

static FIELDS: Block = Block {
    name: "fields",
    about: "Names of columns, and of the keys of messages, where they are not those of the format.",
    rows: &[
        field(RowField::Text, "text of a document"),
        field(RowField::Messages, "messages of a conversation"),
        field(
            RowField::Prompt,
            "text or messages that nothing is learnt from",
        ),
        field(RowField::Completion, "text or messages behind the prompt"),
        field(
            RowField::Conversations,
            "turns, in the spelling of ShareGPT",
        ),
        field(RowField::Instruction, "task, in the spelling of Alpaca"),
        field(RowField::Input, "what the task is about"),
        field(RowField::Output, "answer to the task"),
        field(
            RowField::System,
            "system prompt beside the turns, for those that have none",
        ),
        field(RowField::History, "earlier pairs of task and answer"),
        field(RowField::Tools, "tools that the model may call"),
        field(
            RowField::Variables,
            "further variables of the chat template",
        ),
        field(RowField::Role, "role of a message"),
        field(RowField::Content, "content of a message"),
    ],
};

const fn field(field: RowField, about: &'static str) -> Row {
    rule(field.name(), "its own name", Kind::Text, about)
}

impl SourcePlan {
    /// Sources that are nothing but paths.
    pub fn of_paths(paths: &[PathBuf]) -> Vec<Self> {
        paths.iter().cloned().map(Self::from).collect()
    }

    /// Format of the rows, as it was named or as the named fields have it.
    pub(super) fn row_format(&self) -> Result<Option<RowFormat>, FaultKind> {
        let named = self.fields.0.iter().map(|(field, _)| *field);
        let candidates = |format: &RowFormat| {
            let mut named = named.clone();
            named.all(|field| format.has(field))
        };
        let Some(format) = self.format else {
            if self.fields.0.is_empty() {
                return Ok(None);
            }
            let mut found = RowFormat::ALL.into_iter().filter(candidates);
            return match (found.next(), found.next()) {
                (Some(only), None) => Ok(Some(only)),
                _ => Err(FaultKind::Choice(
                    "`fields` leaves open which format the rows have; name it in `format`"
                        .to_owned(),
                )),
            };
        };
        match self.fields.0.iter().find(|(field, _)| !format.has(*field)) {
            None => Ok(Some(format)),
            Some((field, _)) => {
                let has: Vec<_> = format.fields().map(|(field, _)| field.name()).collect();
                Err(FaultKind::Choice(format!(
                    "`fields` names `{}`, which `format: {}` has not; it has `{}`",
                    field.name(),
                    format.word(),
                    has.join("`, `")
                )))
            }
        }
    }

    /// Bytes for everything here that changes the rows of the same files; none for a path alone.
    pub(super) fn key(&self) -> Vec<u8> {
        let mut key = Vec::new();
        let mut add = |name: &str, value: &str| {
            for part in [name, value] {
                key.extend_from_slice(&(part.len() as u64).to_le_bytes());
                key.extend_from_slice(part.as_bytes());
            }
        };
        if let Some(format) = self.format {
            add("format", format.word());
        }
        for (field, name) in &self.fields.0 {
            add(field.name(), name);
        }
        for (name, value) in [("split", &self.split), ("config", &self.config)] {
            if let Some(value) = value {
                add(name, value);
            }
        }
        if let Some(weight) = self.weight {
            add("weight", &weight.to_string());
        }
        key
    }
}

impl From<PathBuf> for SourcePlan {
    fn from(path: PathBuf) -> Self {
        Self {
            path,
            ..Self::default()
        }
    }
}

words! {
    /// Action at a row that cannot be read as its format says.
    #[derive(Default)]
    pub enum OnBadRow {
        /// All are told, and nothing is read.
        #[default]
        Fail = "fail",
        /// They are left out, counted, and the first twenty kinds are told. More of them than good rows are told as by
        /// [`OnBadRow::Fail`].
        Skip = "skip",
    }
}

words! {
    /// Kind of the rows of a source.
    pub enum RowFormat {
        /// `text`.
        Text = "text" also ["plain", "raw", "pretrain", "document"],
        /// `messages`, each with `role` and `content`.
        Messages = "messages" also ["chat", "openai", "chatml", "conversational"],
        /// `prompt` and `completion`, both text or both messages.
        Completion = "completion" also ["prompt_completion", "prompt", "instruct"],
        /// `conversations`, each turn with `from` and `value`.
        ShareGpt = "sharegpt" also ["conversations", "share_gpt"],
        /// `instruction`, `input` and `output`.
        Alpaca = "alpaca" also ["instruction"],
    }
}

/// RowField of a row, or of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowField {
    /// Text of a document.
    Text,
    /// Messages of a conversation.
    Messages,
    /// Text or messages that nothing is learnt from.
    Prompt,
    /// Text or messages that follow the prompt.
    Completion,
    /// Turns of a conversation, in the spelling of ShareGPT.
    Conversations,
    /// Task, in the spelling of Alpaca.
    Instruction,
    /// What the task is about.
    Input,
    /// Answer to the task.
    Output,
    /// System prompt beside the turns.
    System,
    /// Earlier pairs of task and answer.
    History,
    /// Tools that the model may call.
    Tools,
    /// Further variables of the template.
    Variables,
    /// Role of a message.
    Role,
    /// Content of a message.
    Content,
}

impl RowField {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Text,
        Self::Messages,
        Self::Prompt,
        Self::Completion,
        Self::Conversations,
        Self::Instruction,
        Self::Input,
        Self::Output,
        Self::System,
        Self::History,
        Self::Tools,
        Self::Variables,
        Self::Role,
        Self::Content,
    ];

    /// Name of the field, which is that of its column unless the plan names another.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Messages => "messages",
            Self::Prompt => "prompt",
            Self::Completion => "completion",
            Self::Conversations => "conversations",
            Self::Instruction => "instruction",
            Self::Input => "input",
            Self::Output => "output",
            Self::System => "system",
            Self::History => "history",
            Self::Tools => "tools",
            Self::Variables => "chat_template_kwargs",
            Self::Role => "role",
            Self::Content => "content",
        }
    }
}

/// Fields of a message, which are no columns.
const OF_MESSAGES: [(RowField, bool); 2] = [(RowField::Role, false), (RowField::Content, false)];

impl RowFormat {
    /// All of them, in the order in which they are looked for.
    pub const ALL: [Self; 5] = [
        Self::Messages,
        Self::ShareGpt,
        Self::Completion,
        Self::Alpaca,
        Self::Text,
    ];

    /// Columns, each with true if a row must have it.
    pub(super) const fn columns(self) -> &'static [(RowField, bool)] {
        match self {
            Self::Text => &[(RowField::Text, true)],
            Self::Messages => &[
                (RowField::Messages, true),
                (RowField::System, false),
                (RowField::Tools, false),
                (RowField::Variables, false),
            ],
            Self::Completion => &[
                (RowField::Prompt, true),
                (RowField::Completion, true),
                (RowField::Tools, false),
                (RowField::Variables, false),
            ],
            Self::ShareGpt => &[
                (RowField::Conversations, true),
                (RowField::System, false),
                (RowField::Tools, false),
                (RowField::Variables, false),
            ],
            Self::Alpaca => &[
                (RowField::Instruction, true),
                (RowField::Input, false),
                (RowField::Output, true),
                (RowField::System, false),
                (RowField::History, false),
            ],
        }
    }

    /// Fields that may be given another name.
    pub fn fields(self) -> impl Iterator<Item = (RowField, bool)> {
        let of_messages: &[(RowField, bool)] = match self {
            Self::Text | Self::Alpaca => &[],
            Self::Messages | Self::Completion | Self::ShareGpt => &OF_MESSAGES,
        };
        self.columns().iter().chain(of_messages).copied()
    }

    fn has(self, field: RowField) -> bool {
        self.fields().any(|(own, _)| own == field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(format: Option<RowFormat>, fields: &[(RowField, &str)]) -> SourcePlan {
        let fields = fields
            .iter()
            .map(|(field, name)| (*field, (*name).to_owned()));
        SourcePlan {
            format,
            fields: FieldsPlan(fields.collect()),
            ..SourcePlan::default()
        }
    }

    #[test]
    fn fields_alone_say_the_format_if_only_one_has_them() {
        let of = |format, fields: &[(RowField, &str)]| {
            let found = plan(format, fields).row_format();
            found.map_err(|fault| fault.to_string())
        };
        assert_eq!(of(None, &[]), Ok(None));
        assert_eq!(
            of(None, &[(RowField::Text, "body")]),
            Ok(Some(RowFormat::Text))
        );
        let pair = [(RowField::Prompt, "q"), (RowField::Completion, "a")];
        assert_eq!(of(None, &pair), Ok(Some(RowFormat::Completion)));
        assert!(
            of(None, &[(RowField::Role, "who")]).is_err_and(|told| told.contains("leaves open"))
        );
        assert!(of(None, &[(RowField::Text, "a"), (RowField::Prompt, "b")]).is_err());
        assert_eq!(
            of(Some(RowFormat::Text), &[(RowField::Role, "who")]).unwrap_err(),
            "`fields` names `role`, which `format: text` has not; it has `text`"
        );
    }

    #[test]
    fn a_key_tells_plans_apart_and_that_of_a_path_is_empty() {
        let a = plan(Some(RowFormat::Text), &[(RowField::Text, "a")]);
        let b = plan(Some(RowFormat::Text), &[(RowField::Text, "b")]);
        assert_ne!(a.key(), b.key());
        assert!(SourcePlan::from(PathBuf::from("a")).key().is_empty());
    }
}
