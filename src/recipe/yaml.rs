//! A recipe as YAML.

use std::fmt::Write as _;

use serde_json::Value;

/// A map of keys as YAML.
pub fn to_yaml(recipe: &Value) -> String {
    let mut out = String::new();
    write_yaml(recipe, 0, &mut out);
    out
}

/// Writes block style for maps and for lists of maps, and JSON (which is YAML) for all else.
fn write_yaml(value: &Value, depth: usize, out: &mut String) {
    let Value::Object(object) = value else {
        return;
    };
    let indent = "  ".repeat(depth);
    for (key, value) in object {
        let _ = write!(out, "{indent}{key}:"); // writing to a `String` cannot fail
        match value {
            Value::Object(_) => {
                out.push('\n');
                write_yaml(value, depth + 1, out);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                out.push('\n');
                for item in items {
                    let mut text = String::new();
                    write_yaml(item, depth + 2, &mut text);
                    let _ = write!(out, "{indent}  - {}", text.trim_start());
                }
            }
            _ => {
                let _ = writeln!(out, " {value}");
            }
        }
    }
}
