//! Chat templates, compiled once and rendered byte for byte as transformers renders them.
//!
//! The engine is minijinja. Where it differs from jinja2, the source is changed ([`super::source`]), or the filter, test or
//! method is our own. `scripts/check_templates.py` compares both programs on all templates of a library.

use std::collections::BTreeMap;
use std::ops::Range;

use chrono::NaiveDateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};

use super::conversation::Conversation;
use super::error::TemplateError;
use super::source::{BEGIN, END, Generation, TemplateSource};
use super::values::{Values, Variables};
use super::{filters, globals, methods, repr};

/// Longest source of a template in bytes: a hundred times the longest in use.
const MAX_SOURCE_BYTES: usize = 4 << 20;

/// Steps of one rendering, each of which also pays for 64 bytes of text: 1 GiB at most. Of the templates in use, those that look
/// at every message from each take the most; they render 1,200 messages.
const FUEL: u64 = 16_000_000;

const PLAIN: &str = "chat template";
const MARKED: &str = "chat template with marks";

/// Chat template of a model.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    generation: Generation,
}

/// Text of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Text, as the tokenizer takes it.
    pub text: String,
    /// Bytes of `text` that `{% generation %}` blocks printed, ascending, apart and not empty. `None` if the template has no
    /// such block, or if it changes their text so that their places are lost.
    pub generations: Option<Vec<Range<usize>>>,
}

impl ChatTemplate {
    /// Compiles a template. Templates see special tokens by their names (`bos_token`, `eos_token`, ...), and `now` as the local time
    /// if they ask for it with `strftime_now`.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Unreadable`] and [`TemplateError::TooLong`].
    pub fn new(
        source: &str,
        special_tokens: &BTreeMap<String, String>,
        now: NaiveDateTime,
    ) -> Result<Self, TemplateError> {
        Self::with_fuel(source, special_tokens, now, FUEL)
    }

    /// Compiles a template that is given up after `fuel` steps.
    pub(super) fn with_fuel(
        source: &str,
        special_tokens: &BTreeMap<String, String>,
        now: NaiveDateTime,
        fuel: u64,
    ) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TemplateError::TooLong {
                bytes: source.len(),
                limit: MAX_SOURCE_BYTES,
            });
        }
        let rewritten = TemplateSource::new(source);
        let mut environment = environment(now);
        environment.set_fuel(Some(fuel));
        for (name, token) in special_tokens {
            environment.add_global(name.clone(), Value::from(token.as_str()));
        }
        let templates = [(PLAIN, Some(rewritten.plain)), (MARKED, rewritten.marked)];
        for (name, text) in templates {
            let added = text.map_or(Ok(()), |text| environment.add_template_owned(name, text));
            added.map_err(|error| TemplateError::unreadable(&error, source))?;
        }
        Ok(Self {
            environment,
            source: source.to_owned(),
            generation: rewritten.generation,
        })
    }

    /// Tells whether the template can print the time of day, so that its text is not the same every day.
    pub fn names_time(&self) -> bool {
        self.source.contains("strftime_now")
    }

    /// Renders a conversation, with or without the beginning of an assistant message behind it.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Refused`], [`TemplateError::Failed`] and [`TemplateError::Endless`].
    pub fn render(
        &self,
        conversation: &Conversation,
        add_generation_prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        self.prepare(conversation).rendered(add_generation_prompt)
    }

    pub(super) fn prepare(&self, conversation: &Conversation) -> PreparedConversation<'_> {
        PreparedConversation {
            template: self,
            values: Values::new(conversation),
        }
    }
}

/// Settings, functions, filters, tests and methods of transformers' environment.
fn environment(now: NaiveDateTime) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    environment.set_syntax(syntax.unwrap_or_default()); // fails for odd delimiters alone
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_formatter(repr::print);
    environment.set_unknown_method_callback(methods::call);
    filters::add(&mut environment);
    globals::add(&mut environment, now);
    environment
}

/// A conversation, converted for a template.
pub(super) struct PreparedConversation<'t> {
    template: &'t ChatTemplate,
    values: Values,
}

impl PreparedConversation<'_> {
    /// Text of the first `count` messages.
    pub(super) fn text(
        &self,
        count: usize,
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        self.run(PLAIN, count, add_generation_prompt)
    }

    /// Text of all messages, with the places of generation blocks.
    pub(super) fn rendered(&self, add_generation_prompt: bool) -> Result<Rendered, TemplateError> {
        let count = self.values.messages.len();
        let generation = self.template.generation;
        if generation == Generation::Absent {
            return Ok(Rendered {
                text: self.text(count, add_generation_prompt)?,
                generations: None,
            });
        }
        let marked = self.run(MARKED, count, add_generation_prompt)?;
        let (text, generations) = without_marks(&marked);
        if generation == Generation::Printed && !self.values.has_marks {
            return Ok(Rendered { text, generations });
        }
        // The template may have changed a text because of its marks: then their places mean nothing.
        let plain = self.text(count, add_generation_prompt)?;
        let generations = generations.filter(|_| plain == text);
        Ok(Rendered {
            text: plain,
            generations,
        })
    }

    fn run(
        &self,
        name: &str,
        count: usize,
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        let values = &self.values;
        let variables = Variables {
            messages: Value::from(values.messages[..count].to_vec()),
            tools: values.tools.clone(),
            documents: values.documents.clone(),
            add_generation_prompt,
            others: values.others.clone(),
        };
        let failed = |error: &minijinja::Error| TemplateError::failed(error, &self.template.source);
        let template = self
            .template
            .environment
            .get_template(name)
            .map_err(|error| failed(&error))?;
        template
            .render(Value::from_object(variables))
            .map_err(|error| failed(&error))
    }
}

/// Text without marks, and the ranges between them; no ranges if marks are not in pairs.
fn without_marks(marked: &str) -> (String, Option<Vec<Range<usize>>>) {
    let mut text = String::with_capacity(marked.len());
    let (mut ranges, mut begins, mut is_paired) = (Vec::new(), Vec::new(), true);
    for piece in marked.split_inclusive([BEGIN, END]) {
        let mark = piece
            .chars()
            .next_back()
            .filter(|mark| [BEGIN, END].contains(mark));
        text.push_str(&piece[..piece.len() - mark.map_or(0, char::len_utf8)]);
        match mark {
            None => {}
            Some(BEGIN) => begins.push(text.len()),
            Some(_) => match begins.pop() {
                // A block inside another one adds nothing.
                Some(begin) if begins.is_empty() && begin < text.len() => {
                    ranges.push(begin..text.len());
                }
                Some(_) => {}
                None => is_paired = false,
            },
        }
    }
    is_paired &= begins.is_empty();
    (text, is_paired.then_some(ranges))
}
