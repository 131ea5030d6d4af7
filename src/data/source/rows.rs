//! Layout of rows: which columns they have, and what these say.

use serde_json::{Map, Value};

use super::fault::{FaultKind, FieldNames};
use super::plan::{RowField, RowFormat, SourcePlan};
use super::turns::{self, TurnKeys};
use super::{Content, Conversation};

/// Content of a row; `None` if there is no text in it.
pub(super) type Outcome = Result<Option<Content>, FaultKind>;

/// A column that is read.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) field: RowField,
    /// Name that the source has for it.
    pub(super) name: String,
    pub(super) is_required: bool,
}

/// Format of the rows of a file, with the names of its columns.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) format: RowFormat,
    pub(super) columns: Vec<Column>,
    turn_keys: TurnKeys,
}

/// Choice of a format by the names of columns.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) layout: Layout,
    /// Name of the column that is read, if there is `text` beside it, which is not.
    pub(super) instead_of_text: Option<&'static str>,
}

impl Layout {
    fn new(plan: &SourcePlan, format: RowFormat) -> Self {
        let named = |field: RowField| {
            let mut named = plan.fields.0.iter();
            named.find(|(other, _)| *other == field)
        };
        let columns = format.columns().iter().map(|&(field, is_required)| Column {
            field,
            name: named(field)
                .map_or(field.name(), |(_, name)| name)
                .to_owned(),
            is_required: is_required || named(field).is_some(),
        });
        let key = |field| named(field).map(|(_, name)| name.clone());
        Self {
            format,
            columns: columns.collect(),
            turn_keys: TurnKeys {
                role: key(RowField::Role),
                content: key(RowField::Content),
                is_share_gpt: format == RowFormat::ShareGpt,
            },
        }
    }

    /// Layout that a plan names, if it does.
    pub(super) fn named(plan: &SourcePlan) -> Result<Option<Self>, FaultKind> {
        let format = plan.row_format()?;
        Ok(format.map(|format| Self::new(plan, format)))
    }

    /// Layout of rows with these columns, where the plan names none; `None` if they say nothing.
    ///
    /// Turns go before `text`, which many sources keep beside them as they were rendered for another model. Two kinds of
    /// turns in one row are refused: there is no telling which one is meant.
    pub(super) fn find(has: impl Fn(&str) -> bool) -> Result<Option<Found>, FaultKind> {
        let is_there = |format: &RowFormat| {
            let mut columns = format.columns().iter();
            columns.all(|(field, is_required)| !is_required || has(field.name()))
        };
        let found: Vec<_> = RowFormat::ALL.into_iter().filter(is_there).collect();
        let (format, text) = match found[..] {
            [] => return Ok(None),
            [only] => (only, false),
            [turns, RowFormat::Text] => (turns, true),
            [first, second, ..] => {
                let names =
                    |format: RowFormat| required_names(&Self::new(&SourcePlan::default(), format));
                return Err(FaultKind::Choice(format!(
                    "has {} and {}; name the one that is meant, as `format: {}`",
                    names(first),
                    names(second),
                    first.word()
                )));
            }
        };
        let first = format.columns().first();
        Ok(Some(Found {
            layout: Self::new(&SourcePlan::default(), format),
            instead_of_text: first.filter(|_| text).map(|(field, _)| field.name()),
        }))
    }

    /// Fault of a row in which a column is missing that it must have.
    pub(super) fn lacks(&self, fields: FieldNames) -> FaultKind {
        let names = required_names(self);
        FaultKind::NoField { names, fields }
    }

    /// Content of a row. `values` are those of [`Layout::columns`], in their order; what is absent is null.
    pub(super) fn content(&self, values: Vec<Value>) -> Outcome {
        let mut row = Row {
            columns: &self.columns,
            values,
        };
        match self.format {
            RowFormat::Text => row.text(RowField::Text).map(|text| text.map(Content::Text)),
            RowFormat::Messages => self.conversation(row, RowField::Messages),
            RowFormat::ShareGpt => self.conversation(row, RowField::Conversations),
            RowFormat::Completion => self.completion(row),
            RowFormat::Alpaca => alpaca(row),
        }
    }

    fn conversation(&self, mut row: Row<'_>, turns: RowField) -> Outcome {
        let mut conversation = beside(&mut row)?;
        let system = row.text(RowField::System)?;
        let (column, turns) = row.take(turns);
        turns::add(&mut conversation, &column, turns, &self.turn_keys)?;
        if conversation.messages.is_empty() {
            return Err(FaultKind::wrong(format!("`{}` has no turns", column.name)));
        }
        let is_system = |message: &Map<String, Value>| {
            let role = message.get("role");
            role.is_some_and(|role| role == "system" || role == "developer")
        };
        let has_system = conversation.messages.iter().any(is_system);
        if let Some(system) = system.filter(|_| !has_system) {
            conversation
                .messages
                .insert(0, turns::message("system", system));
            for index in &mut conversation.unlearnt {
                *index += 1;
            }
        }
        Ok(Some(Content::Chat(conversation)))
    }

