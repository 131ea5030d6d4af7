//! Filters and tests of jinja2 that minijinja has otherwise.

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::args::Args;
use super::source::LOOPED;
use super::strings::Sides;
use super::{json, repr, strings};

/// Gives an environment the filters and tests of jinja2.
pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("string", string);
    environment.add_filter("trim", trim);
    environment.add_filter("indent", indent);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    for name in ["escape", "e", "forceescape"] {
        environment.add_filter(name, escape);
    }
    environment.add_filter(LOOPED, looped);
    environment.add_filter("list", list);
    environment.add_test("number", |value: &Value| {
        value.kind() == ValueKind::Bool || is_number(value)
    });
    environment.add_test("float", |value: &Value| repr::as_float(value).is_some());
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", |value: &Value| {
        !value.is_none() && value.try_iter().is_ok()
    });
    environment.add_test("callable", is_callable);
}

/// Value that a loop goes through, which is not none.
fn looped(value: &Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "none is not iterable",
        ));
    }
    Ok(value.clone())
}

fn list(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    looped(value).and_then(|value| minijinja::filters::list(state, value))
}

fn is_number(value: &Value) -> bool {
    value.kind() == ValueKind::Number || repr::as_float(value).is_some()
}

fn string(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() {
        return Ok(value.clone());
    }
    let text = repr::to_text(value)?;
    strings::pay(state, text.len())?;
    Ok(Value::from(text))
}

fn trim(value: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let chars = Args::new(&args, &["chars"])?.text(0, "chars")?;
    let stripped = |text: &str| Value::from(strings::stripped(text, chars.as_deref(), Sides::Both));
    match value.as_str() {
        Some(text) => Ok(stripped(text)),
        None => Ok(stripped(&repr::to_text(value)?)),
    }
}

/// Puts space before every line but the first; a newline at the end stays.
fn indent(
    state: &State<'_, '_>,
    value: &Value,
    args: Rest<ValueOrKwargs>,
) -> Result<String, Error> {
    let args = args.into_values();
    let args = Args::new(&args, &["width", "first", "blank"])?;
    let space = match args.get(0, "width")? {
        None => " ".repeat(4),
        Some(width) => match (width.as_str(), width.as_usize()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(width)) => {
                strings::pay(state, width)?;
                " ".repeat(width)
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    "`width` must be a string or a whole number",
                ));
            }
        },
    };
    let text = repr::to_text(value)? + "\n";
    let lines = strings::lines(&text, false);
    strings::pay(state, space.len().saturating_mul(lines.len()))?;
    let blank = args.is_set(2, "blank")?;
    let mut out = String::new();
    for (idx, line) in lines.iter().enumerate() {
        if idx > 0 {
            out.push('\n');
        }
        let is_indented = if idx == 0 {
            args.is_set(1, "first")?
        } else {
            blank || !line.is_empty()
        };
        if is_indented {
            out.push_str(&space);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn default(value: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let parsed = Args::new(&args, &["default_value", "boolean"])?;
    let is_missing = value.is_undefined() || (parsed.is_set(1, "boolean")? && !value.is_true());
    if !is_missing {
        return Ok(value.clone());
    }
    let none = Value::from(());
    let by_place = args.first().filter(|first| !first.is_kwargs());
    match (by_place, parsed.get(0, "default_value")?) {
        (Some(first), _) => Ok(first.clone()),
        (None, Some(value)) => Ok(value),
        (None, None)
            if args.last().is_some_and(|named| {
                named
                    .get_attr("default_value")
                    .is_ok_and(|value| value.is_none())
            }) =>
        {
            Ok(none)
        }
        (None, None) => Ok(Value::from("")),
    }
}

fn int(value: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let args = Args::new(&args, &["default", "base"])?;
    let base = args
        .number(1, "base")?
        .and_then(|base| u32::try_from(base).ok())
        .filter(|base| (2..=36).contains(base));
    let number = match value.as_str() {
        Some(text) => {
            let text = strings::stripped(text, None, Sides::Both).replace('_', "");
            let whole = i64::from_str_radix(&text, base.unwrap_or(10)).ok();
            whole.or_else(|| text.parse::<f64>().ok().and_then(whole_part))
        }
        None if value.kind() == ValueKind::Bool => Some(i64::from(value.is_true())),
        None => match repr::as_float(value) {
            Some(number) => whole_part(number),
            None => value.as_i64(),
        },
    };
    match number {
        Some(number) => Ok(Value::from(number)),
        None => Ok(args.get(0, "default")?.unwrap_or_else(|| Value::from(0))),
    }
}

fn whole_part(number: f64) -> Option<i64> {
    const LARGEST: f64 = 9.0e18;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the fraction goes, and larger numbers are left out"
    )]
    (number.abs() <= LARGEST).then_some(number as i64)
}

fn float(value: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let args = Args::new(&args, &["default"])?;
    let number = match value.as_str() {
        Some(text) => strings::stripped(text, None, Sides::Both)
            .replace('_', "")
            .parse()
            .ok(),
        None if value.kind() == ValueKind::Bool => Some(if value.is_true() { 1.0 } else { 0.0 }),
        None => repr::as_float(value).or_else(|| f64::try_from(value.clone()).ok()),
    };
    match number {
        Some(number) => Ok(Value::from(number)),
        None => Ok(args.get(0, "default")?.unwrap_or_else(|| Value::from(0.0))),
    }
}

fn escape(value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let mut out = String::new();
    for letter in repr::to_text(value)?.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            _ => out.push(letter),
        }
    }
    Ok(Value::from_safe_string(out))
}

/// Whatever has a length and items: texts and dictionaries, too.
fn is_sequence(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map => true,
        ValueKind::Iterable => value.len().is_some(),
        _ => false,
    }
}

fn is_callable(value: &Value) -> bool {
    // Functions, macros and methods are plain objects, as are numbers of our own.
    (value.kind() == ValueKind::Plain && repr::as_float(value).is_none()) || value.is_undefined()
}
