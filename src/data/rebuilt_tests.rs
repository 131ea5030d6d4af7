use super::*;

fn bytes(use_regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex })
}

/// Parts of `hf-llama` and of GPT-2.
fn gpt2() -> Value {
    json!({ "normalizer": null, "pre_tokenizer": bytes(true), "decoder": bytes(true), "model": { "type": "BPE" } })
}

/// Parts in the files of Qwen 2, 2.5 and 3.
fn qwen2() -> Value {
    let split = json!({ "type": "Split", "pattern": { "Regex": QWEN2 }, "behavior": "Isolated", "invert": false });
    json!({
        "normalizer": { "type": "NFC" }, "decoder": bytes(false),
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split, bytes(false)] },
        "model": { "type": "BPE", "byte_fallback": false, "ignore_merges": false },
    })
}

/// Parts in the files of Gemma (with the split) and of Llama 2 (with the prefix).
fn spaced(prefix: bool) -> Value {
    let prepend = json!({ "type": "Prepend", "prepend": "▁" });
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let split = json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious", "invert": false });
    let built = Built::of_spaces(if prefix { "always" } else { "never" });
    json!({
        "normalizer": if prefix { json!({ "type": "Sequence", "normalizers": [prepend, replace] }) } else { replace },
        "pre_tokenizer": if prefix { Value::Null } else { split },
        "decoder": { "type": "Sequence", "decoders": built.decoder }, "model": { "type": "BPE", "byte_fallback": true },
    })
}

fn rebuilt(model_type: &str, class: Option<&str>, tokenizer: &Value) -> Option<String> {
    let config = json!({ "tokenizer_class": class });
    let found = Rebuilt::of(model_type, &config, tokenizer)?;
    assert!(!found.parts.is_empty());
    assert_eq!(found.is_fixed_by_class, model_type != "qwen2");
    Some(found.class)
}

/// Classes that `AutoTokenizer` of transformers 5.23.0 with tokenizers 0.23.3 chose for these folders.
#[test]
fn classes_that_build_anew_are_known_by_family_and_name() {
    let strange = json!({
        "normalizer": { "type": "Lowercase" }, "decoder": { "type": "Fuse" }, "model": { "type": "BPE" },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [{ "type": "Digits", "individual_digits": true }, bytes(false)] },
    });
    for (model_type, class, want) in [
        ("llama", None, None),
        ("llama", Some("PreTrainedTokenizerFast"), None),
        ("llama", Some("TokenizersBackend"), None),
        ("llama", Some("LlamaTokenizerFast"), None), // it is byte-level
        ("llama", Some("GPT2TokenizerFast"), Some("GPT2Tokenizer")),
        ("llama", Some("Qwen2Tokenizer"), Some("Qwen2Tokenizer")),
        (
            "llama",
            Some("CohereTokenizerFast"),
            Some("CohereTokenizer"),
        ),
        ("llama", Some("Gemma3Tokenizer"), None), // no class of transformers
        ("mistral", None, None),
        ("mistral", Some("GPT2Tokenizer"), None),
        ("qwen2", None, Some("Qwen2Tokenizer")),
        (
            "qwen2",
            Some("PreTrainedTokenizerFast"),
            Some("Qwen2Tokenizer"),
        ),
        ("qwen2", Some("LlamaTokenizerFast"), Some("Qwen2Tokenizer")),
        ("qwen3", None, Some("Qwen2Tokenizer")),
        ("qwen3", Some("PreTrainedTokenizerFast"), None),
        ("qwen3", Some("Qwen2TokenizerFast"), Some("Qwen2Tokenizer")),
        ("gemma3_text", None, Some("GemmaTokenizer")),
        ("gemma2", Some("TokenizersBackend"), None),
        (
            "gemma",
            Some("CodeLlamaTokenizer"),
            Some("CodeLlamaTokenizer"),
        ),
    ] {
        let got = rebuilt(model_type, class, &strange);
        assert_eq!(got.as_deref(), want, "{model_type} {class:?}");
    }
}

#[test]
fn a_file_that_says_what_its_class_builds_is_read_alike() {
    let mut older = spaced(true);
    older["normalizer"] = Value::Null;
    older["pre_tokenizer"] = json!({ "type": "Metaspace", "replacement": "▁", "add_prefix_space": true, "split": false });
    for (class, tokenizer) in [
        ("GPT2Tokenizer", gpt2()),
        ("Qwen2TokenizerFast", qwen2()),
        ("GemmaTokenizerFast", spaced(false)),
    ] {
        assert_eq!(rebuilt("llama", Some(class), &tokenizer), None, "{class}");
    }
    assert_eq!(rebuilt("qwen2", Some("LlamaTokenizer"), &qwen2()), None);
    let of = |config: Value, tokenizer: &Value| {
        Rebuilt::of("llama", &config, tokenizer).map(|found| found.parts)
    };
    let llama = |legacy: bool| json!({ "tokenizer_class": "LlamaTokenizer", "legacy": legacy });
    assert_eq!(of(llama(true), &spaced(true)), None);
    assert_eq!(of(llama(true), &older), None);
    // Without `legacy`, the space is put only before the first stretch of text.
    assert_eq!(of(llama(false), &spaced(true)), Some(vec!["pre_tokenizer"]));
    let never = json!({ "tokenizer_class": "LlamaTokenizer", "add_prefix_space": false });
    assert_eq!(of(never, &spaced(false)), None);
    let prefixed = json!({ "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true });
    assert_eq!(of(prefixed, &gpt2()), Some(vec!["pre_tokenizer"]));
}

#[test]
fn each_part_that_differs_is_named() {
    let mut tokenizer = qwen2();
    tokenizer["normalizer"] = Value::Null;
    tokenizer["model"]["ignore_merges"] = json!(true);
    let found = Rebuilt::of("qwen2", &json!({}), &tokenizer).unwrap();
    assert_eq!(found.parts, ["normalizer", "model.ignore_merges"]);
    assert_eq!(
        found.note(),
        "transformers 5 loads this tokenizer as `Qwen2Tokenizer` and ignores `normalizer`, `model.ignore_merges` of its `tokenizer.json`, which alambic uses: ids may differ in transformers"
    );
    let found = Rebuilt::of("gemma", &json!({}), &gpt2()).unwrap();
    assert_eq!(
        found.parts,
        ["pre_tokenizer", "decoder", "model.byte_fallback"]
    );
}
