//! Text to token rows.

mod rows;

pub use rows::TokenRows;
