//! Sampling defaults in a GGUF file (`general.sampling.…`), which llama.cpp uses unless the user sets others.

use serde_json::{Map, Value, json};

use super::{GgufError, GgufFile, GgufValue, NewValue};

/// Keys after `general.sampling.` with the names of `generation_config.json`; `true` marks integers.
const KEYS: [(&str, &str, bool); 5] = [
    ("temp", "temperature", false),
    ("top_k", "top_k", true),
    ("top_p", "top_p", false),
    ("min_p", "min_p", false),
    ("penalty_repeat", "repetition_penalty", false),
];

/// Number of tokens that llama.cpp penalises, counted backwards; −1 is the whole context, as in transformers.
const PENALTY_LAST_N: &str = "general.sampling.penalty_last_n";

/// Keys and values of the settings that llama.cpp supports.
pub fn write(generation: &Map<String, Value>) -> Vec<(String, NewValue)> {
    let written = KEYS.iter().filter_map(|&(key, name, is_whole)| {
        let value = generation.get(name)?;
        let value = if is_whole {
            NewValue::I32(i32::try_from(value.as_i64()?).ok()?)
        } else {
            #[expect(clippy::cast_possible_truncation, reason = "files hold f32")]
            NewValue::F32(value.as_f64()? as f32)
        };
        Some((format!("general.sampling.{key}"), value))
    });
    let mut keys: Vec<_> = written.collect();
    if generation
        .get("repetition_penalty")
        .is_some_and(Value::is_number)
    {
        keys.push((PENALTY_LAST_N.to_owned(), NewValue::I32(-1)));
    }
    keys
}

/// Settings of a file, by the names of `generation_config.json`.
pub fn read(file: &GgufFile) -> Result<Map<String, Value>, GgufError> {
    let mut json = Map::new();
    for (key, name, is_whole) in KEYS {
        let key = format!("general.sampling.{key}");
        let value = match file.value(&key) {
            None => continue,
            Some(GgufValue::Integer(number)) if is_whole => i64::try_from(*number).ok(),
            Some(_) if is_whole => None,
            Some(_) => {
                json.insert(name.to_owned(), json!(file.float(&key)?));
                continue;
            }
        };
        let value = value.ok_or_else(|| file.wrong_value(&key, "a whole number"))?;
        json.insert(name.to_owned(), json!(value));
    }
    Ok(json)
}
