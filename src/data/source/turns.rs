//! Turns of a row to messages.

use serde_json::{Map, Value};

use super::Conversation;
use super::fault::{FaultKind, shown};
use super::plan::RowField;
use super::rows::{Column, kind};
use super::unique::{self, Twice};

/// Keys of a turn, where the plan names them.
#[derive(Debug, Clone, Default)]
pub(super) struct TurnKeys {
    pub(super) role: Option<String>,
    pub(super) content: Option<String>,
    /// True if roles are those of ShareGPT also under `role`.
    pub(super) is_share_gpt: bool,
}

/// Roles that templates of published models know. Another one is a slip of the pen more often than a role: its turns would
/// be printed under a name that the model has never seen, and never be learnt from.
const ROLES: [&str; 13] = [
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
    "ipython",
    "environment",
    "document",
    "documents",
    "context",
    "knowledge",
    "critic",
];

/// Roles of ShareGPT and its relatives, and those of templates.
const SHARE_GPT: [(&str, &str); 20] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("model", "assistant"),
    ("chatgpt", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("bot", "assistant"),
    ("system", "system"),
    ("developer", "developer"),
    ("tool", "tool"),
    ("function", "tool"),
    ("observation", "tool"),
    ("tool_response", "tool"),
    ("function_response", "tool"),
    ("function-response", "tool"),
    ("function_call", CALL),
    ("function-call", CALL),
    ("tool_call", CALL),
];

/// Role of a turn whose value is a call of tools, as JSON.
const CALL: &str = "call";

/// A message of a role and a text.
pub(super) fn message(role: &str, content: String) -> Map<String, Value> {
    [
        ("role".to_owned(), Value::from(role)),
        ("content".to_owned(), Value::from(content)),
    ]
    .into_iter()
    .collect()
}

/// Value of a column, or what it holds as JSON if it is text that begins like a list or an object.
pub(super) fn parsed(column: &Column, value: Value) -> Result<Value, FaultKind> {
    let Value::String(text) = &value else {
        return Ok(value);
    };
    let begins = text.trim_start().as_bytes().first();
    if !matches!(begins, Some(b'[' | b'{')) {
        return Ok(value);
    }
    match unique::from_str(text) {
        Ok((parsed, None)) => Ok(parsed),
        Ok((_, Some(found))) => Err(stands_twice(column, &found)),
        Err(_) => Ok(value),
    }
}

/// Fault of a column in which a key stands twice.
pub(super) fn stands_twice(column: &Column, found: &Twice) -> FaultKind {
    use RowField::{Completion, Conversations, Messages, Prompt};
    let what = twice(&found.key);
    match (column.field, found.element) {
        (Messages | Conversations | Prompt | Completion, Some(turn)) => FaultKind::Wrong {
            turn: Some(turn),
            what,
        },
        _ => FaultKind::wrong(format!("in `{}`, {what}", column.name)),
    }
}

/// Words for a key that stands twice.
pub(super) fn twice(key: &str) -> String {
    format!(
        "`{}` stands twice in one object, and which one is meant is not known",
        shown(key)
    )
}

/// Adds the turns of a column to a conversation.
pub(super) fn add(
    conversation: &mut Conversation,
    column: &Column,
    turns: Value,
    keys: &TurnKeys,
) -> Result<(), FaultKind> {
    let name = &column.name;
    let turns = match parsed(column, turns)? {
        Value::Null => return Ok(()),
        Value::Array(turns) => turns,
        Value::Object(columns) => rows_of(columns).ok_or_else(|| {
            FaultKind::wrong(format!("`{name}` is an object, not a list of messages"))
        })?,
        other => {
            return Err(FaultKind::wrong(format!(
                "`{name}` is {}, not a list of messages",
                kind(&other)
            )));
        }
    };
    for (index, turn) in turns.into_iter().enumerate() {
        let (message, is_learnt) = read(turn, keys).map_err(|what| FaultKind::Wrong {
            turn: Some(index + 1),
            what,
        })?;
        if !is_learnt {
            conversation.unlearnt.push(conversation.messages.len());
        }
        conversation.messages.push(message);
    }
    Ok(())
}

