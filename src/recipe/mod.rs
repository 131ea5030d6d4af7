//! The recipe: from YAML text to a checked and completed [`Plan`].

mod plan;

pub use plan::*;
