//! Facts as text.

use std::cmp::Reverse;

use serde_json::{Map, Value};

use super::run;
use crate::progress::{bytes_text, decimals, exponential, thousands};

/// Facts as text: one line per entry, nested entries indented; of a run, the lines that fit a screen.
pub fn text(facts: &Value) -> String {
    let mut lines = Vec::new();
    let facts = match facts["kind"].as_str() {
        Some("run") => &run::shown(facts),
        _ => facts,
    };
    add_lines(facts, 0, &mut lines);
    lines.join("\n")
}

/// Entries that count tensors by their type.
const COUNTS: [&str; 2] = ["tensors", "quantization"];

/// Entry whose entries count tensors by their type.
const COUNTS_OF_EACH: &str = "types";

fn add_lines(facts: &Value, depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    match facts {
        Value::Object(entries) => {
            for (key, value) in entries {
                match value {
                    Value::Object(counts) if COUNTS.contains(&key.as_str()) => {
                        lines.push(format!("{indent}{key}: {}", counts_text(counts)));
                    }
                    Value::Object(parts) if key == COUNTS_OF_EACH => {
                        lines.push(format!("{indent}{key}:"));
                        for (part, counts) in parts {
                            let counts = counts.as_object().map_or_else(String::new, counts_text);
                            lines.push(format!("{indent}  {part}: {counts}"));
                        }
                    }
                    Value::Object(_) => {
                        lines.push(format!("{indent}{key}:"));
                        add_lines(value, depth + 1, lines);
                    }
                    Value::Array(items) if items.iter().any(Value::is_object) => {
                        lines.push(format!(
                            "{indent}{key}: {} entries",
                            thousands(items.len() as u64)
                        ));
                        for item in items {
                            add_lines(item, depth + 1, lines);
                        }
                    }
                    Value::Array(items) => {
                        let items = items.iter().map(|item| scalar(key, item));
                        lines.push(format!("{indent}{key}: {}", runs_text(items)));
                    }
                    value => lines.push(format!("{indent}{key}: {}", scalar(key, value))),
                }
            }
        }
        value => lines.push(format!("{indent}{}", scalar("", value))),
    }
}

/// Counts, the largest first: `q4_0 x 210, f32 x 61`.
fn counts_text(counts: &Map<String, Value>) -> String {
    let mut counts: Vec<(&str, u64)> = counts
        .iter()
        .map(|(what, count)| (what.as_str(), count.as_u64().unwrap_or_default()))
        .collect();
    counts.sort_by_key(|&(_, count)| Reverse(count));
    let counts = counts.into_iter();
    let counts = counts.map(|(what, count)| format!("{what} x {}", thousands(count)));
    counts.collect::<Vec<_>>().join(", ")
}

/// A list in which equal neighbours stand once, with their number: `full x 5, sliding`.
fn runs_text(items: impl Iterator<Item = String>) -> String {
    let mut runs: Vec<(String, u64)> = Vec::new();
    for item in items {
        match runs.last_mut() {
            Some((last, count)) if *last == item => *count += 1,
            _ => runs.push((item, 1)),
        }
    }
    if runs.is_empty() {
        return "none".to_owned();
    }
    let run = |(item, count): (String, u64)| match count {
        1 => item,
        count => format!("{item} x {}", thousands(count)),
    };
    runs.into_iter().map(run).collect::<Vec<_>>().join(", ")
}

/// A fraction for people: four decimals, or four digits with an exponent, without zeros at the end. JSON has all digits.
fn float(value: f64) -> String {
    if value == 0.0 || (1e-3..1e7).contains(&value.abs()) {
        let text = decimals(value, 4);
        let text = text.trim_end_matches('0');
        return if text.ends_with('.') {
            format!("{text}0")
        } else {
            text.to_owned()
        };
    }
    let text = exponential(value, 3);
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let digits = digits.trim_end_matches('0').trim_end_matches('.');
            format!("{digits}e{exponent}")
        }
        None => text, // not finite
    }
}

fn scalar(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_u64() {
            Some(bytes) if key.ends_with("bytes") => {
                format!("{} ({})", thousands(bytes), bytes_text(bytes))
            }
            Some(count) => thousands(count),
            None => number.as_f64().map_or_else(|| number.to_string(), float),
        },
        Value::Null => "-".to_owned(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn facts_are_lines_with_units_and_nested_entries_indented() {
        let facts = json!({ "kind": "cache", "total_bytes": 2048, "inner": { "rows": 1200, "none": null } });
        assert_eq!(
            text(&facts),
            "kind: cache\ntotal_bytes: 2,048 (2.0 KiB)\ninner:\n  rows: 1,200\n  none: -"
        );
    }

    #[test]
    fn fractions_are_short_and_keep_their_size() {
        for (value, want) in [
            (4.084_695_938_391_689, "4.0847"),
            (10_000.0, "10000.0"),
            (0.0, "0.0"),
            (-0.25, "-0.25"),
            (1e-5, "1e-5"),
            (0.000_123_456, "1.235e-4"),
            (12_345_678.0, "1.235e7"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(float(value), want);
        }
    }

    #[test]
    fn lists_and_counts_are_run_length_coded() {
        let facts = json!({
            "tensors": { "f32": 61, "q4_0": 1210 },
            "types": { "q_proj": { "q4_0": 30 }, "norm": { "f32": 1 } },
            "layer_types": ["full", "full", "sliding"],
            "ends": [7, 7, 9],
            "none": [],
        });
        assert_eq!(
            text(&facts),
            "tensors: q4_0 x 1,210, f32 x 61\ntypes:\n  q_proj: q4_0 x 30\n  norm: f32 x 1\n\
             layer_types: full x 2, sliding\nends: 7 x 2, 9\nnone: none"
        );
    }
}
