//! JSON values in which no object has a key twice. Parsers differ in which of both they take, so a row with one says nothing.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Value};

/// A key that stands twice in one object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Twice {
    pub(super) key: String,
    /// Element of the outermost list that the object is in, counted from 1.
    pub(super) element: Option<usize>,
}

/// Text of JSON to its value, with the first key that stands twice.
pub(super) fn from_str(json: &str) -> serde_json::Result<(Value, Option<Twice>)> {
    let mut json = serde_json::Deserializer::from_str(json);
    let twice = RefCell::new(None);
    let value = UniqueValue::new(&twice).deserialize(&mut json)?;
    json.end()?;
    Ok((value, twice.into_inner()))
}

/// Seed of a value.
#[derive(Clone, Copy)]
pub(super) struct UniqueValue<'a> {
    /// The first key that stands twice. It is no error of the parser, which knows no words but its own.
    twice: &'a RefCell<Option<Twice>>,
    is_outermost: bool,
    element: Option<usize>,
}

impl<'a> UniqueValue<'a> {
    pub(super) fn new(twice: &'a RefCell<Option<Twice>>) -> Self {
        Self {
            twice,
            is_outermost: true,
            element: None,
        }
    }

    fn inside(self) -> Self {
        Self {
            is_outermost: false,
            ..self
        }
    }
}

impl<'de> DeserializeSeed<'de> for UniqueValue<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Value, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(self.inside())?;
            match object.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(value);
                }
                Entry::Occupied(entry) => {
                    self.twice.borrow_mut().get_or_insert_with(|| Twice {
                        key: entry.key().clone(),
                        element: self.element,
                    });
                }
            }
        }
        Ok(Value::Object(object))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        loop {
            let element = if self.is_outermost {
                Some(values.len() + 1)
            } else {
                self.element
            };
            let seed = Self {
                element,
                ..self.inside()
            };
            match list.next_element_seed(seed)? {
                Some(value) => values.push(value),
                None => return Ok(Value::Array(values)),
            }
        }
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_library_and_keys_that_stand_twice_are_found() {
        let json = r#" {"a": [1, -2, 0.1, true, null, "é\n"], "b": {"a": {}, "c": []}} "#;
        let expected: Value = serde_json::from_str(json).unwrap();
        assert_eq!(from_str(json).unwrap(), (expected, None));
        for (json, key, element) in [
            (r#"{"a": 1, "a": 1}"#, "a", None),
            (r#"[{"a": 1}, {"b": {"c": 1, "\u0063": 2}}]"#, "c", Some(2)),
            (r#"[{"a": [[], {"c": 1, "c": 2}]}]"#, "c", Some(1)),
            (r#"{"x": [{"c": 1}, {"c": 1, "c": 2}]}"#, "c", None),
        ] {
            let (_, twice) = from_str(json).unwrap();
            let key = key.to_owned();
            assert_eq!(twice, Some(Twice { key, element }), "{json}");
        }
        for wrong in ["{", "[1,]", "1 2", "{\"a\": 1e999}"] {
            assert!(from_str(wrong).is_err(), "{wrong}");
        }
        assert!(from_str(&"[".repeat(10_000)).is_err());
    }
}
