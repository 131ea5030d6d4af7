//! Fields of a JSON object that are read, and no others.
//!
//! What other fields hold is looked at as far as it takes to find where they end, so that a number that no f64 holds, deep
//! brackets, or half a surrogate pair in them end no run; nor does `NaN`, which Python writes.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::fault::{FaultKind, FieldNames};
use super::not_json::not_json;
use super::plan::RowField;
use super::rows::{Column, Layout};
use super::turns::{self, twice};
use super::unique::{Twice, UniqueValue};

/// Words that Python writes for floats and JSON does not have, and JSON values as long as the word, or longer.
const PYTHON_FLOATS: [(&str, &str); 3] = [
    ("NaN", "null"), // pandas has it for a cell without a value, so a field may be it
    ("-Infinity", "-1e999   "), // a number that is refused where it is read
    ("Infinity", "1e999   "),
];

/// Values of an object for the columns of a layout, in their order; what is absent is null.
pub(super) fn values_of(json: &str, layout: &Layout) -> Result<Vec<Value>, FaultKind> {
    let visitor = ObjectVisitor {
        columns: &layout.columns,
    };
    let found = tolerant(json, visitor)?;
    let Found::Object(captured) = found else {
        let what = match &layout.columns[..] {
            [only] => format!("not an object with a string `{}`", only.name),
            _ => "not an object".to_owned(),
        };
        return Err(FaultKind::wrong(what));
    };
    let mut values = Vec::with_capacity(captured.len());
    let mut lacks = false;
    for (column, captured) in layout.columns.iter().zip(captured) {
        let name = &column.name;
        values.push(match captured {
            None => {
                lacks |= column.is_required;
                Value::Null
            }
            Some(Captured::Value(value)) => value,
            Some(Captured::Twice) => return Err(FaultKind::wrong(twice(name))),
            Some(Captured::Inside(found)) => return Err(turns::stands_twice(column, &found)),
            Some(Captured::Other(found)) => {
                return Err(FaultKind::wrong(format!(
                    "`{name}` is {found}, not a string"
                )));
            }
        });
    }
    if !lacks {
        return Ok(values);
    }
    let mut fields = FieldNames::default();
    for (name, _) in names_of(json)?.unwrap_or_default() {
        if !layout.columns.iter().any(|column| column.name == name) {
            fields.add(&name);
        }
    }
    Err(layout.lacks(fields))
}

/// Names of an object's fields, each with true if it is null; `None` if it is no object.
pub(super) fn names_of(json: &str) -> Result<Option<Vec<(String, bool)>>, FaultKind> {
    tolerant(json, NamesVisitor)
}

/// Checks the beginning of an object whose end is not known.
pub(super) fn check_beginning(json: &str, layout: Option<&Layout>) -> Result<(), FaultKind> {
    if parse(json, NamesVisitor).is_err_and(|error| error.is_eof()) {
        return Ok(());
    }
    let outcome = match layout {
        Some(layout) => values_of(json, layout).map(drop),
        None => names_of(json).map(drop),
    };
    match outcome {
        // Half a name or half a word that Python writes may end here.
        Err(FaultKind::NotJson { column, .. }) if column + 10 > json.len() => Ok(()),
        outcome => outcome,
    }
}

/// Parses JSON in which words of Python may stand for numbers.
fn tolerant<T, V>(json: &str, visitor: V) -> Result<T, FaultKind>
where
    V: for<'de> Visitor<'de, Value = T> + Copy,
{
    let error = match parse(json, visitor) {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    let Some(Rewritten {
        json: mended,
        longer_at,
    }) = without_python_floats(json)
    else {
        return Err(not_json(json, column_of(json, &error), &error));
    };
    parse(&mended, visitor).map_err(|error| {
        let column = column_of(&mended, &error);
        let column = column - longer_at.iter().filter(|at| **at < column).count();
        if error.to_string().starts_with("number out of range") {
            let reason = "`Infinity`, or a number beyond all floats, in a field that is read";
            return FaultKind::NotJson {
                line: None,
                column,
                reason: reason.to_owned(),
            };
        }
        not_json(json, column, &error)
    })
}

/// Place of an error in JSON of one or several lines, in bytes from 1.
fn column_of(json: &str, error: &serde_json::Error) -> usize {
    let lines = json
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1));
    let before: usize = lines.map(str::len).sum();
    (before + error.column()).max(1)
}

