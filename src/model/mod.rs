//! One decoder-only transformer for teacher and student.
//!
//! Shape letters: B batch, T position, D hidden, V vocabulary, K kept classes, N heads, H head size, G groups.

mod config;
mod config_json;
mod parameters;

pub use config::{DecoderConfig, Rope, RopeScaling};
pub use config_json::{ConfigError, KNOWN_ARCHITECTURES};
pub use parameters::{ParameterKind, ParameterSpec, parameter_specs};
