//! Functions that transformers gives to chat templates.

use std::fmt::Write as _;
use std::sync::Arc;

use chrono::NaiveDateTime;
use chrono::format::{Item, StrftimeItems};
use minijinja::value::{Object, ObjectRepr, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, functions};
use minijinja_contrib::globals;

use super::args::Args;
use super::error::Raised;
use super::repr;

/// Gives an environment the functions of transformers; `now` is the time that `strftime_now` prints.
pub(super) fn add(environment: &mut Environment<'static>, now: NaiveDateTime) {
    environment.add_function(
        "raise_exception",
        |message: &Value| -> Result<Value, Error> {
            Err(Raised(repr::to_text(message)?).into_error())
        },
    );
    environment.add_function("strftime_now", move |pattern: &str| strftime(now, pattern));
    environment.add_function("namespace", namespace);
    environment.add_function("cycler", |items: Rest<Value>| globals::cycler(items.0));
    environment.add_function("joiner", globals::joiner);
    environment.add_global("dict", Value::from_object(Dict));
    environment.remove_global("debug");
}

/// A namespace, which has no attributes that begin with `_`.
fn namespace(values: Option<ValueOrKwargs>) -> Result<Value, Error> {
    let Some(values) = values.map(ValueOrKwargs::into_value) else {
        return functions::namespace(None);
    };
    for name in values.try_iter()?.checked() {
        if name?.as_str().is_some_and(|name| name.starts_with('_')) {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "a namespace has no attributes that begin with `_`",
            ));
        }
    }
    minijinja::value::from_args::<(Option<ValueOrKwargs>,)>(&[values])
        .and_then(|(values,)| functions::namespace(values))
}

/// The function `dict`, with its own `fromkeys`.
#[derive(Debug)]
struct Dict;

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let mut pairs = Vec::new();
        for values in args {
            if values.kind() == ValueKind::Map {
                for key in values.try_iter()?.checked() {
                    let key = key?;
                    let value = values.get_item(&key)?;
                    pairs.push((key, value));
                }
                continue;
            }
            for pair in values.try_iter()?.checked() {
                let pair = pair?;
                pairs.push((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?));
            }
        }
        Ok(Value::from_pairs(pairs))
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        if method != "fromkeys" {
            return Err(Error::from(ErrorKind::UnknownMethod));
        }
        let args = Args::new(args, &["iterable", "value"])?;
        let keys = args
            .get(0, "iterable")?
            .ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
        let value = args.get(1, "value")?.unwrap_or_else(|| Value::from(()));
        let keys = keys.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
        Ok(Value::from_pairs(
            keys.into_iter().map(|key| (key, value.clone())),
        ))
    }
}

/// A time in the pattern of `strftime`, in English. A time without a zone prints nothing for `%z` and `%Z`, and a
/// pattern that is none stays as it is.
fn strftime(now: NaiveDateTime, pattern: &str) -> String {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let code = code_length(&rest[at..]);
        let (code, behind) = rest[at..].split_at(code);
        match code {
            "%z" | "%Z" => {}
            "%f" => {
                let _ = write!(out, "{:06}", now.and_utc().timestamp_subsec_micros()); // a String takes everything
            }
            _ if StrftimeItems::new(code).any(|item| matches!(item, Item::Error)) => {
                out.push_str(code);
            }
            _ => out.push_str(&now.format(code).to_string()),
        }
        rest = behind;
    }
    out + rest
}

/// Length of a code: `%`, a sign of padding, and a letter.
fn code_length(text: &str) -> usize {
    let mut letters = text.char_indices().skip(1);
    match letters.next() {
        None => text.len(),
        Some((at, '-' | '_' | '0' | '^' | '#')) => letters
            .next()
            .map_or(at + 1, |(at, letter)| at + letter.len_utf8()),
        Some((at, letter)) => at + letter.len_utf8(),
    }
}
