//! The chat template that belongs to a tokenizer, ready to render.

use std::collections::BTreeMap;

use chrono::{NaiveDate, NaiveDateTime};
use serde_json::Value;

use super::chat_templates::ChatTemplates;
use crate::chat::{ChatTemplate, Conversation, TemplateError};

/// Name of the template for conversations with tools, where a model has several.
const TOOL_USE: &str = "tool_use";

/// Day that templates print which ask for the date: the one that Llama 3.2's template names if it cannot ask. A fixed day
/// gives the same rows on every day.
const DAY: Option<NaiveDate> = NaiveDate::from_ymd_opt(2024, 7, 26);

/// Templates of a model: one, or one for conversations with tools and one for others.
#[derive(Debug)]
pub struct Renderer {
    default: ChatTemplate,
    tool_use: Option<ChatTemplate>,
}

impl Renderer {
    /// Note about rows with a date.
    pub const DATE_NOTE: &'static str = "the chat template prints the day; in the rows it is 26 July 2024, so that they are the same on every day";

    /// Compiles the templates of a model, given the contents of its `tokenizer_config.json`; `None` if it has none. `now` is
    /// the time that templates print which ask for it; by default the same day always.
    pub fn new(
        templates: &ChatTemplates,
        config: &Value,
        now: Option<NaiveDateTime>,
    ) -> Result<Option<Self>, TemplateError> {
        let special_tokens = special_tokens(config);
        let day = || DAY.unwrap_or_default().and_hms_opt(0, 0, 0);
        let now = now.or_else(day).unwrap_or_default();
        let compiled = |source: &String| ChatTemplate::new(source, &special_tokens, now);
        let named = |name: &str| {
            let mut templates = templates.iter();
            templates
                .find(|(own, _)| own == name)
                .map(|(_, source)| source)
        };
        let Some((_, first)) = templates.first() else {
            return Ok(None);
        };
        Ok(Some(Self {
            default: compiled(first)?,
            tool_use: named(TOOL_USE).map(compiled).transpose()?,
        }))
    }

    /// Template of a conversation.
    pub fn of(&self, conversation: &Conversation) -> &ChatTemplate {
        let tool_use = self.tool_use.as_ref();
        tool_use
            .filter(|_| conversation.tools.is_some())
            .unwrap_or(&self.default)
    }

    /// True if what is rendered holds a date.
    pub fn prints_a_date(&self) -> bool {
        let tool_use = self.tool_use.as_ref();
        self.default.names_time() || tool_use.is_some_and(ChatTemplate::names_time)
    }
}

/// Special tokens by name, as `tokenizer_config.json` has them: each a text, or a table with its `content`.
pub(super) fn special_tokens(config: &Value) -> BTreeMap<String, String> {
    let entries = config.as_object().into_iter().flatten();
    let extra = config["extra_special_tokens"]
        .as_object()
        .into_iter()
        .flatten();
    let is_token = |name: &str| name.ends_with("_token") && !name.starts_with("add_");
    let token = |(name, value): (&String, &Value)| {
        let text = value.get("content").unwrap_or(value).as_str()?;
        Some((name.clone(), text.to_owned()))
    };
    let own = entries.filter(|(name, _)| is_token(name));
    own.chain(extra).filter_map(token).collect()
}
