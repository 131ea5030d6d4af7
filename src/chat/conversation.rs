//! Conversations, as templates render them.

use serde_json::{Map, Value};

/// Messages in their order, with what a template is given beside them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    /// Messages, each with its keys as they were written: `role`, `content`, `tool_calls` and others.
    pub messages: Vec<Map<String, Value>>,
    /// Tools that the model may call: JSON schemas, as in `apply_chat_template(tools=...)`.
    pub tools: Option<Vec<Value>>,
    /// Further variables of the template, such as `enable_thinking`.
    pub variables: Map<String, Value>,
    /// Messages at the beginning that are a prompt, where the source says so (`prompt` and `completion`).
    pub num_prompt: usize,
    /// Indices of messages that nothing is to be learnt from, ascending (`train: false`).
    pub unlearnt: Vec<usize>,
}
