//! `tojson`: values as `json.dumps` writes them.

use std::fmt::Write as _;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State, Value};

use super::args::Args;
use super::repr;

/// Writes a value as JSON: `ensure_ascii` is false, and keys keep their order, if nothing else is said.
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    args: Rest<ValueOrKwargs>,
) -> Result<String, Error> {
    let args: Vec<Value> = args.into_values();
    let args = Args::new(
        &args,
        &["ensure_ascii", "indent", "separators", "sort_keys"],
    )?;
    let indent = args
        .get(1, "indent")?
        .map(|indent| indent_of(&indent))
        .transpose()?;
    let (item, key) = match args.get(2, "separators")? {
        Some(pair) => {
            let text = |idx| {
                pair.get_item_by_index(idx)
                    .map(|part| part.as_str().map(str::to_owned))
            };
            match (text(0)?, text(1)?) {
                (Some(item), Some(key)) => (item, key),
                _ => return Err(refused("`separators` must be two strings")),
            }
        }
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let mut writer = Writer {
        state,
        out: String::new(),
        charged: 0,
        ascii: args.is_set(0, "ensure_ascii")?,
        sorted: args.is_set(3, "sort_keys")?,
        indent,
        item,
        key,
    };
    writer.write(value, 0)?;
    Ok(writer.out)
}

/// Most spaces of one level.
const WIDEST: i64 = 64;

fn indent_of(indent: &Value) -> Result<String, Error> {
    if let Some(text) = indent.as_str() {
        return Ok(text.to_owned());
    }
    let width = if indent.kind() == ValueKind::Bool {
        i64::from(indent.is_true())
    } else {
        indent.as_i64().unwrap_or(-1)
    };
    match usize::try_from(width) {
        Ok(width) if i64::try_from(width).is_ok_and(|width| width <= WIDEST) => {
            Ok(" ".repeat(width))
        }
        _ => Err(refused(&format!(
            "`indent` must be 0 ..= {WIDEST}, and is {indent}"
        ))),
    }
}

fn refused(fact: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {fact}"))
}

struct Writer<'a, 'template, 'env> {
    state: &'a State<'template, 'env>,
    out: String,
    /// Bytes that fuel was paid for.
    charged: usize,
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl Writer<'_, '_, '_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        const BYTES_OF_FUEL: usize = 16;
        if depth > repr::DEEPEST {
            return Err(repr::too_deep());
        }
        if self.out.len() >= self.charged + BYTES_OF_FUEL {
            let fuel = (self.out.len() - self.charged) / BYTES_OF_FUEL;
            self.state
                .consume_fuel(u64::try_from(fuel).unwrap_or(u64::MAX))?;
            self.charged += fuel * BYTES_OF_FUEL;
        }
        if let Some(text) = value.as_str() {
            write_text(&mut self.out, text, self.ascii);
            return Ok(());
        }
        match value.kind() {
            _ if repr::as_float(value).is_some() => self.out.push_str(&number(value)),
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::Seq | ValueKind::Iterable => self.write_list(value, depth)?,
            ValueKind::Map => self.write_map(value, depth)?,
            kind => return Err(refused(&format!("a value of type {kind} is no JSON"))),
        }
        Ok(())
    }

    fn write_list(&mut self, list: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut count = 0;
        for item in list.try_iter()?.checked() {
            self.separate(count, depth + 1);
            self.write(&item?, depth + 1)?;
            count += 1;
        }
        self.end(count, depth);
        self.out.push(']');
        Ok(())
    }

    fn write_map(&mut self, map: &Value, depth: usize) -> Result<(), Error> {
        let mut keys = map.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
        if self.sorted {
            keys.sort();
        }
        self.out.push('{');
        for (idx, key) in keys.iter().enumerate() {
            self.separate(idx, depth + 1);
            let name = key_text(key)?;
            write_text(&mut self.out, &name, self.ascii);
            self.out.push_str(&self.key);
            self.write(&map.get_item(key)?, depth + 1)?;
        }
        self.end(keys.len(), depth);
        self.out.push('}');
        Ok(())
    }

    fn separate(&mut self, idx: usize, depth: usize) {
        if idx > 0 {
            self.out.push_str(&self.item);
        }
        self.new_line(depth);
    }

    fn end(&mut self, count: usize, depth: usize) {
        if count > 0 {
            self.new_line(depth);
        }
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }
}

/// Name of a key: numbers and constants become text, as in Python.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => Ok(number(key)),
        kind => Err(refused(&format!("a key of type {kind} is no JSON"))),
    }
}

fn number(value: &Value) -> String {
    match repr::as_float(value) {
        None => value.to_string(),
        Some(number) if number.is_nan() => "NaN".to_owned(),
        Some(f64::INFINITY) => "Infinity".to_owned(),
        Some(f64::NEG_INFINITY) => "-Infinity".to_owned(),
        Some(number) => repr::float(number),
    }
}

fn write_text(out: &mut String, text: &str, ascii: bool) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter)); // a String takes everything
            }
            _ if ascii && !letter.is_ascii() => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            _ => out.push(letter),
        }
    }
    out.push('"');
}