fn parse<T, V>(json: &str, visitor: V) -> serde_json::Result<T>
where
    V: for<'de> Visitor<'de, Value = T>,
{
    let mut json = serde_json::Deserializer::from_str(json);
    let found = json.deserialize_any(visitor)?;
    json.end()?;
    Ok(found)
}

/// What a row holds.
enum Found {
    /// Values by column.
    Object(Vec<Option<Captured>>),
    Other,
}

enum Captured {
    Value(Value),
    Twice,
    /// A value in which a key stands twice.
    Inside(Twice),
    /// Another type than text, in words.
    Other(&'static str),
}

/// Parts of a visitor for which only objects matter.
macro_rules! others {
    ($found:ty, $other:expr) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a row of JSON")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<$found, A::Error> {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok($other)
        }

        fn visit_str<E>(self, _: &str) -> Result<$found, E> {
            Ok($other)
        }

        fn visit_bool<E>(self, _: bool) -> Result<$found, E> {
            Ok($other)
        }

        fn visit_i64<E>(self, _: i64) -> Result<$found, E> {
            Ok($other)
        }

        fn visit_u64<E>(self, _: u64) -> Result<$found, E> {
            Ok($other)
        }

        fn visit_f64<E>(self, _: f64) -> Result<$found, E> {
            Ok($other)
        }

        fn visit_unit<E>(self) -> Result<$found, E> {
            Ok($other)
        }
    };
}

#[derive(Clone, Copy)]
struct ObjectVisitor<'a> {
    columns: &'a [Column],
}

impl<'de> Visitor<'de> for ObjectVisitor<'_> {
    type Value = Found;

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut captured: Vec<_> = self.columns.iter().map(|_| None).collect();
        while let Some(index) = map.next_key_seed(self)? {
            let place =
                index.and_then(|index| Some((captured.get_mut(index)?, self.columns.get(index)?)));
            match place {
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
                Some((place @ Some(_), _)) => {
                    map.next_value::<IgnoredAny>()?;
                    *place = Some(Captured::Twice);
                }
                Some((place, column)) if column.field == RowField::Text => {
                    *place = Some(map.next_value_seed(TextVisitor)?);
                }
                Some((place, _)) => {
                    let twice = RefCell::new(None);
                    let value = map.next_value_seed(UniqueValue::new(&twice))?;
                    let twice = twice.into_inner();
                    *place = Some(twice.map_or(Captured::Value(value), Captured::Inside));
                }
            }
        }
        Ok(Found::Object(captured))
    }

    others!(Found, Found::Other);
}

/// Index of the column that a key names, if it is read.
impl<'de> DeserializeSeed<'de> for ObjectVisitor<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<Option<usize>, D::Error> {
        key.deserialize_str(KeyVisitor(self.columns))
    }
}

struct KeyVisitor<'a>(&'a [Column]);

impl Visitor<'_> for KeyVisitor<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|column| column.name == key))
    }
}

#[derive(Clone, Copy)]
struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Option<Vec<(String, bool)>>;

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            // A row of a million keys is no reason to keep them all.
            let is_null = map.next_value::<Option<IgnoredAny>>()?.is_none();
            if names.len() < 1_000 {
                names.push((name, is_null));
            }
        }
        Ok(Some(names))
    }

    others!(Option<Vec<(String, bool)>>, None);
}

struct TextVisitor;

const A_NUMBER: Captured = Captured::Other("a number");

impl<'de> DeserializeSeed<'de> for TextVisitor {
    type Value = Captured;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Captured, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Captured;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Captured, E> {
        Ok(Captured::Value(text.into()))
    }

