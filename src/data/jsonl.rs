//! One line of a `.jsonl` file to its text.
//!
//! Only `text` is read. What other fields hold is looked at as far as it takes to find where they end, so that a number
//! that no f64 holds, deep brackets, or half a surrogate pair in them end no run; nor does `NaN`, which Python writes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::fault::{FaultKind, FieldNames};

/// Words that Python writes for floats and JSON does not have, and JSON values as long as the word, or longer.
const PYTHON_FLOATS: [(&str, &str); 3] = [
    ("NaN", "null"), // pandas has it for a cell without a value, so `text` may be it
    ("-Infinity", "0        "),
    ("Infinity", "0       "),
];

/// Text of a line; `None` if it is `null`.
pub(super) fn text_of(line: &str) -> Result<Option<String>, FaultKind> {
    match parse(line) {
        Ok(found) => text_of_value(found),
        Err(error) => match without_python_floats(line) {
            None => Err(not_json(line, error.column(), &error)),
            Some(Rewritten { json, longer_at }) => match parse(&json) {
                Ok(found) => text_of_value(found),
                Err(error) => {
                    let before = longer_at.iter().filter(|at| **at < error.column()).count();
                    Err(not_json(line, error.column() - before, &error))
                }
            },
        },
    }
}

/// Checks the beginning of a line whose end is not known.
pub(super) fn check_beginning(line: &str) -> Result<(), FaultKind> {
    match parse(line) {
        Err(error) if error.is_eof() => Ok(()),
        _ => match text_of(line) {
            // Half a name or half a word that Python writes may end here.
            Err(FaultKind::NotJson { column, .. }) if column + 10 > line.len() => Ok(()),
            outcome => outcome.map(drop),
        },
    }
}

fn parse(line: &str) -> serde_json::Result<Found> {
    let mut json = serde_json::Deserializer::from_str(line);
    let found = json.deserialize_any(LineVisitor)?;
    json.end()?;
    Ok(found)
}

fn text_of_value(found: Found) -> Result<Option<String>, FaultKind> {
    let Found::Object { text, fields } = found else {
        return Err(FaultKind::NotText("not an object with a string `text`"));
    };
    match text {
        None => Err(FaultKind::NoText { fields }),
        Some(TextField::Null) => Ok(None),
        Some(TextField::Text(text)) => Ok(Some(text)),
        Some(TextField::Twice) => Err(FaultKind::NotText(
            "`text` stands twice in one object, and which one is meant is not known",
        )),
        Some(TextField::Other(found)) => Err(FaultKind::NotText(found)),
    }
}

/// What a line holds.
enum Found {
    Object {
        text: Option<TextField>,
        /// Other fields, if there is no `text`.
        fields: FieldNames,
    },
    Other,
}

enum TextField {
    Text(String),
    Null,
    Twice,
    /// Another type, in words.
    Other(&'static str),
}

struct LineVisitor;

impl<'de> Visitor<'de> for LineVisitor {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a line of JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let (mut text, mut fields) = (None, FieldNames::default());
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if name != "text" {
                map.next_value::<IgnoredAny>()?;
                fields.add(&name);
            } else if text.is_none() {
                text = Some(map.next_value_seed(TextVisitor)?);
            } else {
                map.next_value::<IgnoredAny>()?;
                text = Some(TextField::Twice);
            }
        }
        Ok(Found::Object { text, fields })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Found, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Other)
    }
}

struct TextVisitor;

const A_NUMBER: TextField = TextField::Other("`text` is a number, not a string");

