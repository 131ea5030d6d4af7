//! Conversations and chat templates.

mod args;
mod conversation;
mod error;
mod filters;
mod globals;
mod json;
mod learn;
mod methods;
mod repr;
mod source;
mod strings;
mod template;
mod tokens;
mod values;

pub use conversation::Conversation;
pub use error::TemplateError;
pub use learn::{Learn, Learnt, learnt};
pub use template::{ChatTemplate, Rendered};

#[cfg(test)]
mod tests;
