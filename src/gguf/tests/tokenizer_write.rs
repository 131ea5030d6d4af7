//! Tokenizers are written to GGUF files as they were read.

use serde_json::{Value, json};

use super::golden;
use crate::gguf::tokenizer::{TokenizerSource, tokenizer_files, tokenizer_metadata};
use crate::gguf::{GgufFile, NewTensor, TensorType, write};

fn source(tokenizer: &Value, num_rows: usize) -> TokenizerSource<'_> {
    TokenizerSource {
        tokenizer,
        num_rows,
        bos: None,
        adds_bos: false,
        adds_eos: false,
        eos: &[],
        padding: None,
        chat_templates: &[],
    }
}

/// Writes the tokenizer to a file without other contents, and opens it.
fn rewritten(source: TokenizerSource<'_>) -> GgufFile {
    let metadata = tokenizer_metadata(source).unwrap();
    let tensor = NewTensor {
        name: "t".to_owned(),
        shape: vec![1],
        kind: TensorType::F32,
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.gguf");
    crate::files::write_atomically(&path, |out| write(out, &metadata, &[tensor], |_| &[0; 4]))
        .unwrap();
    GgufFile::open(&path).unwrap()
}

#[test]
fn every_kind_of_tokenizer_reads_back_as_it_was() {
    for name in [
        "bpe-gpt2",
        "bpe-llama3",
        "bpe-qwen2",
        "bpe-smollm",
        "bpe-tekken",
        "spm-gemma",
        "spm-llama",
    ] {
        let original = GgufFile::open(&golden(&format!("gguf/{name}.gguf"))).unwrap();
        let files = tokenizer_files(&original).unwrap();
        let num_rows = original
            .texts("tokenizer.ggml.tokens")
            .unwrap()
            .unwrap()
            .len();
        let id = |name: &str| {
            let id = original
                .unsigned(&format!("tokenizer.ggml.{name}_token_id"))
                .unwrap();
            id.map(|id| u32::try_from(id).unwrap())
        };
        let eos: Vec<u32> = id("eos").into_iter().collect();
        let template = files.config["chat_template"].as_str();
        let templates: Vec<_> = template
            .map(|template| ("default".to_owned(), template.to_owned()))
            .into_iter()
            .collect();
        let again = rewritten(TokenizerSource {
            bos: id("bos"),
            adds_bos: !files.tokenizer["post_processor"].is_null(),
            eos: &eos,
            padding: id("padding"),
            chat_templates: &templates,
            ..source(&files.tokenizer, num_rows)
        });
        let mut found = tokenizer_files(&again).unwrap();
        let mut files = files;
        // Merges of equal score may be swapped; tests of `data` compare ids.
        for files in [&mut found, &mut files] {
            let merges = files.tokenizer["model"]["merges"].as_array_mut().unwrap();
            merges.sort_by_key(Value::to_string);
        }
        assert!(found == files, "{name}");
    }
}

#[test]
fn what_llama_cpp_lacks_is_refused_by_name() {
    let refusal = |json: &Value| tokenizer_metadata(source(json, 2)).unwrap_err().to_string();
    assert_eq!(
        refusal(&json!({ "model": { "type": "Unigram" } })),
        "this tokenizer cannot be written to a GGUF file: its model is `Unigram`, not `BPE`"
    );
    let mut json = json!({
        "model": { "type": "BPE", "vocab": { "a": 0, "b": 1 }, "merges": [] },
        "pre_tokenizer": { "type": "Whitespace" },
    });
    let found = refusal(&json);
    assert!(
        found.contains("has no name for its text splitting rule (known: `gpt-2`"),
        "{found}"
    );
    json["pre_tokenizer"] = json!({ "type": "ByteLevel", "add_prefix_space": false });
    rewritten(source(&json, 2));
    json["model"]["vocab"]["c"] = json!(2);
    assert!(refusal(&json).ends_with("`c` has no row among the 2 of the embedding"));
}
