//! Conversations as values of a template.

use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Enumerator, Object};
use serde_json::{Map, Value as Json};

use super::conversation::Conversation;
use super::repr;
use super::source::{BEGIN, END};

/// Names under which messages carry their reasoning, the one that counts first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Variables of one rendering.
#[derive(Debug, Clone)]
pub(super) struct Variables {
    pub messages: Value,
    pub tools: Value,
    pub documents: Value,
    pub add_generation_prompt: bool,
    pub others: Arc<Vec<(String, Value)>>,
}

impl Object for Variables {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        match key {
            "messages" => Some(self.messages.clone()),
            "tools" => Some(self.tools.clone()),
            "documents" => Some(self.documents.clone()),
            "add_generation_prompt" => Some(Value::from(self.add_generation_prompt)),
            _ => self
                .others
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value.clone()),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Empty
    }
}

/// A conversation, converted once for all of its renderings.
pub(super) struct Values {
    pub messages: Vec<Value>,
    pub tools: Value,
    pub documents: Value,
    pub others: Arc<Vec<(String, Value)>>,
    /// Whether a text of the conversation has a character that marks generation blocks.
    pub has_marks: bool,
}

impl Values {
    pub(super) fn new(conversation: &Conversation) -> Self {
        let mut converter = Converter::default();
        let messages = conversation
            .messages
            .iter()
            .map(|message| converter.message(message))
            .collect();
        let tools = match &conversation.tools {
            None => Value::from(()),
            Some(tools) => tools.iter().map(|tool| converter.value(tool)).collect(),
        };
        let documents = conversation
            .variables
            .get("documents")
            .map_or_else(|| Value::from(()), |documents| converter.value(documents));
        let others = conversation
            .variables
            .iter()
            .map(|(name, value)| (name.clone(), converter.value(value)))
            .collect();
        Self {
            messages,
            tools,
            documents,
            others: Arc::new(others),
            has_marks: converter.has_marks,
        }
    }
}

#[derive(Default)]
struct Converter {
    has_marks: bool,
}

impl Converter {
    /// A message as transformers gives it to templates: without keys that are null, and with its reasoning under each name
    /// that templates read.
    fn message(&mut self, message: &Map<String, Json>) -> Value {
        let set = |name: &str| message.get(name).filter(|value| !value.is_null());
        let reasoning = REASONING
            .iter()
            .find_map(|name| set(name))
            .map(|reasoning| self.value(reasoning));
        let mut pairs: Vec<(&str, Value)> = Vec::with_capacity(message.len() + 2);
        if let Some(reasoning) = &reasoning {
            let thinking =
                set("thinking").map_or_else(|| reasoning.clone(), |thinking| self.value(thinking));
            pairs.push(("thinking", thinking));
        }
        for (key, value) in message.iter().filter(|(_, value)| !value.is_null()) {
            match (&reasoning, key.as_str()) {
                (Some(_), "thinking") => {}
                (Some(reasoning), "reasoning_content") => {
                    pairs.push((key.as_str(), reasoning.clone()));
                }
                _ => pairs.push((key.as_str(), self.value(value))),
            }
        }
        if let Some(reasoning) = reasoning.filter(|_| set("reasoning_content").is_none()) {
            pairs.push(("reasoning_content", reasoning));
        }
        Value::from_pairs(pairs)
    }

    fn value(&mut self, json: &Json) -> Value {
        match json {
            Json::Null => Value::from(()),
            Json::Bool(truth) => Value::from(*truth),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Value::from(number),
                (None, Some(number)) => Value::from(number),
                (None, None) => repr::float_value(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => {
                self.has_marks |= text.contains(BEGIN) || text.contains(END);
                Value::from(text.as_str())
            }
            Json::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Json::Object(map) => Value::from_pairs(
                map.iter()
                    .map(|(key, value)| (key.as_str(), self.value(value))),
            ),
        }
    }
}