    fn visit_unit<E>(self) -> Result<Captured, E> {
        Ok(Captured::Value(Value::Null))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Captured, E> {
        Ok(Captured::Other("true or false"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Captured, E> {
        Ok(A_NUMBER)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Captured, E> {
        Ok(A_NUMBER)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Captured, E> {
        Ok(A_NUMBER)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Captured, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Captured::Other("an object"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Captured, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Captured::Other("a list"))
    }
}

/// A line in which words of Python are words of JSON.
struct Rewritten {
    json: String,
    /// Columns of the new line at which it became one byte longer.
    longer_at: Vec<usize>,
}

/// Replaces what Python writes for floats that are not finite; `None` if there is no such word where a value may be.
fn without_python_floats(line: &str) -> Option<Rewritten> {
    let mut json = String::with_capacity(line.len() + 8);
    let mut longer_at = Vec::new();
    let (mut in_string, mut value_may_begin) = (false, true);
    let mut rest = line;
    let mut is_changed = false;
    while let Some(next) = rest.chars().next() {
        let word = PYTHON_FLOATS
            .iter()
            .find(|(word, _)| rest.starts_with(word));
        if let Some((word, instead)) = word.filter(|_| !in_string && value_may_begin) {
            json.push_str(instead);
            if instead.len() > word.len() {
                longer_at.push(json.len());
            }
            rest = &rest[word.len()..];
            (is_changed, value_may_begin) = (true, false);
            continue;
        }
        let mut len = next.len_utf8();
        if in_string && next == '\\' {
            len += rest[len..].chars().next().map_or(0, char::len_utf8);
        } else if next == '"' {
            in_string = !in_string;
        }
        if !next.is_ascii_whitespace() {
            value_may_begin = matches!(next, ':' | ',' | '[');
        }
        json.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    is_changed.then_some(Rewritten { json, longer_at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::source::Content;
    use crate::data::source::plan::{RowFormat, SourcePlan};

    fn layout(format: RowFormat) -> Layout {
        let plan = SourcePlan {
            format: Some(format),
            ..SourcePlan::default()
        };
        Layout::named(&plan).unwrap().unwrap()
    }

    fn told(line: &str) -> String {
        values_of(line, &layout(RowFormat::Text))
            .unwrap_err()
            .to_string()
    }

    fn text(line: &str) -> Option<String> {
        let values = values_of(line, &layout(RowFormat::Text));
        match &values.unwrap_or_else(|fault| panic!("{line}: {fault}"))[..] {
            [Value::String(text)] => Some(text.clone()),
            [Value::Null] => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_null_is_no_text_and_so_is_what_pandas_writes_for_it() {
        assert_eq!(text(r#"{"text": null}"#), None);
        assert_eq!(text(r#"{"text": NaN, "score": NaN}"#), None);
        assert_eq!(text(r#"{"text": ""}"#), Some(String::new()));
    }

    #[test]
    fn nothing_in_a_field_that_nobody_reads_ends_a_run() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let objects = format!("{}1{}", "{\"a\":".repeat(5000), "}".repeat(5000));
        for value in [
            "NaN",
            "Infinity",
            "-Infinity",
            "[NaN, Infinity, {\"a\":-Infinity}]",
            "1e400",
            "-1e-400",
            "123456789012345678901234567890",
            "\"half \\ud83d an emoji\"",
            "\"\\udc00\"",
            "{\"text\": 1, \"text\": null}",
            &deep,
            &objects,
        ] {
            for line in [
                format!("{{\"text\": \"NaN, -Infinity\", \"x\": {value}}}"),
                format!("{{\"x\":{value} ,\"text\": \"NaN, -Infinity\"}}"),
            ] {
                assert_eq!(text(&line).as_deref(), Some("NaN, -Infinity"), "{line}");
            }
        }
    }

    #[test]
    fn a_line_is_still_one_object_and_its_fault_is_told_at_its_column() {
        for (line, expected) in [
            (
                r#"{"text": "#,
                "not JSON at column 9: EOF while parsing a value",
            ),
            (
                r#"{"text": "a"} {"#,
                "not JSON at column 15: trailing characters",
            ),
            (
                r#"{"x": 1NaN, "text": "a"}"#,
                "not JSON at column 8: expected `,` or `}`",
            ),
            (
                r#"{NaN: 1, "text": "a"}"#,
                "not JSON at column 2: key must be a string",
            ),
            (
                r#"{"x": NaN, "y": NaN, "text": "a" 1}"#,
                "not JSON at column 34: expected `,` or `}`",
            ),
            (
                r#"{"x": nan, "text": "a"}"#,
                "not JSON at column 8: expected ident",
            ),
            (
                r#"[{"text": "a"},"#,
                "not JSON at column 15: a list that goes on in the next line; each line is one object",
            ),
            ("NaN", "not an object with a string `text`"),
            ("[]", "not an object with a string `text`"),
            (r#"{"text": 3}"#, "`text` is a number, not a string"),
            (
                r#"{"text": Infinity}"#,
                "not JSON at column 14: `Infinity`, or a number beyond all floats, in a field that is read",
            ),
            (r#"{"text": true}"#, "`text` is true or false, not a string"),
            (r#"{"text": ["a"]}"#, "`text` is a list, not a string"),
            (
                r#"{"text": {"text": "a"}}"#,
                "`text` is an object, not a string",
            ),
            (
                r#"{"text": "a", "text": "a"}"#,
                "`text` stands twice in one object, and which one is meant is not known",
            ),
            (
                r#"{"text": null, "text": "a"}"#,
                "`text` stands twice in one object, and which one is meant is not known",
            ),
            ("{}", "an object without `text`"),
            (
                r#"{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1}"#,
                "an object without `text`; it has `a`, `b`, `c`, `d`, `e` and 1 more",
            ),
        ] {
            assert_eq!(told(line), expected, "{line}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_named() {
        let half = "is half of a surrogate pair, as in a text that was cut inside an emoji";
        for (line, column, escape) in [
            (r#"{"text": "half \ud83d and on"}"#, 16, r"\ud83d"),
            (r#"{"text": "half \ud83d"}"#, 16, r"\ud83d"),
            (r#"{"text": "\ud83d\ud83d\ude00"}"#, 11, r"\ud83d"),
            (r#"{"text": "\\ud83d \udE00"}"#, 19, r"\udE00"),
            (r#"{"te\ud83dxt": "a"}"#, 5, r"\ud83d"),
        ] {
            let expected = format!("not JSON at column {column}: `{escape}` {half}");
            assert_eq!(told(line), expected, "{line}");
        }
        assert_eq!(text(r#"{"text": "\ud83d\ude00"}"#).as_deref(), Some("😀"));
    }

    #[test]
    fn a_character_that_no_editor_shows_is_named() {
        for (line, expected) in [
            (
                "\u{feff}{\"text\": \"a\"}",
                "column 1: an invisible character, U+FEFF (a byte-order mark, as where two files were joined)",
            ),
            (
                "{\"text\": \"a\"}\0\0",
                "column 14: an invisible character, U+0000 (NUL, as in a file whose end was never written)",
            ),
            (
                "{\u{a0}\"text\": \"a\"}",
                "column 2: an invisible character, U+00A0 (a no-break space)",
            ),
            (
                "{\"text\":\u{200b} \"a\"}",
                "column 9: an invisible character, U+200B (a zero-width space)",
            ),
            (
                "{\"text\": \"a\"}\u{1a}",
                "column 14: an invisible character, U+001A (an end-of-file mark of DOS)",
            ),
            (
                "\u{200e}{\"text\": \"a\"}",
                "column 1: an invisible character, U+200E",
            ),
        ] {
            assert_eq!(told(line), format!("not JSON at {expected}"), "{line:?}");
        }
    }

    #[test]
    fn the_beginning_of_a_long_line_is_refused_only_for_what_no_end_can_mend() {
        let line =
            r#"{"id": NaN, "text": "some words \ud83d\ude00 and", "x": [1, {"a": -Infinity}]}"#;
        for end in 0..=line.len() {
            check_beginning(&line[..end], Some(&layout(RowFormat::Text)))
                .unwrap_or_else(|fault| panic!("{}: {fault}", &line[..end]));
        }
        for wrong in [
            "PAR1 and more of it",
            "{\"a\" 1, \"and so on\": ",
            "[1, 2, 3, 4, 5, 6]",
        ] {
            assert!(
                check_beginning(wrong, Some(&layout(RowFormat::Text))).is_err(),
                "{wrong}"
            );
        }
    }
    #[test]
    fn fields_that_are_read_are_json_and_others_are_what_they_like() {
        let layout = layout(RowFormat::Messages);
        let row = |more: &str, inside: &str| {
            format!(
                r#"{{"x": {more}, "messages": [{{"role": "user", "content": "NaN", "n": {inside}}}]}}"#
            )
        };
        for (more, inside, expected) in [
            ("1e999", "3", "3"),
            ("Infinity", "0.1", "0.1"),
            ("\"\\ud83d\"", "NaN", "null"),
        ] {
            let values = values_of(&row(more, inside), &layout).unwrap();
            assert_eq!(values[0][0]["n"].to_string(), expected);
            assert_eq!(values[0][0]["content"], "NaN");
            assert!(matches!(layout.content(values), Ok(Some(Content::Chat(_)))));
        }
        for inside in ["Infinity", "1e999", "-Infinity"] {
            let told = values_of(&row("1", inside), &layout)
                .unwrap_err()
                .to_string();
            assert!(told.starts_with("not JSON at column "), "{told}");
        }
        let twice = r#"{"messages": [], "messages": []}"#;
        let told = values_of(twice, &layout).unwrap_err().to_string();
        assert!(told.starts_with("`messages` stands twice"), "{told}");
    }
}
