//! Tokenizers from GGUF files give the ids of the tokenizers that the files were converted from.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::data::{Tokenizer, tokenizer_path};
use crate::gguf::tokenizer::{TokenizerSource, tokenizer_metadata};
use crate::gguf::write;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn reference() -> Value {
    let text = std::fs::read(golden("gguf/tokenizers.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn texts(reference: &Value) -> Vec<&str> {
    let texts = reference["texts"].as_array().unwrap();
    texts.iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn ids_equal_those_of_the_original_tokenizers() {
    let reference = reference();
    let texts = texts(&reference);
    let files = reference["files"].as_object().unwrap();
    assert_eq!((texts.len(), files.len()), (14, 7));
    for (name, expected) in files {
        let tokenizer = Tokenizer::open(&golden(&format!("gguf/{name}.gguf"))).unwrap();
        assert_eq!(
            tokenizer.vocab_size() as u64,
            expected["vocab_size"],
            "{name}"
        );
        for (text, want) in texts.iter().zip(expected["ids"].as_array().unwrap()) {
            let got = tokenizer.encode(text).unwrap();
            assert_eq!(serde_json::json!(got), *want, "{name}: {text:?}");
        }
    }
}

#[test]
fn text_without_special_tokens_comes_back_from_its_ids() {
    let reference = reference();
    for name in reference["files"].as_object().unwrap().keys() {
        let tokenizer = Tokenizer::open(&golden(&format!("gguf/{name}.gguf"))).unwrap();
        for text in texts(&reference) {
            // A tokenizer that normalizes does not reproduce composed characters.
            if text.contains("<|") || name == "bpe-qwen2" && text.contains('\u{301}') {
                continue;
            }
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{name}");
        }
    }
}

#[test]
fn a_model_file_tokenizes_as_the_folder_it_was_made_of() {
    let pairs = [
        ("gguf-q8_0-tied", "hf-smollm2-tied"),
        ("gguf-q8_0-llama3rope", "hf-llama3-rope"),
        ("gguf-q4_k_m", "hf-llama-256"),
    ];
    for (gguf, folder) in pairs {
        let path = golden(gguf).join("model.gguf");
        assert_eq!(tokenizer_path(&path), path);
        let rebuilt = Tokenizer::open(&path).unwrap();
        let original = Tokenizer::open(&tokenizer_path(&golden(folder))).unwrap();
        assert_eq!(rebuilt.vocab_size(), original.vocab_size());
        for id in (0..).take(original.vocab_size()) {
            assert_eq!(rebuilt.token(id), original.token(id), "{gguf}: {id}");
            assert_eq!(rebuilt.is_special(id), original.is_special(id));
        }
        assert_eq!(rebuilt.end_of_text(), original.end_of_text());
        assert_eq!(rebuilt.beginning_of_text(), original.beginning_of_text());
        for text in texts(&reference()) {
            let (got, want) = (
                rebuilt.encode(text).unwrap(),
                original.encode(text).unwrap(),
            );
            assert_eq!(got, want, "{gguf}: {text:?}");
        }
    }
}

#[test]
fn what_is_saved_of_a_model_file_reads_back_as_the_same_tokenizer() {
    let tokenizer = Tokenizer::open(&golden("gguf/spm-llama.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    let saved = Tokenizer::open(&tokenizer_path(dir.path())).unwrap();
    assert_eq!(tokenizer.beginning_of_text(), Some(1));
    assert_eq!(saved.beginning_of_text(), Some(1));
    assert_eq!(saved.files(), tokenizer.files());
    assert_eq!(saved.hash(), tokenizer.hash());
}

/// Writes a tokenizer to a GGUF file and reads it again, like an export.
fn through_a_file(tokenizer: &Tokenizer) -> Tokenizer {
    let json: Value = serde_json::from_slice(tokenizer.bytes()).unwrap();
    let metadata = tokenizer_metadata(TokenizerSource {
        tokenizer: &json,
        num_rows: tokenizer.vocab_size() + 3,
        bos: tokenizer.beginning_of_text(),
        adds_bos: tokenizer.beginning_of_text().is_some(),
        adds_eos: false,
        eos: &[],
        padding: None,
        chat_templates: &[],
    })
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.gguf");
    crate::files::write_atomically(&path, |out| write(out, &metadata, &[], |_| &[])).unwrap();
    Tokenizer::open(&path).unwrap()
}

#[test]
fn a_tokenizer_gives_the_same_ids_when_a_file_has_carried_it() {
    let reference = reference();
    let files = reference["files"].as_object().unwrap().keys();
    let files = files.map(|name| golden(&format!("gguf/{name}.gguf")));
    let folders = ["hf-llama", "hf-gemma3", "hf-qwen3-tied", "hf-smollm2-tied"];
    let folders = folders.map(|name| golden(name).join("tokenizer.json"));
    for path in files.chain(folders) {
        let tokenizer = Tokenizer::open(&path).unwrap();
        let carried = through_a_file(&tokenizer);
        assert_eq!(carried.beginning_of_text(), tokenizer.beginning_of_text());
        for text in texts(&reference) {
            let (got, want) = (
                carried.encode(text).unwrap(),
                tokenizer.encode(text).unwrap(),
            );
            assert_eq!(got, want, "{}: {text:?}", path.display());
        }
    }
}
