//! Damaged JSON: other types, huge and negative numbers, keys deleted, doubled and renamed.

use serde_json::{Map, Value};

use super::{Dice, raw};

/// Texts of values that stand in for a value. Some are no JSON.
const VALUES: [&str; 34] = [
    "0",
    "-1",
    "1",
    "2",
    "3",
    "7",
    "255",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "1e308",
    "1e400",
    "1e-308",
    "0.5",
    "-0.0",
    "1.0",
    "NaN",
    "null",
    "true",
    "false",
    "\"\"",
    "\"x\"",
    "\"..\"",
    "\"\\u0000\"",
    "[]",
    "{}",
    "[[[]]]",
    "[null]",
];

/// Values of other types that do no harm.
const TYPES: [&str; 6] = ["null", "true", "1", "\"x\"", "[]", "{}"];

/// Marks round the text of a value, and behind a key that is written twice.
const RAW: char = '\u{1}';
const TWICE: char = '\u{2}';

pub(super) fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) -> String {
    let Ok(mut json) = serde_json::from_slice::<Value>(bytes) else {
        return raw(bytes, dice);
    };
    if dice.percent(3) {
        let depth = 1 << dice.below(18);
        *bytes = [vec![b'['; depth], bytes.clone()].concat();
        return format!("{depth} brackets before it");
    }
    let done = damage_value(&mut json, dice);
    *bytes = text(&json).into_bytes();
    done
}

pub(super) fn damage_line(bytes: &mut Vec<u8>, dice: &mut Dice) -> String {
    let mut lines: Vec<Vec<u8>> = bytes
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    let at = dice.below(lines.len());
    let done = match dice.below(4) {
        0 => {
            lines.remove(at);
            "left out".to_owned()
        }
        1 => {
            lines.insert(at, lines[at].clone());
            "written twice".to_owned()
        }
        _ => damage(&mut lines[at], dice),
    };
    *bytes = lines.join(&b'\n');
    format!("line {at}: {done}")
}

/// Types, missing keys and truncation only.
pub(super) fn harmlessly(bytes: &mut Vec<u8>, dice: &mut Dice) -> String {
    let json = serde_json::from_slice::<Value>(bytes);
    let Some(mut json) = json.ok().filter(|_| !dice.percent(10)) else {
        let at = dice.below(bytes.len() + 1);
        bytes.truncate(at);
        return format!("cut to {at} bytes");
    };
    // The vocabulary has most of the nodes: half of the cases pass over it.
    let target = match json.as_object_mut() {
        Some(entries) if !entries.is_empty() && dice.percent(50) => {
            let keys: Vec<String> = entries.keys().cloned().collect();
            let key = dice.pick(&keys);
            entries.get_mut(key).expect("one of its keys")
        }
        _ => &mut json,
    };
    let at = dice.below(nodes(target));
    let node = node(target, at);
    let removed = match node {
        Value::Object(entries) if !entries.is_empty() && dice.percent(50) => {
            let keys: Vec<String> = entries.keys().cloned().collect();
            let key = dice.pick(&keys).clone();
            entries.shift_remove(&key);
            Some(key)
        }
        _ => None,
    };
    let done = if let Some(key) = removed {
        format!("key `{key}` left out")
    } else {
        let value = *dice.pick(&TYPES);
        let before = std::mem::replace(node, serde_json::from_str(value).expect("JSON"));
        format!("`{}` became {value}", short(&before))
    };
    *bytes = json.to_string().into_bytes();
    done
}

/// Damages one node of a value.
pub(super) fn damage_value(json: &mut Value, dice: &mut Dice) -> String {
    let at = dice.below(nodes(json));
    let node = node(json, at);
    let way = dice.below(6);
    match node {
        Value::Object(entries) if way < 3 && !entries.is_empty() => damage_entry(entries, dice),
        Value::Array(list) if way < 3 && !list.is_empty() => {
            let at = dice.below(list.len());
            if way == 0 {
                let gone = list.remove(at);
                format!("entry {at}, `{}`, left out", short(&gone))
            } else {
                list.insert(at, list[at].clone());
                format!("entry {at} written twice")
            }
        }
        Value::Number(number) if way < 2 => {
            let Some(before) = number.as_u64() else {
                return replace(node, dice);
            };
            let others = [
                before.wrapping_add(1),
                before.wrapping_sub(1),
                before.wrapping_mul(2),
                before / 2,
                before.wrapping_add(1 << 32),
            ];
            let after = *dice.pick(&others);
            *node = after.into();
            format!("{before} became {after}")
        }
        _ => replace(node, dice),
    }
}

fn replace(node: &mut Value, dice: &mut Dice) -> String {
    let value = *dice.pick(&VALUES);
    let raw = Value::from(format!("{RAW}{value}{RAW}"));
    let before = std::mem::replace(node, raw);
    format!("`{}` became {value}", short(&before))
}

fn damage_entry(entries: &mut Map<String, Value>, dice: &mut Dice) -> String {
    let keys: Vec<String> = entries.keys().cloned().collect();
    let key = dice.pick(&keys).clone();
    match dice.below(4) {
        0 => {
            entries.shift_remove(&key);
            format!("key `{key}` left out")
        }
        1 => {
            let value = if dice.percent(50) {
                entries[&key].clone()
            } else {
                Value::from(format!("{RAW}{}{RAW}", dice.pick(&VALUES)))
            };
            entries.insert(format!("{key}{TWICE}"), value);
            format!("key `{key}` written twice")
        }
        2 => {
            let value = entries.shift_remove(&key).expect("one of its keys");
            entries.insert(format!("{key}x"), value);
            format!("key `{key}` renamed")
        }
        _ => {
            let other = dice.pick(&keys).clone();
            let value = entries[&other].clone();
            entries.insert(key.clone(), value);
            format!("key `{key}` has the value of `{other}`")
        }
    }
}

/// The text of a value, with what is marked as it shall be.
pub(super) fn text(json: &Value) -> String {
    let text = json.to_string();
    let text = text.replace("\\u0002", "");
    let mut parts = text.split("\\u0001");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    // `"` RAW value RAW `"`
    while let (Some(value), Some(rest)) = (parts.next(), parts.next()) {
        whole.truncate(whole.len() - 1);
        whole.push_str(&value.replace("\\\"", "\"").replace("\\\\", "\\"));
        whole.push_str(rest.strip_prefix('"').unwrap_or(rest));
    }
    whole
}

fn nodes(json: &Value) -> usize {
    1 + match json {
        Value::Array(list) => list.iter().map(nodes).sum(),
        Value::Object(entries) => entries.values().map(nodes).sum::<usize>(),
        _ => 0,
    }
}

/// The node with this number, counted in the order of [`nodes`].
fn node(json: &mut Value, mut at: usize) -> &mut Value {
    if at == 0 {
        return json;
    }
    at -= 1;
    let children: Vec<&mut Value> = match json {
        Value::Array(list) => list.iter_mut().collect(),
        Value::Object(entries) => entries.values_mut().collect(),
        _ => unreachable!("it has no further nodes"),
    };
    for child in children {
        let below = nodes(child);
        if at < below {
            return node(child, at);
        }
        at -= below;
    }
    unreachable!("the nodes were counted")
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    text.chars().take(40).collect()
}
