//! Tests of the data stage that are too long for its modules.

mod bounds;
mod encode;
mod gguf;
mod pack;
mod prepare;
mod tokenizer;
