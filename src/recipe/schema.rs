//! A table of keys as JSON Schema, for editors.

use std::ops::Bound::{Excluded, Included, Unbounded};

use serde_json::{Map, Value, json};

use super::kinds::{Block, Fallback, Key, Kind, MAX_BYTES, MAX_STEPS, MAX_TOKENS};

/// JSON Schema (2020-12) of a recipe.
pub fn schema(root: &Block, title: &str) -> Value {
    let mut schema = block_schema(root);
    if let Value::Object(object) = &mut schema {
        object.insert(
            "$schema".to_owned(),
            json!("https://json-schema.org/draft/2020-12/schema"),
        );
        object.insert("title".to_owned(), json!(title));
    }
    schema
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

/// A default as JSON: words stay strings; all else in the table is YAML that a recipe can use.
fn json_of(kind: &Kind, text: &str) -> Option<Value> {
    match kind {
        Kind::Word(_) | Kind::Path(_) => Some(json!(text)),
        _ => serde_saphyr::from_str(text).ok(),
    }
}

#[expect(clippy::too_many_lines, reason = "one table of kinds")]
fn kind_schema(kind: &Kind) -> Value {
    match kind {
        Kind::Text => json!({"type": "string", "pattern": "\\S"}),
        Kind::Name => json!({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"}),
        Kind::Switch => json!({"type": "boolean"}),
        Kind::Integer(min, max) => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::IntegerOf(allowed) => json!({"enum": allowed}),
        Kind::Or(kind, word) => json!({"oneOf": [kind_schema(kind), {"const": word.word}]}),
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
        Kind::Word(words) => {
            let words: Vec<&str> = words.iter().map(|one| one.word).collect();
            json!({"enum": words})
        }
        Kind::Path(_) => json!({"type": "string"}),
        Kind::List(of, min, max) => {
            let list = json!({"type": "array", "items": kind_schema(of), "minItems": min, "maxItems": max});
            if kind.takes_one() {
                json!({"anyOf": [list, kind_schema(of)]})
            } else {
                list
            }
        }
        Kind::Block(block) => block_schema(block),
        Kind::Short(block) => {
            let first = block.iter().next().map(|key| kind_schema(&key.kind));
            json!({"oneOf": [first, block_schema(block)]})
        }
        Kind::Choice(block) => {
            let variants = block.variants().map(|key| variant_schema(key, block));
            json!({"oneOf": variants.collect::<Vec<_>>()})
        }
        Kind::Unit => json!({"type": "null"}),
    }
}

/// A variant of a choice, with the keys that may stand beside it.
fn variant_schema(variant: &'static Key, block: &Block) -> Value {
    if let Kind::Unit = variant.kind {
        return json!({"const": variant.name, "description": variant.about});
    }
    let beside = block.iter().filter(|key| !key.is_variant());
    let keys = std::iter::once(variant).chain(beside);
    let properties: Map<String, Value> = keys
        .map(|key| (key.name.to_owned(), key_schema(key)))
        .collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": [variant.name],
        "additionalProperties": false,
    })
}