impl<'de> DeserializeSeed<'de> for TextVisitor {
    type Value = TextField;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<TextField, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TextVisitor {
    type Value = TextField;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<TextField, E> {
        Ok(TextField::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<TextField, E> {
        Ok(TextField::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<TextField, E> {
        Ok(TextField::Other("`text` is true or false, not a string"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<TextField, E> {
        Ok(A_NUMBER)
    }

    fn visit_u64<E>(self, _: u64) -> Result<TextField, E> {
        Ok(A_NUMBER)
    }

    fn visit_f64<E>(self, _: f64) -> Result<TextField, E> {
        Ok(A_NUMBER)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TextField, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(TextField::Other("`text` is an object, not a string"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TextField, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(TextField::Other("`text` is a list, not a string"))
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

/// The fault of a line that is not JSON, in words that name what no editor shows.
fn not_json(line: &str, column: usize, error: &serde_json::Error) -> FaultKind {
    let message = error.to_string();
    let parser = message
        .split_once(" at line ")
        .map_or(&*message, |(reason, _)| reason);
    let about_escapes = parser.contains("hex escape") || parser.contains("surrogate");
    if let Some((column, escape)) = half_a_pair(line).filter(|_| about_escapes) {
        let reason = format!(
            "`{escape}` is half of a surrogate pair, as in a text that was cut inside an emoji"
        );
        return FaultKind::NotJson { column, reason };
    }
    let reason = match invisible(line, column) {
        Some(found) => format!("an invisible character, {found}"),
        None if error.is_eof() && line.trim_start().starts_with('[') => {
            "a list that goes on in the next line; each line is one object".to_owned()
        }
        None => parser.to_owned(),
    };
    FaultKind::NotJson { column, reason }
}

/// Column and letters of the first escape that is one half of a surrogate pair without the other.
fn half_a_pair(line: &str) -> Option<(usize, &str)> {
    let unit = |at: usize| {
        let digits = line.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut at = 0;
    while let Some(found) = line.get(at..)?.find('\\') {
        at += found;
        match unit(at) {
            Some(0xd800..=0xdbff) => match unit(at + 6) {
                Some(0xdc00..=0xdfff) => at += 12,
                _ => return Some((at + 1, &line[at..at + 6])),
            },
            Some(0xdc00..=0xdfff) => return Some((at + 1, &line[at..at + 6])),
            _ => at += 1 + line[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    None
}

/// The character at a column (in bytes, from 1), if no editor shows it.
fn invisible(line: &str, column: usize) -> Option<String> {
    let mut at = column.saturating_sub(1);
    while !line.is_char_boundary(at) {
        at -= 1;
    }
    let character = line.get(at..)?.chars().next()?;
    let name = match character {
        '\u{feff}' => " (a byte-order mark, as where two files were joined)",
        '\0' => " (NUL, as in a file whose end was never written)",
        '\u{1a}' => " (an end-of-file mark of DOS)",
        '\u{a0}' => " (a no-break space)",
        '\u{ad}' => " (a soft hyphen)",
        '\u{200b}' => " (a zero-width space)",
        '\u{2028}' => " (a line separator)",
        '\u{2029}' => " (a paragraph separator)",
        '\u{3000}' => " (an ideographic space)",
        '\t' | '\n' | '\r' | ' ' => return None,
        other if other.is_control() || other.is_whitespace() => "",
        '\u{34f}'
        | '\u{61c}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{180b}'..='\u{180e}'
        | '\u{200c}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{ffa0}'
        | '\u{e0000}'..='\u{e0fff}' => "",
        _ => return None,
    };
    Some(format!("U+{:04X}{name}", u32::from(character)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> String {
        text_of(line).unwrap_err().to_string()
    }

    fn text(line: &str) -> Option<String> {
        text_of(line).unwrap_or_else(|fault| panic!("{line}: {fault}"))
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
            (r#"{"text": Infinity}"#, "`text` is a number, not a string"),
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
            check_beginning(&line[..end])
                .unwrap_or_else(|fault| panic!("{}: {fault}", &line[..end]));
        }
        for wrong in [
            "PAR1 and more of it",
            "{\"a\" 1, \"and so on\": ",
            "[1, 2, 3, 4, 5, 6]",
        ] {
            assert!(check_beginning(wrong).is_err(), "{wrong}");
        }
    }
}
