//! The card of a GGUF file.

use std::fmt::Write as _;

use serde_json::json;

use crate::formats::card::{Card, Loading, mistral_rs};
use crate::shell::quoted;

pub(super) const CARD: Card = Card {
    library: "llama.cpp",
    tag: Some("gguf"),
    engines,
};

fn engines(card: &mut String, loading: &Loading<'_>) {
    let file = loading.file;
    let _ = write!(
        card,
        "\nWith llama.cpp:\n\n\
         ```sh\n\
         llama-cli -m {} -p \"It was\" -n 40 -no-cnv\n\
         ```\n",
        quoted(file)
    );
    let file = json!(file); // a JSON string is also a Python string
    let which = format!("Which.GGUF(quantized_model_id=\".\", quantized_filename={file})");
    mistral_rs(card, &format!("Runner(which={which})"));
}
