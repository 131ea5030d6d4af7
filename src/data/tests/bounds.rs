//! Bounds of tokenizer files. What goes to the library here is harmless: it is beyond a limit by next to nothing.

use serde_json::{Value, json};

use super::tokenizer::{reopened, trained};
use crate::data::TokenizerError;
use crate::data::tokenizer::guard;

/// Message of a changed tokenizer that is refused.
fn refused(change: impl FnOnce(&mut Value)) -> String {
    let error = reopened(change).unwrap_err();
    assert!(matches!(error, TokenizerError::NotATokenizer { .. }));
    error.to_string()
}

fn accepted(change: impl FnOnce(&mut Value)) {
    reopened(change).unwrap();
}

#[test]
fn a_panic_of_the_library_is_an_error() {
    let error = guard("encoding text", || -> tokenizers::Result<()> {
        panic!("a stand-in")
    });
    let told = "encoding text: the tokenizers library panicked on it";
    assert_eq!(error.unwrap_err().to_string(), told);
}

#[test]
fn a_table_that_says_it_is_longer_than_it_is_is_refused_before_memory_is_taken() {
    // A thousand bytes and a few; then none.
    for (map, length) in [("6AMAAAAA", 1000), ("6AMAAA==", 1000)] {
        let told = refused(|json| {
            json["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": map });
        });
        let want = format!("bytes that says it has {length}");
        assert!(
            told.contains("`normalizer` has a `precompiled_charsmap` of "),
            "{told}"
        );
        assert!(told.contains(&want), "{told}");
    }
}

#[test]
fn steps_that_multiply_a_text_are_refused_and_those_of_published_files_are_not() {
    let doubled = |count: usize| {
        let replace = json!({ "type": "Replace", "pattern": { "String": "☃" }, "content": "☃☃" });
        vec![replace; count]
    };
    accepted(|json| json["normalizer"] = json!({ "type": "Sequence", "normalizers": doubled(7) }));
    for key in ["normalizer", "decoder"] {
        let told = refused(|json| {
            let list = if key == "decoder" {
                "decoders"
            } else {
                "normalizers"
            };
            json[key] = json!({ "type": "Sequence", list: doubled(8) });
        });
        let want = format!("`{key}` can make a text 256 times as long, and the limit is 128");
        assert!(told.contains(&want), "{told}");
    }
    let twice = json!({ "type": "TemplateProcessing", "pair": [], "special_tokens": {},
        "single": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }] });
    let told = refused(|json| {
        json["post_processor"] = json!({ "type": "Sequence", "processors": vec![twice; 8] });
    });
    assert!(
        told.contains("`post_processor` can make a text 256 times"),
        "{told}"
    );

    // Llama 2, T5 and CLIP.
    let normalizers = json!([
        { "type": "Prepend", "prepend": "▁" },
        { "type": "NFKC" },
        { "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": "▁" },
        { "type": "Replace", "pattern": { "Regex": "\\s+" }, "content": " " },
        { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
    ]);
    accepted(|json| json["normalizer"] = json!({ "type": "Sequence", "normalizers": normalizers }));
}

#[test]
fn patterns_that_repeat_themselves_are_refused_and_that_of_gpt_4o_is_not() {
    let split = |pattern: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
    let word = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
    let gpt_4o = format!(
        r"{word}|{word}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    accepted(|json| {
        json["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers":
            [split(&gpt_4o), { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }] });
    });
    for pattern in [
        "a{70000}",
        "(?:ab){200}{200}",
        "((a{50}){50}){50}",
        r"\d{1025}",
        "[ab]{1025}",
        "x(?=.{2,1025})",
    ] {
        let told = refused(|json| json["pre_tokenizer"] = split(pattern));
        assert!(
            told.contains("`pre_tokenizer` has patterns of weight "),
            "{pattern}: {told}"
        );
    }
    for pattern in [r"\{70000\}", "[{70000}]", "a{1,100}|b{1,100}"] {
        accepted(|json| json["pre_tokenizer"] = split(pattern));
    }
}

#[test]
fn an_id_beyond_every_vocabulary_is_refused() {
    let told = refused(|json| json["model"]["vocab"]["☃"] = json!((1 << 24) + 1));
    assert!(
        told.contains("`model.vocab` has the id 16777217, and ids end at 16777216"),
        "{told}"
    );
    assert!(trained().vocab_size() < 1000);
}
