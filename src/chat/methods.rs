//! Methods of Python's values, beyond those of minijinja-contrib or otherwise than there.

use std::sync::Arc;

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::args::Args;
use super::repr;
use super::source::{ATTRIBUTE, DICT_METHODS, ITEM, PERCENT};
use super::strings;

/// Methods that change a dictionary: the sandbox of transformers has none of them.
const CHANGING: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

/// Calls a method of a value that has none of its own.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match method {
        ATTRIBUTE | ITEM if value.is_undefined() => {
            return Err(Error::from(ErrorKind::UndefinedError));
        }
        ATTRIBUTE => return attribute(value, &Args::new(args, &["name"])?.needed_text(0, "name")?),
        ITEM => return item(value, &Args::new(args, &["name"])?.needed_text(0, "name")?),
        PERCENT => return percent(state, value, args),
        _ => {}
    }
    let own = match value.kind() {
        ValueKind::String => {
            strings::call(state, value.as_str().unwrap_or_default(), method, args)?
        }
        ValueKind::Map => dict_method(value, method, args)?,
        ValueKind::Seq | ValueKind::Iterable => list_method(value, method, args)?,
        _ => None,
    };
    match own {
        Some(value) => Ok(value),
        None => unknown_method_callback(state, value, method, args),
    }
}

/// A method that is named and not called.
#[derive(Debug)]
struct Method {
    value: Value,
    name: String,
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        self.value.call_method(state, &self.name, args)
    }
}

/// Value of `value.name`, where `name` is a method of dictionaries: the method, whatever keys there are.
fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    if !is_dict(value) {
        value.get_attr(name)
    } else if CHANGING.contains(&name) {
        Ok(Value::UNDEFINED)
    } else {
        Ok(method(value, name))
    }
}

/// Value of `value['name']`, where `name` is a method of dictionaries: the item, or else the method.
fn item(value: &Value, name: &str) -> Result<Value, Error> {
    let item = value.get_item(&Value::from(name))?;
    let stands_in = item.is_undefined() && is_dict(value) && !CHANGING.contains(&name);
    Ok(if stands_in { method(value, name) } else { item })
}

fn method(value: &Value, name: &str) -> Value {
    debug_assert!(DICT_METHODS.contains(&name), "{name}");
    Value::from_object(Method {
        value: value.clone(),
        name: name.to_owned(),
    })
}

/// Tells a dictionary from a namespace, whose attributes are its values.
fn is_dict(value: &Value) -> bool {
    value.kind() == ValueKind::Map
        && value
            .as_object()
            .is_some_and(|object| !object.type_name().ends_with("::Namespace"))
}

/// Value of `text % value`.
fn percent(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [operand] = args else {
        return Err(Error::from(ErrorKind::TooManyArguments));
    };
    let Some(pattern) = value.as_str() else {
        return Err(Error::from(ErrorKind::InvalidOperation));
    };
    let values: Vec<Value> = if operand.is_tuple() {
        operand.try_iter()?.collect()
    } else {
        vec![operand.clone()]
    };
    let mut texts = Vec::with_capacity(values.len());
    for value in values {
        // A number with a fraction and a container are printed as Python does.
        let is_plain = matches!(
            value.kind(),
            ValueKind::Number | ValueKind::Map | ValueKind::String
        );
        texts.push(if is_plain {
            value
        } else {
            Value::from(repr::to_text(&value)?)
        });
    }
    let text = format(FormatStyle::Printf, pattern, &texts)?;
    strings::pay(state, text.len())?;
    Ok(Value::from(text))
}

fn dict_method(dict: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    if method != "copy" {
        return Ok(None);
    }
    Args::new(args, &[])?;
    let mut pairs = Vec::new();
    for key in dict.try_iter()?.checked() {
        let key = key?;
        let value = dict.get_item(&key)?;
        pairs.push((key, value));
    }
    Ok(Some(Value::from_pairs(pairs)))
}

fn list_method(list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "copy" => {
            Args::new(args, &[])?;
            let items = list.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
            Ok(Some(Value::from(items)))
        }
        "index" => {
            let wanted = args
                .first()
                .ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
            for (idx, item) in list.try_iter()?.checked().enumerate() {
                if item? == *wanted {
                    return Ok(Some(Value::from(idx)));
                }
            }
            Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("{wanted:?} is not in the list"),
            ))
        }
        "count" if list.kind() == ValueKind::Iterable => {
            let wanted = args
                .first()
                .ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
            let mut count = 0;
            for item in list.try_iter()?.checked() {
                count += u64::from(item? == *wanted);
            }
            Ok(Some(Value::from(count)))
        }
        _ => Ok(None),
    }
}
