//! Arguments of Python functions: by place or by name.

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};

/// Arguments of one call.
pub(super) struct Args<'a> {
    by_place: &'a [Value],
    by_name: Option<Kwargs>,
}

impl<'a> Args<'a> {
    /// Splits the values of a call, and refuses more than `names` has places for and names that it does not have.
    pub(super) fn new(values: &'a [Value], names: &[&str]) -> Result<Self, Error> {
        let (by_place, by_name) = match values.split_last() {
            Some((last, others)) if last.is_kwargs() => {
                (others, Some(Kwargs::try_from(last.clone())?))
            }
            _ => (values, None),
        };
        if by_place.len() > names.len() {
            return Err(Error::from(ErrorKind::TooManyArguments));
        }
        if let Some(named) = &by_name
            && let Some(unknown) = named.args().find(|name| !names.contains(name))
        {
            let detail = format!("unknown argument `{unknown}`");
            return Err(Error::new(ErrorKind::TooManyArguments, detail));
        }
        Ok(Self { by_place, by_name })
    }

    /// Argument at a place or of a name; `None` in Python is no argument.
    pub(super) fn get(&self, place: usize, name: &str) -> Result<Option<Value>, Error> {
        let value = match (self.by_place.get(place), &self.by_name) {
            (Some(value), _) => Some(value.clone()),
            (None, Some(named)) if named.has(name) => Some(named.get::<Value>(name)?),
            _ => None,
        };
        Ok(value.filter(|value| !value.is_none()))
    }

    /// Text at a place or of a name.
    pub(super) fn text(&self, place: usize, name: &str) -> Result<Option<String>, Error> {
        let Some(value) = self.get(place, name)? else {
            return Ok(None);
        };
        match value.as_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(wrong(name, "a string", &value)),
        }
    }

    /// Text that must be there.
    pub(super) fn needed_text(&self, place: usize, name: &str) -> Result<String, Error> {
        self.text(place, name)?
            .ok_or_else(|| Error::new(ErrorKind::MissingArgument, format!("`{name}` is missing")))
    }

    /// Whole number at a place or of a name.
    pub(super) fn number(&self, place: usize, name: &str) -> Result<Option<i64>, Error> {
        let Some(value) = self.get(place, name)? else {
            return Ok(None);
        };
        match value.as_i64() {
            Some(number) => Ok(Some(number)),
            None => Err(wrong(name, "a whole number", &value)),
        }
    }

    /// Truth of the argument at a place or of a name; false if there is none.
    pub(super) fn is_set(&self, place: usize, name: &str) -> Result<bool, Error> {
        Ok(self.get(place, name)?.is_some_and(|value| value.is_true()))
    }
}

fn wrong(name: &str, wanted: &str, value: &Value) -> Error {
    let detail = format!("`{name}` must be {wanted}, and is {value:?}");
    Error::new(ErrorKind::InvalidOperation, detail)
}
