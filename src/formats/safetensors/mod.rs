//! Tensors of a folder: one safetensors file, or several with an index.

mod read;
mod shards;
mod write;

pub use self::read::TensorFiles;
pub(crate) use self::read::read_json;
pub use self::shards::Files;
pub(super) use self::shards::Shards;
pub(super) use self::write::{EncodedTensor, check_length, encode_weight};
