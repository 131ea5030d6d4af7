//! The table of keys as JSON Schema for editors and as a page for readers.

use std::fmt::Write as _;
use std::ops::Bound::{Excluded, Included, Unbounded};

use serde_json::{Map, Value, json};

use super::keys::{Block, Fallback, Key, Kind, MAX_BYTES, MAX_STEPS, MAX_TOKENS};
use super::recipe_keys::RECIPE;
use super::values;

/// JSON Schema (2020-12) of a recipe.
pub fn schema() -> Value {
    let mut schema = block_schema(&RECIPE);
    if let Value::Object(object) = &mut schema {
        object.insert(
            "$schema".to_owned(),
            json!("https://json-schema.org/draft/2020-12/schema"),
        );
        object.insert("title".to_owned(), json!("alambic recipe"));
    }
    schema
}

/// `docs/recipe.md`: every key with its type, default and meaning.
pub fn reference_markdown() -> String {
    let mut out = String::from(
        "# Recipe keys\n\n\
         Made from the table in `src/recipe/*_keys.rs`; after a change there, \
         `cargo test --release --test recipes` names the file to copy here. Types are strict and an unknown key is an \
         error. Relative paths start at the folder of the recipe. `--set path=value` replaces any \
         value: `--set data.sequence_length=128`, `--set passes.0.distill.steps=200`.\n",
    );
    let mut seen = Vec::new();
    section(&Kind::Block(&RECIPE), "", &mut seen, &mut out);
    out
}

fn block_schema(block: &Block) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in block.iter() {
        properties.insert(key.name.to_owned(), key_schema(key));
        if matches!(key.default, Fallback::Required) {
            required.push(key.name);
        }
    }
    json!({
        "type": "object",
        "description": block.about,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn key_schema(key: &Key) -> Value {
    let mut schema = kind_schema(&key.kind);
    let Value::Object(object) = &mut schema else {
        return schema;
    };
    let about = match key.default {
        Fallback::Rule(rule) => format!("{}; default: {rule}", key.about),
        Fallback::Required | Fallback::Value(_) => key.about.to_owned(),
    };
    object.insert("description".to_owned(), json!(about));
    if let Fallback::Value(text) = key.default
        && let Some(default) = json_of(&key.kind, text)
    {
        object.insert("default".to_owned(), default);
    }
    schema
}

/// A default as JSON: words stay strings, all else in the table is YAML that a recipe can use.
fn json_of(kind: &Kind, text: &str) -> Option<Value> {
    match kind {
        Kind::Word(_) | Kind::Path(_) => Some(json!(text)),
        _ => serde_saphyr::from_str(text).ok(),
    }
}

fn kind_schema(kind: &Kind) -> Value {
    match kind {
        Kind::Name => json!({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"}),
        Kind::Switch => json!({"type": "boolean"}),
        Kind::Integer(min, max) => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::IntegerOf(allowed) => json!({"enum": allowed}),
        Kind::IntegerOr(min, max, word) => json!({"oneOf": [
            {"type": "integer", "minimum": min, "maximum": max},
            {"const": word},
        ]}),
        Kind::Tokens(min) => json!({"oneOf": [
            {"type": "integer", "minimum": min, "maximum": MAX_TOKENS},
            {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?[kM]$"},
        ]}),
        Kind::Bytes(min) => json!({"oneOf": [
            {"type": "integer", "minimum": min, "maximum": MAX_BYTES},
            {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?[kMG]$"},
        ]}),
        Kind::Number(min, max) => {
            let mut schema = Map::new();
            schema.insert("type".to_owned(), json!("number"));
            let mut limit = |name: &str, value: f64| schema.insert(name.to_owned(), json!(value));
            match min {
                Included(min) => limit("minimum", *min),
                Excluded(min) => limit("exclusiveMinimum", *min),
                Unbounded => None,
            };
            match max {
                Included(max) => limit("maximum", *max),
                Excluded(max) => limit("exclusiveMaximum", *max),
                Unbounded => None,
            };
            Value::Object(schema)
        }
        Kind::Moving(number, block) => {
            json!({"oneOf": [kind_schema(number), block_schema(block)]})
        }
        Kind::StepsOrShare => json!({"oneOf": [
            {"type": "integer", "minimum": 2, "maximum": MAX_STEPS},
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        ]}),
        Kind::Word(words) => json!({"enum": words}),
        Kind::Path(_) => json!({"type": "string"}),
        Kind::List(of, min, max) => {
            json!({"type": "array", "items": kind_schema(of), "minItems": min, "maxItems": max})
        }
        Kind::Block(block) => block_schema(block),
        Kind::Short(block) => {
            let first = block.iter().next().map(|key| kind_schema(&key.kind));
            json!({"oneOf": [first, block_schema(block)]})
        }
        Kind::Choice(block) => {
            json!({"oneOf": block.iter().map(variant_schema).collect::<Vec<_>>()})
        }
        Kind::Unit => json!({"type": "null"}),
    }
}

fn variant_schema(key: &Key) -> Value {
    match key.kind {
        Kind::Unit => json!({"const": key.name, "description": key.about}),
        _ => json!({
            "type": "object",
            "properties": {key.name: key_schema(key)},
            "required": [key.name],
            "additionalProperties": false,
        }),
    }
}

/// One block as a table, then the blocks it holds.
fn section(kind: &Kind, path: &str, seen: &mut Vec<*const Block>, out: &mut String) {
    let (block, is_choice) = match kind {
        Kind::List(of, ..) => return section(of, path, seen, out),
        Kind::Block(block) | Kind::Short(block) | Kind::Moving(_, block) => (*block, false),
        Kind::Choice(block) => (*block, true),
        _ => return,
    };
    if seen.iter().any(|&known| std::ptr::eq(known, block)) {
        return;
    }
    seen.push(block);
    let title = if path.is_empty() { "The recipe" } else { path };
    let _ = write!(out, "\n## {title}\n\n{}\n\n", block.about);
    out.push_str("| key | value | default | meaning |\n|---|---|---|---|\n");
    for key in block.iter() {
        let default = match key.default {
            Fallback::Required if is_choice => "one of these".to_owned(),
            Fallback::Required => "required".to_owned(),
            Fallback::Value(text) => format!("`{text}`"),
            Fallback::Rule(rule) => rule.to_owned(),
        };
        let phrase = values::phrase(&key.kind);
        let _ = writeln!(
            out,
            "| `{}` | {phrase} | {default} | {} |",
            key.name, key.about
        );
    }
    for key in block.iter() {
        let path = if path.is_empty() {
            format!("`{}`", key.name)
        } else {
            format!("{}.{}`", path.trim_end_matches('`'), key.name)
        };
        section(&key.kind, &path, seen, out);
    }
}
