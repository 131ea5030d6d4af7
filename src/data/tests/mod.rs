//! Tests of the data stage that are longer than a module should be.

mod gguf;
mod prepare;
mod source;
mod tokenizer;
