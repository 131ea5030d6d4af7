//! First difference between two JSON values.

use serde_json::Value;

/// Longest value that is shown in full.
const MAX_SHOWN: usize = 40;

/// One place at which two values differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Keys and indices from the outermost in.
    pub path: Vec<String>,
    /// Value of the first there; `None` if it has no such place.
    pub was: Option<Value>,
    /// Value of the second there.
    pub is: Option<Value>,
}

impl Difference {
    /// Finds the first difference in the order of the keys of `is`, then of keys only in `was`, if there is one.
    pub fn first(was: &Value, is: &Value) -> Option<Self> {
        let (Value::Object(old), Value::Object(new)) = (was, is) else {
            return (was != is).then(|| Self {
                path: Vec::new(),
                was: Some(was.clone()),
                is: Some(is.clone()),
            });
        };
        let here = |key: &String, was: Option<&Value>, is: Option<&Value>| Self {
            path: vec![key.clone()],
            was: was.cloned(),
            is: is.cloned(),
        };
        for (key, is) in new {
            let Some(was) = old.get(key) else {
                return Some(here(key, None, Some(is)));
            };
            if let Some(mut inner) = Self::first(was, is) {
                inner.path.insert(0, key.clone());
                return Some(inner);
            }
        }
        let gone = old.iter().find(|(key, _)| !new.contains_key(*key));
        gone.map(|(key, was)| here(key, Some(was), None))
    }

    /// Text such as "changed from 1 to 2"; `absent` is the text for a missing value.
    pub fn describe(&self, absent: &str) -> String {
        let shown = |value: &Option<Value>| match value {
            None | Some(Value::Null) => absent.to_owned(),
            Some(value) => short(&value.to_string()),
        };
        format!("changed from {} to {}", shown(&self.was), shown(&self.is))
    }
}

fn short(text: &str) -> String {
    if text.chars().count() <= MAX_SHOWN {
        return text.to_owned();
    }
    text.chars()
        .take(MAX_SHOWN - 3)
        .chain("...".chars())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn describe(was: &Value, is: &Value) -> Option<String> {
        let found = Difference::first(was, is)?;
        Some(format!(
            "{} {}",
            found.path.join("."),
            found.describe("absent")
        ))
    }

    #[test]
    fn the_first_difference_is_told_with_its_place_and_both_values() {
        let was = json!({ "a": 1, "b": { "c": 1e-3, "d": [1, 2] }, "e": "x" });
        assert_eq!(describe(&was, &was), None);
        let is = json!({ "a": 1, "b": { "c": 3e-3, "d": [1] }, "e": "y" });
        assert_eq!(
            describe(&was, &is).unwrap(),
            "b.c changed from 0.001 to 0.003"
        );
        let is = json!({ "a": 1, "b": { "c": 1e-3, "d": [1] }, "e": "x" });
        assert_eq!(
            describe(&was, &is).unwrap(),
            "b.d changed from [1,2] to [1]"
        );
        let is = json!({ "a": 1, "b": 7, "e": "x" });
        assert_eq!(
            describe(&was, &is).unwrap(),
            "b changed from {\"c\":0.001,\"d\":[1,2]} to 7"
        );
    }

    #[test]
    fn a_key_on_one_side_alone_is_a_difference() {
        let (less, more) = (json!({ "a": 1 }), json!({ "a": 1, "b": true }));
        assert_eq!(
            describe(&less, &more).unwrap(),
            "b changed from absent to true"
        );
        assert_eq!(
            describe(&more, &less).unwrap(),
            "b changed from true to absent"
        );
    }

    #[test]
    fn a_long_value_is_cut() {
        let long = json!("x".repeat(100));
        let found = Difference::first(&json!(1), &long).unwrap().describe("");
        assert_eq!(found, format!("changed from 1 to \"{}...", "x".repeat(36)));
    }
}
