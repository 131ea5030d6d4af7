//! One decoder-only transformer for teacher and student.
//!
//! Shape letters: B batch, T position, D hidden, F feed-forward, V vocabulary, K kept classes, N heads, KV key/value
//! heads, H head size, S positions seen, G groups.

pub mod attention;
mod block;
mod config;
mod config_json;
mod decoder;
pub mod families;
mod head;
pub mod linear;
pub mod mlp;
pub mod norm;
mod on_grid;
mod parts;
pub mod rope;
mod scheme;
mod tap;
mod tokens;

pub use config::{DecoderConfig, LayerType, Rope, RopeScaling};
pub use config_json::{ConfigError, has_images};
pub use decoder::{Decoder, LayerContexts};
pub use families::{Activation, Architecture, Family, QkNorm};
pub use head::Head;
pub use on_grid::{GroupScaling, OnGrid};
pub use parts::{
    Axis, ParameterKind, ParameterSpec, Part, TensorSpec, WeightId, in_layer, num_parameters,
    parameter_specs, tensor_specs,
};
pub use scheme::{InputLevels, Scheme, Schemes, only_grid, uneven_groups, unlike_parts};
pub use tap::{Site, Tap};
pub use tokens::TokenBatch;
