//! Values as Python prints them.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value};

/// Prints a value in the place of `{{ value }}`.
pub(super) fn print(
    out: &mut Output<'_>,
    _state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&to_text(value)?),
    }
    .map_err(Error::from)
}

/// Text of a value: `str(value)`.
pub(super) fn to_text(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    if value.is_undefined() {
        return Ok(String::new());
    }
    let mut out = String::new();
    write_repr(&mut out, value, 0)?;
    Ok(out)
}

/// A number with a fraction: the shortest digits that give it back.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let short = format!("{number:e}");
    let (digits, exponent) = short.split_once('e').unwrap_or((&short, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) {
        return format!("{number:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// A number that Python prints with an exponent, and minijinja without. It prints itself as Python does wherever a template
/// joins texts. It cannot be computed with, which no template does with numbers of a conversation.
#[derive(Debug)]
struct Exponential(f64);

impl Object for Exponential {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.0 != 0.0
    }

    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&float(self.0))
    }
}

/// Value of a number with a fraction.
pub(super) fn float_value(number: f64) -> Value {
    if float(number).contains('e') {
        Value::from_object(Exponential(number))
    } else {
        Value::from(number)
    }
}

/// Number with a fraction that a value is.
pub(super) fn as_float(value: &Value) -> Option<f64> {
    if let Some(number) = value.downcast_object_ref::<Exponential>() {
        return Some(number.0);
    }
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    is_float
        .then(|| f64::try_from(value.clone()).ok())
        .flatten()
}

/// Deepest nesting that is printed: that of the JSON reader, twice.
pub(super) const DEEPEST: usize = 256;

/// Error of values that are nested too deep.
pub(super) fn too_deep() -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("a value is nested more than {DEEPEST} deep"),
    )
}

fn write_repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > DEEPEST {
        return Err(too_deep());
    }
    if let Some(number) = as_float(value) {
        out.push_str(&float(number));
        return Ok(());
    }
    match value.kind() {
        ValueKind::String => write_text(out, value.as_str().unwrap_or_default()),
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Map => {
            out.push('{');
            for (idx, key) in value.try_iter()?.enumerate() {
                out.push_str(if idx > 0 { ", " } else { "" });
                write_repr(out, &key, depth + 1)?;
                out.push_str(": ");
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() {
                ('(', ')')
            } else {
                ('[', ']')
            };
            out.push(open);
            let mut count = 0;
            for item in value.try_iter()?.checked() {
                out.push_str(if count > 0 { ", " } else { "" });
                write_repr(out, &item?, depth + 1)?;
                count += 1;
            }
            out.push_str(if value.is_tuple() && count == 1 {
                ","
            } else {
                ""
            });
            out.push(close);
        }
        _ => {
            let _ = write!(out, "{value}"); // a String takes everything
        }
    }
    Ok(())
}

/// Writes a text in quotes, with what is not printable escaped.
fn write_text(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if letter == quote => out.extend(['\\', letter]),
            ' '..='~' => out.push(letter),
            _ if is_printable(letter) => out.push(letter),
            _ => {
                let code = u32::from(letter);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// Tells whether a character is printable: Rust escapes the same categories of Unicode as Python, but for marks that
/// combine with a letter before them.
fn is_printable(letter: char) -> bool {
    let mut text = String::from("a");
    text.push(letter);
    text.escape_debug().eq(text.chars())
}