/// Turns out of lists of roles and of contents, as `datasets` has stored `Sequence({…})`.
fn rows_of(columns: Map<String, Value>) -> Option<Vec<Value>> {
    let mut rows: Vec<Map<String, Value>> = Vec::new();
    for (index, (key, values)) in columns.into_iter().enumerate() {
        let Value::Array(values) = values else {
            return None;
        };
        if index == 0 {
            rows.resize(values.len(), Map::new());
        }
        if values.len() != rows.len() {
            return None;
        }
        for (row, value) in rows.iter_mut().zip(values) {
            row.insert(key.clone(), value);
        }
    }
    Some(rows.into_iter().map(Value::Object).collect())
}

/// Message of a turn, and true if it may be learnt from.
fn read(turn: Value, keys: &TurnKeys) -> Result<(Map<String, Value>, bool), String> {
    let Value::Object(mut turn) = turn else {
        return Err(format!("is {}, not an object", kind(&turn)));
    };
    // Templates are given no key of a message that is null: `transformers` drops them, and Parquet fills them in.
    turn.retain(|_, value| !value.is_null());
    let role_key = key_of(&turn, keys.role.as_deref(), ["role", "from"]);
    let content_key = key_of(&turn, keys.content.as_deref(), ["content", "value"]);
    let is_learnt = is_learnt(&mut turn)?;
    let role = match turn.get(role_key) {
        Some(Value::String(role)) => role.as_str(),
        Some(other) => return Err(format!("`{role_key}` is {}, not text", kind(other))),
        None => return Err(format!("has no `{role_key}`")),
    };
    let role = role_of(role, keys.is_share_gpt || role_key == "from")?;
    match turn.get(content_key) {
        None | Some(Value::String(_)) => {}
        Some(Value::Array(parts)) => check_parts(content_key, parts)?,
        Some(other) => {
            return Err(format!(
                "`{content_key}` is {}; it may be text, a list of parts, or null",
                kind(other)
            ));
        }
    }
    let mut message = Map::with_capacity(turn.len());
    let (role_key, content_key) = (role_key.to_owned(), content_key.to_owned());
    for (key, value) in turn {
        if key == role_key {
            let role = if role == CALL {
                "assistant"
            } else {
                role.as_str()
            };
            message.insert("role".to_owned(), role.into());
        } else if key == content_key && role == CALL {
            message.insert("tool_calls".to_owned(), calls(&content_key, &value)?);
        } else if key == content_key {
            message.insert("content".to_owned(), value);
        } else if key == "role" || key == "content" {
            let read = if key == "role" {
                &role_key
            } else {
                &content_key
            };
            return Err(format!(
                "`{key}` stands beside `{read}`, which is read for it"
            ));
        } else {
            message.insert(key, value);
        }
    }
    Ok((message, is_learnt))
}

/// True if a turn may be learnt from. `train` says it, or `weight` as in files for the fine-tuning of OpenAI; both are taken
/// out of the turn.
pub(crate) fn is_learnt(turn: &mut Map<String, Value>) -> Result<bool, String> {
    let train = match turn.shift_remove("train") {
        None => None,
        Some(Value::Bool(is_learnt)) => Some(is_learnt),
        Some(other) => return Err(format!("`train` is {}, not true or false", kind(&other))),
    };
    let weight = match turn.shift_remove("weight") {
        None => None,
        // Written so, they are exact.
        Some(weight) if weight.as_f64() == Some(0.0) => Some(false),
        Some(weight) if weight.as_f64() == Some(1.0) => Some(true),
        Some(other) => {
            return Err(format!(
                "`weight` is {}; it may be 0 (not learnt) or 1",
                shown(&other.to_string())
            ));
        }
    };
    match (train, weight) {
        (Some(train), Some(weight)) if train != weight => Err(format!(
            "`train` is {train} and `weight` is {}; take one of them out",
            u8::from(weight)
        )),
        (train, weight) => Ok(train.or(weight).unwrap_or(true)),
    }
}

