//! Checks of chat templates and of changes to a tokenizer.

use std::borrow::Cow;

use super::Preflight;
use crate::data::{
    Content, DataError, Document, OnBadRow, Split, Tokenizer, TokenizerChange, TokenizerError,
};
use crate::diag::Diagnostic;
use crate::opened::{Opened, OpenedModel};
use crate::recipe::RecipeFaults;

impl Preflight<'_> {
    /// Refuses conversations that the model's chat template does not render, by the first of each text.
    pub(super) fn renders(
        &self,
        opened: &Opened,
        changed: Option<&ChangedTokenizer<'_>>,
        conversations: &[(Split, Document)],
    ) -> Result<(), RecipeFaults> {
        let (Some((split, first)), Some(Ok(tokenizer)), Ok(change)) =
            (conversations.first(), changed, &opened.change)
        else {
            return Ok(()); // a tokenizer that cannot be changed is told with the changes
        };
        let key = format!("data.{split}");
        let renderer = match tokenizer.renderer() {
            Ok(Some(renderer)) => renderer,
            Err(_) if change.chat_template.is_some() => return Ok(()), // told with the changes
            Err(error) => {
                let fault = Diagnostic::new("data/chat-template", DataError::BadTemplate(error).to_string())
                    .help("write a template into a file and name it: `student: { chat_template: FILE, ... }`");
                return Err(self.fault(&key, "has conversations", fault));
            }
            Ok(None) => {
                let place = first.place();
                let fault = Diagnostic::new("data/no-template", DataError::NoTemplate { place }.to_string())
                    .help("name a template, such as that of the model's instruct version: `student: { chat_template: FILE, ... }`");
                return Err(self.fault(&key, "has conversations", fault));
            }
        };
        for (split, document) in conversations {
            let Content::Chat(conversation) = &document.content else {
                continue;
            };
            let rendered = renderer.of(conversation).render(conversation, false);
            if let Err(source) = rendered
                && self.plan.data.on_bad_row == OnBadRow::Fail
            {
                let place = document.place();
                let fact = DataError::Template { place, source }.to_string();
                let fault = Diagnostic::new("data/template", fact).help(
                    "change the row, or leave such rows out with `on_bad_row: skip`; `alambic data render` shows what a template makes of a file",
                );
                return Err(self.fault(&format!("data.{split}"), "these texts", fault));
            }
        }
        Ok(())
    }

    /// Checks changes of the tokenizer. Returns the changed one, if there are changes and it is known.
    pub(super) fn changes<'b>(
        &self,
        opened: &Opened,
        has_teacher: bool,
        changed: Option<&'b ChangedTokenizer<'_>>,
    ) -> Result<Option<&'b Tokenizer>, RecipeFaults> {
        if self.plan.student.changes.is_empty() {
            return Ok(None);
        }
        let template = |error: String| {
            let fault = Diagnostic::new("student/chat-template", error).help(
                "mend the template; `alambic data render FILE CONVERSATIONS` shows what it renders",
            );
            self.fault("student.chat_template", "this template", fault)
        };
        let change = opened.change.as_ref();
        let change = change.map_err(|error| template(error.to_string()))?;
        let Some(changed) = changed else {
            return Ok(None);
        };
        let changed = changed.as_ref().map_err(|error| {
            let key = match error {
                TokenizerError::NoSuchToken { .. } => "student.eos_token",
                _ => "student.add_tokens",
            };
            let fault = Diagnostic::new("student/tokens", error.to_string())
                .help("add the token to `add_tokens`, or name one that the tokenizer has");
            self.fault(key, "this token", fault)
        })?;
        if change.chat_template.is_some() {
            let rendered = changed.renderer();
            rendered.map_err(|error| template(error.to_string()))?;
        }
        if has_teacher && changed.num_new() > 0 {
            let first = changed.vocab_size() - changed.num_new();
            let new = changed.token(u32::try_from(first).unwrap_or_default());
            let fact = format!("the teacher does not know `{}`", new.unwrap_or_default());
            let fault = Diagnostic::new("student/new-tokens", fact).help(
                "give the tokens to the teacher first: train it with `add_tokens` in a recipe without a teacher, and name what that exports as this recipe's teacher",
            );
            return Err(self.fault("student.add_tokens", "it would predict none of them", fault));
        }
        Ok(Some(changed))
    }
}

/// The recipe's tokenizer with its changes, or the error of making them.
pub(super) type ChangedTokenizer<'a> = Result<Cow<'a, Tokenizer>, TokenizerError>;

/// Changes the recipe's tokenizer, if it is known and so are the changes; an error of reading either is told elsewhere.
pub(super) fn changed_tokenizer<'a>(
    opened: &'a Opened,
    teacher: Option<&'a OpenedModel>,
) -> Option<ChangedTokenizer<'a>> {
    let vocabulary = match &opened.tokenizer {
        Some(file) => file,
        None => &teacher?.vocabulary,
    };
    let tokenizer = vocabulary.as_ref().ok()?.tokenizer();
    let change = opened.change.as_ref().ok()?;
    Some(if *change == TokenizerChange::default() {
        Ok(Cow::Borrowed(tokenizer))
    } else {
        tokenizer.clone().changed(change).map(Cow::Owned)
    })
}
