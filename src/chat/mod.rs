//! Conversations and chat templates.

mod conversation;

pub use conversation::Conversation;
