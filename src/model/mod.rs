//! One decoder-only transformer for teacher and student.
//!
//! Shape letters: B batch, T position, D hidden, V vocabulary, K kept classes, N heads, H head size, G groups.

mod config;

pub use config::{DecoderConfig, Rope, RopeScaling};