/// Key of a turn: the one that was named, else the first one that is there.
fn key_of<'a>(turn: &Map<String, Value>, named: Option<&'a str>, keys: [&'a str; 2]) -> &'a str {
    let [first, second] = keys;
    named.unwrap_or(if !turn.contains_key(first) && turn.contains_key(second) {
        second
    } else {
        first
    })
}

fn role_of(role: &str, is_share_gpt: bool) -> Result<String, String> {
    let foreign = SHARE_GPT.iter().find(|(name, _)| *name == role);
    let unknown = |help: &str| format!("unknown role `{}`; {help}", shown(role));
    if is_share_gpt {
        let role = foreign.map(|(_, role)| (*role).to_owned());
        return role.ok_or_else(|| {
            unknown("known are `human`, `gpt`, `system`, `tool`, `function_call`, `observation` and others of ShareGPT")
        });
    }
    // Granite numbers its documents: `document 1`.
    if ROLES.contains(&role) || role.starts_with("document ") {
        return Ok(role.to_owned());
    }
    Err(match foreign {
        Some(_) => {
            unknown("it is one of ShareGPT's: name `format: sharegpt` and the column in `fields`")
        }
        None => {
            unknown("known are `system`, `developer`, `user`, `assistant`, `tool` and a few others")
        }
    })
}

/// Checks the parts of a content, which are objects, or plain text.
fn check_parts(key: &str, parts: &[Value]) -> Result<(), String> {
    let is_part = |part: &Value| part.is_object() || part.is_string();
    match parts.iter().find(|part| !is_part(part)) {
        None => Ok(()),
        Some(other) => Err(format!(
            "a part of `{key}` is {}, not an object",
            kind(other)
        )),
    }
}

/// Calls of tools out of a turn of `function_call`, which is JSON: one object with `name` and `arguments`, or a list.
fn calls(key: &str, value: &Value) -> Result<Value, String> {
    let text = value.as_str().unwrap_or_default();
    let calls = match unique::from_str(text) {
        Ok((_, Some(found))) => {
            let what = twice(&found.key);
            return Err(format!("in `{key}` of a function call, {what}"));
        }
        Ok((Value::Array(calls), None)) => calls,
        Ok((call @ Value::Object(_), None)) => vec![call],
        Ok(_) => Vec::new(),
        Err(error) => return Err(format!("`{key}` of a function call is not JSON: {error}")),
    };
    let is_call = |call: &Value| call.get("name").is_some_and(Value::is_string);
    if calls.is_empty() || !calls.iter().all(is_call) {
        return Err(format!(
            "`{key}` of a function call is no object with `name` and `arguments`"
        ));
    }
    let call = |function: Value| {
        let call = [
            ("type".to_owned(), "function".into()),
            ("function".to_owned(), function),
        ];
        Value::Object(call.into_iter().collect())
    };
    Ok(calls.into_iter().map(call).collect())
}

/// Tools of a row: a list, or JSON text of one; each may be JSON text again.
pub(super) fn tools(column: &Column, value: Value) -> Result<Option<Vec<Value>>, FaultKind> {
    let wrong = |what: &str| FaultKind::wrong(format!("`{}` {what}", column.name));
    match parsed(column, value)? {
        Value::Null => Ok(None),
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::Array(tools) => {
            let tools = tools.into_iter().map(|tool| parsed(column, tool));
            let tools: Vec<_> = tools.collect::<Result<_, _>>()?;
            match tools.iter().find(|tool| !tool.is_object()) {
                None => Ok(Some(tools)),
                Some(other) => Err(wrong(&format!("holds {}, not an object", kind(other)))),
            }
        }
        Value::String(text) => Err(match serde_json::from_str::<Value>(&text) {
            Err(error) => wrong(&format!("is text that is not JSON: {error}")),
            Ok(_) => wrong("is text that is no list of tools"),
        }),
        other => Err(wrong(&format!("is {}, not a list of tools", kind(&other)))),
    }
}

/// Adds earlier pairs of task and answer.
pub(super) fn add_history(
    messages: &mut Vec<Map<String, Value>>,
    name: &str,
    history: Value,
) -> Result<(), FaultKind> {
    let wrong = || {
        FaultKind::wrong(format!(
            "`{name}` is not a list of pairs of task and answer"
        ))
    };
    let pairs = match history {
        Value::Null => return Ok(()),
        Value::Array(pairs) => pairs,
        Value::String(text) if text.trim().is_empty() => return Ok(()),
        _ => return Err(wrong()),
    };
    for pair in pairs {
        let Value::Array(pair) = pair else {
            return Err(wrong());
        };
        let Ok([Value::String(user), Value::String(assistant)]) = <[Value; 2]>::try_from(pair)
        else {
            return Err(wrong());
        };
        messages.push(message("user", user));
        messages.push(message("assistant", assistant));
    }
    Ok(())
}