    fn completion(&self, mut row: Row<'_>) -> Outcome {
        let mut conversation = beside(&mut row)?;
        let (prompt_column, prompt) = row.take(RowField::Prompt);
        let (column, completion) = row.take(RowField::Completion);
        // Text is never taken for JSON here: an answer in JSON is what some models are to learn.
        match (prompt, completion) {
            (Value::String(_) | Value::Null, Value::Null) => Ok(None),
            (Value::String(prompt), Value::String(completion)) => {
                let has_text = !completion.trim().is_empty();
                Ok(has_text.then_some(Content::Completion { prompt, completion }))
            }
            (
                prompt @ (Value::Array(_) | Value::Object(_)),
                completion @ (Value::Array(_) | Value::Object(_)),
            ) => {
                turns::add(&mut conversation, &prompt_column, prompt, &self.turn_keys)?;
                let num_prompt = conversation.messages.len();
                turns::add(&mut conversation, &column, completion, &self.turn_keys)?;
                if conversation.messages.len() == num_prompt {
                    return Err(FaultKind::wrong(format!("`{}` has no turns", column.name)));
                }
                conversation.num_prompt = num_prompt;
                Ok(Some(Content::Chat(conversation)))
            }
            (prompt, completion) => Err(FaultKind::wrong(format!(
                "`{}` is {} and `{}` is {}; both are text, or both are messages",
                prompt_column.name,
                kind(&prompt),
                column.name,
                kind(&completion)
            ))),
        }
    }
}

/// Values of a row by their fields.
struct Row<'a> {
    columns: &'a [Column],
    values: Vec<Value>,
}

impl Row<'_> {
    /// Value of a field, and its column.
    fn take(&mut self, field: RowField) -> (Column, Value) {
        let mut columns = self.columns.iter().zip(&mut self.values);
        let found = columns.find(|(column, _)| column.field == field);
        let found = found.map(|(column, value)| (column.clone(), value.take()));
        found.unwrap_or_else(|| {
            let column = Column {
                field,
                name: field.name().to_owned(),
                is_required: false,
            };
            (column, Value::Null)
        })
    }

    /// Text of a field; `None` if it is absent or blank.
    fn text(&mut self, field: RowField) -> Result<Option<String>, FaultKind> {
        match self.take(field) {
            (_, Value::Null) => Ok(None),
            (_, Value::String(text)) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
            (column, other) => Err(FaultKind::wrong(format!(
                "`{}` is {}, not a string",
                column.name,
                kind(&other)
            ))),
        }
    }
}

/// Tools and variables of a row.
fn beside(row: &mut Row<'_>) -> Result<Conversation, FaultKind> {
    let (column, tools) = row.take(RowField::Tools);
    let tools = turns::tools(&column, tools)?;
    let (column, variables) = row.take(RowField::Variables);
    let variables = match turns::parsed(&column, variables)? {
        Value::Null => Map::new(),
        Value::Object(variables) => variables,
        other => {
            return Err(FaultKind::wrong(format!(
                "`{}` is {}, not an object",
                column.name,
                kind(&other)
            )));
        }
    };
    Ok(Conversation {
        tools,
        variables,
        ..Conversation::default()
    })
}

fn alpaca(mut row: Row<'_>) -> Outcome {
    let mut messages = Vec::new();
    let system = row.text(RowField::System)?;
    messages.extend(system.map(|text| turns::message("system", text)));
    let (column, history) = row.take(RowField::History);
    let history = turns::parsed(&column, history)?;
    turns::add_history(&mut messages, &column.name, history)?;
    let (instruction, input) = (row.text(RowField::Instruction)?, row.text(RowField::Input)?);
    let user = match (instruction, input) {
        (Some(instruction), Some(input)) => format!("{instruction}\n\n{input}"),
        (Some(text), None) | (None, Some(text)) => text,
        (None, None) => return Err(FaultKind::wrong("has neither instruction nor input")),
    };
    let Some(output) = row.text(RowField::Output)? else {
        return Ok(None);
    };
    messages.push(turns::message("user", user));
    messages.push(turns::message("assistant", output));
    Ok(Some(Content::Chat(Conversation {
        messages,
        ..Conversation::default()
    })))
}

/// Names of the columns that a row must have, in words.
fn required_names(layout: &Layout) -> String {
    let names = layout.columns.iter().filter(|column| column.is_required);
    let names: Vec<_> = names.map(|column| format!("`{}`", column.name)).collect();
    names.join(" and ")
}

/// Fault of rows of which nothing says what they are.
pub(super) fn unknown_columns(fields: FieldNames) -> FaultKind {
    FaultKind::NoField {
        names: "`text`, `messages` or another column that says what it holds".to_owned(),
        fields,
    }
}

/// Type of a value, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
