//! Exports: folders that engines load.
//!
//! Writers only. What they wrote is checked by reading it back with `checkpoint`, which shares no code with them.

pub mod compressed_tensors;
mod error;
pub mod huggingface;
mod model_card;
mod safetensors;

pub use error::ExportError;
pub use model_card::{CardFacts, VerificationFacts, model_card};
