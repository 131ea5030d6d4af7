//! Advice on rows whose columns no format has: the format that they are nearest to, as a plan would name it.

use std::fmt;

use super::fault::{Fault, FieldNames};
use super::plan::{RowField, RowFormat};

/// Names that published data sets have for a field, the likeliest first.
const fn other_names(field: RowField) -> &'static [&'static str] {
    match field {
        RowField::Text => &["body", "content", "document", "passage", "raw_content"],
        RowField::Messages => &[
            "conversation",
            "conversations",
            "dialog",
            "dialogue",
            "chat",
            "turns",
        ],
        RowField::Prompt => &["question", "query", "problem", "instruction", "input"],
        RowField::Completion => &["answer", "response", "solution", "output"],
        RowField::Instruction => &["task"],
        RowField::Input => &["context", "inputs"],
        RowField::Output => &["response", "answer", "completion", "outputs"],
        RowField::System => &["system_prompt"],
        _ => &[],
    }
}

/// A source as a plan would name it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Advice {
    format: RowFormat,
    /// Fields that have another name.
    fields: Vec<(RowField, &'static str)>,
}

/// Advice where no name tells anything.
impl Default for Advice {
    fn default() -> Self {
        Self {
            format: RowFormat::Text,
            fields: vec![(RowField::Text, "body")],
        }
    }
}

impl Advice {
    /// Advice for the first of some faults that lets one be given.
    pub(super) fn of(faults: &[Fault]) -> Option<Self> {
        let mut fields = faults.iter().filter_map(|fault| fault.kind.fields());
        fields.find_map(Self::for_names)
    }

    /// The format that needs the fewest other names. Where two need as many, it is the one that reads more of the columns,
    /// and then the first.
    fn for_names(names: &FieldNames) -> Option<Self> {
        let formats = RowFormat::ALL.into_iter();
        let near = formats.filter_map(|format| Self::in_format(format, names));
        near.min_by_key(|(advice, num_required, num_read)| {
            (
                *num_required,
                std::cmp::Reverse(*num_read),
                advice.fields.len(),
            )
        })
        .map(|(advice, ..)| advice)
    }

    /// Advice with a format, the number of other names that it needs, and the number of columns that it reads; `None` if a
    /// column that it must have is not there under any name.
    fn in_format(format: RowFormat, names: &FieldNames) -> Option<(Self, usize, usize)> {
        let (mut fields, mut num_required, mut num_read) = (Vec::new(), 0, 0);
        for &(field, is_required) in format.columns() {
            let mut others = other_names(field).iter();
            if names.has(field.name()) {
                num_read += 1;
            } else if let Some(other) = others.find(|other| names.has(other)) {
                num_read += 1;
                num_required += usize::from(is_required);
                fields.push((field, *other));
            } else if is_required {
                return None;
            }
        }
        Some((Self { format, fields }, num_required, num_read))
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{ path: …, format: {}", self.format.word())?;
        let fields = self.fields.iter();
        let fields: Vec<_> = fields
            .map(|(field, name)| format!("{}: {name}", field.name()))
            .collect();
        if !fields.is_empty() {
            write!(f, ", fields: {{ {} }}", fields.join(", "))?;
        }
        f.write_str(" }")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_whose_columns_are_nearest_is_offered() {
        for (names, expected) in [
            (
                "instruction context response category",
                "{ path: …, format: alpaca, fields: { input: context, output: response } }",
            ),
            (
                "id conversation",
                "{ path: …, format: messages, fields: { messages: conversation } }",
            ),
            ("id messages", "{ path: …, format: messages }"),
            ("conversations text", "{ path: …, format: sharegpt }"),
            (
                "question answer",
                "{ path: …, format: completion, fields: { prompt: question, completion: answer } }",
            ),
            (
                "prompt response",
                "{ path: …, format: completion, fields: { completion: response } }",
            ),
            (
                "system_prompt question response",
                "{ path: …, format: completion, fields: { prompt: question, completion: response } }",
            ),
            (
                "instruction response",
                "{ path: …, format: alpaca, fields: { output: response } }",
            ),
            (
                "url body",
                "{ path: …, format: text, fields: { text: body } }",
            ),
        ] {
            let mut fields = FieldNames::default();
            for name in names.split(' ') {
                fields.add(name);
            }
            let advice = Advice::for_names(&fields).map(|advice| advice.to_string());
            assert_eq!(advice.as_deref(), Some(expected), "{names}");
        }
        let mut unknown = FieldNames::default();
        unknown.add("a");
        assert_eq!(Advice::for_names(&unknown), None);
        assert_eq!(
            Advice::default().to_string(),
            "{ path: …, format: text, fields: { text: body } }"
        );
    }
}
