//! One decoder-only transformer for teacher and student.
//!
//! Shape letters: B batch, T position, D hidden, F feed-forward, V vocabulary, K kept classes, N heads, KV key/value
//! heads, H head size, S positions seen, G groups.

pub mod attention;
mod config;
mod config_json;
mod decoder;
mod fused;
pub mod grid;
pub mod linear;
pub mod mlp;
mod parameters;
pub mod rope;
mod tap;

pub use config::{DecoderConfig, Rope, RopeScaling};
pub use config_json::{ConfigError, KNOWN_ARCHITECTURES};
pub use decoder::{Decoder, ids_tensor};
pub use fused::rms_norm;
pub use parameters::{ParameterKind, ParameterSpec, parameter_specs};
pub use tap::{Site, Tap};
